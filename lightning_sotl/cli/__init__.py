"""The command line: `lightning-sotl rank`, `evaluate` and `replay`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from lightning_sotl.cli.parser import _parser

# Only what parses arguments is imported here: `--help` answers at once.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: Those after the program's name; None for the process's own.

    Returns:
        0 if all went well, 1 if the data do not allow it, 2 on wrong usage, 130 after Ctrl-C.
    """
    _open_closed_streams()
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        code = 0
    except KeyboardInterrupt:
        code = 130  # as a shell counts an end by SIGINT
    except OSError as error:  # the disk that the output goes to is full
        with contextlib.suppress(OSError):  # that of standard error may be, too
            print(f"lightning-sotl: {error}", file=sys.stderr)
        code = 1
    _leave_output()
    return code


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has said why, or has printed the help
        return int(stop.code or 0)
    if options.command is None:
        parser.print_help(sys.stderr)
        sys.stderr.write("\nlightning-sotl: error: a COMMAND is missing\n")
        return 2
    from lightning_sotl.cli import evaluate, inputs, output, rank, replay

    command = {
        "rank": rank.rank,
        "evaluate": evaluate.evaluate,
        "replay": replay.replay,
    }[options.command]
    try:
        command(options)
        sys.stdout.flush()
    except inputs.UsageError as error:
        output.err(f"lightning-sotl {options.command}: {error}")
        return 2
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ModuleNotFoundError, MemoryError) as error:
        said = "This needs more memory than there is." if isinstance(error, MemoryError) else error
        output.err(f"lightning-sotl {options.command}: {said}")
        _leave_output()
        return 1
    return 0


def _open_closed_streams() -> None:
    """Give a process that was started without a standard stream one that forgets."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # as after `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115  # lives on


def _leave_output() -> None:
    """Leave no output behind that Python would try to write at its end, and complain of again.

    The reader of our output has gone, as `head` does, or its disk is full.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
