"""Internal modules of the Optuna integration."""
