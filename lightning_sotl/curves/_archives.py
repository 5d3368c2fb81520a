"""Reads members of zip archives in memory, with bounded sizes. Nothing is unpacked to disk."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

from lightning_sotl._utils.files import UnreadableFileError, open_regular
from lightning_sotl._utils.text import quoted

# The list of members, which `zipfile` reads at once: 100,000 members of about 80 bytes each.
MOST_DIRECTORY_BYTES = 8 * 2**20
# All members unpacked: a table of `MOST_ENTRIES` losses, and two small tables.
MOST_UNPACKED_BYTES = 2**30

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_CHUNK = 2**20
_ENCRYPTED = 0x1
# Errors of `zipfile` and its decompressors on damaged archives.
_DAMAGE_ERRORS = (
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
)


@contextmanager
def open_archive(path: Path, *, kind: str) -> Iterator[zipfile.ZipFile]:
    """Open a zip after a check of its members: their number, sizes, names and compression.

    Args:
        path: The file.
        kind: What the file should be, for the error, such as "an .npz archive".

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is not a zip, is damaged or too large, or if a member is encrypted, is
            compressed by another method than deflate, has the name of another member, or has a
            name that leads out of a folder.
    """
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"Expected '{path}' to be {kind}, but it is not.")
        try:
            archive = zipfile.ZipFile(_BoundedReads(file))
        except UnreadableFileError:
            raise ValueError(
                f"Expected '{path}' to have a list of members of at most "
                f"{MOST_DIRECTORY_BYTES:,} bytes (about 100,000 members), but it is longer."
            ) from None
        except _DAMAGE_ERRORS as error:
            raise ValueError(f"'{path}' is damaged and cannot be read: {error}.") from None
        with archive:
            _check_members(path, archive.infolist())
            yield archive


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return the content of a member, which is never longer than its declared size.

    Raises:
        ValueError: If the member is damaged.
    """
    try:
        with archive.open(member) as file:
            chunks = []
            # A single read would allocate the declared size.
            while chunk := file.read(_CHUNK):
                chunks.append(chunk)
    except _DAMAGE_ERRORS as error:
        raise ValueError(f"{quoted(member.filename)} is damaged: {error}.") from None
    return b"".join(chunks)


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names: set[str] = set()
    for member in members:
        name = member.filename
        if member.compress_type not in _METHODS or member.flag_bits & _ENCRYPTED:
            raise ValueError(
                f"Expected the members of '{path}' to be stored or deflated but {quoted(name)} is "
                "encrypted or compressed by another method."
            )
        windows = PureWindowsPath(name)
        if windows.drive or windows.root or ".." in windows.parts or ".." in name.split("/"):
            raise ValueError(
                f"Expected the names in '{path}' to stay within a folder but got {quoted(name)}."
            )
        if name in names:
            raise ValueError(
                f"Expected the names in '{path}' to be unique but got {quoted(name)} twice."
            )
        names.add(name)
    unpacked = sum(member.file_size for member in members)
    if unpacked > MOST_UNPACKED_BYTES:
        raise ValueError(
            f"Expected '{path}' to unpack to at most {MOST_UNPACKED_BYTES:,} bytes but got "
            f"{unpacked:,}."
        )


class _BoundedReads:
    """A file that refuses to read more at once than the list of members may have.

    `zipfile` reads the list in a single call, and takes its length from the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; raise UnreadableFileError if `size` is too large."""
        if size > MOST_DIRECTORY_BYTES:
            raise UnreadableFileError(f"Expected at most {MOST_DIRECTORY_BYTES:,} bytes.")
        return self._file.read(size)

    def seekable(self) -> bool:
        """Return True, as `zipfile` requires."""
        return True
