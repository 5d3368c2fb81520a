"""Internal modules of the Ray Tune integration."""
