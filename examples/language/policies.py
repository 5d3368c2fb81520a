"""What stopping policies cost and pick on one-pass language models, with blocks as epochs.

Replays the policies on the runs of `main` (one seed each), once with one worker and once with all
runs at the same time. A policy that reads validation losses pays for each pass what it took here,
as a share of a block's training. Prints a table for each, for all learning rates and for close
ones, and saves a picture for each set.

    python examples/language/policies.py [--tables DIR] [--data FILE] [--seed 0] [--smoke]

Time: 3 minutes. `--smoke` replays few repeats.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from _sets import RunSet, main_sets, parse

from lightning_sotl.cli.output import progress_bar, show_replay
from lightning_sotl.plotting import draw_replay, save
from lightning_sotl.replay.experiment import Replay, replay, undominated
from lightning_sotl.replay.policies import default_names, named_policy

RUNS = 30  # of a sweep
WORKERS = {"one worker": 1, "all at once": None}


def replay_set(runs: RunSet, workers: int | None, options: argparse.Namespace) -> Replay:
    """Return what each policy costs and picks on a set."""
    names = default_names(runs.curves.epochs, has_validation=True)
    with progress_bar("Replaying", unit="repeat") as progress:
        return replay(
            runs.curves,
            [named_policy(name) for name in names],
            runs=RUNS,
            repeats=3 if options.smoke else 100,
            workers=workers,
            seed=options.seed,
            validation_cost=runs.validation_cost,
            progress=progress,
        )


def summarize(runs: RunSet, found: dict[str, Replay]) -> str:
    """Return the policies that no other one dominates."""
    told = []
    for title, result in found.items():
        means = {name: scores.means() for name, scores in result.policies.items()}
        best = sorted(undominated(means), key=lambda name: means[name]["cost"])
        points = [
            f"{name} ({means[name]['cost']:.3f}, rank regret {means[name]['rank_regret']:.4f})"
            for name in best
        ]
        told.append(f"with {title} no policy dominates {', '.join(points)}")
    return f"{runs.title}, a validation at {runs.validation_cost:.3f} blocks: {'; '.join(told)}."


def main(argv: Sequence[str] | None = None) -> None:
    """Replay, print the tables, save the pictures and print the sentences."""
    options = parse(__doc__, argv)
    sentences = []
    for runs in main_sets(options)[:2]:
        found = {}
        for title, workers in WORKERS.items():
            found[title] = replay_set(runs, workers, options)
            print(f"\n=== {runs.title}: {len(runs.rows)} runs, {title} ===\n")
            show_replay(found[title])
            for note in found[title].notes:
                print(f"note: {note}")
            stem = f"language_policies_{runs.title}_{title}".replace(" ", "_")
            picture = options.output / f"{stem}.png"
            save(draw_replay(found[title]), picture)
            print(f"\npicture in {os.path.relpath(picture)}")
        sentences.append(summarize(runs, found))
    print("\n" + "\n".join(sentences))


if __name__ == "__main__":
    main()
