"""Sweeps on one device, and promotion of the best runs to the full budget."""
