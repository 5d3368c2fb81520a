"""Compare what the README's commands print with what it says, and run its block on Ray; 2 minutes.

    python -m tests.campaigns.readme

It trains the runs of `examples/rank_runs.py`, gives each `$ lightning-sotl ...` of the README to
the program, runs the main job with and without `--verify`, and the Ray block behind the quick
start, with a folder of its own as storage. The numbers are those of the torch that the README
names; another may round or draw otherwise. `test_readme.py` does in seconds what can be done in
seconds.
"""

from __future__ import annotations

import difflib
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.readme_blocks import README, block, python_blocks, shell_commands


def main() -> int:
    """Run all and return how many differ or fail."""
    run([sys.executable, "examples/rank_runs.py"])
    failed = 0
    for command, said in shell_commands().items():
        printed = run([sys.executable, "-m", "lightning_sotl", *command.split()])
        print(f"$ lightning-sotl {command}: {'as said' if printed == said else 'DIFFERS'}")
        if printed != said:
            failed += 1
            sys.stdout.writelines(
                difflib.unified_diff(
                    said.splitlines(True), printed.splitlines(True), "README", "now"
                )
            )
    with tempfile.TemporaryDirectory() as folder:
        failed += not does_the_main_job(Path(folder), "main job")
        failed += not does_the_main_job(Path(folder), "main job, verified", "--verify")
        failed += not runs_on_ray(Path(folder))
    return failed


def does_the_main_job(folder: Path, said: str, *options: str) -> bool:
    """Run `digits_sweep.py` and return whether it prints what the README says, but for folders."""
    printed = run([sys.executable, "examples/digits_sweep.py", "--output", str(folder), *options])
    parts = [part.split() for part in block(f"output: {said}").split("\n\n")]
    fine = all(part in [one.split() for one in printed.split("\n\n")] for part in parts[::2])
    print(f"{said}: {'as said' if fine else 'DIFFERS'}")
    return fine


def runs_on_ray(folder: Path) -> bool:
    """Run the Ray block and return whether it stops four trials at T and trains two to the end."""
    blocks = python_blocks()
    block = blocks["ray"].replace("/shared/sweeps", str(folder / "storage"))
    counts = "print('counts', *([r.metrics['epochs_completed'] for r in grid] for grid in {}))"
    # A program of its own in a file: Ray's workers have to import what it defines.
    program = folder / "program.py"
    program.write_text(
        "\n".join([blocks["quick start"], block, counts.format("(stopped, promoted)")])
    )
    printed = run([sys.executable, str(program)], cwd=folder)
    fine = "counts [3, 3, 3, 3] [10, 10]" in printed
    print(f"Ray block: {'as said' if fine else 'DIFFERS'}")
    return fine


def run(command: list[str], cwd: Path = README.parent) -> str:
    """Run a program and return what it printed; end with its words if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
