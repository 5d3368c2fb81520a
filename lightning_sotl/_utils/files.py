"""Files of others: only regular ones are opened, and what is read of them is bounded."""

from __future__ import annotations

import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lightning_sotl._utils.text import quoted


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name in the same folder, then give it its own.

    A full disk, a kill or a crash of the machine leaves what stood there before. A link stays, and
    what it points to is replaced; so do the permissions of what was there.

    Args:
        path: The file.
        content: All of it.

    Raises:
        OSError: If it cannot be written; its message names `path`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_whole(folder / "x.txt", b"1"), [entry.name for entry in folder.iterdir()]
        (None, ['x.txt'])
    """
    target = Path(os.path.realpath(path))
    unfinished = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        if target.exists() and not target.is_file():
            raise OSError("it is no regular file")
        try:
            with unfinished.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # else a crash may leave the new name with no content
            if target.exists():
                shutil.copymode(target, unfinished)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"'{path}' cannot be written: {error.strerror or error}.") from error


def walk(directory: Path, notes: list[str]) -> Iterator[tuple[Path, set[str]]]:
    """Yield each folder at any depth with the names of what lies in it and is no folder.

    Links to folders are not followed: a "latest" beside its run would count that run twice, and a
    link to what is above would never end. Python's own walk gives up at some 1,000 levels.

    Args:
        directory: Where to begin.
        notes: Takes a sentence for each folder that cannot be listed.
    """
    waiting = [str(directory)]  # to join paths of many parts takes long
    while waiting:
        folder = waiting.pop()
        names = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif not _is_link_to_folder(entry):
                        names.add(entry.name)
        except OSError as error:
            notes.append(f"Left out what is in {quoted(folder)}: {error.strerror}.")
            continue
        yield Path(folder), names


def _is_link_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link to itself
        return False


# A record takes 80 bytes a unit: 6 million units. Python needs some 20 times a JSON text's size.
MOST_RECORD_BYTES = 512 * 2**20


# A run that logs 10 values in each of 10 million steps. Rows are read one at a time.
MOST_LOG_BYTES = 4 * 2**30


# The header of a record holds all hyper-parameters, the header of a CSV all keys.
MOST_LINE_BYTES = 4 * 2**20


# Levels of a JSON text. Python gives up at about 1,000, in whichever function comes first.
MOST_NESTED = 100


class UnreadableFileError(ValueError):
    """A file that is of no kind or size that is read."""


def exists(path: str | Path) -> bool:
    """Return whether something lies there; False also of a name that no file can have."""
    return os.path.exists(path)  # noqa: PTH110  # Path's own raises where a name is too long


def is_gone(checkpoint: str) -> bool:
    """Return whether a checkpoint is not where it was saved; of a URL it cannot be told."""
    return "://" not in checkpoint and not exists(checkpoint)


def open_regular(path: Path, *, most: int | None = None, appends: bool = False) -> BinaryIO:
    """Open a file to read its bytes.

    A pipe, a socket or a device is refused: it can make its reader wait, or read, for ever.

    Args:
        path: The file; a link is followed.
        most: So many bytes it may have; None for any number.
        appends: Whether to write behind its end too; then it is made where there is none.

    Raises:
        OSError: If it cannot be opened.
        UnreadableFileError: If it is no regular file, or larger.
    """
    # The caller closes it; `Path.open` takes no opener.
    file: BinaryIO = open(path, "a+b" if appends else "rb", opener=_open_at_once)  # noqa: SIM115
    size = os.fstat(file.fileno()).st_size
    if most is not None and size > most:
        file.close()
        raise UnreadableFileError(
            f"Expected '{path}' to have at most {most:,} bytes but got {size:,}."
        )
    return file


def _open_at_once(path: str, flags: int) -> int:
    # To open a pipe without a writer waits until there is one; Windows has no such pipes.
    flags |= getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o666)  # the permissions that `open` asks for
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # of a folder `open` says what it is
        os.close(descriptor)
        raise UnreadableFileError(f"Expected '{path}' to be a regular file, but it is none.")
    return descriptor


class TextLines:
    """The lines of a text file with their ends, one after the other.

    Lines end at a line feed only. A mark of UTF-8 at the beginning is left out.

    Args:
        path: The file.
        most: So many bytes it may have.
        errors: What is done with what is no UTF-8: "replace" or "strict".

    Attributes:
        too_long: How many lines of more than `MOST_LINE_BYTES` were passed over so far.

    Raises:
        OSError: On iteration, if it cannot be opened or read.
        UnreadableFileError: On iteration, if it is no regular file, or larger.
        UnicodeDecodeError: On iteration, if it is no UTF-8 and that is not replaced.
    """

    def __init__(self, path: Path, *, most: int, errors: str = "replace") -> None:
        self._path, self._most, self._errors = path, most, errors
        self.too_long = 0

    def __iter__(self) -> Iterator[str]:
        """Yield each line that is not too long."""
        begins = True
        with open_regular(self._path, most=self._most) as file:
            while line := file.readline(MOST_LINE_BYTES + 1):
                if len(line) > MOST_LINE_BYTES:
                    self.too_long += 1
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MOST_LINE_BYTES)
                else:
                    yield line.decode("utf-8-sig" if begins else "utf-8", self._errors)
                begins = False


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text holds, or None if it is none, or nested too deep to be walked.

    Args:
        text: Of a file that anyone may have written.

    Example:
        >>> parse_json('{"e": 3}'), parse_json("{"), parse_json("[" * 200 + "]" * 200)
        ({'e': 3}, None, None)
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    level, depth = [value], 0
    while level:
        if depth > MOST_NESTED:
            return None
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        depth += 1
    return value
