"""The parts of the two Optuna doors."""
