"""Ranks the runs of a directory, and checks whether they can be compared."""
