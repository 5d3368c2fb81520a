"""Safe access to files: only regular files are opened, up to a maximum size."""

from __future__ import annotations

import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from lightning_sotl._utils.text import quoted

# A record takes 80 bytes a unit: 6 million units. Python needs some 20 times a JSON text's size.
MOST_RECORD_BYTES = 512 * 2**20
# A run that logs 10 values in each of 10 million steps. Rows are read one at a time.
MOST_LOG_BYTES = 4 * 2**30
# The header of a record holds all hyper-parameters, the header of a CSV all keys.
MOST_LINE_BYTES = 4 * 2**20
# Levels of a JSON text; Python's own limit is about 1,000.
MOST_NESTED = 100
# Git checks out this pointer instead of the file if Git LFS is not installed.
_POINTER = b"version https://git-lfs.github.com/spec/"


class UnreadableFileError(ValueError):
    """A file is not regular, is too large, or is a Git LFS pointer."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all.

    The content is first written under a temporary name. If the disk is full, the process is killed
    or the machine crashes, the old file is unchanged. The file keeps its permissions. A link is
    kept, and its target is replaced.

    Args:
        path: The file.
        content: Its whole content.

    Raises:
        OSError: If it cannot be written; the message names `path`.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_whole(folder / "x.txt", b"1"), [entry.name for entry in folder.iterdir()]
        (None, ['x.txt'])
    """
    target = Path(os.path.realpath(path))
    unfinished = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        if target.exists() and not target.is_file():
            raise OSError("it is not a regular file")
        try:
            with unfinished.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # otherwise a crash may leave an empty file
            if target.exists():
                shutil.copymode(target, unfinished)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"'{path}' cannot be written: {error.strerror or error}.") from error


def walk(directory: Path, notes: list[str]) -> Iterator[tuple[Path, set[str]]]:
    """Yield each folder at any depth with the names of its files.

    Links to folders are not followed: a link "latest" would count its run twice, and a link to a
    parent would never end. Python's own walk fails at about 1,000 levels.

    Args:
        directory: The top folder.
        notes: Receives a sentence for each folder that cannot be listed.
    """
    waiting = [str(directory)]  # strings, since long `Path`s are slow to build
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
            notes.append(f"Left out the folder {quoted(folder)}: {error.strerror}.")
            continue
        yield Path(folder), names


def _is_link_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link to itself
        return False


def exists(path: str | Path) -> bool:
    """Return whether a path exists; False for a name that no file can have."""
    return os.path.exists(path)  # noqa: PTH110  # Path's own raises if a name is too long


def is_gone(checkpoint: str) -> bool:
    """Return whether a checkpoint was deleted or moved; a URL is not checked."""
    return "://" not in checkpoint and not exists(checkpoint)


def find_moved(path: str, folders: Iterable[Path]) -> str | None:
    r"""Return a file at its original path, or by name in the first of the folders that has it.

    The path may be from another system: `C:\runs\v0\x.ckpt` names the file `x.ckpt` here too.

    Args:
        path: The original path of the file.
        folders: The folders to search.

    Examples:
        >>> find_moved("C:\\runs\\x.ckpt", [Path("nowhere")]) is None
        True
    """
    if exists(path) or "://" in path:
        return path
    # A Windows name cannot have a slash, but here a name may have a backslash.
    names = dict.fromkeys([PurePosixPath(path).name, PureWindowsPath(path).name])
    moved = [folder / name for folder in folders for name in names if name not in ("", "..")]
    return next((str(other.absolute()) for other in moved if exists(other)), None)


def open_regular(path: Path, *, most: int | None = None, appends: bool = False) -> BinaryIO:
    """Open a regular file to read its bytes.

    Pipes, sockets and devices are refused, because reading them may never end.

    Args:
        path: The file; a link is followed.
        most: The largest size in bytes; None for any size.
        appends: Whether to append too; the file is then created if it is missing.

    Raises:
        OSError: If it cannot be opened.
        UnreadableFileError: If it is not a regular file, is too large, or is a Git LFS pointer.
    """
    # The caller closes it; `Path.open` has no opener.
    file: BinaryIO = open(path, "a+b" if appends else "rb", opener=_open_at_once)  # noqa: SIM115
    size = os.fstat(file.fileno()).st_size
    if most is not None and size > most:
        file.close()
        raise UnreadableFileError(
            f"Expected '{path}' to have at most {most:,} bytes but got {size:,}."
        )
    if not appends and size:
        if file.read(len(_POINTER)) == _POINTER:
            file.close()
            raise UnreadableFileError(
                f"Expected '{path}' to be the file itself but it is a Git LFS pointer; `git lfs "
                "pull` fetches the file."
            )
        file.seek(0)
    return file


def _open_at_once(path: str, flags: int) -> int:
    # Opening a pipe blocks until it has a writer; Windows has no such pipes.
    flags |= getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o666)  # the permissions that `open` requests
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # `open` itself refuses folders
        os.close(descriptor)
        raise UnreadableFileError(f"Expected '{path}' to be a regular file, but it is not.")
    return descriptor


class TextLines:
    """Iterable over the lines of a text file, with their line endings.

    Only a line feed ends a line. A UTF-8 byte order mark at the beginning is removed.

    Args:
        path: The file.
        most: The largest size in bytes.
        errors: How to treat bytes that are not UTF-8: "replace" or "strict".

    Attributes:
        too_long: The number of lines above `MOST_LINE_BYTES` skipped so far.

    Raises:
        OSError: On iteration, if it cannot be opened or read.
        UnreadableFileError: On iteration, if it is not a regular file, or is too large.
        UnicodeDecodeError: On iteration, if it is not UTF-8 and `errors` is "strict".
    """

    def __init__(self, path: Path, *, most: int, errors: str = "replace") -> None:
        self._path, self._most, self._errors = path, most, errors
        self.too_long = 0

    def __iter__(self) -> Iterator[str]:
        """Yield each line that is not too long."""
        encoding = "utf-8-sig"
        with open_regular(self._path, most=self._most) as file:
            while line := file.readline(MOST_LINE_BYTES + 1):
                if len(line) > MOST_LINE_BYTES:
                    self.too_long += 1
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MOST_LINE_BYTES)
                else:
                    yield line.decode(encoding, self._errors)
                encoding = "utf-8"


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; None if it is invalid or nested too deeply.

    Examples:
        >>> parse_json('{"e": 3}'), parse_json("{"), parse_json("[" * 200 + "]" * 200)
        ({'e': 3}, None, None)
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    level = [value]
    for _ in range(MOST_NESTED + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    return None
