"""The parts of the two Optuna doors."""

from lightning_sotl._utils.extras import require

require("optuna", extra="optuna", purpose="report to a study")
