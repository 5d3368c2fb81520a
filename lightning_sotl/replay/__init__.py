"""Stopping policies on recorded curves, in simulated time: what each would have cost and picked."""
