"""How a callback that ran in a spawned process gets its state back to the one that waits."""

from __future__ import annotations

import multiprocessing.context
import tempfile
import uuid
import weakref
from pathlib import Path
from typing import Any

import torch

from lightning_sotl.callbacks.trainer_facts import Trainer


class ReturnsFromSpawn:
    """A callback whose state reaches the parent process with `ddp_spawn` and `ddp_fork`.

    There, fit runs on a copy in a child process, and of the callbacks Lightning brings back
    nothing. Parent and child share a file name: rank 0 of the children writes its state there at
    the end of fit, and the parent reads it when a result is first asked for.
    """

    _handoff: Path

    def __init__(self) -> None:
        self._handoff = _new_file_name()
        # The Trainer of the newest fit in this process.
        self._trainer: weakref.ref[Trainer] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as plain numbers, strings, lists, dicts and tensors."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        raise NotImplementedError

    def _send_to_parent(self, trainer: Trainer) -> None:
        launcher = trainer.strategy.launcher
        if trainer.is_global_zero and hasattr(launcher, "_start_method"):
            torch.save(self.state_dict(), self._handoff)

    def _receive_from_child(self) -> None:
        if self._trainer is None and self._handoff.exists():
            state = torch.load(self._handoff, weights_only=True)
            self._handoff.unlink()
            self.load_state_dict(state)

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


def _new_file_name() -> Path:
    return Path(tempfile.gettempdir()) / f"lightning-sotl-{uuid.uuid4().hex}.pt"
