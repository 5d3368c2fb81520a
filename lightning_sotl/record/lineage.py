"""Finds the runs in the sessions of records: the branches of a tree of forks.

Runs that resumed from the same checkpoint share its `run_id`. The units of all their sessions form
a tree. Each session adds a stretch of units to the unit that it resumed from.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_sotl.record.format import header_time
from lightning_sotl.record.session import Session

_ENDS = ("stopped", "finished", "paused")
_STOPS = ("stop_epoch_reached", "stop_batches_reached")
# The reasons after which a stopper saves a checkpoint.
_SAVED_STOPS = (*_STOPS, "policy", "non_finite_estimate")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


@dataclass
class RecordedRun:
    """The newest state of a run, from all processes that trained it.

    Attributes:
        run_id: The identity of the run. Forks of a run share it.
        begun: When the run began or branched off from an older fork.
        number: The number of its first session among those with the same `run_id` in the same
            folder, from 1.
        folders: The folders of its own records, oldest first.
        inherited: For each folder of another fork that holds the beginning of this run, how many
            units of it the folder has.
        sessions: The times in the headers of its own sessions.
        facts: The newest header.
        losses: e -> L(e), `+inf` where it was not finite.
        checkpoints: e -> the checkpoint saved after epoch e.
        metrics: e -> the recorded metrics of epoch e, by name.
        checkpoint_facts: The header of the process that wrote the newest checkpoint.
        status: The newest status line. Empty while the run is training.
        stopped_at: T at which a stopper first ended the run, or None.
        ends: Each T at which a process stopped, paused or finished the run.
        outdated: Folders whose losses were replaced by a newer session in another folder.
    """

    run_id: str
    begun: float = -math.inf
    number: int = 1
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
    outdated: list[Path] = field(default_factory=list)

    @property
    def unit(self) -> object:
        """The unit of its losses: "epoch", or the number of batches in a block."""
        return self.facts.get("unit", "epoch")

    @property
    def has_ended(self) -> bool:
        """Whether it ended normally: not while it trains, and not by a kill or an exception."""
        return self.status.get("status") in _ENDS


class _Unit:
    """A unit in the tree: its loss, and the unit that was trained before it.

    Attributes:
        unit: The index of the unit, from 0. The root of the tree has -1.
        loss: Its L(e).
        before: The unit that was trained before it. The root refers to itself.
        trained_by: The part that trained it.
        end_of: The newest part that ends with this unit, or None.
        depth: The number of units before it on the path from the root.
        jump: A unit far back on that path.
    """

    __slots__ = ("before", "depth", "end_of", "jump", "loss", "trained_by", "unit")

    def __init__(
        self, unit: int, loss: float, before: _Unit | None, trained_by: _Part | None
    ) -> None:
        self.unit, self.loss, self.trained_by = unit, loss, trained_by
        self.before = before or self
        self.end_of: _Part | None = None
        # With these jumps, `below` takes logarithmic time: 10,000 sessions may each drop the last
        # of many units.
        self.depth, self.jump = 0, self
        if before is not None:
            self.depth, far = before.depth + 1, before.jump
            even = before.depth - far.depth == far.depth - far.jump.depth
            self.jump = far.jump if even else before

    def below(self, unit: int) -> _Unit:
        """Return the last unit with an index below `unit` on the path to this unit."""
        here = self
        while here.unit >= unit:
            here = here.jump if here.jump.unit >= unit else here.before
        return here

    def has(self, unit: int, loss: float) -> bool:
        """Return whether the path to this unit contains `unit` with this loss."""
        found = self.below(unit + 1)
        return found.unit == unit and found.loss == loss

    def path(self) -> Iterator[_Unit]:
        """Yield this unit and those before it, newest first."""
        here = self
        while here.depth:
            yield here
            here = here.before


class _Part:
    """A session in the tree, merged with its copies in other folders.

    Attributes:
        start: How many units were complete when it resumed.
        parent: The part that it resumed from, or None.
        tip: Its last unit.
        absorbed: The sessions that resumed from it and added nothing.
        absorbed_by: The part that absorbed this one, or None.
        continuation: The oldest part that resumed from its end, or None.
        number: Its number among the sessions in its folder, from 1.
        last_seen: The newest time at which it is known to have been training.
    """

    def __init__(self, copies: Sequence[Session], root: _Unit) -> None:
        first = copies[0]
        self.begun, self.time = first.begun, header_time(first.facts)
        self.folders = [copy.folder for copy in copies]
        self.number = 1
        fullest = max(copies, key=lambda copy: (len(copy.losses), bool(copy.status)))
        self.facts, self.status = fullest.facts, fullest.status
        self.last_seen = max(copy.last_seen for copy in copies)
        self.losses = {unit: loss for copy in copies for unit, loss in copy.losses.items()}
        self.checkpoints = {unit: at for copy in copies for unit, at in copy.checkpoints.items()}
        self.metrics = {unit: found for copy in copies for unit, found in copy.metrics.items()}
        self.start, self.tip = 0, root
        self.parent: _Part | None = None
        self.absorbed: list[_Part] = []
        self.absorbed_by: _Part | None = None
        self.continuation: _Part | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it ended normally. A start of a run that had already ended does not count."""
        return self.status.get("status") in _ENDS and self.status.get("reason") != "already_stopped"

    @property
    def units(self) -> int:
        """How many units were complete at its end."""
        return self.tip.unit + 1

    @property
    def left_no_checkpoint(self) -> bool:
        """Whether it was killed after a stop and before the stop's checkpoint was saved."""
        reason = str(self.status.get("reason", ""))
        return reason in _SAVED_STOPS and self.tip.unit not in self.checkpoints

    def absorb(self, other: _Part) -> None:
        """Add the status, checkpoints and metrics of a session that added no unit."""
        other.absorbed_by = self
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
        # A start of a run that had already ended only names the checkpoint it resumed from.
        self.checkpoints = (
            {**self.checkpoints, **saved} if other.has_ended else {**saved, **self.checkpoints}
        )
        self.metrics |= {
            unit: found
            for unit, found in other.metrics.items()
            if self.tip.has(unit, other.losses[unit])
        }


class _Tree:
    """The tree of the sessions that share a `run_id`."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._root = _Unit(-1, math.nan, None, None)
        self._units: dict[tuple[_Unit, int, float], _Unit] = {}  # by unit before, index and loss
        self._parts: list[_Part] = []  # those that added units, oldest first
        self._newest: _Part | None = None
        self._by_time: dict[float, _Part] = {}
        # Folder -> the last unit in its record so far. A session does not write units again that
        # are already in its file.
        self._written: dict[Path, _Unit] = {}
        self._sessions_in: Counter[Path] = Counter()

    def add(self, copies: Sequence[Session]) -> None:
        """Add a session that is newer than all others."""
        part = _Part(copies, self._root)
        folder = part.folders[0]
        known = self._by_time.get(header_time(part.facts, "parent"))
        units = part.facts.get("parent_units")
        if known is not None and type(units) is int and units >= 0:
            base = known.tip.below(units)
            is_new = self._extend(part, base)
            part.parent, part.start = _ancestor_at(known, units), units
        else:
            is_new = self._extend(part, self._base(part, folder))
            if is_new:
                part.parent, part.start = self._origin(part)
            else:
                self._place_repeat(part)
        self._note_written(part)
        self._sessions_in.update(part.folders)
        part.number = self._sessions_in[folder]
        if math.isfinite(part.time):
            self._by_time[part.time] = part
        adds_nothing = not is_new and (not part.has_ended or part.start >= part.units)
        if part.parent is not None and adds_nothing:
            part.parent.absorb(part)
            return
        self._parts.append(part)
        self._newest, part.tip.end_of = part, part
        if part.parent is not None and part.start >= part.parent.units:
            part.parent.continuation = part.parent.continuation or part

    def _base(self, part: _Part, folder: Path) -> _Unit:
        """Return the unit that the units of an older version's session follow."""
        if folder in self._written:
            before = self._written[folder]
        elif self._newest is not None and min(part.losses, default=1) > 0:
            before = self._newest.tip
        else:  # a session in a new folder repeats the units that it resumed from
            return self._root
        return before.below(min(part.losses, default=before.unit + 1))

    def _extend(self, part: _Part, base: _Unit) -> bool:
        """Add the units of a part after `base`; return whether any of them is new."""
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
        """Return the unit that follows the units below `unit` on the path to `tip`."""
        before = tip.below(unit)
        known = self._units.get((before, unit, loss))
        if known is None:
            known = self._units[before, unit, loss] = _Unit(unit, loss, before, part)
        return known

    def _origin(self, part: _Part) -> tuple[_Part | None, int]:
        """Return what an older version's session resumed from: the last unit of another part."""
        unit = part.tip
        while unit.trained_by is part:
            unit = unit.before
        owner = unit.end_of or unit.trained_by
        return (None, 0) if owner is None else (_absorber(owner), unit.unit + 1)

    def _place_repeat(self, part: _Part) -> None:
        """Place an older version's session that has only known units.

        It trained nothing, or it trained the same units again. If it ended normally, it trained
        some. If the session with the same last unit had already finished, this is a second fork.
        """
        twin, owner = part.tip.end_of, part.tip.trained_by
        if twin is None:
            twin = self._newest if owner is None else _absorber(owner)
        if twin is None:
            return
        statuses = [each.status.get("status") for each in (twin, part)]
        has_resumed = twin.tip is part.tip and (
            statuses[0] not in _ENDS or (statuses[0] != "finished" and statuses[1] == "finished")
        )
        is_copy = part.begun == twin.begun  # the headers have no times
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
        """Return the runs, oldest first."""
        ends = self._ends()
        members: dict[_Part, list[_Part]] = {}
        for part in self._parts:
            members.setdefault(ends[part], []).append(part)
        return [self._run(last, parts, ends) for last, parts in members.items()]

    def _ends(self) -> dict[_Part, _Part]:
        """Return part -> the last part of its run.

        An interrupted part belongs to the same run as the next part with the same parameters that
        began after it. If several parts resumed from the end of a part, the oldest of them
        continues its run.
        """
        alike: dict[str, list[_Part]] = {}
        for part in self._parts:
            alike.setdefault(_parameters(part.facts), []).append(part)
        later: dict[_Part, _Part] = {}
        for parts in alike.values():
            begun = [part.begun for part in parts]
            for count, part in enumerate(parts, 1):
                # Without times in the headers, the order of the lines counts.
                is_ordered = part.last_seen == part.begun
                after = count if is_ordered else bisect_right(begun, part.last_seen)
                if after < len(parts):
                    later[part] = parts[after]
        ends: dict[_Part, _Part] = {}
        for part in reversed(self._parts):
            following = part.continuation
            if following is None and part in later:
                newer = later[part]
                following = newer if not part.has_ended or _repeats_stop(newer, part) else None
            ends[part] = part if following is None else ends[following]
        return ends

    def _run(self, last: _Part, own: list[_Part], ends: Mapping[_Part, _Part]) -> RecordedRun:
        run = RecordedRun(self._run_id, own[0].begun, own[0].number)
        run.facts, run.status = last.facts, last.status
        all_own = [each for part in own for each in (part, *part.absorbed)]
        all_own.sort(key=lambda part: part.begun)
        run.folders = list(dict.fromkeys(folder for part in all_own for folder in part.folders))
        run.sessions = {part.time for part in all_own}
        ancestry = [last]
        while ancestry[-1].parent is not None:
            ancestry.append(ancestry[-1].parent)
        ancestry.reverse()
        ends_at = [*(part.start for part in ancestry[1:]), math.inf]
        for part, end in zip(ancestry, ends_at, strict=True):
            self._add_part(run, part, end)
            if ends[part] is not last:
                for folder in part.folders:
                    run.inherited[folder] = int(end)
        run.losses = {unit.unit: unit.loss for unit in reversed(list(last.tip.path()))}
        replaced = [part for part in own if not last.tip.has(part.tip.unit, part.tip.loss)]
        folders = dict.fromkeys(folder for part in replaced for folder in part.folders)
        run.outdated = [folder for folder in folders if folder not in last.folders]
        return run

    def _add_part(self, run: RecordedRun, part: _Part, end: float) -> None:
        """Add what a part recorded before the unit from which the next part resumed."""
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

    Runs that resumed from the same checkpoint share its `run_id`. They are forks, and each has the
    units up to the checkpoint. Two sessions that resumed from a checkpoint are two runs if both
    ended normally or if their parameters differ. If one was interrupted, and another with the same
    parameters began later, they are one run with the losses of the newer session. The losses of the
    older session belong to a run that was rewound.

    Sessions of older versions do not name what they resumed from, so their place in the tree is
    inferred. In a new folder, such a session repeats the units that it resumed from. In the same
    file, it writes only what the file does not have.

    Examples:
        >>> first = Session("a", Path("v0"), {}, begun=1.0, losses={0: 3.0, 1: 2.0, 2: 1.0})
        >>> resumed = Session("a", Path("v1"), {}, begun=2.0, losses={1: 2.5})
        >>> [run.losses for run in merge_sessions([resumed, first])]
        [{0: 3.0, 1: 2.5}]
    """
    groups: dict[str, dict[object, list[Session]]] = {}
    for session in sorted(sessions, key=lambda entry: entry.begun):
        time = header_time(session.facts)
        key: object = time if math.isfinite(time) else object()  # copies have equal times
        groups.setdefault(session.run_id, {}).setdefault(key, []).append(session)
    runs: list[RecordedRun] = []
    for run_id, parts in groups.items():
        tree = _Tree(run_id)
        for copies in parts.values():
            tree.add(copies)
        runs += tree.runs()
    return sorted(runs, key=lambda run: run.begun)


def _ancestor_at(part: _Part, units: int) -> _Part:
    """Return the part, or its ancestor, that trained the last of the first `units` units."""
    part = _absorber(part)
    while part.parent is not None and part.start >= units:
        part = part.parent
    return part


def _absorber(part: _Part) -> _Part:
    """Return the part that absorbed a part, or the part itself."""
    while part.absorbed_by is not None:
        part = part.absorbed_by
    return part


def _repeats_stop(newer: _Part, older: _Part) -> bool:
    """Return whether a newer part repeats an older one that stopped and left no checkpoint."""
    return older.left_no_checkpoint and newer.tip.has(older.tip.unit, older.tip.loss)


def _parameters(facts: Mapping[str, Any]) -> str:
    """Return the parameters in a header as text, without addresses of objects."""
    text = json.dumps([facts.get("hparams"), facts.get("params")], sort_keys=True)
    return _ADDRESS.sub("at 0x", text)
