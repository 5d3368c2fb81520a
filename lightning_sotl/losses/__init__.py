"""Training losses, their sums over epochs, and the names of these sums."""
