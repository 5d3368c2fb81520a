"""Two gloo processes on the CPU. Both ranks have the mean of all returned losses."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_sotl import SoTLMonitor
from tests.support.distributed_jobs import RankModel, SaveAtStep, rank_loss
from tests.support.helpers import Batches, trainer
from tests.support.hparams_tab import hparams_tab
from tests.support.paths import ROOT

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


def start(job, folder):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.support.distributed_jobs", job, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Return the folder, and the results of all jobs on rank 0 and on rank 1."""
    folder = tmp_path_factory.mktemp("ddp")
    one = trainer(folder, callbacks=[SaveAtStep(folder, (6,)), SoTLMonitor()])
    one.fit(RankModel(), DataLoader(Batches(4), batch_size=1))
    (folder / "step-6.ckpt").rename(folder / "one-rank.ckpt")
    start("ddp", folder)
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def means(*returned, epochs=None):
    """Return e -> the exact mean of the losses that all ranks returned."""
    values = {}
    for epoch, _, value in [step for steps in returned for step in steps]:
        values.setdefault(epoch, []).append(value)
    return {
        epoch: math.fsum(losses) / len(losses)
        for epoch, losses in values.items()
        if epochs is None or epoch in epochs
    }


def losses(result):
    return dict(map(tuple, result["losses"]))


@pytest.mark.parametrize("job", ["plain", "accumulation", "whole", "stopped"])
def test_both_ranks_have_the_mean_of_all_losses(ranks, job):
    one, two = (rank[job] for rank in ranks[1])
    assert one["returned"] != two["returned"]
    assert losses(one) == losses(two)
    assert losses(one) == pytest.approx(means(one["returned"], two["returned"]), rel=1e-12)
    assert one["metrics"] == two["metrics"]
    assert one["metrics"]["sotl_e1"] == one["estimates"]["sotl_e1"]


def test_both_ranks_stop_with_one_checkpoint(ranks):
    one, two = (rank["plain"]["stopper"][0] for rank in ranks[1])
    assert one == two
    estimate, epochs, reason, checkpoint = one
    assert (epochs, reason) == (3, "stop_epoch_reached")
    assert estimate == ranks[1][0]["plain"]["estimates"]["sotl_e1"]
    assert Path(checkpoint).is_file()
    assert {epoch for rank in ranks[1] for epoch, *_ in rank["plain"]["returned"]} == {0, 1, 2}


def test_the_record_is_written_once_for_all_ranks(ranks):
    folder, (one, _) = ranks
    path = folder / "lightning_logs" / "version_0" / "sotl.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["world_size"] == 2
    units = [line for line in lines if "e" in line and line["checkpoint"] is None]
    assert [(line["e"], line["steps"]) for line in units] == [(0, 8), (1, 8), (2, 8)]
    assert {line["e"]: line["loss"] for line in units} == losses(one["plain"])


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_resume_in_the_middle_of_an_epoch_loses_no_rank(ranks, step):
    one, two = (rank[f"resumed at {step}"] for rank in ranks[1])
    assert losses(one) == losses(two)
    assert losses(one) == pytest.approx(losses(ranks[1][0]["plain"]), rel=1e-12)
    assert len(one["returned"]) == 12 - step


def test_a_run_can_be_resumed_with_more_ranks(ranks):
    one, two = (rank["from one rank"] for rank in ranks[1])
    assert losses(one) == losses(two)
    before = [
        (step // 4, step % 4, float(torch.tensor(rank_loss(0, step // 4, step % 4))))
        for step in range(6)
    ]
    expected = means(before, one["returned"], two["returned"])
    assert losses(one) == pytest.approx(expected, rel=1e-12)
    assert [e for e, *_ in one["returned"]] == [1] * 2 + [2] * 4


def test_a_run_can_be_resumed_with_fewer_ranks(ranks, tmp_path):
    folder, both = ranks
    model, monitor = RankModel(), SoTLMonitor()
    trainer(tmp_path, callbacks=[monitor]).fit(
        model, DataLoader(Batches(4), batch_size=1), ckpt_path=folder / "step-6.ckpt"
    )
    before = [rank["plain"]["returned"][:6] for rank in both]
    assert monitor.epoch_losses == pytest.approx(means(*before, model.returned), rel=1e-12)


def test_a_run_that_diverges_on_one_rank_has_diverged_on_all_ranks(ranks):
    for rank in ranks[1]:
        estimate, epochs, reason, _ = rank["diverged"]["stopper"][0]
        assert (estimate, epochs, reason) == (math.inf, 2, "non_finite_estimate")


def test_blocks_are_counted_on_each_rank_and_summed_over_all(ranks):
    one, two = (rank["blocks"] for rank in ranks[1])
    assert len(one["returned"]) == len(two["returned"]) == 6
    for block, loss in losses(one).items():
        part = slice(3 * block, 3 * block + 3)
        values = [v for rank in (one, two) for *_, v in rank["returned"][part]]
        assert loss == pytest.approx(math.fsum(values) / 6, rel=1e-12)
    assert one["stopper"][0][:3] == [losses(two)[1], 1, "stop_batches_reached"]


def test_a_promoted_run_restores_the_random_state_of_each_rank(ranks):
    for rank in ranks[1]:
        steps = rank["stopped"]["returned"] + rank["promoted"]["returned"]
        assert steps == rank["whole"]["returned"]
        assert rank["promoted"]["losses"] == rank["whole"]["losses"]


def test_a_checkpoint_during_an_exception_waits_for_no_rank_and_warns_when_loaded(ranks, tmp_path):
    folder, both = ranks
    assert both[0]["raised"] == both[1]["raised"] == ["raised.ckpt"]
    saved = torch.load(folder / "raised.ckpt", weights_only=True)
    state = saved["callbacks"]["SoTLMonitor{'prefix': 'sotl'}"]["open"]
    assert (state["unit"], state["count"], state["lost_ranks"]) == (1, 2, 1)
    with pytest.warns(UserWarning, match="losses of 1 other rank") as caught:
        trainer(tmp_path, callbacks=[SoTLMonitor()]).fit(
            RankModel(), DataLoader(Batches(4), batch_size=1), ckpt_path=folder / "raised.ckpt"
        )
    (message,) = {str(w.message) for w in caught if "other rank" in str(w.message)}
    assert message == (
        "The checkpoint was saved while an exception was raised, so the losses of 1 other rank in "
        "the first 2 batches of epoch 1 are lost. Its loss is the mean of the other losses."
    )


def test_a_pruned_trial_ends_on_all_ranks_and_is_reported_by_one(ranks):
    one, two = (rank["pruned"] for rank in ranks[1])
    assert {e for e, *_ in one["returned"]} == {e for e, *_ in two["returned"]} == {0, 1}
    assert one["finish"] == two["finish"] == "Pruned after step 1."
    assert one["stored"] == one["losses"]
    assert "stored" not in two


def test_a_policy_decides_on_rank_zero_and_ends_all_ranks(ranks):
    one, two = (rank["by policy"] for rank in ranks[1])
    assert losses(one) == losses(two) == means(one["returned"], two["returned"])
    assert list(losses(one)) == [0, 1]
    estimate, epochs, reason, path = one["stopper"][0]
    assert (epochs, reason, path is None) == (2, "policy", False)
    assert two["stopper"][0][:3] == [estimate, 2, "policy"]


def test_rank_zero_alone_shows_the_estimate_in_tensorboard(ranks):
    folder, (one, _) = ranks
    value = one["hp_metric"]["estimates"]["sotl_e1"]
    logs = folder / "lightning_logs" / "hp"
    assert hparams_tab(logs)["."][1] == pytest.approx(value, rel=1e-7)  # float32
    assert len(list(logs.glob("events*"))) == 1


@pytest.mark.slow
def test_results_of_spawned_processes_reach_the_parent(tmp_path):
    start("spawn", tmp_path)
    parent = json.loads((tmp_path / "parent.json").read_text())
    assert parent["returned"] == []  # the list of the module stays in the child
    steps = [
        (epoch, batch, float(torch.tensor(rank_loss(rank, epoch, batch))))
        for rank in (0, 1)
        for epoch in (0, 1)
        for batch in range(4)
    ]
    assert losses(parent) == pytest.approx(means(steps), rel=1e-12)
    assert parent["metrics"] == parent["estimates"]
    estimate, epochs, reason, checkpoint = parent["stopper"][0]
    assert (estimate, epochs, reason) == (losses(parent)[1], 2, "stop_epoch_reached")
    assert Path(checkpoint).is_file()
    assert parent["stored"] == parent["losses"]
    assert parent["finish"] == estimate
    assert parent["promoted from"] == checkpoint
    shown = hparams_tab(tmp_path / "lightning_logs" / "hp")["."][1]
    assert shown == pytest.approx(estimate, rel=1e-7)  # TensorBoard keeps float32
