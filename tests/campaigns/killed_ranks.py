"""Two gloo processes train together, and one of them is killed or hangs."""

from __future__ import annotations

import os
import signal
import socket
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
from pytorch_lightning.strategies import DDPStrategy

from lightning_sotl.curves.logs import read_logs
from tests.campaigns import forked
from tests.campaigns.killed_runs import Plan, epoch_losses, train
from tests.campaigns.tally import Tally

LIMIT = 5  # seconds until a collective call times out
RANKS = 2


def start(plan: Plan) -> tuple[list[int], list[forked.Phase]]:
    """Start both ranks of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids, phases = [], []
    for rank in range(RANKS):
        phases.append(forked.Phase())
        variables = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "LOCAL_RANK": str(rank),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(RANKS),
        }
        job = partial(fit, plan, phases[-1], rank)
        pids.append(forked.fork(job, plan.folder / f"log{rank}.txt", **variables))
    return pids, phases


def fit(plan: Plan, phase: forked.Phase, rank: int) -> None:
    strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=LIMIT))
    train(plan, phase, rank=rank, ranks=RANKS, strategy=strategy, devices=RANKS)


def whole_run(plan: Plan) -> float:
    """Train without a fault; return the duration in seconds."""
    plan.folder.mkdir(parents=True)
    begun = time.monotonic()
    pids, _ = start(plan)
    codes = [forked.ended(pid, 120) for pid in pids]
    assert codes == [0] * RANKS, (plan.folder / "log0.txt").read_text()
    return time.monotonic() - begun


def broken_run(
    plan: Plan, victim: int, *, hangs: bool, seconds: float, rng: np.random.Generator, tally: Tally
) -> None:
    """Kill or stop one rank, check that the other raises in time, and start both again."""
    plan.folder.mkdir(parents=True)
    pids, phases = start(plan)
    started = time.monotonic()
    while phases[victim].get() == "before the first step":
        assert time.monotonic() < started + 120, (plan.folder / f"log{victim}.txt").read_text()
        time.sleep(0.005)
    is_running = forked.ended(pids[victim], float(rng.uniform(0, 0.6 * seconds))) is None
    if is_running:
        os.kill(pids[victim], signal.SIGSTOP if hangs else signal.SIGKILL)
        tally.count(f"{'hangs' if hangs else 'kills'} {phases[victim].get()}")
    begun = time.monotonic()
    other = 1 - victim
    code = forked.ended(pids[other], 4 * LIMIT)
    waited = time.monotonic() - begun
    if code is None:
        tally.fault(f"{plan.folder.name}: rank {other} still runs after {waited:.0f} s")
        forked.kill(pids[other])
    elif code == 0:
        tally.count("ended before the fault")
    else:
        error = (plan.folder / f"log{other}.txt").read_text().splitlines()[-1]
        tally.count(f"ended with {error.partition(':')[0]}")
        kind = "after a hang" if hangs else "after a kill"
        longest = max(waited, float(tally.measures.get(f"longest wait {kind}, s", "0")))
        tally.measures[f"longest wait {kind}, s"] = f"{longest:.1f}"
    if is_running:
        forked.kill(pids[victim])
    tally.count("restarts")
    pids, _ = start(plan)
    codes = [forked.ended(pid, 120) for pid in pids]
    tally.expect(f"{plan.folder.name}: exit codes of the restart", codes, [0] * RANKS)


def campaign(folder: Path, runs: int, seed: int) -> Tally:
    """Break `runs` runs. The ranks alternate, and every third fault is a hang."""
    rng, tally = np.random.default_rng(seed), Tally()
    whole = Plan(folder / "whole", seed=0)
    seconds = whole_run(whole)
    for place in range(runs):
        plan = Plan(folder / f"run{place}", seed=0)
        hangs = place % 3 == 2
        tally.count("runs")
        broken_run(plan, place % 2, hangs=hangs, seconds=seconds, rng=rng, tally=tally)
        for rank in range(RANKS):
            name = f"finished{rank}"
            expected = epoch_losses(whole, name)
            tally.expect(f"{plan.folder.name}: {name}", epoch_losses(plan, name), expected)
        found = read_logs(plan.folder).curves.train_loss.tolist()
        tally.expect(f"{plan.folder.name}: record", found, [list(expected.values())])
    return tally
