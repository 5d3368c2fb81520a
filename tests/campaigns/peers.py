"""Runs the tests of another project with and without our parts inside, and compares the outcomes.

    python -m tests.campaigns.peers lightning|optuna CHECKOUT [-- pytest arguments]

Start it at the root of this project, with the Python of an environment in which the tests of
CHECKOUT pass. CHECKOUT is a folder with tests, such as a clone or an unpacked sdist. Install this
project there without `--editable`, which would put its `tests` on the path of the other tests.

    lightning   Each Trainer gets a SoTLMonitor, and an EarlyRankingStopper that stops no run,
                through `LIGHTNING_SOTL`. For Lightning itself and for libraries that train with it.
    optuna      Each study with one objective and no sampler gets a RegularizedEvolutionSampler.
                After each decision of a study's pruner, an AdaptivePruner also decides, without
                effect.

A test whose outcome differs is run again without our parts. If it then differs from its own first
outcome, it is unstable. Prints the numbers of tests and of our parts that were used, and the
differing tests by class: both outcomes, and the first line of the exception without its numbers.
Exits with 1 if a test differs or if our parts were in none of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

PLUGIN = Path(__file__).with_name("peers_plugin.py")
COUNTS = {
    "lightning": ("Trainers with our callbacks", "their fits of at least one epoch"),
    "optuna": (
        "studies with our sampler",
        "trials mutated by our sampler",
        "decisions of our pruner",
    ),
}
NEVER_STOPS = "stop_epoch=1000000000"
# All tests passed, some failed, or none was collected.
COMPLETE_RUNS = (0, 1, 5)


class Outcome(NamedTuple):
    """The outcome of a test, and the first line of its exception."""

    name: str
    reason: str


Outcomes = dict[str, Outcome]
NOT_RUN = Outcome("not run", "")


def run_tests(
    checkout: Path, arguments: list[str], parts: str | None, only: Collection[str] | None = None
) -> tuple[Outcomes, Counter[str]]:
    """Run the tests of a folder; return the outcome of each, and how often our parts were used.

    Args:
        checkout: The folder.
        arguments: More arguments for pytest.
        parts: Which of our parts are inside, or None.
        only: The tests to run, or None for all.
    """
    variables = {name: os.environ[name] for name in os.environ if name != "LIGHTNING_SOTL"}
    if parts == "lightning":
        variables["LIGHTNING_SOTL"] = NEVER_STOPS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(PLUGIN, folder / "lightning_sotl_peers.py")
        options = {"parts": parts, "only": None if only is None else sorted(only)}
        (folder / "options.json").write_text(json.dumps(options))
        plugins = ["-p", "lightning_sotl_peers", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *plugins, *arguments],
            cwd=checkout,
            env={**variables, "PYTHONPATH": name},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in COMPLETE_RUNS:
            end = [*done.stdout.splitlines()[-30:], *done.stderr.splitlines()[-30:]]
            sys.exit("\n".join([f"pytest exited with {done.returncode}:", *end]))
        outcomes = json.loads((folder / "outcomes.json").read_text())
        counts = Counter[str]()
        for path in folder.glob("counts-*.json"):
            counts.update(json.loads(path.read_text()))
    return {test: Outcome(*outcome) for test, outcome in outcomes.items()}, counts


def class_of(without: Outcome, inside: Outcome) -> str:
    """Return the class of a difference: both outcomes, and the reason without its numbers."""
    reason = inside.reason or without.reason
    reason = re.sub(r"0x[0-9a-fA-F]+", "ADDRESS", reason)
    reason = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "N", reason)
    return f"{without.name} -> {inside.name}: {reason}"


def compare(kind: str, checkout: Path, arguments: list[str]) -> int:
    """Run the tests with and without our parts, print the report, and return the exit code."""
    without, _ = run_tests(checkout, arguments, None)
    inside, counts = run_tests(checkout, arguments, kind)
    tests = sorted({*without, *inside})
    for outcomes in (without, inside):
        outcomes.update({test: NOT_RUN for test in tests if test not in outcomes})
    differing = {test for test in tests if without[test].name != inside[test].name}
    again = run_tests(checkout, arguments, None, differing)[0] if differing else {}
    unstable = {test for test in differing if again.get(test, NOT_RUN).name != without[test].name}
    classes = defaultdict(list)
    for test in sorted(differing - unstable):
        classes[class_of(without[test], inside[test])].append(test)
    same = Counter(without[test].name for test in tests if test not in differing)
    rows = [
        ("tests", len(tests)),
        *((f"same outcome: {name}", same[name]) for name in sorted(same)),
        ("different", len(differing - unstable)),
        ("unstable", len(unstable)),
        *((name, counts[name]) for name in COUNTS[kind]),
    ]
    for what, number in rows:
        print(f"{what:<34}{number:>8,}")
    for title, names in [*sorted(classes.items()), ("unstable", sorted(unstable))]:
        if names:
            print(f"\n{title}", *names, sep="\n  ")
    if not any(counts.values()):
        print("\nOur parts were in none of these tests.")
        return 1
    return 1 if classes else 0


def main() -> int:
    """Compare the outcomes of the tests of the folder on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=COUNTS)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("arguments", nargs="*", metavar="-- pytest arguments")
    given = parser.parse_args()
    return compare(given.kind, given.checkout, given.arguments)


if __name__ == "__main__":
    sys.exit(main())
