"""Stopping rules: pure functions from the values of runs to decisions."""
