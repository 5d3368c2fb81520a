import math
import pickle

import pytest

from lightning_sotl import StoppingReason
from lightning_sotl.policies.stopping import stop_at_limit


@pytest.mark.parametrize(
    ("completed", "estimate", "expected"),
    [
        (9, 0.5, "not_stopped"),
        (10, 0.5, "stop_epoch_reached"),
        (11, 0.5, "stop_epoch_reached"),
        (10, None, "not_stopped"),
        (9, math.inf, "not_stopped"),
        (10, math.inf, "non_finite_estimate"),
        (10, math.nan, "non_finite_estimate"),
    ],
)
def test_a_run_ends_at_its_limit_once_it_has_an_estimate(completed, estimate, expected):
    reason = stop_at_limit(completed, estimate, limit=10, reached=StoppingReason.stop_epoch_reached)
    assert reason == expected


def test_reasons_are_the_strings_in_checkpoints_and_records():
    assert [str(reason) for reason in StoppingReason] == [
        "not_stopped",
        "stop_epoch_reached",
        "stop_batches_reached",
        "non_finite_estimate",
        "policy",
        "already_stopped",
        "paused",
    ]
    assert StoppingReason("policy") is pickle.loads(pickle.dumps(StoppingReason.policy))  # noqa: S301
