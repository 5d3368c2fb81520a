"""What the stopper asks its Trainer and the monitors in it, before it decides or stops."""

from __future__ import annotations

from lightning_sotl._user_warning import tell_user, warn_user
from lightning_sotl._wording import counted, listed
from lightning_sotl.callbacks.monitor import MonitorLogic, missing_monitor, monitors_of
from lightning_sotl.callbacks.stopper_state import StopperState
from lightning_sotl.callbacks.trainer_facts import (
    Trainer,
    batches_into_epoch,
    is_same_value,
    limits_allow_stop,
)
from lightning_sotl.policies import StoppingReason


class StopperFacts(StopperState):
    __doc__ = StopperState.__doc__

    def _producers(self, trainer: Trainer) -> list[MonitorLogic]:
        """Return the monitor that logs the metric; none if it is of the module's own."""
        return [one for one in monitors_of(trainer) if self.monitor in one.metric_names]

    def _read(self, trainer: Trainer) -> float | None:
        value = trainer.callback_metrics.get(self.monitor)
        return None if value is None else float(value)

    def _batches_completed(self, trainer: Trainer) -> int:
        """Return the training batches in completed blocks, on each rank."""
        return max((m.batches_completed for m in self._producers(trainer)), default=0)

    def _completed(self, trainer: Trainer, epochs: int) -> int:
        """Return how far the run has come, in what its limit counts: batches, or else epochs."""
        return epochs if self.stop_batches is None else self._batches_completed(trainer)

    def _is_at_limit(self, trainer: Trainer, epochs: int) -> bool:
        return self._limit is not None and self._completed(trainer, epochs) >= self._limit

    def _is_between_blocks(self, trainer: Trainer) -> bool:
        return all(producer.is_between_units for producer in self._producers(trainer))

    def _explain_missing(self, trainer: Trainer) -> None:
        if self._producers(trainer):
            if not self._said_missing:
                warn_user(
                    f"The limit is reached but `{self.monitor}` is not available yet; the run "
                    "goes on until it is.",
                )
                self._said_missing = True
            return
        raise RuntimeError(
            f"`monitor={self.monitor!r}` is not logged; available: "
            f"{listed(list(trainer.callback_metrics))}.{missing_monitor(trainer, self.monitor)}"
        )

    def _check_estimate_comes(self, trainer: Trainer) -> None:
        """Raise at an epoch's end, long before T, where no monitor will ever log the estimate.

        What a module logs by that name in its own `on_train_epoch_end` is there in the second.
        """
        never_comes = self._read(trainer) is None and missing_monitor(trainer, self.monitor)
        if never_comes and trainer.current_epoch and not self._producers(trainer):
            self._explain_missing(trainer)

    def _warn_of_earlier_estimate(self, trainer: Trainer) -> None:
        """Say so where the epoch of the stop has not logged the metric, as without a validation."""
        shown = trainer.callback_metrics.get(self.monitor)
        if self._producers(trainer) or shown is None:
            return
        if is_same_value(shown, self._shown_before):
            warn_user(
                f"The estimate `{self.monitor}` of this run is of an earlier epoch than its stop: "
                "it was not logged in the last one. Compare it only with runs that log it in the "
                "same epochs.",
            )

    def _tell_of_stop(self) -> None:
        stop = f"The run ends after {counted(self._epochs_completed or 0, 'epoch')}"
        if self._estimate is not None:
            stop += f" with `{self.monitor}` = {self._estimate:.6g}"
        if self._checkpoint_path is None:
            tell_user(f"{stop}, and cannot go on later: checkpointing is off.")
        else:
            tell_user(f"{stop}; it can go on from '{self._checkpoint_path}'.")

    def _tell_of_earlier_stop(self) -> None:
        tell_user(
            f"The run was ended after {counted(self._epochs_completed or 0, 'epoch')} before and "
            "trains nothing more. To go on with it, give its stopper `promoted=True` or a later "
            "limit."
        )

    def _ends_before_first_batch(self, trainer: Trainer) -> bool:
        """Return whether a resumed run is at or past its limit, and not about to decide itself."""
        if self._stopping_reason == StoppingReason.policy:
            return True
        epochs = int(trainer.fit_loop.epoch_progress.current.processed)
        if not self._is_at_limit(trainer, epochs) or not limits_allow_stop(trainer, epochs):
            return False
        if self._estimate is not None:
            return True
        if self._has_saved_state and not self._is_at_border(trainer):
            return False  # it went on past its limit, and will stop at the next border
        if self._producers(trainer) and self._read(trainer) is None:
            self._explain_missing(trainer)
            return False
        return True

    def _is_at_border(self, trainer: Trainer) -> bool:
        """Return, in `on_train_start`, whether the run is between two epochs (or blocks)."""
        inside = batches_into_epoch(trainer) > 0
        if self.stop_batches is None:
            return not inside
        return self._is_between_blocks(trainer) and not (inside and trainer.is_last_batch)

    def _resumes_at_stop(self, trainer: Trainer) -> bool:
        """Return whether the checkpoint that the run was resumed from is of where it stopped."""
        if trainer.ckpt_path is None:
            return False
        if self.stop_batches is not None:
            return self._batches_completed(trainer) == self.stop_batches
        return int(trainer.fit_loop.epoch_progress.current.processed) == self._epochs_completed
