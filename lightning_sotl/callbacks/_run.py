"""Which run the results of a callback belong to, and how they return from a spawned process."""

from __future__ import annotations

import io
import multiprocessing.context
import tempfile
import uuid
import weakref
from pathlib import Path
from typing import Any

import torch

from lightning_sotl._utils.files import write_whole
from lightning_sotl._utils.messages import warn_user
from lightning_sotl.callbacks._trainer import Trainer, is_spawned


class RunBinding:
    """Binds the results of a callback to one run: that of the newest Trainer that fitted with it.

    With `ddp_spawn` and `ddp_fork`, `fit` runs on a copy of the callback in a child process, and
    Lightning brings nothing of it back. Parent and child share a file name: rank 0 of the children
    writes its state there at the end of `fit`, and the parent reads it when a result is asked for.

    Attributes:
        stage: The stage that Lightning is in, such as "fit"; None outside of it.
        is_new: Whether the newest fit began another run than the one before it.
        has_saved_state: Whether the checkpoint of the newest fit had a state of this callback.
    """

    def __init__(self) -> None:
        self.stage: str | None = None
        self.is_new = False
        self.has_saved_state = False
        self._trainer: weakref.ref[Trainer] | None = None
        self._handoff = _new_file_name()
        self._is_child = False

    @property
    def was_in_trainer(self) -> bool:
        """Whether a Trainer has fitted with the callback in this process."""
        return self._trainer is not None

    def bind(self, trainer: Trainer, stage: str) -> bool:
        """Note the run in `setup`, and return whether it is one that trains."""
        self.stage = stage
        if stage != "fit":
            return False
        self.has_saved_state = False
        self.is_new = self._trainer is None or self._trainer() is not trainer
        self._trainer = weakref.ref(trainer)
        self._handoff.unlink(missing_ok=True)  # from an earlier run whose results nobody asked for
        return True

    def takes_state(self) -> bool:
        """Return whether a state that is loaded now belongs to the run, and note that it had one.

        A checkpoint that is loaded to validate or test belongs to another run.
        """
        if self.stage not in (None, "fit"):
            return False
        self.has_saved_state = True
        return True

    def release(self, trainer: Trainer, stage: str, callback: Any) -> None:
        """End a stage in `teardown`; a spawned child hands its results to its parent."""
        self.stage = None
        if stage != "fit" or not trainer.is_global_zero or not is_spawned(trainer):
            return
        self._is_child = True
        content = io.BytesIO()
        torch.save(callback.state_dict(), content)
        try:
            write_whole(self._handoff, content.getvalue())
        except OSError as error:
            warn_user(
                f"The results of this {type(callback).__name__} cannot be returned to the process "
                f"that called fit, so they are missing there. {error}",
            )

    def state_from_child(self) -> dict[str, Any] | None:
        """Return the state that a spawned child left, once; None if there is none."""
        if self._is_child or not self._handoff.exists():
            return None
        state: dict[str, Any] = torch.load(self._handoff, weights_only=True)
        self._handoff.unlink()
        return state

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_trainer": None}
        if multiprocessing.context.get_spawning_popen() is None:  # an ordinary copy or pickle
            del state["_handoff"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"_handoff": _new_file_name(), **state})


def attributes_without(callback: object, *names: str) -> dict[str, Any]:
    """Return what a copy of a callback keeps: all attributes but the named ones.

    Lightning attaches the module's bound methods `log` and `log_dict`. A copy with them would hold
    the module, so they are left out, too.
    """
    dropped = {"log", "log_dict", *names}
    return {name: value for name, value in vars(callback).items() if name not in dropped}


def _new_file_name() -> Path:
    return Path(tempfile.gettempdir()) / f"lightning-sotl-{uuid.uuid4().hex}.pt"
