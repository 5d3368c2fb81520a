import copy
import math
import pickle

import numpy as np
import pytest
import torch

from lightning_sotl import SumOfTrainingLosses, sotl_e


def test_metric_equals_the_pure_function_at_every_prefix():
    losses = np.random.default_rng(1).random((30, 7))
    metric = SumOfTrainingLosses(window=3)
    curve = [sum(row.tolist()) / len(row) for row in losses]
    expected = sotl_e(curve, window=3)
    assert math.isnan(float(metric_value(metric)))
    for k, row in enumerate(losses):
        for loss in row:
            metric.update(torch.tensor(loss))
        metric.close_epoch()
        np.testing.assert_array_equal(float(metric.compute()), expected[k])


def metric_value(metric):
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        return metric.compute()


def test_the_open_epoch_does_not_count():
    metric = SumOfTrainingLosses()
    metric.update(2.0)
    metric.close_epoch()
    metric.update(100.0)
    assert float(metric.compute()) == 2.0


@pytest.mark.parametrize("default", [torch.float32, torch.bfloat16])
def test_a_number_loses_no_digit_whatever_the_default_dtype(default):
    metric = SumOfTrainingLosses()
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        metric.update(2.3)
    finally:
        torch.set_default_dtype(before)
    metric.close_epoch()
    assert float(metric.compute()) == 2.3


def test_closing_an_epoch_forgets_the_cached_value():
    metric = SumOfTrainingLosses()
    for loss in (3.0, 1.0):
        metric.update(loss)
        metric.compute() if loss == 1.0 else None
        metric.close_epoch()
    assert float(metric.compute()) == 1.0


def test_reset_starts_a_new_run():
    metric = SumOfTrainingLosses()
    metric.update(3.0)
    metric.close_epoch()
    metric.reset()
    metric.update(5.0)
    metric.close_epoch()
    assert float(metric.compute()) == 5.0


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_diverged_epoch_is_inf_while_it_is_in_the_window(loss):
    metric = SumOfTrainingLosses(window=2)
    values = []
    for value in (loss, 1.0, 1.0):
        metric.update(value)
        metric.close_epoch()
        values.append(float(metric.compute()))
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, 2.0]


def test_an_epoch_without_a_loss_makes_the_sum_unavailable():
    metric = SumOfTrainingLosses()
    metric.update(1.0)
    metric.close_epoch()
    metric.close_epoch()
    assert math.isnan(float(metric.compute()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_states_are_float64_whatever_the_losses_and_the_module_are(dtype):
    metric = SumOfTrainingLosses()
    torch.nn.ModuleList([metric]).to(dtype)
    metric.update(torch.tensor([0.1], dtype=dtype))
    metric.close_epoch()
    assert metric.compute().dtype == torch.float64
    assert float(metric.compute()) == float(torch.tensor(0.1, dtype=dtype))


def test_a_move_to_mps_would_make_the_states_float32(monkeypatch):
    # Stands in for `.to("mps")` on machines without one: the move asks for the dtype by device.
    monkeypatch.setattr("lightning_sotl.metric.accumulation_dtype", lambda device: torch.float32)
    metric = SumOfTrainingLosses()
    metric.to("cpu")
    assert metric.sums.dtype == metric.counts.dtype == torch.float32


def test_a_checkpoint_in_the_middle_of_an_epoch_carries_on():
    metric = SumOfTrainingLosses(window=2)
    for loss in (4.0, 2.0):
        metric.update(loss)
        metric.close_epoch()
    metric.update(1.0)
    resumed = SumOfTrainingLosses(window=2)
    resumed.load_state_dict(metric.state_dict())
    for each in (metric, resumed):
        each.update(0.5)
        each.close_epoch()
    assert float(resumed.compute()) == float(metric.compute()) == 2.0 + 0.75


def test_a_loaded_state_replaces_the_value_that_was_computed_before():
    saved = SumOfTrainingLosses()
    saved.update(1.5)
    saved.close_epoch()
    metric = SumOfTrainingLosses()
    metric.load_state_dict(saved.state_dict())
    assert float(metric.compute()) == 1.5  # and without a warning
    metric.update(5.0)
    metric.close_epoch()
    assert float(metric.compute()) == 5.0
    metric.load_state_dict(saved.state_dict())
    assert float(metric.compute()) == 1.5


def test_copies_and_pickles_go_on_by_themselves():
    metric = SumOfTrainingLosses()
    metric.update(2.0)
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):  # noqa: S301
        twin.close_epoch()
        assert float(twin.compute()) == 2.0


def test_the_better_run_has_the_lower_value_and_the_metric_says_so():
    assert SumOfTrainingLosses.higher_is_better is False


@pytest.mark.parametrize(
    ("window", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), ("1", TypeError)]
)
def test_a_window_that_is_no_positive_integer_is_refused(window, error):
    with pytest.raises(error, match="Expected `window`") as caught:
        SumOfTrainingLosses(window=window)
    assert str(caught.value) == f"Expected `window` to be a positive integer but got {window!r}."


def test_a_loss_of_several_elements_is_refused():
    with pytest.raises(ValueError, match="Expected `loss`") as caught:
        SumOfTrainingLosses().update(torch.ones(2, 3))
    assert str(caught.value) == "Expected `loss` to be one number but got the shape (2, 3)."
