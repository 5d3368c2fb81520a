"""Errors and warnings of a stopper before a run begins."""

import pytest

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from tests.support.helpers import fit_with_stopper, message_with, scripted_model


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {},
            ValueError,
            "Expected exactly one of `stop_epoch` and `stop_batches`, or a `policy`, but got "
            "stop_epoch=None and stop_batches=None.",
        ),
        (
            {"stop_epoch": 1, "stop_batches": 2},
            ValueError,
            "Expected exactly one of `stop_epoch` and `stop_batches`, or a `policy`, but got "
            "stop_epoch=1 and stop_batches=2.",
        ),
        (
            {"stop_epoch": -1},
            ValueError,
            "Expected `stop_epoch` to be a positive integer but got -1.",
        ),
        (
            {"stop_epoch": 0},
            ValueError,
            "Expected `stop_epoch` to be a positive integer but got 0.",
        ),
        (
            {"stop_epoch": 2.0},
            TypeError,
            "Expected `stop_epoch` to be a positive integer but got 2.0.",
        ),
        (
            {"stop_batches": True},
            TypeError,
            "Expected `stop_batches` to be a positive integer but got True.",
        ),
        (
            {"stop_epoch": 1, "monitor": ""},
            ValueError,
            "Expected `monitor` to be a non-empty string but got ''.",
        ),
        (
            {"stop_epoch": 1, "monitor": None},
            TypeError,
            "Expected `monitor` to be a string but got None.",
        ),
        (
            {"stop_epoch": 1, "promoted": 1},
            TypeError,
            "Expected `promoted` to be True or False but got 1.",
        ),
    ],
)
def test_wrong_arguments_raise_at_construction(arguments, error, message):
    with pytest.raises(error, match="Expected") as caught:
        EarlyRankingStopper(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("stopper", "monitor", "message"),
    [
        (
            {"stop_epoch": 2, "monitor": "sotl_e3"},
            {"window": (1, 3)},
            "Expected `stop_epoch` to be at least 3, the first at which 'sotl_e3' is available, "
            "but got 2.",
        ),
        (
            {"stop_batches": 4, "monitor": "sotl_b4_e2"},
            {"window": 2, "every_n_train_batches": 4},
            "Expected `stop_batches` to be at least 8, the first at which 'sotl_b4_e2' is "
            "available, but got 4.",
        ),
        (
            {"stop_batches": 6, "monitor": "sotl_b4_e1"},
            {"every_n_train_batches": 4},
            "Expected `stop_batches` to be a multiple of the block size 4 but got 6.",
        ),
        (
            {"stop_batches": 8},
            {"every_n_train_batches": 4},
            "Expected `monitor` to be an estimate over blocks, from a SoTLMonitor with "
            "`every_n_train_batches`, because `stop_batches` is set, but got 'sotl_e1'; "
            "available: 'sotl_b4', 'sotl_b4_e1'.",
        ),
        (
            {"stop_batches": 8},
            {},
            "Expected `monitor` to be an estimate over blocks, from a SoTLMonitor with "
            "`every_n_train_batches`, because `stop_batches` is set, but got 'sotl_e1'; "
            "available: nothing.",
        ),
    ],
)
def test_limits_that_cannot_be_met_raise_before_the_first_batch(
    tmp_path, stopper, monitor, message
):
    model = scripted_model()
    with pytest.raises(ValueError, match="Expected `") as caught:
        fit_with_stopper(
            tmp_path, EarlyRankingStopper(**stopper), monitor=SoTLMonitor(**monitor), model=model
        )
    assert str(caught.value) == message
    assert model.returned == []


def test_a_limit_beyond_the_budget_causes_a_warning(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=9)
    with pytest.warns(UserWarning, match="beyond") as caught:
        fit_with_stopper(tmp_path, stopper, max_epochs=2)
    assert message_with(caught, "beyond") == (
        "`stop_epoch=9` is beyond `max_epochs=2`, so the run ends before reaching it. Set "
        "`max_epochs` to the full budget."
    )


@pytest.mark.parametrize("callback", [EarlyRankingStopper, SoTLMonitor])
def test_an_error_for_an_unknown_argument_names_the_callback(callback):
    with pytest.raises(TypeError, match=rf"^{callback.__name__}\.__init__\(\) got an unexpected"):
        callback(patience=3)


def test_the_budget_of_fast_dev_run_causes_no_warning(tmp_path):
    _, run = fit_with_stopper(tmp_path, EarlyRankingStopper(stop_epoch=3), fast_dev_run=True)
    assert run.max_epochs == 1
