"""What is said to users: warnings that point to their own line, and lines among Lightning's."""

from __future__ import annotations

import sys
import warnings

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only

from lightning_sotl._utils.text import visible

# Ours, and Lightning's, which calls our hooks: no frame of theirs is the user's.
_NOT_THE_USERS = {
    "lightning",
    "lightning_fabric",
    "lightning_sotl",
    "lightning_utilities",
    "pytorch_lightning",
}


def warn_user(message: str) -> None:
    """Warn on rank 0, and name the nearest line that is neither of this package nor Lightning's.

    That is the call of `find_winners` or `promote`, of `finish()`, or of `trainer.fit` for what a
    hook says.

    Args:
        message: The warning, a UserWarning. Names in it are shown with control characters written
            out: a folder may be called anything.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_user("No run has reached T.")
        >>> str(caught[0].message)
        'No run has reached T.'
    """
    # Lightning sets the rank as it is imported, and who ranks finished runs may never import it.
    if getattr(rank_zero_only, "rank", 0) == 0:
        warnings.warn(visible(message), stacklevel=_level_of_user())


def inform_user(message: str) -> None:
    """Say, on rank 0, what has happened among Lightning's own lines, and as loudly as those.

    Args:
        message: A sentence; control characters in it are written out.
    """
    rank_zero_info(visible(message))


def _level_of_user() -> int:
    """Return the `stacklevel` that the caller has to warn with."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _top_package(frame.f_globals) in _NOT_THE_USERS:
        frame, level = frame.f_back, level + 1
    return level


def _top_package(names: dict[str, object]) -> str:
    return str(names.get("__name__")).partition(".")[0]
