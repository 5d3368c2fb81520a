"""Learning curves from and to tables with a row for each run and epoch.

The columns of a table are read as plain arrays first, so that a CSV file needs no pandas and
follows the same rules as a data frame.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_sotl._utils.extras import require
from lightning_sotl._utils.text import pluralize, quote_all, quote_few, quoted
from lightning_sotl.curves._log_values import check_table_size
from lightning_sotl.stats.ranks import Mode

if TYPE_CHECKING:
    from pandas import DataFrame

CURVES = ("train_loss", "val_loss", "val_metric")
FINALS = ("final_metric", "final_loss")
# The entry of `DataFrame.attrs` that marks a frame of `write_frame` and holds its two modes.
MARK = "lightning_sotl"
_MODE_OF = {"metric_mode": "val_metric", "final_mode": "final_metric"}
# How pandas, R and others write a missing number as text.
_MISSING = frozenset(("", "nan", "na", "n/a", "<na>", "none", "null"))


@dataclass(frozen=True)
class TableColumns:
    """The columns to read.

    Attributes:
        run: The column of the run's name.
        epoch: The column of the epoch's number.
        train_loss: The column of L(e).
        val_loss: The column of the validation loss, or None.
        val_metric: The column of the validation metric, or None.
        final_metric: The column of the target, or None.
        final_loss: The column of the final test loss, or None.
        others: The columns of other curves.
        first_epoch: The number of the first epoch, 0 or 1.
    """

    run: str = "run"
    epoch: str = "epoch"
    train_loss: str = "train_loss"
    val_loss: str | None = None
    val_metric: str | None = None
    final_metric: str | None = None
    final_loss: str | None = None
    others: tuple[str, ...] = ()
    first_epoch: int = 0

    def __post_init__(self) -> None:
        for name in ("run", "epoch", "train_loss"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(
                    f"Expected `{name}` to be the name of a column but got {getattr(self, name)!r}."
                )
        if type(self.first_epoch) is not int or self.first_epoch not in (0, 1):
            raise ValueError(f"Expected `first_epoch` to be 0 or 1 but got {self.first_epoch!r}.")

    def given(self, fields: Sequence[str]) -> dict[str, str]:
        """Return field -> its column, for those of the fields that have one."""
        return {field: name for field in fields if (name := getattr(self, field)) is not None}

    @property
    def curves(self) -> list[str]:
        """The columns with a value for each epoch."""
        return list(dict.fromkeys([*self.given(CURVES).values(), *self.others]))

    @property
    def numbers(self) -> list[str]:
        """All columns but the run's, each once."""
        return list(dict.fromkeys([self.epoch, *self.curves, *self.given(FINALS).values()]))

    @property
    def all(self) -> list[str]:
        """All columns, each once."""
        return list(dict.fromkeys([self.run, *self.numbers]))


@dataclass(frozen=True)
class Cells:
    """The cells of a table.

    Attributes:
        label: The table's name in messages.
        columns: Column -> its cells: floats with NaN for a missing one, or objects with None.
        row_name: Returns a row's name in messages, given its number.
    """

    label: str
    columns: Mapping[str, NDArray[Any]]
    row_name: Callable[[int], str]


@dataclass(frozen=True)
class TableArrays:
    """The content of a table.

    Attributes:
        curves: The arguments of `LearningCurves`, without the two modes.
        others: Column -> its value after each epoch, shape `(runs, epochs)`.
        notes: Sentences on missing losses and on values that were left out.
        modes: The modes that `write_frame` stored for the columns that were read.
    """

    curves: dict[str, Any]
    others: dict[str, NDArray[np.float64]]
    notes: list[str]
    modes: dict[str, Any] = field(default_factory=dict)

    def arguments(self, metric_mode: Mode | None, final_mode: Mode | None) -> dict[str, Any]:
        """Return the arguments of `LearningCurves`; a stored mode replaces one that is None.

        Raises:
            ValueError: If a mode is not the stored one.
        """
        given = {"metric_mode": metric_mode, "final_mode": final_mode}
        for name, stored in self.modes.items():
            if given[name] not in (None, stored):
                raise ValueError(
                    f"Expected `{name}` to be {stored!r}, as `to_frame` stored it in the table, "
                    f"but got {given[name]!r}."
                )
        modes = {**given, **self.modes}
        if modes["metric_mode"] is None:
            modes["metric_mode"] = "max"
        return {**self.curves, **modes}


def read_frame(frame: object, columns: TableColumns, *, label: str = "`frame`") -> TableArrays:
    """Return the arrays of a data frame.

    Of a frame that `write_frame` made, all curves and final values are read, also those that
    `columns` does not name.

    Raises:
        ModuleNotFoundError: If pandas is not installed.
        TypeError: If `frame` is not a pandas DataFrame.
        ValueError: If a column is missing or repeated, or for the reasons of `read_cells`.
    """
    pandas = require("pandas", extra="frames", purpose="read a data frame")
    if not isinstance(frame, pandas.DataFrame):
        hint = "; its method `to_pandas` returns one" if hasattr(frame, "to_pandas") else ""
        raise TypeError(
            f"Expected `frame` to be a pandas DataFrame but got {type(frame).__name__}{hint}."
        )
    named = frame.columns.tolist()
    levels = [name for name in frame.index.names if name is not None and name not in named]
    stored = frame.attrs.get(MARK)
    is_own = isinstance(stored, dict)
    if is_own:
        unnamed = [name for name in (*CURVES, *FINALS) if getattr(columns, name) is None]
        found: dict[str, Any] = {name: name for name in unnamed if name in named}
        columns = replace(columns, **found)
    check_columns(columns.all, [*named, *levels], label)

    def series(name: str) -> Any:
        return pandas.Series(frame.index.get_level_values(name)) if name in levels else frame[name]

    cells = {name: _numeric_cells(series(name), pandas) for name in columns.numbers}
    cells[columns.run] = _object_cells(series(columns.run), pandas)
    table = Cells(label, cells, row_name=lambda row: f"row {row}")
    arrays = read_cells(table, columns, is_own=is_own)
    if not is_own:
        return arrays
    # A mode belongs to the stored column, not to one that was added later.
    modes = {
        mode: stored[mode]
        for mode, name in _MODE_OF.items()
        if mode in stored and getattr(columns, name) == name
    }
    return replace(arrays, modes=modes)


def check_columns(wanted: Sequence[str], available: Sequence[str], label: str) -> None:
    """Raise if a wanted column is missing or repeated.

    Raises:
        ValueError: In either case.
    """
    known = set(available)
    if missing := [name for name in wanted if name not in known]:
        raise ValueError(
            f"Expected {label} to have the columns {quote_all(missing)} but it has "
            f"{quote_all(available)}."
        )
    for name in wanted:
        if (times := available.count(name)) > 1:
            raise ValueError(f"Expected {label} to have one column {quoted(name)} but got {times}.")


def read_cells(cells: Cells, columns: TableColumns, *, is_own: bool = False) -> TableArrays:
    """Return the arrays of a table.

    Args:
        cells: The cells of all columns that are read.
        columns: The names of the columns.
        is_own: Whether `write_frame` made the table, which then keeps epochs without a value.

    Raises:
        ValueError: If there is no row; if a run, or the epoch of a value, is missing; if a value
            is not a number; if an epoch is not a whole number or is below `first_epoch`; if the
            smallest epoch is 1 and `first_epoch` is 0; if a run has different values in an epoch,
            or different final values; if there is no training loss; or if the table is too large.
    """
    table = _Table(cells, columns)
    rows = table.rows(with_empty=is_own)
    places = (table.runs[rows], table.epochs(rows))
    tables = {name: table.curve(name, rows, places) for name in columns.curves}
    losses = tables[columns.train_loss]
    missing = np.isnan(losses)
    if is_own:  # a loss that its row lacks was missing before
        missing[places] = False
    notes = table.gap_notes(losses, missing)
    if not is_own:
        has_loss = ~np.isnan(losses).all(axis=0)
        if not has_loss.any():
            raise ValueError(
                f"Expected column {quoted(columns.train_loss)} of {cells.label} to have a number "
                "but it has none."
            )
        end = int(np.flatnonzero(has_loss)[-1]) + 1
        notes += table.late_notes(tables, end)
        tables = {name: curves[:, :end] for name, curves in tables.items()}
    arrays = {
        **{argument: tables[name] for argument, name in columns.given(CURVES).items()},
        **{argument: table.constants(name) for argument, name in columns.given(FINALS).items()},
        "run_ids": tuple(table.names),
    }
    return TableArrays(arrays, {name: tables[name] for name in columns.others}, notes)


def write_frame(fields: Mapping[str, Any]) -> DataFrame:
    """Return a data frame of those fields of `LearningCurves` that `read_frame` can read.

    Each run has rows up to its last epoch with a value. If no run has a value in the last epoch of
    the table, one run has rows up to there, so that `read_frame` finds the number of epochs.

    Raises:
        ModuleNotFoundError: If pandas is not installed.
    """
    pandas = require("pandas", extra="frames", purpose="make a data frame")
    given = {name: fields[name] for name in (*CURVES, *FINALS) if fields[name] is not None}
    present = np.any([~np.isnan(given[name]) for name in CURVES if name in given], axis=0)
    epochs = present.shape[1]
    lengths = np.where(present.any(axis=1), epochs - np.argmax(present[:, ::-1], axis=1), 1)
    lengths[np.argmax(lengths)] = epochs
    runs, places = np.nonzero(np.arange(epochs) < lengths[:, None])
    # The text type of pandas refuses characters that a folder's name may have.
    names = np.array(fields["run_ids"], dtype=object)[runs]
    data = {"run": pandas.Series(names, dtype=object), "epoch": places}
    for name, values in given.items():
        data[name] = values[runs, places] if name in CURVES else values[runs]
    frame: DataFrame = pandas.DataFrame(data)
    frame.attrs[MARK] = {mode: fields[mode] for mode, name in _MODE_OF.items() if name in given}
    return frame


def _numeric_cells(series: Any, pandas: Any) -> NDArray[Any]:
    """Return a column of a data frame as floats, or as objects if it is not numeric."""
    kinds = pandas.api.types
    if not (kinds.is_float_dtype(series.dtype) or kinds.is_integer_dtype(series.dtype)):
        return _object_cells(series, pandas)
    floats: NDArray[Any] = series.to_numpy(dtype=np.float64, na_value=np.nan)
    return floats


def _object_cells(series: Any, pandas: Any) -> NDArray[Any]:
    """Return a column of a data frame as objects, None where a cell is missing."""
    objects: NDArray[Any]
    if isinstance(series.dtype, pandas.CategoricalDtype):
        # pandas itself would copy the text of a category into each of its cells.
        categories = [*series.cat.categories.to_numpy(dtype=object), None]
        objects = np.array(categories, dtype=object)[series.cat.codes.to_numpy()]
    else:
        objects = np.array(series.to_numpy(dtype=object), dtype=object)
        objects[series.isna().to_numpy(dtype=bool)] = None
    return objects


class _Table:
    """A table with the run and the numbers of each row.

    Args:
        cells: The cells.
        columns: The names of the columns.

    Attributes:
        names: The runs in order of appearance.
        runs: The run of each row, as an index of `names`.
        numbers: Column -> the number in each row, NaN if it is missing.
    """

    def __init__(self, cells: Cells, columns: TableColumns) -> None:
        self._cells, self._columns = cells, columns
        texts = list(map(str, self._present_runs()))
        places = {name: place for place, name in enumerate(dict.fromkeys(texts))}
        self.names = list(places)
        self.runs = np.array([places[text] for text in texts], dtype=np.int64)
        self.numbers = {name: self._read_numbers(name) for name in columns.numbers}

    def rows(self, *, with_empty: bool) -> NDArray[np.int64]:
        """Return the numbers of the rows with a value of a curve, or also of those without."""
        has_value = np.any([~np.isnan(self.numbers[name]) for name in self._columns.curves], axis=0)
        if with_empty:
            has_value |= ~np.isnan(self.numbers[self._columns.epoch])
        return np.flatnonzero(has_value)

    def epochs(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the epoch of each of the rows, counted from 0."""
        first, numbers = self._columns.first_epoch, self.numbers[self._columns.epoch]
        column = f"column {quoted(self._columns.epoch)} of {self._cells.label}"
        missing = np.isnan(numbers[rows])
        if missing.any():
            row = int(rows[np.argmax(missing)])
            name = next(key for key in self._columns.curves if not np.isnan(self.numbers[key][row]))
            raise ValueError(
                f"Expected {column} to have the epoch of each value but run {self._run(row)} has "
                f"none in {self._cells.row_name(row)}, where {quoted(name)} is "
                f"{self.numbers[name][row]}."
            )
        is_epoch = np.isfinite(numbers) & (numbers == np.floor(numbers)) & (numbers >= 0)
        wrong = ~(is_epoch[rows] & (numbers[rows] >= first))
        if wrong.any():
            row = int(rows[np.argmax(wrong)])
            raise ValueError(
                f"Expected {column} to have whole numbers from {first} on but run "
                f"{self._run(row)} has {_plain(numbers[row])} in {self._cells.row_name(row)}."
            )
        if first == 0 and numbers[is_epoch].min(initial=np.inf) == 1:
            raise ValueError(
                f"Expected {column} to count from 0 but the smallest epoch is 1; `first_epoch=1` "
                "(--first-epoch 1) reads epochs that count from 1."
            )
        if not rows.size:
            return rows
        last = int(rows[np.argmax(numbers[rows])])
        epochs = int(numbers[last]) - first + 1  # a Python integer, since it may be huge
        name = self.names[self.runs[last]]
        check_table_size(self._cells.label[1:-1], len(self.names), epochs, name)
        return numbers[rows].astype(np.int64) - first

    def curve(
        self, column: str, rows: NDArray[np.int64], places: tuple[NDArray[np.int64], ...]
    ) -> NDArray[np.float64]:
        """Return a column as an array of shape `(runs, epochs)`, NaN where it has no value.

        Args:
            column: The column.
            rows: The rows that count.
            places: The run and the epoch of each of these rows.

        Raises:
            ValueError: If a run has different values in an epoch.
        """
        values = self.numbers[column][rows]
        present = ~np.isnan(values)
        shape = (len(self.names), int(places[1].max(initial=0)) + 1)
        curves, differ = _spread(shape, tuple(place[present] for place in places), values[present])
        if differ is not None:
            row = int(rows[present][differ])
            epoch = int(places[1][present][differ])
            raise ValueError(
                f"Expected one value of {quoted(column)} for each run and epoch of "
                f"{self._cells.label} but run {self._run(row)} has {values[present][differ]} and "
                f"{curves[self.runs[row], epoch]} in epoch {epoch + self._columns.first_epoch}."
            )
        return curves

    def constants(self, column: str) -> NDArray[np.float64]:
        """Return the only value that each run has in a column, NaN without one, shape `(runs,)`.

        Raises:
            ValueError: If a run has different values.
        """
        rows = np.flatnonzero(~np.isnan(self.numbers[column]))
        values = self.numbers[column][rows]
        constants, differ = _spread((len(self.names),), (self.runs[rows],), values)
        if differ is not None:
            raise ValueError(
                f"Expected one value of {quoted(column)} for each run of {self._cells.label} but "
                f"run {self._run(rows[differ])} has {values[differ]} and "
                f"{constants[self.runs[rows[differ]]]}."
            )
        return constants

    def gap_notes(self, losses: NDArray[np.float64], missing: NDArray[np.bool_]) -> list[str]:
        """Return which runs miss losses before their last one."""
        later = np.logical_or.accumulate(~np.isnan(losses[:, ::-1]), axis=1)[:, ::-1]
        gaps = missing & later
        runs = np.flatnonzero(gaps.any(axis=1))
        if not runs.size:
            return []
        names = [self.names[run] for run in runs]
        epoch = int(np.argmax(gaps[runs[0]])) + self._columns.first_epoch
        return [
            f"{pluralize(len(names), 'run')} without {quoted(self._columns.train_loss)} in some "
            f"epochs before the last, such as epoch {epoch} of {quoted(names[0])}; estimates that "
            f"need those epochs put them last: {quote_few(names)}."
        ]

    def late_notes(self, tables: Mapping[str, NDArray[np.float64]], end: int) -> list[str]:
        """Return which values are in epochs from `end` on, which have no training loss."""
        notes = []
        for column, table in tables.items():
            runs = np.flatnonzero(~np.isnan(table[:, end:]).all(axis=1))
            if runs.size:
                notes.append(
                    f"Left out {quoted(column)} of {pluralize(runs.size, 'run')} after epoch "
                    f"{end - 1 + self._columns.first_epoch}, the last with "
                    f"{quoted(self._columns.train_loss)}: "
                    f"{quote_few([self.names[run] for run in runs])}."
                )
        return notes

    def _present_runs(self) -> list[Any]:
        values: list[Any] = self._cells.columns[self._columns.run].tolist()
        if not values:
            raise ValueError(f"Expected {self._cells.label} to have at least one row.")
        for row, value in enumerate(values):
            if value is None:
                raise ValueError(
                    f"Expected a run in each row of column {quoted(self._columns.run)} of "
                    f"{self._cells.label} but {self._cells.row_name(row)} has none."
                )
        return values

    def _read_numbers(self, column: str) -> NDArray[np.float64]:
        values = self._cells.columns[column]
        if values.dtype == np.float64:
            return values
        cells = values.tolist()
        plain = set(map(type, cells)) <= {str, float, int, type(None)}
        if plain and not any("_" in cell for cell in cells if type(cell) is str):
            with contextlib.suppress(ValueError, OverflowError):
                return values.astype(np.float64)  # ten times as fast
        numbers = np.empty(len(values))
        for row, value in enumerate(values.tolist()):
            try:
                numbers[row] = _number(value)
            except (TypeError, ValueError, OverflowError):
                raise ValueError(
                    f"Expected numbers in column {quoted(column)} of {self._cells.label} but run "
                    f"{self._run(row)} has {quoted(value)} in {self._cells.row_name(row)}."
                ) from None
        return numbers

    def _run(self, row: int) -> str:
        return quoted(self.names[self.runs[row]])


def _number(value: Any) -> float:
    """Return a cell as a number, NaN if it is missing.

    Raises:
        TypeError: If the cell is neither a number nor text.
        ValueError: If it is text of something else.
        OverflowError: If it is an integer that no float can hold.

    Examples:
        >>> _number("0.31"), _number("-inf"), _number(" NA "), _number(None)
        (0.31, -inf, nan, nan)
    """
    if value is None:
        return float("nan")
    if isinstance(value, str) and value.strip().lower() in _MISSING:
        return float("nan")
    if isinstance(value, (bool, np.bool_, np.ndarray)):
        raise TypeError
    if isinstance(value, str) and "_" in value:  # Python reads "2_5" as 25
        raise ValueError
    return float(value)


def _plain(number: float) -> str:
    """Return a number without a needless ".0".

    Examples:
        >>> _plain(2.0), _plain(2.5)
        ('2', '2.5')
    """
    return str(int(number)) if number.is_integer() else str(number)


def _spread(
    shape: tuple[int, ...], places: tuple[NDArray[np.int64], ...], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], int | None]:
    """Return an array with values at places, and the first value that its place does not have.

    Several equal values may have the same place.

    Examples:
        >>> _spread((3,), (np.array([0, 0, 2]),), np.array([5.0, 5.0, 6.0]))
        (array([ 5., nan,  6.]), None)
    """
    array = np.full(shape, np.nan)
    array[places] = values
    differ = array[places] != values
    return array, int(np.argmax(differ)) if differ.any() else None
