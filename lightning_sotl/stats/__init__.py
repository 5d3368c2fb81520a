"""Rank correlations, their intervals, and ranks."""
