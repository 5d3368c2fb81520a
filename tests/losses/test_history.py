import math

import numpy as np
import pytest

from lightning_sotl import sotl, sotl_e, sotl_ema
from lightning_sotl.losses.families import FAMILIES, Family
from lightning_sotl.losses.history import LossHistory
from lightning_sotl.losses.names import LoggedEstimate, logged_estimates


def history(windows=(1, 3), ema_decay=0.9):
    parameters = {"sotl": [None], "sotl-e": windows, "sotl-ema": [ema_decay] if ema_decay else []}
    return LossHistory(logged_estimates(parameters, prefix="s"))


def test_online_equals_offline_at_every_prefix():
    rng = np.random.default_rng(0)
    sums, counts = rng.random(40) * 50, rng.integers(1, 30, 40)
    curve = sums / counts
    online = history()
    for k, (total, count) in enumerate(zip(sums, counts, strict=True), start=1):
        online.close(k - 1, float(total), int(count))
        values = online.estimates()
        assert values["s"] == sotl(curve)[k - 1]
        assert values["s_e1"] == sotl_e(curve)[k - 1]
        assert values.get("s_e3", math.nan) == pytest.approx(
            sotl_e(curve, window=3)[k - 1], rel=0, abs=0, nan_ok=True
        )
        assert values["s_ema0.9"] == pytest.approx(sotl_ema(curve, decay=0.9)[k - 1], rel=1e-12)


def test_an_estimate_is_absent_until_its_window_is_full():
    online = history()
    assert online.estimates() == {}
    online.close(0, 2.0, 1)
    assert set(online.estimates()) == {"s", "s_e1", "s_ema0.9"}


def test_estimates_that_need_a_unit_without_losses_are_absent():
    online = history(windows=(1, 2), ema_decay=None)
    online.close(0, 2.0, 1)
    online.close(1, 0.0, 0)
    assert (online.completed, online.losses(), online.estimates()) == (2, {0: 2.0}, {})
    online.close(2, 1.0, 1)
    assert online.estimates() == {"s_e1": 1.0}
    online.close(3, 0.5, 1)
    assert online.estimates() == {"s_e1": 0.5, "s_e2": 1.5}
    assert online.gaps() == [1]


def test_closing_a_unit_again_changes_the_later_sums():
    online = history(windows=(1,), ema_decay=None)
    for unit, total in enumerate((4.0, 2.0, 1.0)):
        online.close(unit, total, 1)
    online.close(1, 2.0 + 6.0, 2)
    assert online.losses() == {0: 4.0, 1: 4.0, 2: 1.0}
    assert online.estimates() == {"s": 9.0, "s_e1": 1.0}


def test_a_saved_history_can_be_loaded_with_other_windows():
    online = history()
    for unit in range(4):
        online.close(unit, 4.0 - unit, 1)
    other = history(windows=(2, 4), ema_decay=None)
    other.load_state_dict(online.state_dict())
    assert other.estimates() == {"s": 10.0, "s_e2": 3.0, "s_e4": 10.0}


def test_a_run_known_from_its_middle_has_windowed_estimates_but_no_sotl():
    online = history(windows=(1, 2), ema_decay=0.9)
    online.close(5, 3.0, 1)
    online.close(6, 2.0, 1)
    assert online.estimates() == {"s_e1": 2.0, "s_e2": 5.0}
    assert online.gaps() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_diverged_run_keeps_its_loss_and_ranks_last(loss):
    online = history(windows=(1,), ema_decay=None)
    online.close(0, loss, 1)
    assert online.estimates() == {"s": math.inf, "s_e1": math.inf}
    online.close(1, 1.0, 1)
    assert online.estimates() == {"s": math.inf, "s_e1": 1.0}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_family_agrees_with_its_function_after_each_epoch(family):
    curve = np.random.default_rng(1).random(30)
    curve[20] = math.nan
    parameter = 3 if family.parameter == "window" else family.default
    estimate = LoggedEstimate(family, parameter)
    online = LossHistory({estimate.name: estimate})
    offline = family.function(curve, parameter or 0.0)
    for epoch, loss in enumerate(curve):
        online.close(epoch, float(loss), 1)
        value = online.estimates().get(estimate.name, math.nan)
        np.testing.assert_array_equal(value, offline[epoch])


def test_a_second_windowed_family_fits_beside_sotl_e():
    def worst(losses, window):
        windows = np.lib.stride_tricks.sliding_window_view(losses, int(window), axis=-1)
        gap = np.full((*losses.shape[:-1], int(window) - 1), math.nan)
        return np.concatenate([gap, windows.max(axis=-1)], axis=-1)

    family = Family("sotl-worst", "_worst", worst, parameter="window", default=1)
    estimates = [LoggedEstimate(family, 2), LoggedEstimate(FAMILIES["sotl-e"], 2)]
    online = LossHistory({estimate.name: estimate for estimate in estimates})
    estimates_so_far = []
    for epoch, loss in enumerate([3.0, 1.0, 2.0, 0.5]):
        online.close(epoch, loss, 1)
        estimates_so_far.append(online.estimates())
    assert estimates_so_far == [
        {},
        {"sotl_worst2": 3.0, "sotl_e2": 4.0},
        {"sotl_worst2": 2.0, "sotl_e2": 3.0},
        {"sotl_worst2": 2.0, "sotl_e2": 2.5},
    ]
