import copy
import math
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
import torchmetrics

from lightning_sotl import SumOfTrainingLosses, sotl_e
from tests.support.helpers import PACKAGES, lightning, loader, trainer


def test_metric_equals_the_pure_function_at_every_prefix():
    losses = np.random.default_rng(1).random((30, 7))
    metric = SumOfTrainingLosses(window=3)
    curve = losses.cumsum(axis=1)[:, -1] / losses.shape[1]  # added from left to right
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
def test_a_number_keeps_all_digits_with_any_default_dtype(default):
    metric = SumOfTrainingLosses()
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        metric.update(2.3)
    finally:
        torch.set_default_dtype(before)
    metric.close_epoch()
    assert float(metric.compute()) == 2.3


def test_closing_an_epoch_clears_the_cached_value():
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
def test_states_stay_float64_with_any_dtype_of_losses_and_module(dtype):
    metric = SumOfTrainingLosses()
    torch.nn.ModuleList([metric]).to(dtype)
    metric.update(torch.tensor([0.1], dtype=dtype))
    metric.close_epoch()
    assert metric.compute().dtype == torch.float64
    assert float(metric.compute()) == float(torch.tensor(0.1, dtype=dtype))


def test_a_move_to_mps_would_make_the_states_float32(monkeypatch):
    # Simulates `.to("mps")` on machines without MPS: the move chooses the dtype by device.
    monkeypatch.setattr("lightning_sotl.metric.accumulation_dtype", lambda device: torch.float32)
    metric = SumOfTrainingLosses()
    metric.to("cpu")
    assert metric.sums.dtype == metric.counts.dtype == torch.float32


def test_a_checkpoint_in_the_middle_of_an_epoch_can_be_resumed():
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


def test_a_loaded_state_replaces_the_cached_value():
    saved = SumOfTrainingLosses()
    saved.update(1.5)
    saved.close_epoch()
    metric = SumOfTrainingLosses()
    metric.load_state_dict(saved.state_dict())
    assert float(metric.compute()) == 1.5  # without a warning
    metric.update(5.0)
    metric.close_epoch()
    assert float(metric.compute()) == 5.0
    metric.load_state_dict(saved.state_dict())
    assert float(metric.compute()) == 1.5


def test_copies_and_pickles_are_independent():
    metric = SumOfTrainingLosses()
    metric.update(2.0)
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):  # noqa: S301
        twin.close_epoch()
        assert float(twin.compute()) == 2.0


def test_lower_is_declared_better():
    assert SumOfTrainingLosses.higher_is_better is False


@pytest.mark.parametrize(
    ("window", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), ("1", TypeError)]
)
def test_a_window_that_is_not_a_positive_integer_is_refused(window, error):
    with pytest.raises(error, match="Expected `window`") as caught:
        SumOfTrainingLosses(window=window)
    assert str(caught.value) == f"Expected `window` to be a positive integer but got {window!r}."


def test_a_loss_of_several_elements_is_refused():
    with pytest.raises(ValueError, match="Expected `loss`") as caught:
        SumOfTrainingLosses().update(torch.ones(2, 3))
    assert str(caught.value) == "Expected `loss` to be one number but got the shape (2, 3)."


class Holder(torch.nn.Module):
    def __init__(self, metric):
        super().__init__()
        self.metric = metric
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, x):
        return self.linear(x)


def closed(metric, *epochs):
    for loss in epochs:
        metric.update(loss)
        metric.close_epoch()
    return metric


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("wrap", [lambda metric: metric, Holder], ids=["alone", "in a module"])
@pytest.mark.parametrize(("saved", "own"), [(2, 1), (1, 2), (3, 2)])
def test_a_state_of_another_window_is_refused(strict, wrap, saved, own):
    state = wrap(closed(SumOfTrainingLosses(window=saved), 1.0, 2.0)).state_dict()
    module = wrap(SumOfTrainingLosses(window=own))
    prefix = "metric." if wrap is Holder else ""
    message = f"Expected `window` to be {saved}, as in the state '{prefix}sums', but got {own}."
    with pytest.raises(RuntimeError, match=re.escape(message)):
        module.load_state_dict(state, strict=strict)
    metric = module.metric if wrap is Holder else module
    assert float(closed(metric, *[1.5] * own).compute()) == 1.5 * own  # nothing was loaded


def test_a_collection_refuses_the_state_of_another_window():
    def collection(window):
        return torchmetrics.MetricCollection({"sotl": SumOfTrainingLosses(window=window)})

    saved = collection(2)
    saved.persistent(True)
    with pytest.raises(
        RuntimeError, match=r"Expected `window` to be 2, as in the state 'sotl\.sums'"
    ):
        collection(1).load_state_dict(saved.state_dict(), strict=False)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
@pytest.mark.filterwarnings("ignore:This property will be removed in 2.0.0")  # of torchmetrics
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is not supported in Python 3.14")
def test_a_module_that_holds_the_metric_can_be_scripted():
    module = Holder(closed(SumOfTrainingLosses(window=2), 1.0))
    x = torch.ones(3, 2)
    assert torch.equal(torch.jit.script(module)(x), module(x))


def test_the_metric_plots_its_value_and_a_curve():
    import matplotlib.pyplot as plt

    metric = closed(SumOfTrainingLosses(), 1.5)
    _, axes = metric.plot()
    assert axes.lines[0].get_ydata().tolist() == [1.5]
    _, own = plt.subplots()
    values = [torch.tensor(value) for value in (3.0, 2.0, 1.0)]
    _, axes = metric.plot(values, ax=own)
    assert axes is own
    assert axes.lines[0].get_ydata().tolist() == [3.0, 2.0, 1.0]
    plt.close("all")


def fit_logging(tmp_path, package, window, epochs, log):
    """Fit a module that logs `log(metric)`, and return the logged values."""
    pl = lightning(package)
    values = []

    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))
            self.sotl = SumOfTrainingLosses(window=window)

        def training_step(self, batch, batch_idx):
            loss = self.weight * 0 + 4.0 / (self.current_epoch + 1)
            self.sotl.update(loss)
            return loss

        def on_train_epoch_end(self):
            self.sotl.close_epoch()
            self.log("sotl", log(self.sotl))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Read(pl.Callback):
        def on_train_end(self, trainer, module):
            values.append(float(trainer.callback_metrics["sotl"]))

    for most in range(1, epochs + 1):
        trainer(tmp_path, package, max_epochs=most, callbacks=Read()).fit(Net(), loader(2))
    return values


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("window", [1, 2, 3])
def test_lightning_logs_what_compute_returns(tmp_path, package, window):
    losses = [4.0, 2.0, 4.0 / 3]
    expected = sotl_e([float(np.float32(loss)) for loss in losses], window=window)
    values = fit_logging(tmp_path, package, window, 3, lambda metric: metric.compute())
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("package", PACKAGES)
def test_lightning_may_log_the_metric_itself_for_a_window_of_one_epoch(tmp_path, package):
    values = fit_logging(tmp_path, package, 1, 3, lambda metric: metric)
    np.testing.assert_allclose(values, [4.0, 2.0, 4.0 / 3], rtol=1e-6)


def test_a_longer_window_that_lightning_resets_each_epoch_is_reported_once(tmp_path):
    with pytest.warns(UserWarning, match="SumOfTrainingLosses was reset") as caught:
        values = fit_logging(tmp_path, PACKAGES[0], 2, 4, lambda metric: metric)
    assert all(map(math.isnan, values))
    messages = [str(entry.message) for entry in caught if "SumOf" in str(entry.message)]
    assert len(messages) == 3  # the Trainers of 2, 3 and 4 epochs
    assert set(messages) == {
        "This SumOfTrainingLosses was reset twice before its window of 2 epochs was full, so it "
        "had no value. `self.log(name, metric)` resets the metric after each epoch. Use "
        "`self.log(name, metric.compute())` instead."
    }
    assert {entry.filename for entry in caught if "SumOf" in str(entry.message)} == {__file__}


def test_a_forward_call_adds_the_loss_and_does_not_reset():
    metric = SumOfTrainingLosses(window=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for loss in (4.0, 2.0, 1.0):
            metric(loss)
            metric(loss)
            metric.close_epoch()
    assert float(metric.compute()) == 3.0


def test_a_reset_after_a_run_that_ended_early_does_not_warn():
    metric = closed(SumOfTrainingLosses(window=3), 1.0)
    metric.reset()
    assert float(closed(metric, 1.0, 2.0, 3.0).compute()) == 6.0
    metric.reset()
    metric.reset()
    closed(metric, 1.0).reset()
