"""What both callbacks share: they belong to one run, and get their state back from a child."""

from __future__ import annotations

import io
import multiprocessing.context
import tempfile
import uuid
import weakref
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from lightning_sotl._utils.files import write_whole
from lightning_sotl._utils.messages import warn_user
from lightning_sotl.callbacks._trainer import Module, Trainer

Own = TypeVar("Own")


class RunBound(Generic[Own]):
    """A callback that holds the results of one run.

    Another Trainer is another run. A checkpoint that is loaded to validate or test says nothing of
    the run: its state is left alone.

    With `ddp_spawn` and `ddp_fork`, fit runs on a copy in a child process, and of the callbacks
    Lightning brings nothing back. Parent and child share a file name: rank 0 of the children
    writes its state there at the end of fit, and the parent reads it when a result is asked for.

    `Own` is the class that derives from it, and of use to type checkers alone. Of two callbacks in
    a user's list they look for the base that both share; it has to be Lightning's `Callback`, or a
    Trainer does not take the list. Two of these bases that differ in `Own` are not shared.
    """

    _trainer: weakref.ref[Trainer] | None
    _stage: str | None
    _has_saved_state: bool  # whether the checkpoint of this fit had a state of this callback
    _handoff: Path
    _is_child: bool

    def __init__(self) -> None:
        self._trainer = self._stage = None
        self._has_saved_state = False
        self._handoff = _new_file_name()
        self._is_child = False

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as plain numbers, strings, lists, dicts and tensors."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, unless it is loaded to validate or test."""
        if self._stage in (None, "fit"):
            self._restore(state_dict)
            self._has_saved_state = True

    def teardown(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """Hand the results to a parent process that waits for them."""
        if stage == "fit" and trainer.is_global_zero and _is_spawned(trainer):
            self._hand_over()
            self._is_child = True
        self._stage = None

    def _bind(self, trainer: Trainer, stage: str) -> bool:
        """Note whose run this is, in `setup`, and say whether it is one that trains."""
        self._stage = stage
        if stage != "fit":
            return False
        self._has_saved_state = False
        if self._trainer is None or self._trainer() is not trainer:
            self._reset()
        self._trainer = weakref.ref(trainer)
        self._handoff.unlink(missing_ok=True)  # of an earlier run, if nobody asked for its results
        return True

    def _hand_over(self) -> None:
        content = io.BytesIO()
        torch.save(self.state_dict(), content)
        try:
            write_whole(self._handoff, content.getvalue())
        except OSError as error:
            warn_user(
                f"The results of this {type(self).__name__} cannot be given back to the process "
                f"that called fit, where it will have none. {error}",
            )

    def _receive_from_child(self) -> None:
        if not self._is_child and self._handoff.exists():
            state = torch.load(self._handoff, weights_only=True)
            self._handoff.unlink()
            self._reset()
            self._restore(state)

    def _reset(self) -> None:
        raise NotImplementedError

    def _restore(self, state: dict[str, Any]) -> None:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        # Lightning attaches the module's bound methods: with them a copy would hold the module.
        for attached in ("log", "log_dict", "_trainer"):
            state.pop(attached, None)
        if multiprocessing.context.get_spawning_popen() is None:  # an ordinary copy or pickle
            del state["_handoff"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"_handoff": _new_file_name(), "_trainer": None, **state})


def _is_spawned(trainer: Trainer) -> bool:
    return hasattr(trainer.strategy.launcher, "_start_method")


def _new_file_name() -> Path:
    return Path(tempfile.gettempdir()) / f"lightning-sotl-{uuid.uuid4().hex}.pt"
