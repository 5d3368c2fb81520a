"""Files of ours: under their name they stand whole, or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path


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
