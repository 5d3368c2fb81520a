"""Messages for users: warnings that point to the user's line, and log lines."""

from __future__ import annotations

import sys
import warnings

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only

from lightning_sotl._utils.text import visible

# Frames of these packages are not the user's. Lightning calls our hooks.
_NOT_THE_USERS = {
    "lightning",
    "lightning_fabric",
    "lightning_sotl",
    "lightning_utilities",
    "ray",
    "pytorch_lightning",
}


def warn_user(message: str) -> None:
    """Issue a UserWarning on rank 0 that points to the nearest line of the user's code.

    This is the call of `find_winners`, `promote`, `finish()` or, for warnings of a hook,
    `trainer.fit`.

    Args:
        message: The warning. Control characters in it are escaped, because it may contain names
            of folders.

    Examples:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_user("No run has reached T.")
        >>> str(caught[0].message)
        'No run has reached T.'
    """
    # Lightning sets the rank on import, and a ranking of finished runs may not import it.
    if getattr(rank_zero_only, "rank", 0) == 0:
        warnings.warn(visible(message), stacklevel=_level_of_user())


def inform_user(message: str) -> None:
    """Log a message on rank 0, with the logger and the level of Lightning's own log lines.

    Args:
        message: The sentence to log. Control characters in it are escaped.
    """
    rank_zero_info(visible(message))


def _level_of_user() -> int:
    """Return the `stacklevel` with which a warning of the caller points to the user's code."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _top_package(frame.f_globals) in _NOT_THE_USERS:
        frame, level = frame.f_back, level + 1
    return level


def _top_package(names: dict[str, object]) -> str:
    return str(names.get("__name__")).partition(".")[0]
