"""Arguments that SoTLMonitor refuses, the logged names, and two monitors in one Trainer."""

import math

import numpy as np
import pytest

from lightning_sotl import SoTLMonitor
from tests.support.helpers import loader, scripted_model, trainer


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({}, ("sotl", "sotl_e1")),
        ({"window": 5}, ("sotl", "sotl_e5")),
        ({"window": (1, 10)}, ("sotl", "sotl_e1", "sotl_e10")),
        ({"window": [10, 1]}, ("sotl", "sotl_e10", "sotl_e1")),
        ({"ema_decay": 0.999}, ("sotl", "sotl_e1", "sotl_ema0.999")),
        ({"ema_decay": 1}, ("sotl", "sotl_e1", "sotl_ema1.0")),
        ({"every_n_train_batches": 1000, "window": 5}, ("sotl_b1000", "sotl_b1000_e5")),
        ({"window": np.int64(3)}, ("sotl", "sotl_e3")),
        ({"prefix": "train/x"}, ("train/x", "train/x_e1")),
    ],
)
def test_names_contain_the_settings_that_make_values_comparable(arguments, names):
    assert SoTLMonitor(**arguments).metric_names == names


def test_arguments_are_kept_as_they_were_given():
    window = [1, 10]
    monitor = SoTLMonitor(window, 0.9, None, "nll", "x", True, True, False)
    assert monitor.window is window
    assert (monitor.ema_decay, monitor.every_n_train_batches, monitor.loss_key) == (
        0.9,
        None,
        "nll",
    )
    assert (monitor.prefix, monitor.prog_bar, monitor.epoch_axis, monitor.record) == (
        "x",
        True,
        True,
        False,
    )


INTEGER = "Expected `{}` to be a positive integer but got {!r}."
DECAY = "Expected `ema_decay` to be a number in (0, 1] but got {!r}."
TEXT = "Expected `{}` to be a string but got {!r}."
BOOLEAN = "Expected `{}` to be True or False but got {!r}."


@pytest.mark.parametrize(
    ("argument", "value", "error", "message"),
    [
        *(("window", v, ValueError, INTEGER.format("window", v)) for v in (0, -1)),
        *(
            ("window", v, TypeError, INTEGER.format("window", v))
            for v in (True, 1.0, "1", b"a", None)
        ),
        ("window", (1, 0), ValueError, INTEGER.format("window", 0)),
        ("window", (1, True), TypeError, INTEGER.format("window", True)),
        ("window", (), ValueError, "Expected `window` to have at least one entry but got ()."),
        ("window", [], ValueError, "Expected `window` to have at least one entry but got []."),
        (
            "window",
            (2, 2),
            ValueError,
            "Expected `window` to have no repeated entry but got (2, 2).",
        ),
        *(("ema_decay", v, ValueError, DECAY.format(v)) for v in (1.5, 0, -0.1, math.nan)),
        *(("ema_decay", v, TypeError, DECAY.format(v)) for v in ("0.9", True)),
        *(
            ("every_n_train_batches", v, e, INTEGER.format("every_n_train_batches", v))
            for v, e in ((0, ValueError), (-5, ValueError), (True, TypeError), (2.5, TypeError))
        ),
        *((n, 3, TypeError, TEXT.format(n, 3)) for n in ("loss_key", "prefix")),
        *(
            (n, "", ValueError, f"Expected `{n}` to be a non-empty string but got ''.")
            for n in ("loss_key", "prefix")
        ),
        *((n, 1, TypeError, BOOLEAN.format(n, 1)) for n in ("prog_bar", "epoch_axis", "record")),
    ],
)
def test_wrong_arguments_raise_at_construction(argument, value, error, message):
    with pytest.raises(error, match="Expected") as caught:
        SoTLMonitor(**{argument: value})
    assert str(caught.value) == message


def test_two_monitors_need_two_prefixes(tmp_path):
    monitors = [SoTLMonitor(), SoTLMonitor(window=2, prefix="other")]
    trainer(tmp_path, callbacks=monitors).fit(scripted_model(), loader(4))
    assert monitors[0].epoch_losses == monitors[1].epoch_losses
    assert sorted(monitors[1].estimates) == ["other", "other_e2"]
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `SoTLMonitor`"):
        trainer(tmp_path, callbacks=[SoTLMonitor(), SoTLMonitor(window=2)])


def test_two_prefixes_that_make_the_same_name_are_refused(tmp_path):
    monitors = [SoTLMonitor(), SoTLMonitor(prefix="sotl_e1")]
    with pytest.raises(ValueError, match="sotl_e1") as caught:
        trainer(tmp_path, callbacks=monitors).fit(scripted_model(), loader(4))
    assert str(caught.value) == (
        "Expected each SoTLMonitor of a Trainer to log different names but two of them log "
        "'sotl_e1'. Give one of them another `prefix`."
    )
