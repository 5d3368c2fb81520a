"""A promoted run is bit-equal to a run that was never stopped."""

import re
from pathlib import Path

import pytest
import torch

from lightning_sotl import EarlyRankingStopper, SoTLMonitor, find_winners
from tests.support.helpers import (
    loader,
    message_with,
    scripted_loss,
    scripted_model,
    trainer,
)
from tests.support.promoted_runs import (
    IN_BLOCKS,
    SETTINGS,
    Setting,
    Stream,
    WithoutLength,
    callbacks,
    pl,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata's own use
    pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    # A checkpoint in the middle of an epoch, with a loader that has a state.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_a_promoted_run_is_bit_equal_to_one_that_was_never_stopped(tmp_path, setting):
    whole, curve = setting.fit(tmp_path / "whole")
    stopper = EarlyRankingStopper(**setting.stop)
    stopped, _ = setting.fit(tmp_path / "stopped", stopper)
    promoted_stopper = EarlyRankingStopper(**setting.stop, promoted=True)
    promoted, promoted_curve = setting.fit(
        tmp_path / "promoted", promoted_stopper, checkpoint=stopper.checkpoint_path, seed=99
    )
    assert 0 < len(stopped.steps) < len(whole.steps)
    assert stopped.steps + promoted.steps == whole.steps
    for name, value in whole.state_dict().items():
        assert torch.equal(promoted.state_dict()[name], value), name
    assert promoted_curve.epoch_losses == curve.epoch_losses
    assert promoted_stopper.stopping_reason == "not_stopped"
    assert promoted_stopper.estimate == stopper.estimate
    if setting.schedule:
        assert len({rate for *_, rate in whole.steps}) > 2


def test_a_stop_at_an_epoch_that_the_module_ends_is_continued_exactly(tmp_path):
    def fit(*stoppers, checkpoint=None):
        module, monitor = scripted_model(by_batch=True), SoTLMonitor()
        module.on_train_batch_start = lambda batch, batch_idx: (
            -1 if (module.trainer.current_epoch, batch_idx) == (1, 2) else None
        )
        run = trainer(tmp_path, callbacks=[monitor, *stoppers], max_epochs=4)
        torch.manual_seed(0 if checkpoint is None else 99)
        run.fit(module, loader(5, shuffle=True), ckpt_path=checkpoint)
        return module.returned, monitor.epoch_losses

    whole, losses = fit()
    stopper = EarlyRankingStopper(stop_epoch=2, checkpoint_dir=tmp_path)
    stopped, _ = fit(stopper)
    promoted = EarlyRankingStopper(stop_epoch=2, promoted=True)
    end, end_losses = fit(promoted, checkpoint=stopper.checkpoint_path)
    assert (len(stopped), stopper.epochs_completed) == (5 + 2, 2)
    assert stopped + end == whole
    assert end_losses == losses


def test_a_run_that_was_fitted_again_after_an_exception_is_promoted_exactly(tmp_path):
    module, stopper = scripted_model(), EarlyRankingStopper(stop_epoch=3, checkpoint_dir=tmp_path)
    failures = iter([RuntimeError("out of memory")])

    def fail_once(batch, batch_idx):
        if (module.trainer.current_epoch, batch_idx) == (1, 2):
            for failure in failures:
                raise failure

    module.on_train_batch_start = fail_once
    run = trainer(tmp_path, callbacks=[SoTLMonitor(), stopper], max_epochs=5)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        run.fit(module, loader(4))
    run.fit(module, loader(4))
    assert stopper.epochs_completed == 3

    end, monitor = scripted_model(), SoTLMonitor()
    promoted = EarlyRankingStopper(stop_epoch=3, promoted=True)
    run = trainer(tmp_path, callbacks=[monitor, promoted], max_epochs=5)
    run.fit(end, loader(4), ckpt_path=stopper.checkpoint_path)
    steps = [(epoch, batch) for epoch, batch, _ in end.returned]
    assert steps == [(epoch, batch) for epoch in (3, 4) for batch in range(4)]
    means = [sum(scripted_loss(epoch, batch) for batch in range(4)) / 4 for epoch in range(5)]
    assert monitor.epoch_losses == pytest.approx(dict(enumerate(means)), rel=1e-6)


class SaveAfterEpochZero(pl.Callback):
    """Saves at the last batch of epoch 0."""

    def on_train_batch_end(self, trainer, *args):
        if trainer.is_last_batch and trainer.current_epoch == 0:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "last batch.ckpt")


@pytest.mark.parametrize("name", ["loader that draws its order", "middle of the second epoch"])
def test_a_run_that_was_killed_at_an_epochs_last_batch_can_be_stopped_and_promoted(tmp_path, name):
    setting = SETTINGS[name]
    saving = Setting(setting.data, block=setting.block, callbacks=lambda: [SaveAfterEpochZero()])
    whole, curve = saving.fit(tmp_path)
    stopper = EarlyRankingStopper(**setting.stop)
    stopped, _ = setting.fit(tmp_path / "stopped", stopper, checkpoint=tmp_path / "last batch.ckpt")
    promoted, promoted_curve = setting.fit(
        tmp_path / "promoted",
        EarlyRankingStopper(**setting.stop, promoted=True),
        checkpoint=stopper.checkpoint_path,
    )
    places = [step[:2] for step in whole.steps]
    assert [step[:2] for step in stopped.steps + promoted.steps] == places[5:]
    assert sorted(promoted_curve.epoch_losses) == sorted(curve.epoch_losses)


@pytest.mark.parametrize("name", ["validation", "middle of the only epoch", "max_steps"])
def test_a_stopped_run_that_is_not_promoted_trains_nothing_more(tmp_path, name):
    setting = SETTINGS[name]
    stopper = EarlyRankingStopper(**setting.stop)
    setting.fit(tmp_path, stopper)
    again = EarlyRankingStopper(**setting.stop)
    model, monitor = setting.fit(tmp_path, again, checkpoint=stopper.checkpoint_path)
    assert model.steps == []
    assert again.stopping_reason == "already_stopped"
    assert again.estimate == stopper.estimate
    assert again.epochs_completed == stopper.epochs_completed
    assert monitor.estimates[stopper.monitor] == stopper.estimate


def saves_last(folder):
    """Return a ModelCheckpoint that saves `last.ckpt`, also in a run that trains no epoch."""
    saves = callbacks.ModelCheckpoint(folder, save_last=True)
    if "on_train_end" not in vars(callbacks.ModelCheckpoint):  # older than Lightning 2.5.6
        path = folder / "last.ckpt"
        saves.on_train_end = lambda run, _: path.exists() or run.save_checkpoint(path)
    return saves


def test_a_promotion_from_a_checkpoint_of_an_already_stopped_run_is_bit_equal(tmp_path):
    """After a kill between a stop and its promotion, the newest checkpoint is a later one."""
    setting = SETTINGS["loader that draws its order"]
    last = {"callbacks": lambda: [saves_last(tmp_path)]}
    saving = Setting(setting.data, max_epochs=4, **last)
    whole, curve = setting.fit(tmp_path / "whole")
    stopper = EarlyRankingStopper(stop_epoch=2)
    setting.fit(tmp_path, stopper)
    again = EarlyRankingStopper(stop_epoch=2)
    saving.fit(tmp_path, again, checkpoint=stopper.checkpoint_path)
    assert again.stopping_reason == "already_stopped"
    promoted, promoted_curve = setting.fit(
        tmp_path / "end",
        EarlyRankingStopper(stop_epoch=2, promoted=True),
        checkpoint=tmp_path / "last.ckpt",
    )
    assert promoted.steps == [step for step in whole.steps if step[0] >= 2]
    assert promoted_curve.epoch_losses == curve.epoch_losses


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
@pytest.mark.parametrize("logger", [False, "the same folder", "a folder per start"])
def test_a_script_that_is_started_repeatedly_keeps_the_stops_own_checkpoint(
    tmp_path, monkeypatch, logger
):
    """The restart recipe: each start resumes from the newest checkpoint, if any."""
    monkeypatch.chdir(tmp_path)
    whole, curve = SETTINGS["validation"].fit(tmp_path / "whole")
    newest = Path("newest.ckpt")  # relative
    paths = []
    for start in range(3):
        saves = callbacks.ModelCheckpoint(Path(), "newest", enable_version_counter=False)
        version = {"the same folder": 0, "a folder per start": start}.get(logger)
        own = logger and pl.loggers.CSVLogger("logs", name="run", version=version)
        setting = Setting(callbacks=lambda saves=saves: [saves], logger=own)
        stopper = EarlyRankingStopper(stop_epoch=2)
        setting.fit(tmp_path, stopper, checkpoint=newest if start else None, seed=start)
        paths.append(stopper.checkpoint_path)
        assert stopper.stopping_reason == ("already_stopped" if start else "stop_epoch_reached")
    assert len(set(paths)) == 1
    if logger:
        (winner,) = find_winners("logs", 1)
        assert winner.checkpoint_path == paths[0]
    promoted, promoted_curve = SETTINGS["validation"].fit(
        tmp_path / "promoted",
        EarlyRankingStopper(stop_epoch=2, promoted=True),
        checkpoint=paths[2],
        seed=99,
    )
    assert promoted.steps == [step for step in whole.steps if step[0] >= 2]
    for name, value in whole.state_dict().items():
        assert torch.equal(promoted.state_dict()[name], value), name
    assert promoted_curve.epoch_losses == curve.epoch_losses


def test_a_run_killed_before_its_stop_was_saved_is_promoted_from_an_absolute_path(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    saves = callbacks.ModelCheckpoint(Path(), "newest", enable_version_counter=False)
    stopper = EarlyRankingStopper(stop_epoch=2)
    Setting(callbacks=lambda: [saves]).fit(tmp_path, stopper)
    Path(stopper.checkpoint_path).unlink()
    again = EarlyRankingStopper(stop_epoch=2)
    Setting().fit(tmp_path, again, checkpoint="newest.ckpt")
    assert again.checkpoint_path == str(tmp_path / "newest.ckpt")


def loaders_in(checkpoint):
    return torch.load(checkpoint, weights_only=True)["loops"]["fit_loop"]["state_dict"][
        "combined_loader"
    ]


def test_an_already_stopped_run_saves_the_loader_states_that_it_loaded(tmp_path):
    """For example after a kill between Lightning's save at T and the save of the stop."""
    newest = tmp_path / "last.ckpt"
    setting = SETTINGS["loader that draws its order"]
    last = {"callbacks": lambda: [saves_last(tmp_path)]}
    saving = Setting(setting.data, max_epochs=4, **last)
    saving.fit(tmp_path, EarlyRankingStopper(stop_epoch=2))
    found = loaders_in(newest)
    newest.rename(tmp_path / "at_t.ckpt")
    again = EarlyRankingStopper(stop_epoch=2)
    saving.fit(tmp_path, again, checkpoint=tmp_path / "at_t.ckpt")
    assert again.stopping_reason == "already_stopped"
    assert loaders_in(newest) == found
    assert found[0]["drawn"] == 2


def test_a_run_past_its_limit_without_a_state_of_a_stopper_trains_nothing_more(tmp_path):
    def setting(**options):
        saves = callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, **options)
        return Setting(callbacks=lambda: [saves])

    _, monitor = setting(filename="{epoch}").fit(tmp_path)
    stopper = EarlyRankingStopper(stop_epoch=2)
    model, _ = setting().fit(tmp_path, stopper, checkpoint=tmp_path / "epoch=2.ckpt")
    assert (model.steps, stopper.stopping_reason) == ([], "already_stopped")
    assert (stopper.estimate, stopper.epochs_completed) == (monitor.epoch_losses[2], 3)


def test_a_run_resumed_with_a_later_limit_continues_as_if_never_stopped(tmp_path):
    setting = SETTINGS["validation"]
    whole, curve = setting.fit(tmp_path)
    first, second = EarlyRankingStopper(stop_epoch=1), EarlyRankingStopper(stop_epoch=3)
    one, _ = setting.fit(tmp_path, first)
    two, _ = setting.fit(tmp_path, second, checkpoint=first.checkpoint_path, seed=5)
    assert one.steps + two.steps == whole.steps[:15]
    assert (second.estimate, second.epochs_completed) == (curve.epoch_losses[2], 3)
    promoted = EarlyRankingStopper(stop_epoch=3, promoted=True)
    three, _ = setting.fit(tmp_path, promoted, checkpoint=second.checkpoint_path, seed=6)
    assert one.steps + two.steps + three.steps == whole.steps


def test_a_stop_with_pending_gradients_causes_a_warning(tmp_path):
    setting = Setting(lambda: Stream(20), **IN_BLOCKS, accumulate_grad_batches=4)
    stopper = EarlyRankingStopper(stop_batches=6, monitor="sotl_b3_e1")
    with pytest.warns(UserWarning, match="accumulated but not applied") as caught:
        setting.fit(tmp_path, stopper)
    assert message_with(caught, "accumulated but") == (
        "The run stops after 6 batches with gradients that are accumulated but not applied. "
        "Checkpoints do not contain them, so the promoted run will differ from a run that was "
        "never stopped. Stop at a multiple of `accumulate_grad_batches`."
    )


def test_a_stop_inside_an_epoch_of_a_loader_without_state_causes_a_warning(tmp_path):
    stopper = EarlyRankingStopper(**IN_BLOCKS["stop"])
    with pytest.warns(UserWarning, match="stops inside an epoch") as caught:
        Setting(**IN_BLOCKS).fit(tmp_path, stopper)
    assert message_with(caught, "inside an epoch") == (
        "The run stops inside an epoch, and a training loader has no `state_dict`. A run that "
        "resumes from the stop starts this loader from its beginning, so it will differ from a run "
        "that was never stopped. Use a loader with a state, such as torchdata's "
        "StatefulDataLoader, or stop at the end of an epoch."
    )


def test_a_batch_that_was_fetched_too_early_to_be_resumed_causes_a_warning(tmp_path):
    setting = Setting(
        lambda: WithoutLength(5), block=1, stop={"stop_batches": 6, "monitor": "sotl_b1_e1"}
    )
    with pytest.warns(UserWarning, match="after the first batch") as caught:
        setting.fit(tmp_path, EarlyRankingStopper(**setting.stop))
    assert message_with(caught, "first batch") == (
        "The run stops after the first batch of an epoch, and its training loaders have no length, "
        "so Lightning has already fetched the next batch. The promoted run will skip it."
    )


def test_a_stop_in_blocks_is_reported_in_blocks(tmp_path, caplog):
    caplog.set_level("INFO")
    setting = Setting(lambda: Stream(20), **IN_BLOCKS)
    stopper = EarlyRankingStopper(**setting.stop)
    setting.fit(tmp_path, stopper)
    again = EarlyRankingStopper(**setting.stop)
    setting.fit(tmp_path, again, checkpoint=stopper.checkpoint_path)
    stop = f"The run ends after 2 blocks of 3 batches with `sotl_b3_e1` = {stopper.estimate:.6g}. "
    assert [line[: len(stop)] for line in caplog.messages if line.startswith("The run ends")] == [
        stop
    ]
    assert (
        "The run already ended after 2 blocks of 3 batches and is not trained further. To continue "
        "it, pass its stopper `promoted=True` or a later limit."
    ) in caplog.messages


def test_a_promotion_without_a_random_state_is_logged(tmp_path, caplog):
    own = callbacks.ModelCheckpoint(tmp_path, filename="own")
    setting = Setting(callbacks=lambda: [own])
    setting.fit(tmp_path, EarlyRankingStopper(stop_epoch=2))
    promoted = EarlyRankingStopper(stop_epoch=2, promoted=True)
    model, _ = Setting().fit(tmp_path, promoted, checkpoint=tmp_path / "own.ckpt")
    assert {epoch for epoch, *_ in model.steps} == {2, 3}
    (message,) = [r.getMessage() for r in caplog.records if r.name.startswith("lightning_sotl")]
    assert message == (
        "The promoted run resumes from a checkpoint without the random state of a stop, so it will "
        "differ from a run that was never stopped. Resume from the stopper's `checkpoint_path` "
        "instead."
    )


def test_the_checkpoint_is_beside_lightnings_own_under_a_unique_name(tmp_path):
    setting = SETTINGS["validation"]
    stoppers = [EarlyRankingStopper(stop_epoch=2) for _ in range(2)]
    for stopper in stoppers:
        setting.fit(tmp_path, stopper)
    paths = [Path(stopper.checkpoint_path) for stopper in stoppers]
    assert {path.parent for path in paths} == {tmp_path / "checkpoints"}
    assert len(set(paths)) == 2
    assert all(path.name.startswith("stopped-epoch=2-") for path in paths)


def test_the_checkpoint_can_be_loaded_with_weights_only(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=2)
    SETTINGS["validation"].fit(tmp_path, stopper)
    saved = torch.load(stopper.checkpoint_path, weights_only=True)
    state = saved["callbacks"]["EarlyRankingStopper{'monitor': 'sotl_e1'}"]
    assert state["estimate"] == stopper.estimate
    assert state["stopping_reason"] == "stop_epoch_reached"
    assert len(state["random_states"]) == 1


def test_a_checkpoint_that_the_user_saves_after_the_stop_can_be_promoted(tmp_path):
    setting, stopper = SETTINGS["validation"], EarlyRankingStopper(stop_epoch=2)
    whole, _ = setting.fit(tmp_path / "whole")
    stopped, _ = setting.fit(tmp_path, stopper)
    stopped.trainer.save_checkpoint(tmp_path / "mine.ckpt")
    promoted = EarlyRankingStopper(stop_epoch=2, promoted=True)
    rest, _ = setting.fit(tmp_path, promoted, checkpoint=tmp_path / "mine.ckpt", seed=7)
    assert stopped.steps + rest.steps == whole.steps


def test_other_checkpoints_contain_no_random_state(tmp_path):
    setting = Setting(callbacks=lambda: [callbacks.ModelCheckpoint(tmp_path, filename="own")])
    setting.fit(tmp_path, EarlyRankingStopper(stop_epoch=2))
    saved = torch.load(tmp_path / "own.ckpt", weights_only=True)
    assert "random_states" not in saved["callbacks"]["EarlyRankingStopper{'monitor': 'sotl_e1'}"]


def test_a_loader_with_other_generators_is_refused(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=2)
    SETTINGS["own generator"].fit(tmp_path, stopper)
    promoted = EarlyRankingStopper(stop_epoch=2, promoted=True)
    with pytest.raises(RuntimeError, match="generator, as when") as caught:
        SETTINGS["validation"].fit(tmp_path, promoted, checkpoint=stopper.checkpoint_path)
    assert str(caught.value) == (
        "Expected the training loaders to have 1 generator, as when the random state was saved, "
        "but got 0."
    )


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_sampler_with_another_kind_of_generator_is_refused(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=2)
    SETTINGS["sampler with numpy's generator"].fit(tmp_path, stopper)
    promoted = EarlyRankingStopper(stop_epoch=2, promoted=True)
    message = (
        "Expected the generators that the training loaders use to be those in the saved random "
        "state (numpy PCG64) but got numpy Philox."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        SETTINGS["sampler with numpy's Philox"].fit(
            tmp_path, promoted, checkpoint=stopper.checkpoint_path
        )


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_sampler_with_an_unsaved_generator_causes_a_warning(tmp_path):
    stopper = EarlyRankingStopper(stop_epoch=2)
    SETTINGS["no validation"].fit(tmp_path, stopper)
    promoted = EarlyRankingStopper(stop_epoch=2, promoted=True)
    with pytest.warns(UserWarning, match="lacks the states of generators") as caught:
        SETTINGS["sampler with numpy's generator"].fit(
            tmp_path, promoted, checkpoint=stopper.checkpoint_path
        )
    assert message_with(caught, "generators") == (
        "The checkpoint lacks the states of generators that the training loaders use (numpy "
        "PCG64), so the run will differ from one that was never stopped."
    )
