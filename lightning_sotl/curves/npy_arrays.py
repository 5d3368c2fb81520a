"""Arrays in NumPy's `.npy` format, read by its letter: nothing is evaluated or unpickled."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._wording import quoted
from lightning_sotl.curves.logged import MOST_ENTRIES

_MAGIC = b"\x93NUMPY"
# As NumPy writes it; its own reader evaluates this text as Python.
_HEADER = re.compile(
    rb"\{'descr': '([<>|=])([biufU])([0-9]{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,18},? ?){0,3})\), \} *\n"
)


def parse_npy(content: bytes) -> NDArray[Any]:
    """Return the array that a `.npy` file holds: numbers or text, of at most 3 dimensions.

    Args:
        content: The file.

    Raises:
        ValueError: If it holds something else, as objects, or is not of the length that its
            header says.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> np.save(file, np.array([1.5, 2.5]))
        >>> parse_npy(file.getvalue()).tolist()
        [1.5, 2.5]
    """
    if content[:6] != _MAGIC or len(content) < 12 or content[6] not in (1, 2, 3):
        raise ValueError("it is no array.")
    begin = 10 if content[6] == 1 else 12
    end = begin + int.from_bytes(content[8:begin], "little")
    header = content[begin:end]
    found = _HEADER.fullmatch(header)
    if found is None:
        raise ValueError(f"it is no array of numbers or of text: {quoted(header)}.")
    order, kind, size, is_fortran, dimensions = (part.decode("ascii") for part in found.groups())
    shape = tuple(int(length) for length in re.findall("[0-9]+", dimensions))
    try:
        dtype = np.dtype(f"{order}{kind}{size}")
    except TypeError as error:
        raise ValueError(f"it is no array of numbers or of text: {error}.") from None
    entries = int(np.prod([int(length) for length in shape], dtype=object))
    if entries > MOST_ENTRIES or entries * dtype.itemsize != len(content) - end:
        raise ValueError(
            f"its header says {entries:,} entries of {dtype.itemsize} bytes, but there are "
            f"{len(content) - end:,} bytes; at most {MOST_ENTRIES:,} entries are read."
        )
    if kind == "U" and entries:
        characters = np.frombuffer(content, dtype=f"{order}u4", offset=end)
        if characters.max() > sys.maxunicode:
            raise ValueError("it holds text of characters that there are not.")
    flat = np.frombuffer(content, dtype=dtype, offset=end)
    return flat.reshape(shape, order="F" if is_fortran == "True" else "C")
