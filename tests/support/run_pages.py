"""Run the code of pages, one page after another, and print the output of each block as JSON.

    python -m tests.support.run_pages FOLDER PAGE [PAGE ...]

Each page runs as a separate program in a new folder below FOLDER. The JSON object has, for each
page, the output of each block and the traceback of the block that failed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from pathlib import Path

from lightning_sotl.cli import main as lightning_sotl
from tests.support.helpers import IS_LIGHTNING_2_5
from tests.support.pages import Block, name_of, program
from tests.support.paths import ROOT


def main(folder: Path, names: list[str]) -> None:
    """Run the pages."""
    results = {}
    for name in names:
        own = folder / name.replace("/", "_").removesuffix(".md")
        own.mkdir(parents=True)
        results[name] = run_page(ROOT / name, own)
    json.dump(results, sys.stdout)


def run_page(page: Path, folder: Path) -> dict[str, object]:
    """Run one page in a folder; stop at the first block that fails."""
    os.chdir(folder)
    space = {"__name__": "__main__"}
    printed: list[str] = []
    for block in program(page):
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output):
                run_block(block, space)
        except BaseException:
            return {"printed": printed, "failed": traceback.format_exc()}
        printed.append(output.getvalue())
    return {"printed": printed, "failed": None}


def run_block(block: Block, space: dict[str, object]) -> None:
    """Run a block of Python, or the command of a console block."""
    if block.language == "console":
        program, *arguments = block.text.partition("\n")[0].removeprefix("$ ").split()
        if program != "lightning-sotl" or lightning_sotl(arguments):
            raise RuntimeError(f"{program} {arguments} did not run")
        return
    # The code keeps its line numbers, so that a traceback names the line of the page.
    code = "\n" * block.line + block.text
    if IS_LIGHTNING_2_5:  # docs/versions.md tells users to leave it out
        code = code.replace(", weights_only=True", "")
    exec(compile(code, name_of(block.page), "exec"), space)  # noqa: S102  # our own pages


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
