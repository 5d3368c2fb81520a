"""The README's block on Ray, run as it stands there behind the quick start."""

import pytest

from tests.campaigns import readme


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_block_stops_four_trials_at_t_and_trains_two_to_the_end(tmp_path):
    assert readme.runs_on_ray(tmp_path)
