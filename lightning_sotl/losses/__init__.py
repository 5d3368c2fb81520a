"""Losses of training steps, their sums over epochs, and their names."""
