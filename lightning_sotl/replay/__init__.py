"""Replays stopping policies on recorded curves, in simulated time, for their cost and regret."""
