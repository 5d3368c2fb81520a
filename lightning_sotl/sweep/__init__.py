"""Sweeps from their ranking to the trained winners."""
