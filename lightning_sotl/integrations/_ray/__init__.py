"""The parts of the two Ray Tune doors."""
