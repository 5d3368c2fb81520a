"""Real runs that resume from one checkpoint, as `rank` and the readers show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_sotl import EarlyRankingStopper, SoTLMonitor, find_winners
from lightning_sotl.cli import main
from lightning_sotl.curves.logs import FoundRuns, LogKeys, read_logs
from tests.support.helpers import lightning, loader, returned_epoch_losses, scripted_model, trainer

pl = lightning()

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
    # These tests resume forks with another rate or budget.
    pytest.mark.filterwarnings("ignore:The settings of the promoted run differ from"),
]


class Fail(pl.Callback):
    """Raises at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise ZeroDivisionError("mine")


class Runs:
    """Trainings below one folder, each in the next version unless one is given."""

    def __init__(self, folder: Path, logger: Any = pl.loggers.CSVLogger) -> None:
        self.folder, self.logger = folder, logger

    def train(
        self,
        *before: Any,
        rate: float | None,
        checkpoint: str | None = None,
        stop: int | None = None,
        epochs: int = 6,
        fails_at: int | None = None,
        version: int | None = None,
    ) -> tuple[list[Any], str | None]:
        """Return the models of the run so far, and the checkpoint of its stop."""
        scale = 1.0 if rate is None else rate
        model = scripted_model(
            loss=lambda epoch, batch: 9.0 - epoch if epoch < 3 else scale * (9 - epoch) + batch / 8,
            val=True,
        )
        if rate is not None:
            model.save_hyperparameters({"lr": rate})
        stopper = EarlyRankingStopper(stop_epoch=stop or 3, promoted=stop is None)
        callbacks = [SoTLMonitor(), stopper, *([] if fails_at is None else [Fail(fails_at)])]
        run = trainer(
            self.folder,
            callbacks=callbacks,
            logger=self.logger(self.folder / "logs", name="", version=version),
            max_epochs=epochs,
            enable_checkpointing=True,
        )
        if fails_at is None:
            run.fit(model, loader(4), ckpt_path=checkpoint)
        else:
            with pytest.raises(ZeroDivisionError, match=r"^mine$"):
                run.fit(model, loader(4), ckpt_path=checkpoint)
        return [*before, model], stopper.checkpoint_path

    def found(self, **keys: Any) -> FoundRuns:
        return read_logs(self.folder / "logs", LogKeys(**keys))

    def forget_parents(self) -> None:
        """Rewrite the records as an older version wrote them, without the parents of sessions."""
        for path in self.folder.rglob("sotl.jsonl"):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            for line in lines:
                line.pop("parent", None)
                line.pop("parent_units", None)
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def curve(models: list[Any]) -> list[float]:
    return list(returned_epoch_losses(*models).values())


def check(runs: Runs, expected: dict[str, list[Any]], *, validated: bool = True) -> None:
    """Compare the recorded runs with the losses that their models returned.

    Then compare them again without the parents of sessions, which stay removed.
    """
    for _ in range(2):
        found = runs.found(val_loss="val_loss" if validated else None)
        assert sorted(found.curves.names) == sorted(expected)
        curves = [found.curves.train_loss, *([found.curves.val_loss] if validated else [])]
        for row, name in enumerate(found.curves.names):
            own = curve(expected[name])
            losses = curves[0][row]
            assert losses[~np.isnan(losses)].tolist() == pytest.approx(own)
            for values in curves:
                assert np.flatnonzero(~np.isnan(values[row])).tolist() == list(range(len(own)))
        runs.forget_parents()


LOGGERS = [pl.loggers.CSVLogger, pl.loggers.TensorBoardLogger]


@pytest.mark.parametrize("logger", LOGGERS)
def test_three_forks_in_separate_directories_are_three_runs(
    tmp_path: Path, logger: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs(tmp_path, logger)
    base, checkpoint = runs.train(rate=0.1, stop=3)
    check(runs, {"version_0": base})
    runs = Runs(tmp_path, logger)
    forks = [runs.train(*base, rate=rate, checkpoint=checkpoint)[0] for rate in (0.01, 0.2, 0.5)]
    check(runs, dict(zip(["version_0", "version_2", "version_3"], forks, strict=True)))
    capsys.readouterr()
    assert main(["rank", str(tmp_path), "--json", "--at", "6"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(run["run_id"], run["epochs"]) for run in document["runs"]] == [
        ("logs/version_0", 6),
        ("logs/version_2", 6),
        ("logs/version_3", 6),
    ]
    assert [run["estimate"] for run in document["runs"]] == pytest.approx(
        [curve(models)[-1] for models in forks]
    )
    assert [run["checkpoint"] for run in document["runs"]] == [checkpoint] * 3
    winners = find_winners(tmp_path, 2, at=6)
    assert [winner.params for winner in winners] == [{"lr": 0.01}, {"lr": 0.2}]


def test_a_winner_that_is_promoted_twice_is_two_runs(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    base, checkpoint = runs.train(rate=0.1, stop=3)
    first, _ = runs.train(*base, rate=0.1, checkpoint=checkpoint)
    check(runs, {"version_0": first})
    second, _ = runs.train(*base, rate=0.1, checkpoint=checkpoint)
    check(runs, {"version_0": first, "version_2": second})


def test_a_winner_that_is_promoted_twice_in_one_directory_is_two_runs(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    base, checkpoint = runs.train(rate=None, stop=3, version=0)
    first, _ = runs.train(*base, rate=0.2, checkpoint=checkpoint, version=0)
    check(runs, {"version_0": first}, validated=False)  # a CSVLogger that resumes deletes rows
    second, _ = runs.train(*base, rate=0.5, checkpoint=checkpoint, version=0)
    third, _ = runs.train(*base, rate=0.5, checkpoint=checkpoint, version=0)
    expected = {"version_0": first, "version_0#3": second, "version_0#4": third}
    check(runs, expected, validated=False)
    assert (
        "'version_0' holds 3 runs; its logs cannot be distinguished, so only the records count."
    ) in Runs(tmp_path).found().notes.warnings


def test_a_failed_promotion_and_its_repetition_are_one_run(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    base, checkpoint = runs.train(rate=0.1, stop=3)
    runs.train(*base, rate=0.1, checkpoint=checkpoint, fails_at=4)
    again, _ = runs.train(*base, rate=0.1, checkpoint=checkpoint)
    check(runs, {"version_0": again})


def test_a_failed_promotion_and_one_with_another_rate_are_two_runs(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    base, checkpoint = runs.train(rate=0.1, stop=3)
    broken, _ = runs.train(*base, rate=0.2, checkpoint=checkpoint, fails_at=4)
    other, _ = runs.train(*base, rate=0.5, checkpoint=checkpoint)
    check(runs, {"version_0": broken, "version_2": other})


def test_forks_of_forks_have_the_epochs_of_all_their_ancestors(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    base, at_three = runs.train(rate=0.1, stop=3)
    middle, at_four = runs.train(*base, rate=0.2, checkpoint=at_three, stop=4)
    beside, _ = runs.train(*base, rate=0.3, checkpoint=at_three)
    first, _ = runs.train(*middle, rate=0.2, checkpoint=at_four)
    second, _ = runs.train(*middle, rate=0.4, checkpoint=at_four)
    check(runs, {"version_0": first, "version_2": beside, "version_4": second})
    found = runs.found()
    assert found.stopped_at == (3, 3, 3)
    assert found.curves.checkpoints == (at_four, at_three, at_four)


def test_a_finished_run_that_resumes_with_a_larger_budget_stays_one_run(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    whole, _ = runs.train(rate=0.1)
    (saved,) = (tmp_path / "logs/version_0/checkpoints").glob("*.ckpt")
    longer, _ = runs.train(*whole, rate=0.1, checkpoint=str(saved), epochs=8)
    check(runs, {"version_0": longer})


def test_values_of_the_base_after_the_fork_belong_only_to_the_base(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    saves = pl.callbacks.ModelCheckpoint(tmp_path / "saved", save_top_k=-1, filename="{epoch}")
    model = scripted_model(loss=lambda epoch, batch: 9.0 - epoch, val=True)
    logger = pl.loggers.CSVLogger(tmp_path / "logs", name="")
    options = {"logger": logger, "max_epochs": 6, "enable_checkpointing": True}
    trainer(tmp_path, callbacks=[SoTLMonitor(), saves], **options).fit(model, loader(4))
    fork = scripted_model(loss=lambda epoch, batch: 4.0)  # without a validation
    options["logger"] = pl.loggers.CSVLogger(tmp_path / "logs", name="")
    trainer(tmp_path, callbacks=[SoTLMonitor()], **options).fit(
        fork, loader(4), ckpt_path=tmp_path / "saved/epoch=1.ckpt"
    )
    found = runs.found(val_loss="val_loss", final_metric="val_loss")
    assert found.curves.names == ("version_0", "version_1")
    assert found.curves.train_loss.tolist() == [[9, 8, 7, 6, 5, 4], [9, 8, 4, 4, 4, 4]]
    assert (~np.isnan(found.curves.val_loss)).tolist() == [
        [True] * 6,
        [True, True, False, False, False, False],
    ]


class Kill(pl.Callback):
    """Ends a trial in the first batch of an epoch, as Ray does from another process."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if trainer.current_epoch == self.epoch:
            raise SystemExit


def test_each_lineage_of_population_based_training_is_a_run(tmp_path: Path) -> None:
    """Three trials with separate folders exploit each other's checkpoints after epochs 2 and 4."""
    found: list[Any] = []

    def trial(name: str, rate: float, *before: Any, checkpoint: Any = None, until: int = 6) -> Any:
        model = scripted_model(loss=lambda epoch, batch: 10.0 - epoch + rate)
        saves = pl.callbacks.ModelCheckpoint(
            tmp_path / "checkpoints", f"{name}-{rate}-{{epoch}}", save_top_k=-1
        )
        run = trainer(
            tmp_path,
            callbacks=[SoTLMonitor(params={"rate": rate}), saves, Kill(until)],
            logger=pl.loggers.CSVLogger(tmp_path / "logs" / name, name="", version=None),
            max_epochs=6,
            enable_checkpointing=True,
        )
        try:
            run.fit(model, loader(2), ckpt_path=checkpoint)
        except SystemExit:
            assert until < 6
        path = tmp_path / "checkpoints" / f"{name}-{rate}-epoch={min(until, 6) - 1}.ckpt"
        return [*before, model], path

    a, a2 = trial("a", 1.0, until=2)
    b, _ = trial("b", 2.0, until=2)
    c, _ = trial("c", 3.0, until=2)
    a, _ = trial("a", 1.0, *a, checkpoint=a2, until=4)  # keeps its own
    b, b4 = trial("b", 0.5, *a[:1], checkpoint=a2, until=4)  # exploits a
    c, _ = trial("c", 0.25, *a[:1], checkpoint=a2, until=3)  # exploits a too
    c_of_b, _ = trial("c", 0.75, *b, checkpoint=b4)  # exploits b
    a_of_b, _ = trial("a", 0.6, *b, checkpoint=b4)  # exploits b
    b, _ = trial("b", 0.5, *b, checkpoint=b4)
    expected = [curve(models) for models in (a, b, c, c_of_b, a_of_b)]
    expected += [[12.0, 11.0], [13.0, 12.0]]  # b and c before they exploited a
    for _ in range(2):
        curves = read_logs(tmp_path / "logs").curves
        rows = [losses[~np.isnan(losses)].tolist() for losses in curves.train_loss]
        assert len(rows) == len(expected)
        for row, losses in zip(sorted(rows), sorted(expected), strict=True):
            assert row == pytest.approx(losses)
        assert len(set(curves.names)) == 7
        found.append(sorted(zip(curves.names, map(str, rows), strict=True)))
        Runs(tmp_path).forget_parents()
    assert found[0] == found[1]
