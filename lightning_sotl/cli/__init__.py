"""The command line: `lightning-sotl rank`, `evaluate` and `replay`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lightning_sotl.cli.parser import parse_options

# Heavy modules are imported in functions to keep `--help` fast.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: The arguments after the program's name; None for `sys.argv[1:]`.

    Returns:
        0 on success, 1 if the data are unsuitable, 2 on wrong usage, 130 after Ctrl-C.
    """
    _open_closed_streams()
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        code = 0
    except KeyboardInterrupt:
        code = 130  # the shell's code for SIGINT
    except OSError as error:  # for example, standard output is on a full disk
        from lightning_sotl.cli.output import show_error

        with contextlib.suppress(OSError):  # standard error may fail too
            show_error(f"lightning-sotl: {error}")
        code = 1
    _discard_output()
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = parse_options(arguments)
    except SystemExit as stop:  # argparse has printed the reason
        return int(stop.code or 0)
    from lightning_sotl.cli.evaluate import evaluate
    from lightning_sotl.cli.output import show_error, show_failure
    from lightning_sotl.cli.rank import rank
    from lightning_sotl.cli.replay import replay
    from lightning_sotl.cli.report import NotedError

    commands: dict[str, Callable[[Any], None]]
    commands = {"rank": rank, "evaluate": evaluate, "replay": replay}
    try:
        try:
            options.check()
        except ValueError as error:
            show_error(f"lightning-sotl {options.command}: {error}")
            return 2
        commands[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (NotedError, ValueError, OSError, ModuleNotFoundError, MemoryError) as error:
        show_failure(options.command, error)
        _discard_output()
        return 1
    return 0


def _open_closed_streams() -> None:
    """Redirect closed standard streams (`>&-` in a shell) to the null device."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115  # never closed


def _discard_output() -> None:
    """Discard unwritten output, so that Python does not fail again at exit.

    Writing fails if the reader has exited (for example `head`) or if the disk is full.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
