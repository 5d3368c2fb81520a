"""Runs the callbacks inside libraries that train with Lightning.

    python -m tests.campaigns.clients [CLIENT ...] [--environments DIR] [--keep] [--python 3.11]

Without names, it runs all clients. For each it makes an environment, installs the library in the
version of the client's file together with this checkout, and trains three networks of different
learning rates through the library's own interface. It compares:

- each L(e) with the mean of the losses that `training_step` returned
- the epochs that were trained with T
- the order of `lightning-sotl rank` with the order by these means at T
- the losses with those of a run without the callbacks
- the losses of the promoted run with those of the run without the callbacks

Prints a table. Exits with 1 if anything differs or a run fails. If a library cannot be installed,
the table has the reason.

To add a client, add a file to this folder; `darts.py` is an example. It contains:

    LIBRARY            name of the distribution
    REQUIREMENTS       what to install
    PACKAGE            whose Trainer the library uses: "pytorch_lightning" or "lightning.pytorch"
    INTERFACE          how the library receives the callbacks
    train(run)         trains one run
    USES_ENVIRONMENT   optional: True if the callbacks come from `LIGHTNING_SOTL`
    LOSS_KEY           optional: the `loss_key` of the monitor
    NO_RESUME          optional: why a winner is trained again instead of from its checkpoint
    NOT_EXACT          optional: why a promoted run has other losses

Set `UV_FIND_LINKS`, `UV_TORCH_BACKEND` and so on to choose the packages. An environment takes up to
6 GB, or a few MB if uv finds its packages in a cache on the same disk.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
CLIENTS = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


class CannotRunError(Exception):
    """Raised with the reason why a client cannot be run."""


def install(requirements: list[str], environment: Path, python: str) -> Path:
    """Make an environment with the requirements and this checkout, and return its Python."""
    executable = environment / "bin" / "python"
    uv = shutil.which("uv")
    if uv:
        make = [uv, "venv", "--quiet", "--clear", "--python", python, environment]
        add = [uv, "pip", "install", "--quiet", "--python", executable]
    else:
        make = [python, "-m", "venv", "--clear", environment]
        add = [executable, "-m", "pip", "install", "--quiet"]
    for command in (make, [*add, *requirements, "--editable", ROOT]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotRunError(f"cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return executable


def run_trial(name: str, python: Path, folder: Path) -> dict[str, Any]:
    """Run the trial of a client in its environment, and return its result."""
    log = folder / "log.txt"
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    # The trial and its `rank` share the bytecode. Compiling torch takes longer than the training.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    with log.open("w") as output:
        done = subprocess.run(
            [python, "-m", "tests.campaigns.clients._trial", name, folder],
            cwd=ROOT,
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        end = log.read_text().splitlines()[-30:]
        return {"versions": {}, "differences": ["\n".join(["the trial failed:", *end])]}
    return json.loads((folder / "result.json").read_text())


def row_of(client: Any, result: dict[str, Any]) -> str:
    """Return the row of the documentation's table."""
    versions = result["versions"]
    library = f"{client.LIBRARY} {versions.get(client.LIBRARY, '')}".strip()
    outcome = "as expected" if not result["differences"] else "DIFFERS"
    promotion = "bit for bit"
    if hasattr(client, "NO_RESUME"):
        promotion = f"trained again: {client.NO_RESUME}"
    elif hasattr(client, "NOT_EXACT"):
        promotion = f"other losses: {client.NOT_EXACT}"
    return f"| {library} | `{client.PACKAGE}` | {client.INTERFACE} | {outcome} | {promotion} |"


def main() -> int:
    """Run the clients, and print the table and the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"of {', '.join(CLIENTS)}")
    parser.add_argument("--environments", type=Path, help="the folder for environments")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    parser.add_argument("--python", default=sys.executable, help="the Python of the environments")
    arguments = parser.parse_args()
    unknown = set(arguments.clients) - set(CLIENTS)
    if unknown:
        parser.error(f"unknown client: {', '.join(sorted(unknown))}")
    rows, differences = [], []
    for name in arguments.clients or CLIENTS:
        client = importlib.import_module(f"tests.campaigns.clients.{name}")
        with tempfile.TemporaryDirectory() as folder:
            environment = (arguments.environments or Path(folder)) / name
            try:
                python = install(client.REQUIREMENTS, environment, arguments.python)
                result = run_trial(name, python, Path(folder))
            except CannotRunError as reason:
                rows.append(f"| {client.LIBRARY} | | | {reason} | |")
            else:
                rows.append(row_of(client, result))
                differences += [f"{name}: {text}" for text in result["differences"]]
            finally:
                if not arguments.keep:
                    shutil.rmtree(environment, ignore_errors=True)
        print(rows[-1], flush=True)
    print("\n| library | package | callbacks through | result | promotion |")
    print("|---|---|---|---|---|")
    print(*rows, sep="\n")
    print(*differences, sep="\n")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
