"""The tests on the oldest, and on the newest, versions of everything that pyproject.toml names.

    pip install nox uv
    nox -s "tests(oldest)"                 # or newest; without -s both
    nox -s "tests(oldest)" -- tests/losses # what follows -- goes to pytest

Each session takes about 6 GB (PyTorch with CUDA) and the time of the tests.
"""

from __future__ import annotations

import re
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "uv"

RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
# Limits of the oldest set on packages that pyproject.toml does not name. They are constraints,
# since uv would take a requirement at its own lowest version.
CONSTRAINTS = {
    "oldest": ["pyarrow<26"],  # newer ones refuse NumPy 1 when imported, without declaring it
    "newest": [],
}


@nox.session
@nox.parametrize("versions", [nox.param(name, id=name) for name in RESOLUTIONS])
def tests(session: nox.Session, versions: str) -> None:
    """Run the tests on one set of versions."""
    constraints = Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text("\n".join(CONSTRAINTS[versions]))
    session.install(
        *("--resolution", RESOLUTIONS[versions]),
        *("--constraint", str(constraints)),
        *only_wheels(),
        *("-r", "pyproject.toml", "--extra", "dev"),
    )
    session.install("--no-deps", "--editable", ".")
    session.run("uv", "pip", "list", external=True)
    session.run("python", "-m", "pytest", *session.posargs)


def only_wheels() -> list[str]:
    """Return the options that take the packages of pyproject.toml as wheels only.

    Without them uv would compile an old NumPy or SciPy that has no wheel for this Python; with
    them it takes the next version that has one.
    """
    project = nox.project.load_toml("pyproject.toml")["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[\[>]", entry)[0].strip() for entries in lists for entry in entries}
    return [f"--only-binary={name}" for name in sorted(names - {project["name"]})]
