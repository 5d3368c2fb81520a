"""Binds a callback's results to a run, and returns them from copies and child processes."""

from __future__ import annotations

import copy
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
    """Binds the results of a callback to the run of the Trainer that last fitted with it.

    With `ddp_spawn` and `ddp_fork`, `fit` runs on a copy of the callback in a child process, and
    Lightning does not return that copy. Parent and child therefore share a file name. Rank 0 of the
    children writes its results to the file at the end of `fit`. The parent reads the file when the
    user reads a result.

    Some libraries train with deep copies of the user's callbacks. A callback that has not trained
    itself returns the results of the copy that trained last.

    Attributes:
        stage: The stage that Lightning is in, such as "fit", or None outside of any stage.
        is_new: Whether the newest fit began another run than the previous fit.
        has_saved_state: Whether the checkpoint of the newest fit contained a state of this
            callback.
    """

    def __init__(self) -> None:
        self.stage: str | None = None
        self.is_new = False
        self.has_saved_state = False
        self._trainer: weakref.ref[Trainer] | None = None
        self._handoff = _new_file_name()
        self._is_child = False
        self._original: RunBinding | None = None  # of the callback that was copied
        self._results_of_copy: dict[str, Any] | None = None

    @property
    def was_in_trainer(self) -> bool:
        """Whether a Trainer has fitted with this callback in this process."""
        return self._trainer is not None

    def bind(self, trainer: Trainer, stage: str) -> bool:
        """Bind the callback to the Trainer's run, in `setup`; return whether the stage is "fit"."""
        self.stage = stage
        if stage != "fit":
            return False
        self.has_saved_state = False
        self.is_new = self._trainer is None or self._trainer() is not trainer
        self._trainer = weakref.ref(trainer)
        # Drop unread results of an earlier run.
        self._handoff.unlink(missing_ok=True)
        self._results_of_copy = None
        return True

    def takes_state(self) -> bool:
        """Return whether a state that is loaded now belongs to the run, and remember that it does.

        A checkpoint that is loaded to validate or test does not belong to the run.
        """
        if self.stage not in (None, "fit"):
            return False
        self.has_saved_state = True
        return True

    def release(self, trainer: Trainer, stage: str, owner: str, results: dict[str, Any]) -> None:
        """End a stage in `teardown`, and pass on the results.

        Args:
            trainer: The Trainer.
            stage: The stage that ends.
            owner: The callback's class, for messages.
            results: What `newer_results` returns in the parent process and in the original.
        """
        self.stage = None
        if stage != "fit":
            return
        self.hand_to_original(results)
        if not trainer.is_global_zero or not is_spawned(trainer):
            return
        self._is_child = True
        content = io.BytesIO()
        torch.save(results, content)
        try:
            write_whole(self._handoff, content.getvalue())
        except OSError as error:
            warn_user(
                f"The results of this {owner} cannot be returned to the process that called `fit`, "
                f"so they are missing there. {error}",
            )

    def hand_to_original(self, results: dict[str, Any]) -> None:
        """Pass the results of a copy to the callbacks that it was copied from."""
        original = self._original
        while original is not None and not original.was_in_trainer:
            original._results_of_copy = results
            original = original._original

    def newer_results(self) -> dict[str, Any] | None:
        """Return the unread results of a spawned child or a copy, or None."""
        results, self._results_of_copy = self._results_of_copy, None
        if not self._is_child and self._handoff.exists():
            results = torch.load(self._handoff, weights_only=True)
            self._handoff.unlink()
        return results

    def copy(self) -> RunBinding:
        """Return a binding for a copy of this binding's callback."""
        binding = RunBinding()
        binding._original = self
        return binding

    def __getstate__(self) -> dict[str, Any]:
        # Only a process that is being spawned receives a binding, since it shares the file.
        return {**self.__dict__, "_trainer": None, "_original": None}


def deep_copy(callback: Any, binding: RunBinding, memo: dict[int, Any]) -> Any:
    """Return a deep copy of a callback whose results are passed back to the original."""
    twin = object.__new__(type(callback))
    memo[id(callback)] = twin
    state = copy.deepcopy(callback.__getstate__(), memo)
    twin.__setstate__({**state, "_run": binding.copy()})
    return twin


def attributes_without(callback: object, *names: str) -> dict[str, Any]:
    """Return the attributes that a copy of a callback keeps: all except the named ones.

    Lightning attaches the module's bound methods `log` and `log_dict` to callbacks. They are
    omitted, because a copy would otherwise hold the module. The binding is also omitted, except
    for a process that is being spawned.
    """
    dropped = {"log", "log_dict", *names}
    if multiprocessing.context.get_spawning_popen() is None:
        dropped.add("_run")
    return {name: value for name, value in vars(callback).items() if name not in dropped}


def _new_file_name() -> Path:
    return Path(tempfile.gettempdir()) / f"lightning-sotl-{uuid.uuid4().hex}.pt"
