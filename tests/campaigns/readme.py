"""Compare what the README's commands print with what it says, and run its block on Ray; a minute.

    python tests/campaigns/readme.py

It trains the runs of `examples/rank_runs.py`, gives each `$ lightning-sotl ...` of the README to
the program, and runs the Ray block behind the quick start, with a folder of its own as storage. The
numbers are those of the torch that the README names; another may round or draw otherwise.
`test_readme.py` does in seconds what can be done in seconds.
"""

from __future__ import annotations

import difflib
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from readme_blocks import README, python_blocks, shell_commands


def main() -> int:
    """Run both and return how many differ or fail."""
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
        failed += not runs_on_ray(Path(folder))
    return failed


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
