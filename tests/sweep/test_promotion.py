"""Promotion: the best runs, and only those, are trained to the end from their checkpoints."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger

from lightning_sotl import EarlyRankingStopper, SoTLMonitor, find_winners, promote
from lightning_sotl.sweep.promotion import Candidate, Winner, best_of
from tests.support.helpers import (
    IS_TORCH_2_5,
    PACKAGES,
    door,
    lightning,
    loader,
    returned_epoch_losses,
    trainer,
)
from tests.support.run_folders import write_record

pytestmark = pytest.mark.filterwarnings(
    # ModelCheckpoint warns about a promoted run that logs into a new folder.
    "ignore:The dirpath has changed"
)


def level_model(level: float, package: str = PACKAGES[0]) -> Any:
    pl = lightning(package)

    class Level(pl.LightningModule):
        def __init__(self, level: float) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.weight = torch.nn.Parameter(torch.ones(()))
            self.returned: list[tuple[int, int, float]] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.weight * 0 + self.hparams["level"] / (self.trainer.current_epoch + 1)
            self.returned.append((self.trainer.current_epoch, batch_idx, float(loss.detach())))
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Level(level)


def fit_to_two(folder: Path, level: float, *, checkpointing: bool = True) -> str | None:
    stopper = EarlyRankingStopper(stop_epoch=2)
    trainer(
        folder,
        max_epochs=4,
        logger=CSVLogger(folder / "logs", name="sweep"),
        callbacks=[SoTLMonitor(), stopper],
        enable_checkpointing=checkpointing,
    ).fit(level_model(level), loader(3))
    return stopper.checkpoint_path


def continue_to_end(folder: Path, winner: Winner) -> list[int]:
    model = level_model(**winner.params)
    to_end = trainer(
        folder,
        max_epochs=4,
        logger=CSVLogger(folder / "logs", name="sweep"),
        callbacks=[SoTLMonitor(), EarlyRankingStopper(stop_epoch=2, promoted=True)],
        enable_checkpointing=True,
    )
    winner.fit(to_end, model, loader(3))
    return sorted(returned_epoch_losses(model))


def test_one_call_trains_the_best_runs_of_a_directory_to_the_end(tmp_path: Path) -> None:
    paths = {level: fit_to_two(tmp_path, level) for level in (3.0, math.inf, 1.0, 2.0)}
    results = promote(tmp_path / "logs", 2, lambda winner: continue_to_end(tmp_path, winner))
    assert [(winner.estimate, winner.params) for winner, _ in results] == [
        (0.5, {"level": 1.0}),
        (1.0, {"level": 2.0}),
    ]
    assert [winner.checkpoint_path for winner, _ in results] == [paths[1.0], paths[2.0]]
    assert [epochs for _, epochs in results] == [[2, 3], [2, 3]]
    # The finished runs of the promotion do not change the winners at T.
    message = (
        "Expected 9 winners but there can be only 3: no other eligible run has a finite estimate "
        "at T."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        again = find_winners(tmp_path / "logs", 9)
    assert caught[0].filename == __file__
    assert [winner.params["level"] for winner in again] == [1.0, 2.0, 3.0]


def test_a_run_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    fit_to_two(tmp_path, 1.0, checkpointing=False)
    message = (
        "Run 'version_0' is among the best 1 but has no checkpoint to resume from. Train it with "
        "an EarlyRankingStopper, and with checkpointing on or a `checkpoint_dir`. (A run that its "
        "policy never stopped is already complete. There is nothing to promote, and `rank` lists "
        "it.)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        find_winners(tmp_path / "logs" / "sweep", 1)


@pytest.mark.parametrize(
    ("stoppers", "found"),
    [([], "none"), ([{"stop_epoch": 2}], "one with promoted=False")],
)
@pytest.mark.parametrize("package", PACKAGES)
def test_a_winner_refuses_a_trainer_that_would_not_promote_it(
    tmp_path: Path, package: str, stoppers: list[Any], found: str
) -> None:
    own = door(package)
    callbacks = [own.SoTLMonitor(), *(own.EarlyRankingStopper(**options) for options in stoppers)]
    message = (
        "Expected the Trainer of a promoted run to have an EarlyRankingStopper with promoted=True "
        f"but got {found}."
    )
    winner = Winner("a", 1.0, {}, "a.ckpt")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        winner.fit(trainer(tmp_path, package, callbacks=callbacks), level_model(1.0), loader(3))


@pytest.mark.parametrize(
    ("k", "mode", "expected"),
    [(1, "min", "b"), (3, "min", "bda"), (2, "max", "ab")],
    ids=str,
)
def test_ties_go_to_the_first_run_and_diverged_runs_never_win(
    k: int, mode: Any, expected: str
) -> None:
    values = {"a": 2.0, "b": 1.0, "c": math.inf, "d": 1.0, "e": None, "f": math.nan, "g": -math.inf}
    runs = [Candidate(name, value, {}, "x.ckpt") for name, value in values.items()]
    assert "".join(winner.run_id for winner in best_of(runs, k, mode=mode)) == expected


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: best_of([], 0), ValueError, "Expected `k` to be a positive integer but got 0."),
        (lambda: best_of([], 1.5), TypeError, "Expected `k` to be a positive integer but got 1.5."),
        (
            lambda: best_of([Candidate("a", math.inf, {}, "a.ckpt")], 1),
            ValueError,
            "None of the 1 run has a finite estimate, so there is nothing to promote.",
        ),
        (
            lambda: find_winners("here", 1, monitor="val_loss"),
            ValueError,
            "Expected `monitor` to be an estimate's name such as 'sotl_e1' but got 'val_loss'.",
        ),
    ],
)
def test_invalid_promotions_are_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


def test_winners_among_incomparable_runs_cause_a_warning(tmp_path: Path) -> None:
    for name, size in (("a", 8), ("b", 16)):
        write_record(tmp_path / name, [2.0], batch_size=size, checkpoint=f"{name}.ckpt")
    message = (
        "The runs differ in settings that change the training loss, so their order may not show "
        "which is better: batch_size (8 in 1 run, 16 in 1 run). `lightning-sotl rank "
        "--group-by FIELD` compares like with like."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        find_winners(tmp_path, 1)
    assert [entry.filename for entry in caught] == [__file__]


def promote_by(folder: Path, returned: Any, calls: list[str], **options: Any) -> list[Any]:
    """Promote the best 2 runs. `returned` computes the result of `train` from the epochs."""

    def train(winner: Winner) -> Any:
        calls.append(winner.run_id)
        return returned(continue_to_end(folder, winner))

    return promote(folder / "logs", 2, train, **options)


@pytest.mark.parametrize(
    "result",
    [
        None,
        0.1,
        math.inf,
        (1, "a", [2.5, (3,) if IS_TORCH_2_5 else {3}]),
        {0: torch.tensor(0.5, dtype=torch.float64)},
    ],
    ids=str,
)
def test_trained_winners_are_returned_with_their_results(tmp_path: Path, result: Any) -> None:
    for level in (3.0, 1.0, 2.0):
        fit_to_two(tmp_path, level)
    calls: list[str] = []
    first = promote_by(tmp_path, lambda epochs: result, calls)
    again = promote_by(tmp_path, lambda epochs: "other", calls)
    assert calls == ["sweep/version_1", "sweep/version_2"]
    assert [value for _, value in first] == [value for _, value in again] == [result, result]
    assert [type(value) for _, value in again] == [type(result)] * 2
    assert [winner.checkpoint_path for winner, _ in first] == [
        winner.checkpoint_path for winner, _ in again
    ]
    for pairs in (first, again):
        reached = [(winner.final_epochs, winner.final_estimate) for winner, _ in pairs]
        assert reached == [(4, 0.25), (4, 0.5)]


def test_retraining_is_an_explicit_choice(tmp_path: Path) -> None:
    for level in (1.0, 2.0):
        fit_to_two(tmp_path, level)
    calls: list[str] = []
    promote_by(tmp_path, lambda epochs: "first", calls)
    again = promote_by(tmp_path, lambda epochs: epochs, calls, retrain=True)
    assert len(calls) == 4
    assert [value for _, value in again] == [[2, 3], [2, 3]]
    with pytest.raises(TypeError, match=r"^Expected `retrain` to be True or False but got 1\.$"):
        promote_by(tmp_path, list, calls, retrain=1)


def test_a_winner_that_finished_before_train_returned_has_no_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for level in (1.0, 2.0):
        fit_to_two(tmp_path, level)
    calls: list[str] = []

    def interrupted(epochs: list[int]) -> list[int]:
        if len(calls) == 2:
            raise RuntimeError("killed before `train` has returned")
        return epochs

    with pytest.raises(RuntimeError, match="killed"):
        promote_by(tmp_path, interrupted, calls)
    # The second winner has reached its end too, but `train` never returned its result.
    caplog.clear()
    again = promote_by(tmp_path, list, calls)
    (message,) = [r.getMessage() for r in caplog.records if "trained to the end" in r.getMessage()]
    assert message == (
        "Skipped 2 winners already trained to the end: 'sweep/version_0', 'sweep/version_1'. The "
        "result of 'sweep/version_1' is None, because no result of `train` was saved. Pass "
        "`retrain=True` to train all winners from T."
    )
    assert [value for _, value in again] == [[2, 3], None]
    assert len(calls) == 2
    assert [(winner.final_epochs, winner.final_estimate) for winner, _ in again] == [
        (4, 0.25),
        (4, 0.5),
    ]


def test_a_winner_that_train_did_not_fit_is_not_skipped(tmp_path: Path) -> None:
    """For example, a user passes `print` as `train` to see what would be trained."""
    fit_to_two(tmp_path, 1.0)
    seen: list[Winner] = []
    for _ in range(2):
        promote(tmp_path / "logs", 1, seen.append)
    assert len(seen) == 2
    calls: list[str] = []
    with pytest.warns(UserWarning, match="Expected 2 winners but there can be only 1"):
        assert [value for _, value in promote_by(tmp_path, list, calls)] == [[2, 3]]


def test_a_winner_whose_training_was_interrupted_is_trained_again(tmp_path: Path) -> None:
    fit_to_two(tmp_path, 1.0)
    (winner,) = find_winners(tmp_path / "logs", 1)
    broken = level_model(1.0)
    broken.on_train_epoch_start = lambda: 1 / (3 - broken.trainer.current_epoch)
    to_end = trainer(
        tmp_path,
        max_epochs=4,
        logger=CSVLogger(tmp_path / "logs", name="sweep"),
        callbacks=[SoTLMonitor(), EarlyRankingStopper(stop_epoch=2, promoted=True)],
        enable_checkpointing=True,
    )
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        winner.fit(to_end, broken, loader(3))
    calls: list[str] = []
    with pytest.warns(UserWarning, match="Expected 2 winners but there can be only 1"):
        assert [value for _, value in promote_by(tmp_path, list, calls)] == [[2, 3]]
    assert len(calls) == 1


def test_a_trained_winner_no_longer_needs_its_checkpoint(tmp_path: Path) -> None:
    path = fit_to_two(tmp_path, 1.0)
    promote(tmp_path / "logs", 1, lambda winner: continue_to_end(tmp_path, winner))
    assert path is not None
    Path(path).unlink()
    ((winner, epochs),) = promote(tmp_path / "logs", 1, pytest.fail)
    assert (epochs, winner.params) == ([2, 3], {"level": 1.0})


def test_the_final_estimate_is_the_one_that_decided(tmp_path: Path) -> None:
    fit_to_two(tmp_path, 1.0)
    for _ in range(2):
        ((winner, _),) = promote(
            tmp_path / "logs",
            1,
            lambda winner: continue_to_end(tmp_path, winner),
            monitor="sotl",
        )
        assert (winner.estimate, winner.final_estimate) == (
            pytest.approx(1 + 1 / 2, rel=1e-6),
            pytest.approx(1 + 1 / 2 + 1 / 3 + 1 / 4, rel=1e-6),
        )


def write_stopped(folder: Path, name: str, losses: list[float], status: str | None) -> None:
    write_record(
        folder / name, losses, status=status, checkpoint=f"{name}.ckpt", hparams={"name": name}
    )


def test_a_leftover_run_that_lowers_t_causes_a_warning(tmp_path: Path) -> None:
    write_stopped(tmp_path, "slow", [9.0, 5.0, 0.5], "stopped")
    write_stopped(tmp_path, "fast", [3.0, 3.0, 3.0], "stopped")
    assert find_winners(tmp_path, 1)[0].run_id == "slow"
    write_stopped(tmp_path, "leftover", [9.5], "stopped")
    message = "The runs were stopped at different T (1, 3), so they are compared at the smallest."
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        assert find_winners(tmp_path, 1)[0].run_id == "fast"
    with pytest.warns(UserWarning, match=r"^1 run ended before T = 3 .*: 'leftover'\.$"):
        assert find_winners(tmp_path, 1, at=3)[0].run_id == "slow"


def test_a_run_that_ended_before_t_causes_a_warning_unless_it_was_ended_on_purpose(
    tmp_path: Path,
) -> None:
    write_stopped(tmp_path, "slow", [9.0, 5.0, 0.5], "stopped")
    write_stopped(tmp_path, "policy", [8.0], None)
    record = tmp_path / "policy" / "sotl.jsonl"
    record.write_text(record.read_text() + '{"status": "stopped", "reason": "policy"}\n')
    # This run was killed, and trained again from the beginning.
    write_record(tmp_path / "killed", [9.0], run_id="a", status=None, hparams={"name": "slow"})
    assert find_winners(tmp_path, 1)[0].run_id == "slow"
    write_stopped(tmp_path, "crashed", [1.0, 0.5], "interrupted")
    message = "1 run ended before T = 3 and cannot be compared: 'crashed'."
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        assert find_winners(tmp_path, 1)[0].run_id == "slow"
