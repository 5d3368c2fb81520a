"""Campaigns of faults and load: kills, hangs, many writers, many readers, long runs.

    python -m tests.campaigns.faults CAMPAIGN [CAMPAIGN ...] [--seed N] [--lean]

Runs the named campaigns, or `all`, in forked processes on the CPU (Linux, macOS). Prints a table of
counts, and exits with 1 if anything was wrong. `--lean` takes seconds, as in the tests.

    killed-runs         50 runs, each killed 1 to 4 times at random and resumed         2 minutes
    killed-ranks        50 runs of 2 gloo processes, where one is killed or hangs       3 minutes
    killed-studies      50 kills of processes that run an Optuna study                  10 minutes
    killed-sweeps       50 sweeps killed at a write and at random, 16 shared sweeps     6 minutes
    shared-study        20 trials at once in one Optuna study, in each storage          1 minute
    read-while-written  1,000 runs, ranked 100 times while 100 of them are written      2 minutes
    long-runs           200,000 steps in epochs and in blocks                           10 minutes
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# Set before torch is imported: the networks are tiny, and a fork has only one of the threads.
os.environ["OMP_NUM_THREADS"] = "1"

from tests.campaigns.tally import Tally


def killed_runs(folder: Path, seed: int, lean: bool) -> Tally:
    """Kill runs at random times."""
    import torch.utils.tensorboard  # noqa: F401  # so that no child has to import it

    from tests.campaigns import killed_runs

    return killed_runs.campaign(folder, 4 if lean else 50, seed)


def killed_ranks(folder: Path, seed: int, lean: bool) -> Tally:
    """Kill one of two ranks, or let it hang."""
    from tests.campaigns import killed_ranks

    return killed_ranks.campaign(folder, 1 if lean else 50, seed)


def killed_studies(folder: Path, seed: int, lean: bool) -> Tally:
    """Kill the processes of Optuna studies, at random times and at chosen points."""
    import sqlalchemy.dialects.sqlite  # noqa: F401  # so that no child has to import it

    from tests.campaigns import killed_studies

    return killed_studies.campaign(folder, 3 if lean else 50, seed)


def killed_sweeps(folder: Path, seed: int, lean: bool) -> Tally:
    """Kill sweeps at their writes and at random times, and one of several processes of a sweep."""
    from tests.campaigns import killed_sweeps

    return killed_sweeps.campaign(folder, 2 if lean else 50, 1 if lean else 16, seed)


def shared_study(folder: Path, seed: int, lean: bool) -> Tally:
    """Run trials at the same time, in both kinds of storage."""
    import sqlalchemy.dialects.sqlite  # noqa: F401  # so that no child has to import it

    from tests.campaigns import shared_study

    tally = Tally()
    for kind in ("journal", "sqlite"):
        tally.add(shared_study.campaign(folder / kind, kind, 4 if lean else 20))
    return tally


def read_while_written(folder: Path, seed: int, lean: bool) -> Tally:
    """Rank runs while they are written."""
    from tests.campaigns import read_while_written

    runs, reads, live = (40, 10, 10) if lean else (1000, 100, 100)
    return read_while_written.campaign(folder, runs, reads, live, seed)


def long_runs(folder: Path, seed: int, lean: bool) -> Tally:
    """Train for a very large number of steps."""
    from tests.campaigns import long_runs

    return long_runs.campaign(folder, 10_000 if lean else 200_000)


CAMPAIGNS: dict[str, Callable[[Path, int, bool], Tally]] = {
    job.__name__.replace("_", "-"): job
    for job in (
        killed_runs,
        killed_ranks,
        killed_studies,
        killed_sweeps,
        shared_study,
        read_while_written,
        long_runs,
    )
}


def main() -> int:
    """Run the named campaigns and print their counts and faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaigns", nargs="+", choices=[*CAMPAIGNS, "all"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lean", action="store_true", help="run for seconds instead of minutes")
    arguments = parser.parse_args()
    names = list(CAMPAIGNS) if "all" in arguments.campaigns else arguments.campaigns
    faults = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            tally = CAMPAIGNS[name](Path(folder), arguments.seed, arguments.lean)
        print(f"{name} ({time.monotonic() - begun:.0f} s)")
        for what, value in tally.rows():
            print(f"  {what:<48}{value}")
        for fault in tally.faults:
            print(f"  FAULT {fault}")
        faults += len(tally.faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
