"""Ranks, rank correlations and their bootstrap intervals."""
