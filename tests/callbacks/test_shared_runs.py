"""Real runs that share a directory of records and are stopped by the adaptive policy."""

import json
import math
import re
import tracemalloc

import pytest

from lightning_sotl import AdaptivePolicy, EarlyRankingStopper, SoTLMonitor
from lightning_sotl.callbacks._shared_runs import SharedRuns
from lightning_sotl.losses.names import parse_monitor
from lightning_sotl.record.writer import RunRecord
from tests.support.adaptive_rule import expected_epochs
from tests.support.helpers import (
    lightning,
    loader,
    returned_epoch_losses,
    scripted_model,
    trainer,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),  # a promoted run has a new folder
]
POLICY = AdaptivePolicy(max_epochs=6, keep=0.5, first=2)
LEVELS = [3.0, 1.0, 4.0, 2.0, 0.5, 5.0]


def fit(folder, level, *, stopper=None, monitor=None, model=None, ckpt_path=None, **options):
    """Train one run of the sweep with the loss `level` + 1 / (e + 1) in epoch e."""
    stopper = stopper or EarlyRankingStopper(policy=POLICY, directory=folder)
    model = model or scripted_model(loss=lambda epoch, batch: level + 1.0 / (epoch + 1))
    logger = lightning().loggers.CSVLogger(folder)
    options = {"logger": logger, "enable_checkpointing": True, "max_epochs": 6, **options}
    run = trainer(folder, callbacks=[monitor or SoTLMonitor(), stopper], **options)
    run.fit(model, loader(4), ckpt_path=ckpt_path)
    return stopper, model, run


def test_consecutive_runs_end_as_the_policy_decides(tmp_path):
    runs = [fit(tmp_path, level) for level in LEVELS]
    curves = [[level + 1.0 / (epoch + 1) for epoch in range(6)] for level in LEVELS]
    assert [len(returned_epoch_losses(model)) for _, model, _ in runs] == expected_epochs(
        POLICY, curves
    )
    stopped, _, run = runs[2]  # 4.0 is the worst of three
    assert stopped.stopping_reason == "policy"
    assert (stopped.epochs_completed, stopped.estimate) == (2, pytest.approx(4.5))
    decision = stopped.decision
    assert (decision.goes_on, decision.place, decision.compared) == (False, 3, 3)
    lines = (tmp_path / "lightning_logs/version_2/sotl.jsonl").read_text().splitlines()
    status = next(json.loads(line) for line in lines if "status" in line)
    assert (status["status"], status["reason"], status["epochs"]) == ("stopped", "policy", 2)
    assert json.loads(lines[-1])["checkpoint"] == stopped.checkpoint_path
    assert run.max_epochs == 6
    best, _, _ = runs[4]
    assert (best.stopping_reason, best.estimate) == ("not_stopped", None)
    assert best.decision.goes_on


def test_a_run_that_the_policy_ends_logs_its_place_and_the_number_of_runs(tmp_path, caplog):
    runs = [fit(tmp_path, level) for level in LEVELS[:3]]
    (line,) = [message for message in caplog.messages if "policy" in message]
    path = runs[2][0].checkpoint_path
    assert line == (
        "The run ends after 2 epochs with `sotl_e1` = 4.5, as its policy decided: place 3 of 3 "
        f"compared runs, and only the first 2 continue. It can be resumed from '{path}'."
    )


def test_a_run_that_a_pruner_ends_logs_the_reason(tmp_path, caplog):
    stopper = EarlyRankingStopper(stop_epoch=3)

    class Pruner(lightning().Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            stopper.end_by_policy(trainer, trainer.current_epoch + 1)

    model = scripted_model(loss=lambda epoch, batch: 4.5)
    trainer(tmp_path, callbacks=[Pruner(), SoTLMonitor(), stopper]).fit(model, loader(4))
    (line,) = [message for message in caplog.messages if "pruner" in message]
    assert line.startswith(
        "The run ends after 1 epoch with `sotl_e1` = 4.5, as its pruner or scheduler decided"
    )


def test_a_stopped_run_stays_stopped_unless_it_is_promoted(tmp_path):
    fit(tmp_path, 1.0)
    stopped, model, _ = fit(tmp_path, 4.0)
    assert (stopped.stopping_reason, stopped.epochs_completed) == ("policy", 3)
    path = stopped.checkpoint_path
    again, same, _ = fit(tmp_path, 4.0, ckpt_path=path)
    assert (again.stopping_reason, again.estimate) == ("already_stopped", stopped.estimate)
    assert returned_epoch_losses(same) == {}
    promoted = EarlyRankingStopper(policy=POLICY, directory=tmp_path, promoted=True)
    _, rest, _ = fit(tmp_path, 4.0, stopper=promoted, ckpt_path=path)
    assert promoted.stopping_reason == "not_stopped"
    assert (list(returned_epoch_losses(model)), list(returned_epoch_losses(rest))) == (
        [0, 1, 2],
        [3, 4, 5],
    )


def test_a_limit_still_ends_a_run_and_minima_delay_the_policy(tmp_path):
    capped = EarlyRankingStopper(stop_epoch=3, policy=POLICY, directory=tmp_path)
    fit(tmp_path, 2.0, stopper=capped)
    assert (capped.stopping_reason, capped.epochs_completed) == ("stop_epoch_reached", 3)
    fit(tmp_path, 1.5)
    late, _, _ = fit(tmp_path, 3.0, min_epochs=4)
    assert (late.stopping_reason, late.epochs_completed) == ("policy", 4)


@pytest.mark.filterwarnings("ignore:The run stops inside an epoch")
def test_blocks_of_batches_are_compared_with_blocks(tmp_path):
    fit(tmp_path, 0.1)  # a run in epochs, which cannot be compared
    policy = AdaptivePolicy(max_epochs=12, keep=0.5, first=2)

    def run(level):
        stopper = EarlyRankingStopper(policy=policy, directory=tmp_path, monitor="sotl_b2_e1")
        monitor = SoTLMonitor(every_n_train_batches=2)
        model = scripted_model(loss=lambda epoch, batch: level)
        fit(tmp_path, level, stopper=stopper, monitor=monitor, model=model)
        return stopper, len(model.returned)

    reached = expected_epochs(policy, [[float(level)] * 12 for level in range(1, 8)])
    runs = [run(float(level)) for level in range(1, 8)]
    assert [batches for _, batches in runs] == [2 * blocks for blocks in reached]
    stopper, batches = runs[2]
    assert (stopper.stopping_reason, batches % 4) == ("policy", 2)  # in the middle of an epoch
    assert stopper.checkpoint_path is not None


def test_a_policy_over_blocks_may_have_a_limit_in_epochs(tmp_path):
    rule = {"policy": AdaptivePolicy(max_epochs=12), "directory": tmp_path, "monitor": "sotl_b5_e1"}

    def run(stop_epoch, ckpt_path=None):
        stopper = EarlyRankingStopper(stop_epoch=stop_epoch, **rule)
        monitor = SoTLMonitor(every_n_train_batches=5)
        _, model, _ = fit(tmp_path, 1.0, stopper=stopper, monitor=monitor, ckpt_path=ckpt_path)
        return stopper, monitor, len(model.returned)

    stopper, monitor, batches = run(3)
    assert (stopper.stopping_reason, stopper.epochs_completed) == ("stop_epoch_reached", 3)
    assert (batches, stopper.estimate) == (12, monitor.epoch_losses[1])  # 3 epochs, not 3 batches
    later, _, batches = run(5, stopper.checkpoint_path)
    assert (later.stopping_reason, later.epochs_completed, batches) == ("stop_epoch_reached", 5, 8)


def test_a_window_of_epochs_is_compared_with_the_same_window(tmp_path):
    def run(levels):
        stopper = EarlyRankingStopper(policy=POLICY, directory=tmp_path, monitor="sotl_e2")
        model = scripted_model(loss=lambda epoch, batch: levels[epoch])
        fit(tmp_path, 0, stopper=stopper, monitor=SoTLMonitor(window=2), model=model)
        return stopper

    for _ in range(2):
        run([5.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    # Its last epoch is the best of all runs, but the sum of its last two epochs is not.
    stopper = run([9.0, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert (stopper.stopping_reason, stopper.epochs_completed) == ("policy", 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"policy": POLICY},
            ValueError,
            "Expected `policy` and `directory` to be given together but got policy="
            f"{POLICY!r} and directory=None.",
        ),
        (
            {"stop_epoch": 3, "directory": "runs"},
            ValueError,
            "Expected `policy` and `directory` to be given together but got policy=None and "
            "directory='runs'.",
        ),
        (
            {"policy": 3, "directory": "runs"},
            TypeError,
            "Expected `policy` to be an AdaptivePolicy but got 3.",
        ),
    ],
)
def test_a_policy_and_its_directory_are_checked(arguments, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        EarlyRankingStopper(**arguments)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "budget",
            "Expected `policy.max_epochs` to equal the Trainer's `max_epochs` 8 but got 6.",
        ),
        (
            "monitor",
            "Expected `monitor` to be an estimate of this Trainer's SoTLMonitor, because a policy "
            "compares runs by it, but got 'val_loss'; available: 'sotl', 'sotl_e1'.",
        ),
        (
            "no record",
            "Expected the run's record to be below `directory` '{directory}', where the other runs "
            "look for it, but the run has no record.",
        ),
        (
            "elsewhere",
            "Expected the run's record to be below `directory` '{directory}', where the other runs "
            "look for it, but got '{folder}/lightning_logs/version_0/sotl.jsonl'.",
        ),
    ],
)
def test_a_run_that_cannot_be_compared_is_refused_before_training(tmp_path, case, message):
    directory = tmp_path / "elsewhere" if case == "elsewhere" else tmp_path
    name = "val_loss" if case == "monitor" else "sotl_e1"
    stopper = EarlyRankingStopper(policy=POLICY, directory=directory, monitor=name)
    monitor = SoTLMonitor(record=case != "no record")
    options = {"max_epochs": 8} if case == "budget" else {}
    model = scripted_model()
    text = message.format(directory=directory, folder=tmp_path)
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        fit(tmp_path, 1.0, stopper=stopper, monitor=monitor, model=model, **options)
    assert model.returned == []


def record(folder, run_id, losses, **facts):
    """Write the record of a run as its monitor would."""
    written = RunRecord(folder / "sotl.jsonl")
    written.header(run_id, **{"unit": "epoch", **facts})
    for epoch, loss in enumerate(losses):
        written.unit(epoch, loss, 4)
    return written


def shared(folder):
    return SharedRuns(folder, estimate=parse_monitor("sotl_e1"), policy=POLICY)


def test_a_growing_record_is_reread_and_a_half_written_line_is_read_when_complete(tmp_path):
    own = {0: 2.0, 1: 2.0}
    sweep = shared(tmp_path)
    assert sweep.decide("own", own, 2).compared == 1
    first = record(tmp_path / "a", "a", [1.0])
    assert sweep.decide("own", own, 2).compared == 1  # the other run has only one epoch
    with first.path.open("a") as file:
        file.write('{"e": 1, "loss": 1.0, "ste')
    assert sweep.decide("own", own, 2).compared == 1
    with first.path.open("a") as file:
        file.write('ps": 4, "checkpoint": null}\n')
    decision = sweep.decide("own", own, 2)
    assert (decision.place, decision.compared) == (2, 2)
    # The run continues in another folder with a different loss of epoch 1, which is the newer one.
    record(tmp_path / "b", "a", [1.0, 3.0])
    assert sweep.decide("own", own, 2).place == 1


def test_the_runs_own_losses_on_disk_do_not_count(tmp_path):
    record(tmp_path / "old", "own", [9.0, 9.0, 9.0])
    decision = shared(tmp_path).decide("own", {0: 2.0, 1: 2.0}, 2)
    assert (decision.epoch, decision.compared) == (2, 1)
    assert shared(tmp_path).decide("own", {}, 1).goes_on  # its first epoch has no loss


def test_runs_with_another_budget_are_left_out_and_other_differences_warn_once(tmp_path):
    record(tmp_path / "longer", "longer", [1.0, 1.0], max_epochs=60)
    record(tmp_path / "own", "own", [2.0], max_epochs=6, batch_size=32)
    record(tmp_path / "other", "other", [1.0, 1.0], max_epochs=6, batch_size=64)
    sweep = shared(tmp_path)
    with pytest.warns(UserWarning, match="max_epochs=60|batch_size") as caught:
        assert sweep.decide("own", {0: 2.0, 1: 2.0}, 2).compared == 2
    assert sorted(str(entry.message) for entry in caught) == [
        f"A run below '{tmp_path}' has max_epochs=60, but the policy has max_epochs=6, so the run "
        "is left out. Use a separate directory for each sweep.",
        "The runs differ in settings that change the training loss, so their order may not show "
        "which is better: batch_size (32 in 1 run, 64 in 1 run). `lightning-sotl rank --group-by "
        "FIELD` compares like with like.",
    ]
    record(tmp_path / "third", "third", [1.0, 1.0], max_epochs=6, batch_size=16)
    for later in (sweep, shared(tmp_path)):
        assert later.decide("own", {0: 2.0, 1: 2.0}, 2).compared == 3


def test_more_runs_than_the_policy_expects_cause_a_warning_without_refused_runs(tmp_path):
    for number in range(3):
        record(tmp_path / str(number), str(number), [1.0, 1.0])
    record(tmp_path / "refused", "refused", [], max_epochs=9)
    policy = AdaptivePolicy(max_epochs=6, runs=2)
    sweep = SharedRuns(tmp_path, estimate=parse_monitor("sotl_e1"), policy=policy)
    message = re.escape(
        f"There are 3 runs below '{tmp_path}', but the policy expects runs=2. Use a separate "
        "directory for each sweep."
    )
    with pytest.warns(UserWarning, match=f"^{message}$"):
        assert sweep.decide("own", {0: 2.0, 1: 2.0}, 2).compared == 0
    again = SharedRuns(tmp_path, estimate=parse_monitor("sotl_e1"), policy=policy)
    assert again.decide("own", {0: 2.0, 1: 2.0}, 2).compared == 0  # without another warning
    # The newest epoch has no loss, and earlier epochs are no reason to stop.
    assert sweep.decide("own", {0: 9.0, 1: 9.0, 2: 9.0}, 4).goes_on


def test_records_of_blocks_are_left_out_and_an_unreadable_record_causes_a_warning(tmp_path):
    record(tmp_path / "blocks", "blocks", [1.0, 1.0], unit=100)
    record(tmp_path / "diverged", "diverged", [math.inf, math.nan])
    future = tmp_path / "future" / "sotl.jsonl"
    future.parent.mkdir()
    future.write_text('{"schema": 99, "run_id": "later"}\n')
    sweep = shared(tmp_path)
    with pytest.warns(UserWarning, match="The policy continues without the record") as caught:
        decision = sweep.decide("own", {0: 2.0, 1: 2.0}, 2)
    assert str(future) in str(caught[0].message)
    assert (decision.place, decision.compared) == (1, 2)
    assert shared(tmp_path).decide("own", {0: 2.0, 1: 2.0}, 2).compared == 2
    future.unlink()
    assert sweep.decide("own", {0: 2.0, 1: 2.0}, 2).compared == 2


def test_a_damaged_epoch_number_does_not_allocate_a_huge_table(tmp_path):
    damaged = record(tmp_path / "a", "a", [1.0, 1.0])
    damaged.unit(9_999_999, 1.0, 1)
    sweep = shared(tmp_path)
    tracemalloc.start()
    try:
        decision = sweep.decide("own", {0: 2.0, 1: 2.0}, 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (decision.place, decision.compared) == (2, 2)
    assert peak < 10**7


def test_forks_are_compared_with_each_other_and_not_with_themselves(tmp_path):
    base = record(tmp_path / "base", "own", [3.0])
    base.status("stopped", reason="stop_epoch_reached")
    times = []
    for place, losses in enumerate(([3.0, 1.0], [3.0, 2.0], [3.0, 0.5])):
        facts = {"hparams": {"lr": place}, "parent": base.begun, "parent_units": 1}
        fork = record(tmp_path / str(place), "own", losses, **facts)
        times.append(fork.begun)
    sweep = shared(tmp_path)
    decisions = [
        sweep.decide("own", {0: 3.0, 1: loss}, 2, session=time)
        for time, loss in zip(times, (1.0, 2.0, 0.5), strict=True)
    ]
    assert [(decision.place, decision.compared) for decision in decisions] == [
        (2, 3),
        (3, 3),
        (1, 3),
    ]


def test_a_process_that_resumed_a_fork_is_not_compared_with_that_fork(tmp_path):
    first = record(tmp_path / "a", "own", [3.0, 1.0], hparams={"lr": 1})
    facts = {"hparams": {"lr": 1}, "parent": first.begun, "parent_units": 1}
    again = record(tmp_path / "b", "own", [3.0, 2.0], **facts)
    decision = shared(tmp_path).decide("own", {0: 3.0, 1: 2.0}, 2, session=again.begun)
    assert (decision.place, decision.compared) == (1, 1)


@pytest.mark.parametrize("status", [None, "interrupted"])
def test_a_run_that_was_started_again_is_not_compared_with_itself(tmp_path, status):
    killed = record(tmp_path / "0", "killed", [1.0, 0.5, 0.25], hparams={"lr": 1})
    if status is not None:
        killed.status(status)
    own = record(tmp_path / "1", "own", [2.0, 1.5], hparams={"lr": 1})
    decision = shared(tmp_path).decide("own", {0: 2.0, 1: 1.5}, 2, session=own.begun)
    assert (decision.place, decision.compared) == (1, 1)


def test_only_the_newest_run_of_another_configuration_is_compared(tmp_path):
    for place, losses in enumerate(([1.0, 0.5], [2.0, 1.75], [9.0, 9.0])):
        record(tmp_path / str(place), str(place), losses, params={"lr": place // 2})
    own = record(tmp_path / "own", "own", [2.0, 1.5], params={"lr": 9})
    sweep = SharedRuns(
        tmp_path,
        estimate=parse_monitor("sotl_e1"),
        policy=AdaptivePolicy(max_epochs=6, keep=0.5, first=2, runs=3),
    )
    decision = sweep.decide("own", {0: 2.0, 1: 1.5}, 2, session=own.begun)
    assert (decision.place, decision.compared) == (1, 3)  # 3 runs, as the policy expects
    # A configuration is started again. Its newest run has one epoch, and the older one is left out.
    record(tmp_path / "again", "again", [2.0], params={"lr": 0})
    assert sweep.decide("own", {0: 2.0, 1: 1.5}, 2, session=own.begun).compared == 2


def test_runs_without_parameters_are_compared_with_each_other(tmp_path):
    for place in range(3):
        record(tmp_path / str(place), str(place), [1.0, 0.5], hparams={})
    own = record(tmp_path / "own", "own", [2.0, 1.5], hparams={})
    decision = shared(tmp_path).decide("own", {0: 2.0, 1: 1.5}, 2, session=own.begun)
    assert (decision.place, decision.compared) == (4, 4)


def test_repeats_that_ended_are_compared_once_and_named_in_a_warning(tmp_path):
    for place in range(2):
        ended = record(tmp_path / f"a{place}", f"a{place}", [1.0, 0.5], hparams={"lr": 1})
        ended.status("finished")
    own = record(tmp_path / "own", "own", [2.0, 1.5], hparams={"lr": 2})
    sweep = shared(tmp_path)
    message = re.escape(
        f"Several runs below '{tmp_path}' have the same parameters, and the policy compares only "
        "the newest of them. Left out: 'a0'. To compare repeats too, put the seed into `params`."
    )
    with pytest.warns(UserWarning, match=f"^{message}$"):
        decision = sweep.decide("own", {0: 2.0, 1: 1.5}, 2, session=own.begun)
    assert (decision.place, decision.compared) == (2, 2)
    # The warning is repeated neither in the next epoch nor in the next run of this process.
    for later in (sweep, shared(tmp_path)):
        assert later.decide("own", {0: 2.0, 1: 1.5}, 2, session=own.begun).compared == 2


def test_forks_of_one_checkpoint_end_as_the_policy_decides(tmp_path):
    base = EarlyRankingStopper(stop_epoch=2)
    fit(tmp_path, 3.0, stopper=base)
    policy = AdaptivePolicy(max_epochs=6, keep=0.5, first=3)

    def fork(level):
        stopper = EarlyRankingStopper(policy=policy, directory=tmp_path)
        model = scripted_model(loss=lambda epoch, batch: level + 1.0 / (epoch + 1))
        model.save_hyperparameters({"level": level})
        fit(tmp_path, level, stopper=stopper, model=model, ckpt_path=base.checkpoint_path)
        return stopper

    curves = [
        [4.0, 3.5, *(level + 1.0 / (epoch + 1) for epoch in range(2, 6))]
        for level in (2.0, 1.0, 4.0, 1.5, 5.0)
    ]
    stoppers = [fork(level) for level in (2.0, 1.0, 4.0, 1.5, 5.0)]
    reached = [stopper.epochs_completed or 6 for stopper in stoppers]
    assert reached == expected_epochs(policy, curves)
    assert {str(stopper.stopping_reason) for stopper in stoppers} == {"not_stopped", "policy"}


def write_run(folder, name, losses, metric=None):
    """Write the record of a run with the given losses, and values of `val`."""
    (folder / name).mkdir()
    header = {"schema": 1, "run_id": name, "time": 1.0, "unit": "epoch", "hparams": {"n": name}}
    lines = [{**header, "max_epochs": 12}]
    for epoch, loss in losses.items():
        line = {"e": epoch, "loss": loss, "steps": 1, "checkpoint": None}
        lines.append(line if metric is None else {**line, "metrics": {"val": metric[epoch]}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / name / "sotl.jsonl").write_text(text)


@pytest.mark.parametrize(
    ("monitor", "place"), [("sotl_e1", 1), ("sotl_e2", 1), ("sotl_e3", None), ("sotl", None)]
)
def test_an_estimate_over_an_epoch_without_a_loss_stops_no_run(tmp_path, monitor, place):
    for number in range(4):
        write_run(tmp_path, f"r{number}", dict.fromkeys(range(6), 5.0 + number))
    own = {epoch: 0.1 for epoch in range(6) if epoch != 3}
    runs = SharedRuns(
        tmp_path, estimate=parse_monitor(monitor), policy=AdaptivePolicy(max_epochs=12, runs=5)
    )
    decision = runs.decide("own", own, 6)
    assert (decision.goes_on, decision.place) == (True, place)


def test_a_rival_without_a_loss_in_one_epoch_is_compared_by_the_others(tmp_path):
    # The best run lacks L(3). Its sotl_e2 of epochs 3 and 4 is unknown, but not infinite.
    write_run(tmp_path, "best", {epoch: 1.0 for epoch in range(6) if epoch != 3})
    for number in range(6):
        write_run(tmp_path, f"r{number}", dict.fromkeys(range(6), 2.0 + number))
    policy = AdaptivePolicy(max_epochs=12, runs=8)
    runs = SharedRuns(tmp_path, estimate=parse_monitor("sotl_e2"), policy=policy)
    decision = runs.decide("own", dict.fromkeys(range(6), 4.5), 6)
    curves = [[0.0] + [2 * level] * 5 for level in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 4.5)]
    for curve in curves:
        curve[0] = math.nan
    curves[0][3] = curves[0][4] = math.nan
    assert decision == policy.decide(7, curves)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_recorded_validation_that_is_not_finite_ranks_last(tmp_path, mode):
    # In the record, it is null. By the training losses, the deciding run is the best.
    sign = 1.0 if mode == "min" else -1.0
    for number in range(8):
        metric = [sign * (1.0 + number)] * 4
        write_run(tmp_path, f"r{number}", dict.fromkeys(range(4), 9.0 - number), metric)
    write_run(tmp_path, "own", dict.fromkeys(range(4), 0.5), [sign * 0.5] * 3 + [None])
    runs = SharedRuns(
        tmp_path,
        estimate=parse_monitor("sotl_e1"),
        policy=AdaptivePolicy(max_epochs=12, runs=9),
        validation="val",
        validation_mode=mode,
    )
    decision = runs.decide("own", dict.fromkeys(range(4), 0.5), 4)
    assert (decision.goes_on, decision.place, decision.signal) == (False, 9, "validation")
