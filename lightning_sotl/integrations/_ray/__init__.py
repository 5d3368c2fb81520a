"""The parts of the two Ray Tune doors."""

from lightning_sotl._utils.extras import require

require("ray.tune", extra="ray", purpose="report to Ray Tune")
