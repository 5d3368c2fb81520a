"""The stopper's estimate in TensorBoard's HPARAMS tab."""

import math

import pytest

from lightning_sotl import EarlyRankingStopper, SoTLMonitor
from tests.support.helpers import (
    PACKAGES,
    door,
    lightning,
    loader,
    message_with,
    scripted_model,
    trainer,
)
from tests.support.hparams_tab import hparams_tab

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    # ModelCheckpoint warns if a promoted run logs into a new folder.
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    # The stopper's own warning is tested elsewhere.
    pytest.mark.filterwarnings("ignore:`stop_epoch=.` is beyond"),
]
# L(e) of `scripted_loss` on 4 batches, computed by hand.
LOSSES = (4.28125, 2.375, 1.6302083730697632)


def tensorboard(folder, package="pytorch_lightning", **options):
    module = lightning(f"{package}.loggers")
    return module.TensorBoardLogger(folder / "tb", name="", **options)


def model(package="pytorch_lightning", width=8, **options):
    module = scripted_model(package, **options)
    module.save_hyperparameters({"width": width})
    return module


def fit(
    folder, logger, *, package="pytorch_lightning", net=None, ckpt_path=None, epochs=3, **options
):
    """Fit with a stopper, and return it."""
    callbacks = door(package)
    stopper = callbacks.EarlyRankingStopper(**{"stop_epoch": 2, "hp_metric": True, **options})
    trainer(
        folder,
        package,
        callbacks=[callbacks.SoTLMonitor(), stopper],
        logger=logger,
        max_epochs=epochs,
        enable_checkpointing=True,
    ).fit(net or model(package), loader(4), ckpt_path=ckpt_path)
    return stopper


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("placeholder", [True, False])
def test_a_stopped_run_shows_its_estimate(tmp_path, package, placeholder):
    logger = tensorboard(tmp_path, package, default_hp_metric=placeholder)
    stopper = fit(tmp_path, logger, package=package)
    assert stopper.estimate == LOSSES[1]
    assert hparams_tab(tmp_path / "tb") == {"version_0": ({"width": 8}, LOSSES[1])}


def test_without_hp_metric_nothing_is_shown(tmp_path):
    fit(tmp_path, tensorboard(tmp_path), hp_metric=False)
    assert hparams_tab(tmp_path / "tb") == {"version_0": ({"width": 8}, -1)}


def test_only_tensorboard_loggers_show_it_and_each_of_them_does(tmp_path):
    csv = lightning("pytorch_lightning.loggers").CSVLogger(tmp_path, name="csv")
    loggers = [csv, *(tensorboard(tmp_path, version=name) for name in "ab")]
    fit(tmp_path, loggers)
    expected = ({"width": 8}, LOSSES[1])
    assert hparams_tab(tmp_path / "tb") == {"a": expected, "b": expected}
    assert "hp_metric" not in (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()


def test_a_run_without_hyperparameters_shows_it_too(tmp_path):
    fit(tmp_path, tensorboard(tmp_path), net=scripted_model())
    assert hparams_tab(tmp_path / "tb") == {"version_0": ({}, LOSSES[1])}


@pytest.mark.parametrize("version", [0, 1], ids=["same folder", "new folder"])
def test_a_promoted_run_keeps_the_estimate_at_the_stop(tmp_path, version):
    stopper = fit(tmp_path, tensorboard(tmp_path, version=0))
    fit(
        tmp_path,
        tensorboard(tmp_path, version=version),
        promoted=True,
        ckpt_path=stopper.checkpoint_path,
    )
    expected = ({"width": 8}, LOSSES[1])
    assert hparams_tab(tmp_path / "tb") == {f"version_{v}": expected for v in {0, version}}


def test_a_promoted_run_shows_the_estimate_before_it_ends(tmp_path):
    stopper = fit(tmp_path, tensorboard(tmp_path))

    def fails(epoch, batch):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        fit(
            tmp_path,
            tensorboard(tmp_path, version=1),
            net=model(loss=fails),
            promoted=True,
            ckpt_path=stopper.checkpoint_path,
        )
    assert hparams_tab(tmp_path / "tb")["version_1"] == ({"width": 8}, LOSSES[1])


def test_a_run_that_is_resumed_past_its_limit_shows_the_saved_estimate(tmp_path):
    stopper = fit(tmp_path, tensorboard(tmp_path))
    again = fit(tmp_path, tensorboard(tmp_path, version=1), ckpt_path=stopper.checkpoint_path)
    assert again.stopping_reason == "already_stopped"
    assert hparams_tab(tmp_path / "tb")["version_1"] == ({"width": 8}, LOSSES[1])


@pytest.mark.parametrize(
    ("options", "limit"),
    [({"stop_epoch": 9}, 9), ({"stop_epoch": 2, "promoted": True}, 2)],
    ids=["before the limit", "promoted without checkpoint"],
)
def test_a_run_without_a_value_at_the_limit_shows_its_last_value_with_a_warning(
    tmp_path, options, limit
):
    with pytest.warns(UserWarning, match="hp_metric") as caught:
        fit(tmp_path, tensorboard(tmp_path), **options)
    assert message_with(caught, "hp_metric") == (
        "`hp_metric` of this run is `sotl_e1` at its end, after 3 epochs, because it has no value "
        f"at the limit of {limit}. Do not compare it with runs that have one."
    )
    value = hparams_tab(tmp_path / "tb")["version_0"][1]
    assert value == pytest.approx(LOSSES[2], rel=1e-7)  # TensorBoard keeps float32


def test_a_run_with_max_epochs_at_the_limit_shows_its_estimate(tmp_path):
    fit(tmp_path, tensorboard(tmp_path), epochs=2)
    assert hparams_tab(tmp_path / "tb")["version_0"][1] == LOSSES[1]


def test_a_run_without_a_value_keeps_the_loggers_placeholder(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=5, monitor="sotl_e5", hp_metric=True)
    callbacks = [SoTLMonitor(window=5), stopper]
    for default in (True, False):
        logger = tensorboard(tmp_path, version=str(default), default_hp_metric=default)
        trainer(tmp_path, callbacks=callbacks, logger=logger).fit(model(), loader(4))
    assert hparams_tab(tmp_path / "tb") == {"True": ({"width": 8}, -1)}


def test_a_diverged_run_ranks_last_in_tensorboard(tmp_path):
    losses = {4: 3.0, 16: math.nan, 64: 1.0}
    for width, value in losses.items():
        net = model(width=width, loss=lambda epoch, batch, value=value: value)
        fit(tmp_path, tensorboard(tmp_path), net=net)
    shown = hparams_tab(tmp_path / "tb")
    assert list(shown.values()) == [
        ({"width": 64}, 1.0),
        ({"width": 4}, 3.0),
        ({"width": 16}, math.inf),
    ]


def test_a_trainer_without_tensorboard_causes_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="hp_metric") as caught:
        fit(tmp_path, lightning("pytorch_lightning.loggers").CSVLogger(tmp_path))
    assert message_with(caught, "hp_metric") == (
        "`hp_metric=True` has no effect because no logger of this Trainer is a TensorBoardLogger."
    )


def test_fast_dev_run_shows_nothing_and_does_not_warn(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=9, hp_metric=True)
    options = {"callbacks": [SoTLMonitor(), stopper], "fast_dev_run": True}
    trainer(tmp_path, logger=tensorboard(tmp_path), **options).fit(model(), loader(4))
    assert hparams_tab(tmp_path / "tb") == {}


def test_hp_metric_must_be_a_boolean():
    with pytest.raises(TypeError, match=r"^Expected `hp_metric` to be True or False but got 1\.$"):
        EarlyRankingStopper(stop_epoch=2, hp_metric=1)
