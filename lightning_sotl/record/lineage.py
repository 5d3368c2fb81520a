"""The runs in the sessions of records: the branches of a tree of forks.

Runs that resume from one checkpoint share its `run_id`. The units of all their sessions form a
tree, in which a session is a stretch of units behind the place that it resumed from.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_sotl.record.format import header_time
from lightning_sotl.record.session import Session

_ENDS = ("stopped", "finished", "paused")
_STOPS = ("stop_epoch_reached", "stop_batches_reached")
# After these a stopper saves a checkpoint.
_SAVED_STOPS = (*_STOPS, "policy", "non_finite_estimate")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


@dataclass
class RecordedRun:
    """The newest state of one run, over all processes that trained it.

    Attributes:
        run_id: The run; forks of one run share it.
        begun: When it began, or branched off from an older fork.
        place: Its first session's place among those with the same `run_id` in the same folder,
            from 1 on.
        folders: The folders of its own records, the oldest first.
        inherited: The folders that hold its beginning and belong to another fork, and how many
            units of it each of them has.
        sessions: The times in the headers of its own sessions.
        facts: The newest header.
        losses: e -> L(e), `+inf` where it was not finite.
        checkpoints: e -> the checkpoint saved after it.
        metrics: e -> the recorded metrics of that epoch, by name.
        checkpoint_facts: The header of the process that trained the newest of them.
        status: The newest status line; empty while the run is being trained.
        stopped_at: T at which a stopper first ended it, or None.
        ends: Each T at which a process stopped, paused or finished the run.
        contradicted: Folders whose losses a newer session in another folder replaced.
    """

    run_id: str
    begun: float = -math.inf
    place: int = 1
    folders: list[Path] = field(default_factory=list)
    inherited: dict[Path, int] = field(default_factory=dict)
    sessions: set[float] = field(default_factory=set)
    facts: dict[str, Any] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    checkpoint_facts: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    stopped_at: int | None = None
    ends: set[int] = field(default_factory=set)
    contradicted: list[Path] = field(default_factory=list)

    @property
    def unit(self) -> object:
        """The unit of its losses: "epoch", or the number of batches in a block."""
        return self.facts.get("unit", "epoch")

    @property
    def has_ended(self) -> bool:
        """Whether it ended by itself: False in training, after a kill and after an exception."""
        return self.status.get("status") in _ENDS


class _Unit:
    """A unit with its loss, behind those that were trained before it."""

    __slots__ = ("before", "depth", "jump", "loss", "of", "tip_of", "unit")

    def __init__(self, unit: int, loss: float, before: _Unit | None, of: _Part | None) -> None:
        self.unit, self.loss, self.of = unit, loss, of  # the part that trained it
        self.before = before or self
        self.tip_of: _Part | None = None  # the newest part that ends here
        # Jumps back to distant units, so that `below` takes logarithmic time: ten thousand
        # sessions may each drop the last of many units.
        self.depth, self.jump = 0, self
        if before is not None:
            self.depth, far = before.depth + 1, before.jump
            even = before.depth - far.depth == far.depth - far.jump.depth
            self.jump = far.jump if even else before

    def below(self, unit: int) -> _Unit:
        """Return the newest unit before `unit` on the path to this one."""
        here = self
        while here.unit >= unit:
            here = here.jump if here.jump.unit >= unit else here.before
        return here

    def has(self, unit: int, loss: float) -> bool:
        """Return whether `unit` was trained with this loss on the path to this one."""
        there = self.below(unit + 1)
        return there.unit == unit and there.loss == loss

    def path(self) -> Iterator[_Unit]:
        """Yield this unit and those before it, the newest first."""
        here = self
        while here.depth:
            yield here
            here = here.before


class _Part:
    """A session in the tree, with its copies in other folders.

    Attributes:
        start: How many units were complete in what it resumed from.
        parent: The part that it resumed from, or None.
        tip: Its newest unit.
        absorbed: Sessions that resumed from it and added nothing.
        into: The part that has absorbed it, or None.
        next: The oldest part that resumed from its end, or None.
    """

    def __init__(self, copies: Sequence[Session], root: _Unit) -> None:
        first = copies[0]
        self.begun, self.time = first.begun, header_time(first.facts)
        self.folders = [copy.folder for copy in copies]
        self.place = 1
        fullest = max(copies, key=lambda copy: (len(copy.losses), bool(copy.status)))
        self.facts, self.status = fullest.facts, fullest.status
        self.alive = max(copy.alive for copy in copies)
        self.losses = {unit: loss for copy in copies for unit, loss in copy.losses.items()}
        self.checkpoints = {unit: at for copy in copies for unit, at in copy.checkpoints.items()}
        self.metrics = {unit: found for copy in copies for unit, found in copy.metrics.items()}
        self.start, self.tip = 0, root
        self.parent: _Part | None = None
        self.absorbed: list[_Part] = []
        self.into: _Part | None = None
        self.next: _Part | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it ended by itself, and not because it had ended before."""
        return self.status.get("status") in _ENDS and self.status.get("reason") != "already_stopped"

    @property
    def units(self) -> int:
        """How many units are complete at its end."""
        return self.tip.unit + 1

    @property
    def left_no_checkpoint(self) -> bool:
        """Whether it was killed between its stop and the save of the stop's checkpoint."""
        reason = str(self.status.get("reason", ""))
        return reason in _SAVED_STOPS and self.tip.unit not in self.checkpoints

    def absorb(self, other: _Part) -> None:
        """Take over what a session that added nothing wrote."""
        other.into = self
        self.absorbed += [other, *other.absorbed]
        if other.start >= self.units:
            if other.has_ended or self.status.get("status") not in _ENDS:
                self.status = other.status
            if not self.tip.depth:
                self.facts = other.facts
        saved = {
            unit: path
            for unit, path in other.checkpoints.items()
            if self.tip.has(unit, other.losses[unit])
        }
        # One that had ended before names the checkpoint that it resumed from, whichever that was.
        self.checkpoints = (
            {**self.checkpoints, **saved} if other.has_ended else {**saved, **self.checkpoints}
        )
        self.metrics |= {
            unit: found
            for unit, found in other.metrics.items()
            if self.tip.has(unit, other.losses[unit])
        }


class _Tree:
    """The sessions that share a `run_id`."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._root = _Unit(-1, math.nan, None, None)
        self._units: dict[tuple[_Unit, int, float], _Unit] = {}  # by the one before
        self._parts: list[_Part] = []  # those that added units, the oldest first
        self._newest: _Part | None = None
        self._by_time: dict[float, _Part] = {}
        # Folder -> the newest unit that its record leads to so far. A session in the same file does
        # not repeat older units.
        self._written: dict[Path, _Unit] = {}
        self._places: dict[Path, int] = {}

    def add(self, copies: Sequence[Session]) -> None:
        """Add a session that is newer than all others."""
        part = _Part(copies, self._root)
        folder = part.folders[0]
        known = self._by_time.get(_number(part.facts.get("parent")))
        units = part.facts.get("parent_units")
        if known is not None and type(units) is int and units >= 0:
            base = known.tip.below(units)
            is_new = self._extend(part, base)
            part.parent, part.start = _at(known, units), units
        else:
            is_new = self._extend(part, self._base(part, folder))
            if is_new:
                part.parent, part.start = self._origin(part)
            else:
                self._place_repeat(part)
        self._note_written(part)
        for each in part.folders:
            self._places[each] = self._places.get(each, 0) + 1
        part.place = self._places[folder]
        if math.isfinite(part.time):
            self._by_time[part.time] = part
        adds_nothing = not is_new and (not part.has_ended or part.start >= part.units)
        if part.parent is not None and adds_nothing:
            part.parent.absorb(part)
            return
        self._parts.append(part)
        self._newest, part.tip.tip_of = part, part
        if part.parent is not None and part.start >= part.parent.units:
            part.parent.next = part.parent.next or part

    def _base(self, part: _Part, folder: Path) -> _Unit:
        """Return the unit behind which the lines of an older version's session belong."""
        if folder in self._written:
            before = self._written[folder]
        elif self._newest is not None and min(part.losses, default=1) > 0:
            before = self._newest.tip
        else:  # in another folder it repeats the units that it resumed from
            return self._root
        return before.below(min(part.losses, default=before.unit + 1))

    def _extend(self, part: _Part, base: _Unit) -> bool:
        """Put the units of a part behind `base`; return whether one of them is new."""
        tip, is_new = base, False
        for unit, loss in sorted(part.losses.items()):
            if unit <= tip.unit and tip.has(unit, loss):
                continue
            units = len(self._units)
            tip = self._unit_after(tip, unit, loss, part)
            is_new |= len(self._units) > units
        part.tip = tip
        return is_new

    def _unit_after(self, tip: _Unit, unit: int, loss: float, part: _Part) -> _Unit:
        """Return a unit behind those before it on the path to `tip`."""
        before = tip.below(unit)
        known = self._units.get((before, unit, loss))
        if known is None:
            known = self._units[before, unit, loss] = _Unit(unit, loss, before, part)
        return known

    def _origin(self, part: _Part) -> tuple[_Part | None, int]:
        """Return what an older version's session resumed from: the newest unit of another."""
        unit = part.tip
        while unit.of is part:
            unit = unit.before
        owner = unit.tip_of or unit.of
        return (None, 0) if owner is None else (_resolved(owner), unit.unit + 1)

    def _place_repeat(self, part: _Part) -> None:
        """Place an older version's session that has only known units.

        It trained none, or the same ones once more; if it ended by itself, it trained some. If the
        session with the same last unit had finished, this one was trained beside it.
        """
        twin, owner = part.tip.tip_of, part.tip.of
        if twin is None:
            twin = self._newest if owner is None else _resolved(owner)
        if twin is None:
            return
        statuses = [each.status.get("status") for each in (twin, part)]
        has_resumed = twin.tip is part.tip and (
            statuses[0] not in _ENDS or (statuses[0] != "finished" and statuses[1] == "finished")
        )
        is_copy = part.begun == twin.begun  # without times in the headers
        if not (part.has_ended and part.losses) or has_resumed or is_copy:
            part.parent, part.start = twin, part.units
        else:
            part.parent, part.start = twin.parent, twin.start

    def _note_written(self, part: _Part) -> None:
        for folder in part.folders:
            written = self._written.get(folder)
            if written is None:
                written = part.tip
            else:
                for unit, loss in sorted(part.losses.items()):
                    if not written.has(unit, loss):
                        written = self._unit_after(written, unit, loss, part)
            self._written[folder] = written

    def runs(self) -> list[RecordedRun]:
        """Return the runs, the oldest first."""
        ends = self._ends()
        members: dict[_Part, list[_Part]] = {}
        for part in self._parts:
            members.setdefault(ends[part], []).append(part)
        return [self._run(last, parts, ends) for last, parts in members.items()]

    def _ends(self) -> dict[_Part, _Part]:
        """Return part -> the last part of its run.

        A part that broke off is of the same run as the next one with the same parameters that
        began after it. Of the parts that resumed from one end, the oldest is of its run.
        """
        alike: dict[str, list[_Part]] = {}
        for part in self._parts:
            alike.setdefault(_parameters(part.facts), []).append(part)
        later: dict[_Part, _Part] = {}
        for parts in alike.values():
            begun = [part.begun for part in parts]
            for place, part in enumerate(parts, 1):
                # Without times in the headers, the order is that of the lines.
                after = place if part.alive == part.begun else bisect_right(begun, part.alive)
                if after < len(parts):
                    later[part] = parts[after]
        ends: dict[_Part, _Part] = {}
        for part in reversed(self._parts):
            following = part.next
            if following is None and part in later:
                newer = later[part]
                following = newer if not part.has_ended or _repeats(newer, part) else None
            ends[part] = part if following is None else ends[following]
        return ends

    def _run(self, last: _Part, own: list[_Part], ends: Mapping[_Part, _Part]) -> RecordedRun:
        run = RecordedRun(self._run_id, own[0].begun, own[0].place)
        run.facts, run.status = last.facts, last.status
        all_own = [each for part in own for each in (part, *part.absorbed)]
        all_own.sort(key=lambda part: part.begun)
        run.folders = list(dict.fromkeys(folder for part in all_own for folder in part.folders))
        run.sessions = {part.time for part in all_own}
        line = [last]
        while line[-1].parent is not None:
            line.append(line[-1].parent)
        line.reverse()
        for number, part in enumerate(line):
            end = line[number + 1].start if number + 1 < len(line) else math.inf
            self._add_part(run, part, end)
            if ends[part] is not last:
                for folder in part.folders:
                    run.inherited[folder] = int(end)
        run.losses = {unit.unit: unit.loss for unit in reversed(list(last.tip.path()))}
        replaced = [part for part in own if not last.tip.has(part.tip.unit, part.tip.loss)]
        folders = dict.fromkeys(folder for part in replaced for folder in part.folders)
        run.contradicted = [folder for folder in folders if folder not in last.folders]
        return run

    def _add_part(self, run: RecordedRun, part: _Part, end: float) -> None:
        """Add what is known of a part up to the unit from which the next one resumed."""
        saved = {unit: path for unit, path in part.checkpoints.items() if unit < end}
        if not saved.items() <= run.checkpoints.items():
            run.checkpoint_facts = part.facts
        run.checkpoints |= saved
        run.metrics |= {unit: found for unit, found in part.metrics.items() if unit < end}
        if not part.tip.depth or part.units > end:
            return
        if part.status.get("status") in _ENDS:
            run.ends.add(part.units)
        reasons = [each.status.get("reason") for each in (part, *part.absorbed)]
        if run.stopped_at is None and any(str(reason) in _STOPS for reason in reasons):
            run.stopped_at = part.units


def merge_sessions(sessions: Iterable[Session]) -> list[RecordedRun]:
    """Return the runs of all sessions, in the order in which they began.

    Runs that resumed from one checkpoint share their `run_id` and are forks, each with the units
    that it has from the others. Two continuations of a checkpoint are two runs if both ended by
    themselves or if their parameters differ. If one broke off, and another with the same
    parameters began after that, both are one run with the losses of the newer: those of the older
    belong to a run that was rewound.

    Sessions of older versions do not name what they resumed from. Their place in the tree is
    inferred: in another folder they repeat the units that they resumed from, in the same file they
    write only what it does not have.

    Examples:
        >>> first = Session("a", Path("v0"), {}, begun=1.0, losses={0: 3.0, 1: 2.0, 2: 1.0})
        >>> resumed = Session("a", Path("v1"), {}, begun=2.0, losses={1: 2.5})
        >>> [run.losses for run in merge_sessions([resumed, first])]
        [{0: 3.0, 1: 2.5}]
    """
    groups: dict[str, dict[object, list[Session]]] = {}
    for session in sorted(sessions, key=lambda entry: entry.begun):
        time = header_time(session.facts)
        key: object = time if math.isfinite(time) else object()  # equal times are of copies
        groups.setdefault(session.run_id, {}).setdefault(key, []).append(session)
    runs: list[RecordedRun] = []
    for run_id, parts in groups.items():
        tree = _Tree(run_id)
        for copies in parts.values():
            tree.add(copies)
        runs += tree.runs()
    return sorted(runs, key=lambda run: run.begun)


def _at(part: _Part, units: int) -> _Part:
    """Return the part on the path to `part` that trained the last of some units."""
    part = _resolved(part)
    while part.parent is not None and part.start >= units:
        part = part.parent
    return part


def _resolved(part: _Part) -> _Part:
    while part.into is not None:
        part = part.into
    return part


def _repeats(newer: _Part, older: _Part) -> bool:
    """Return whether a stop that left no checkpoint was trained once more."""
    return older.left_no_checkpoint and newer.tip.has(older.tip.unit, older.tip.loss)


def _parameters(facts: Mapping[str, Any]) -> str:
    """Return the parameters in a header, without what differs from process to process."""
    text = json.dumps([facts.get("hparams"), facts.get("params")], sort_keys=True)
    return _ADDRESS.sub("at 0x", text)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e18 else math.nan
