"""`LearningCurves`: the curves of many runs in one checked, frozen table."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_sotl._utils import validation
from lightning_sotl._utils.text import quote_all, visible
from lightning_sotl.curves import _npz, frames
from lightning_sotl.curves._log_arrays import read_arrays
from lightning_sotl.curves._log_keys import LogKeys
from lightning_sotl.stats.ranks import Mode, check_mode

if TYPE_CHECKING:
    from pandas import DataFrame

CURVES = ("train_loss", "val_loss", "val_metric")
PER_RUN = ("final_metric", "final_loss", "epoch_seconds")


@dataclass(frozen=True, eq=False)
class LearningCurves:
    """The learning curves and final results of many runs.

    Each row is a run. Column e holds the value after `e + 1` completed epochs, for e = 0, 1, ...
    NaN marks a missing value and fills the columns after a run's last epoch. A non-finite loss is
    `+inf` if the source distinguishes it from a missing one. Arrays are copied to float64 and are
    read-only.

    Args:
        train_loss: L(e), the mean training loss of each epoch, in the unit of the loss. Shape
            `(runs, epochs)`; lower is better.
        val_loss: Validation loss after each epoch. Shape `(runs, epochs)`.
        val_metric: Validation metric after each epoch. Shape `(runs, epochs)`.
        final_metric: The target, for example the test accuracy of the fully trained run. Shape
            `(runs,)`; NaN for a run that was not trained to the end.
        final_loss: Test loss of the fully trained run. Shape `(runs,)`.
        features: Numbers known before training, such as hyper-parameters or the number of
            parameters. Shape `(runs, n)`.
        epoch_seconds: Training time of one epoch, in seconds. Shape `(runs,)`.
        metric_mode: "max" if a higher `val_metric` is better, "min" if a lower one is.
        final_mode: The same for `final_metric`. None uses `metric_mode`.
        run_ids: A unique name for each run. None names the runs "0", "1", ...
        checkpoints: For each run, the checkpoint to resume from, or None.

    Raises:
        ValueError: If `train_loss` is not two-dimensional or is empty, if another array does not
            match its shape, if the rows of an array differ in length, if a mode is neither "min"
            nor "max", if `run_ids` or `checkpoints` does not have one entry per run, or if two
            runs have the same name.
        TypeError: If an array holds anything but numbers.

    Examples:
        >>> curves = LearningCurves(train_loss=[[2.0, 1.0], [3.0, float("nan")]])
        >>> curves.runs, curves.epochs, curves.epochs_completed.tolist()
        (2, 2, [2, 1])
    """

    train_loss: NDArray[np.float64]
    _: KW_ONLY
    val_loss: NDArray[np.float64] | None = None
    val_metric: NDArray[np.float64] | None = None
    final_metric: NDArray[np.float64] | None = None
    final_loss: NDArray[np.float64] | None = None
    features: NDArray[np.float64] | None = None
    epoch_seconds: NDArray[np.float64] | None = None
    metric_mode: Mode = "max"
    final_mode: Mode | None = None
    run_ids: Sequence[str] | None = None
    checkpoints: Sequence[str | None] | None = None

    if TYPE_CHECKING:  # the constructor accepts lists and converts them to arrays

        def __init__(
            self,
            train_loss: ArrayLike,
            *,
            val_loss: ArrayLike | None = None,
            val_metric: ArrayLike | None = None,
            final_metric: ArrayLike | None = None,
            final_loss: ArrayLike | None = None,
            features: ArrayLike | None = None,
            epoch_seconds: ArrayLike | None = None,
            metric_mode: Mode = "max",
            final_mode: Mode | None = None,
            run_ids: Sequence[str] | None = None,
            checkpoints: Sequence[str | None] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        train_loss = _numbers("train_loss", self.train_loss)
        if train_loss.ndim != 2 or 0 in train_loss.shape:
            raise ValueError(
                "Expected `train_loss` to have the shape (runs, epochs) with at least one of each "
                f"but got {train_loss.shape}."
            )
        object.__setattr__(self, "train_loss", train_loss)
        runs = train_loss.shape[0]
        for name in (*CURVES[1:], *PER_RUN, "features"):
            if getattr(self, name) is not None:
                self._keep(name, train_loss.shape if name in CURVES else (runs,))
        check_mode("metric_mode", self.metric_mode)
        if self.final_mode is None:
            object.__setattr__(self, "final_mode", self.metric_mode)
        check_mode("final_mode", self.final_mode)
        names = map(str, range(runs)) if self.run_ids is None else self.run_ids
        object.__setattr__(self, "run_ids", _run_ids(tuple(names), runs))
        paths = (None,) * runs if self.checkpoints is None else tuple(self.checkpoints)
        if len(paths) != runs:
            raise ValueError(
                f"Expected `checkpoints` to have {runs} entries, one per run, but got {len(paths)}."
            )
        object.__setattr__(self, "checkpoints", paths)

    @property
    def runs(self) -> int:
        """The number of runs."""
        return int(self.train_loss.shape[0])

    @property
    def epochs(self) -> int:
        """The number of columns of the curves, m."""
        return int(self.train_loss.shape[1])

    @property
    def epochs_completed(self) -> NDArray[np.int64]:
        """How many epochs each run completed, shape `(runs,)`. Trailing NaNs do not count."""
        return count_epochs(self.train_loss)

    @property
    def names(self) -> tuple[str, ...]:
        """`run_ids` as a tuple of strings."""
        return tuple(self.run_ids or ())

    def select(self, runs: Sequence[int] | NDArray[np.int64]) -> LearningCurves:
        """Return a table of the selected runs.

        Args:
            runs: Row numbers, in the order of the new table.

        Raises:
            IndexError: If a row does not exist.
            TypeError: If `runs` does not hold integers, for example if it is a boolean mask.
            ValueError: If a row is repeated or none is selected.

        Examples:
            >>> LearningCurves([[2.0], [1.0]], run_ids=["a", "b"]).select([1]).run_ids
            ('b',)
        """
        rows = np.asarray(runs)
        if rows.size and rows.dtype.kind not in "iu":
            raise TypeError(f"Expected `runs` to hold row numbers but got the dtype {rows.dtype}.")
        rows = rows.astype(np.int64)
        changes: dict[str, object] = {}
        for name in (*CURVES, *PER_RUN, "features"):
            values = getattr(self, name)
            changes[name] = None if values is None else values[rows]
        changes["run_ids"] = tuple(self.names[row] for row in rows)
        changes["checkpoints"] = tuple((self.checkpoints or ())[row] for row in rows)
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]  # checked again

    def save(self, path: str | Path) -> None:
        """Write the table to an `.npz` file without pickle.

        Args:
            path: The file to write, ending in ".npz".

        Raises:
            OSError: If the file cannot be written. An existing file is then left unchanged.
            ValueError: If `path` does not end in ".npz".
        """
        _npz.write(Path(path), {name: getattr(self, name) for name in _FIELDS})

    @staticmethod
    def load(path: str | Path) -> LearningCurves:
        """Read a table that `save` wrote, without pickle.

        Unknown arrays in the file are ignored with a warning.

        Args:
            path: An `.npz` file with at least `train_loss`.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file is not an `.npz`, is damaged or too large, lacks `train_loss`,
                needs pickle, or holds arrays that do not fit together.

        Examples:
            >>> import tempfile
            >>> path = Path(tempfile.mkdtemp()) / "curves.npz"
            >>> LearningCurves([[2.0, 1.0]]).save(path)
            >>> LearningCurves.load(path).train_loss.tolist()
            [[2.0, 1.0]]
        """
        fields, unknown = _npz.read(Path(path), _FIELDS)
        if unknown:
            warnings.warn(
                f"'{visible(str(path))}' also holds {quote_all(unknown)}, which LearningCurves "
                "does not know; left out.",
                stacklevel=2,
            )
        try:
            return LearningCurves(**fields)
        except (TypeError, ValueError) as error:
            raise ValueError(f"'{path}' does not hold learning curves. {error}") from None

    @staticmethod
    def from_logs(
        directory: str | Path,
        *,
        val_loss: str | None = None,
        val_metric: str | None = None,
        final_metric: str | None = None,
        final_loss: str | None = None,
        metric_mode: Mode = "max",
        final_mode: Mode | None = None,
        train_loss: str | None = None,
        prefix: str = "sotl",
        block: int | None = None,
    ) -> LearningCurves:
        """Read all runs below a directory, from their records or Lightning's logs.

        L(e) comes from the record if a run has one, and otherwise from the logged `<prefix>_e1`. A
        warning names the runs and files that were left out, and anything else that makes the
        numbers less certain. `lightning_sotl.curves.logs.read_logs` returns these notes instead,
        together with the header of each record.

        Args:
            directory: A directory with `<prefix>.jsonl`, `metrics.csv` or TensorBoard event files
                at any depth.
            val_loss: The logged key of the validation loss.
            val_metric: The logged key of the validation metric.
            final_metric: The logged key of the target. The last value of each run is used.
            final_loss: The logged key of the test loss. The last value of each run is used.
            metric_mode: "max" if a higher `val_metric` is better, "min" if a lower one is.
            final_mode: The same for `final_metric`. None uses `metric_mode`.
            train_loss: The logged key to use as L(e) for runs with neither a record nor
                `<prefix>_e1`. It should be the mean of the step losses; this is not checked.
            prefix: The prefix of the monitor.
            block: The block size N, for runs of a monitor with `every_n_train_batches=N`. All
                curves, also `val_loss` and `val_metric`, then have a value for each block. They
                come only from records (`SoTLMonitor(record_metrics=...)`).

        Raises:
            NotADirectoryError: If `directory` is neither a directory nor a record or log of a run.
            ModuleNotFoundError: If all runs have only TensorBoard's event files and `tensorboard`
                is not installed. Beside other runs, they are left out with a warning.
            ValueError: If `directory` holds no run, if no run has L(e), or if no run logs one of
                the given keys. The message lists the logged keys.
        """
        keys = LogKeys(
            val_loss=val_loss,
            val_metric=val_metric,
            final_metric=final_metric,
            final_loss=final_loss,
            train_loss=train_loss,
            prefix=prefix,
            block=None if block is None else validation.positive_int("block", block),
        )
        found = read_arrays(directory, keys)
        for note in found.notes.warnings:
            warnings.warn(visible(note), stacklevel=2)
        return LearningCurves(**found.curves, metric_mode=metric_mode, final_mode=final_mode)

    @staticmethod
    def from_frame(
        frame: DataFrame,
        *,
        run: str = "run",
        epoch: str = "epoch",
        train_loss: str = "train_loss",
        val_loss: str | None = None,
        val_metric: str | None = None,
        final_metric: str | None = None,
        final_loss: str | None = None,
        metric_mode: Mode = "max",
        final_mode: Mode | None = None,
        first_epoch: int = 0,
    ) -> LearningCurves:
        """Read a pandas DataFrame with a row for each run and epoch (extra `frames`).

        Rows may be in any order. Several rows of a run and epoch are merged, for example if each
        has the value of one column; two different values in a column are an error. Numbers may
        be text. NaN, None and empty text are missing values, so a loss that diverged has to be
        `inf`. A warning names runs without a loss in an epoch before their last, and values
        after the last epoch with a training loss, which are left out.

        Args:
            frame: The table. `run` and `epoch` may also be levels of its index.
            run: The column of the run's name.
            epoch: The column of the epoch, e = 0, 1, ...
            train_loss: The column of L(e), the mean training loss of epoch e.
            val_loss: The column of the validation loss. None for none.
            val_metric: The column of the validation metric. None for none.
            final_metric: The column of the target, which has one value per run, in all of its
                rows or in some. None for none.
            final_loss: The column of the test loss, likewise. None for none.
            metric_mode: "max" if a higher `val_metric` is better, "min" if a lower one is.
            final_mode: The same for `final_metric`. None uses the mode that `to_frame` stored, or
                else `metric_mode`.
            first_epoch: The number of the first epoch in `epoch`, 0 or 1.

        Raises:
            ModuleNotFoundError: If pandas is not installed.
            TypeError: If `frame` is not a pandas DataFrame.
            ValueError: If a column does not exist or exists twice; if there is no row or no
                training loss; if a row has no run, or has a value but no epoch; if a value is not
                a number, or an epoch not a whole number from `first_epoch` on; if the smallest
                epoch is 1 and `first_epoch` is 0; if a run has different values for an epoch, or
                different final values; if a mode is not the one that `to_frame` stored; or if the
                table would hold more than 50 million losses.

        Examples:
            >>> import pandas as pd
            >>> frame = pd.DataFrame(
            ...     {"run": ["a", "a", "b"], "epoch": [0, 1, 0], "train_loss": [2.0, 1.0, 3.0]}
            ... )
            >>> LearningCurves.from_frame(frame).train_loss.tolist()
            [[2.0, 1.0], [3.0, nan]]
        """
        columns = frames.TableColumns(
            run=run,
            epoch=epoch,
            train_loss=train_loss,
            val_loss=val_loss,
            val_metric=val_metric,
            final_metric=final_metric,
            final_loss=final_loss,
            first_epoch=first_epoch,
        )
        arrays = frames.read_frame(frame, columns)
        for note in arrays.notes:
            warnings.warn(visible(note), stacklevel=2)
        return LearningCurves(**arrays.arguments(metric_mode, final_mode))

    def to_frame(self) -> DataFrame:
        """Return a pandas DataFrame with a row for each run and epoch (extra `frames`).

        Its columns are `run`, `epoch`, and the curves and final values that the table has; a
        final value is repeated in all rows of its run. A run has rows up to its last epoch with a
        value. `DataFrame.attrs` keeps the two modes, and so does Parquet, but not CSV. `from_frame`
        reads all columns of the frame without naming them, and refuses another mode than the stored
        one.

        `features`, `epoch_seconds` and `checkpoints` are left out, because they have no column in
        `from_frame`. `save` keeps them.

        Raises:
            ModuleNotFoundError: If pandas is not installed.

        Examples:
            >>> curves = LearningCurves([[2.0, 1.0], [3.0, float("nan")]], run_ids=["a", "b"])
            >>> print(curves.to_frame())
              run  epoch  train_loss
            0   a      0         2.0
            1   a      1         1.0
            2   b      0         3.0
        """
        return frames.write_frame({name: getattr(self, name) for name in _FIELDS})

    def _keep(self, name: str, shape: tuple[int, ...]) -> None:
        values = _numbers(name, getattr(self, name))
        if name == "features":
            fits, wanted = values.ndim == 2 and values.shape[:1] == shape, f"({shape[0]}, n)"
        else:
            fits, wanted = values.shape == shape, f"{shape}"
        if not fits:
            raise ValueError(
                f"Expected `{name}` to have the shape {wanted}, to match `train_loss`, but got "
                f"{values.shape}."
            )
        object.__setattr__(self, name, values)


_FIELDS = tuple(field.name for field in dataclasses.fields(LearningCurves))


def count_epochs(curves: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the number of epochs up to the last value of each curve; 0 without any value.

    Args:
        curves: Shape `(runs, epochs)`, NaN where there is no value.

    Examples:
        >>> count_epochs(np.array([[2.0, 1.0, np.nan], [np.nan, np.nan, np.nan]])).tolist()
        [2, 0]
    """
    present = ~np.isnan(curves)
    last = curves.shape[1] - np.argmax(present[:, ::-1], axis=1)
    return np.where(present.any(axis=1), last, 0).astype(np.int64)


def _numbers(name: str, values: object) -> NDArray[np.float64]:
    try:
        given = np.asarray(values)
    except ValueError:  # rows of different lengths
        raise ValueError(f"Expected `{name}` to have rows of equal length.") from None
    if given.dtype.kind not in "fiu":
        raise TypeError(f"Expected `{name}` to hold numbers but got the dtype {given.dtype}.")
    copy = np.array(given, dtype=np.float64)
    copy.setflags(write=False)
    return copy


def _run_ids(names: tuple[str, ...], runs: int) -> tuple[str, ...]:
    if len(names) != runs:
        raise ValueError(
            f"Expected `run_ids` to have {runs} entries, one per run, but got {len(names)}."
        )
    names = tuple(map(str, names))
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if repeated:
        raise ValueError(f"Expected `run_ids` to be unique but got repeated {quote_all(repeated)}.")
    return names
