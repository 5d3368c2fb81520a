"""The tests on the oldest, or the newest, versions of everything that `pyproject.toml` names.

    python tests/campaigns/versions.py oldest|newest [--python PYTHON] [--folder FOLDER] [ARGUMENTS]

Makes a new virtual environment, of the Python that runs this (3.11 or up) or of another, installs
what all extras name, prints what was asked for and what came, and runs pytest with the ARGUMENTS.
`oldest` takes each package at its lower bound. Where no wheel of that is served for the Python, or
other packages rule it out, it takes the next version that fits, and says so. Of what those packages
need in turn it takes the newest that they allow, as pip would, but for those in `HELD`. The
environment (6 GB with the CUDA build of torch) is deleted in the end; `--folder` makes it there and
leaves it. The resolver, uv, comes from the package index too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
# What the oldest set needs of packages that `pyproject.toml` does not name.
HELD = {
    "oldest": ["pyarrow<26"],  # newer ones refuse NumPy 1 when imported, without declaring it
    "newest": [],
}
NOT_AT_FLOOR = "(the bound has no wheel for this Python, or another package rules it out)"


@dataclass(frozen=True)
class Bound:
    """A package as `pyproject.toml` names it."""

    name: str
    extras: str
    floor: str

    def __str__(self) -> str:
        """Return it as a requirement."""
        return f"{self.name}{self.extras}>={self.floor}"


def numbers(version: str) -> tuple[int, ...]:
    """Return a version's numbers, without zeros at the end: 2.5 is 2.5.0."""
    parts = [int(part) for part in re.findall(r"\d+", version)]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def normal(name: str) -> str:
    """Return a package's name as package indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def bounds(project: dict) -> dict[str, Bound]:
    """Return the lower bound of each package that a project's dependencies and extras name.

    Of two bounds the higher holds. A requirement of another form is refused: it would be tested
    as something that it is not.
    """
    own = normal(project["name"])
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    found: dict[str, Bound] = {}
    for requirement in [entry for entries in lists for entry in entries]:
        match = re.fullmatch(
            r"([\w.-]+?)(\[[\w,.-]+\])?(?:>=(\d[\w.]*))?", requirement.replace(" ", "")
        )
        if match and normal(match[1]) == own:
            continue
        if match is None or match[3] is None:
            raise ValueError(
                f"Expected a lower bound alone, as `name>=1.0`, but got {requirement!r}."
            )
        name, old = normal(match[1]), found.get(normal(match[1]))
        extras = match[2] or (old.extras if old else "")
        floor = match[3]
        if old and numbers(old.floor) > numbers(floor):
            floor = old.floor
        found[name] = Bound(name, extras, floor)
    return dict(sorted(found.items()))


def installed(python: Path) -> dict[str, str]:
    """Return the versions in an environment."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True
    )
    return {normal(entry["name"]): entry["version"] for entry in json.loads(listed.stdout)}


def table(wanted: dict[str, Bound], came: dict[str, str], which: str) -> list[str]:
    """Return a line a package: its bound, what was installed, and where that is not the bound."""
    width = max(map(len, wanted))
    lines = []
    for name, bound in wanted.items():
        at_floor = numbers(came[name]) == numbers(bound.floor)
        note = "" if at_floor or which == "newest" else NOT_AT_FLOOR
        lines.append(f"{name:<{width}}  >={bound.floor:<8}  {came[name]:<8}  {note}".rstrip())
    return lines


def choice(which: str, wanted: dict[str, Bound], held: Path) -> list[str]:
    """Return the arguments by which uv takes one set; `held` is the file of what is held."""
    # An old NumPy or SciPy for which there is no wheel would be compiled for an hour.
    wheels = [option for name in wanted for option in ("--only-binary", name)]
    # A constraint: what stands among the requirements is taken at its own lowest version.
    constraint = ["--constraint", str(held)]
    return ["--resolution", RESOLUTIONS[which], *constraint, *wheels, *map(str, wanted.values())]


def install(base: str, folder: Path, which: str, wanted: dict[str, Bound]) -> Path:
    """Make an environment of a Python and return its own Python."""
    subprocess.run([base, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "uv"], check=True)
    uv = [folder / "bin" / "uv", "pip", "install", "-q", "--python", python]
    # Files of the cache are linked into the environment, so they must lie beside it.
    environment = {"UV_CACHE_DIR": str(folder / "cache"), **os.environ}
    held = folder / "held.txt"
    held.write_text("\n".join(HELD[which]))
    subprocess.run([*uv, *choice(which, wanted, held)], check=True, env=environment)
    subprocess.run([*uv, "--no-deps", "--editable", ROOT], check=True, env=environment)
    return python


def main() -> int:
    """Install, print the versions, and run the tests."""
    import tomllib  # from Python 3.11 on

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=RESOLUTIONS)
    parser.add_argument("--python", default=sys.executable, help="of the environment")
    parser.add_argument("--folder", type=Path, help="make the environment here and leave it")
    arguments, pytest_arguments = parser.parse_known_args()
    wanted = bounds(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary) / "environment").absolute()
        python = install(arguments.python, folder, arguments.which, wanted)
        subprocess.run([python, "--version"], check=True)
        print("\n".join(table(wanted, installed(python), arguments.which)), flush=True)
        command = [python, "-m", "pytest", *pytest_arguments]
        return subprocess.run(command, check=False, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
