"""`Spans`: the steps in which each epoch of a log was trained, and which epochs are complete."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_sotl.curves._log_values import MOST_STEPS
from lightning_sotl.curves._series import EpochValues, Position

# The most distances between rows of a log that are counted.
_MOST_DISTANCES = 1_000


@dataclass(frozen=True)
class StepsPerEpoch:
    """The number of steps in an epoch. A log may only show that it is from `least` to `most`.

    Attributes:
        least: The smallest possible number.
        most: The largest possible number.
        distance: The number of steps between two rows.
        first: The number of the first step: 0 in Lightning, 1 in some other programs.
    """

    least: int
    most: int
    distance: float
    first: int = 0

    def ends(self, epoch: int, step: float, distance: float) -> bool:
        """Return whether no row can follow a step in its epoch, for any possible length."""
        return step - self.first + distance >= (epoch + 1) * self.most

    def may_end(self, epoch: int, step: float) -> bool:
        """Return whether a row at a step may be the last row of its epoch."""
        return step - self.first + self.distance >= (epoch + 1) * self.least

    def begins(self, epoch: int, step: float, distance: float) -> bool:
        """Return whether no row can precede a step in its epoch."""
        return step - self.first - distance < epoch * self.least


class Spans:
    """The first and the last logged step of each epoch, over all keys."""

    def __init__(self) -> None:
        self._spans: dict[int, list[float]] = {}
        self._newest: list[int] = []  # a heap of the epochs, negated
        self._distances: Counter[float] = Counter()

    def add(self, position: Position) -> None:
        """Add a row."""
        epoch, step = position
        span = self._spans.get(epoch)
        if span is None:
            self._spans[epoch] = [step, step]
            heapq.heappush(self._newest, -epoch)
            return
        distance = step - span[1]
        if distance > 0 and (distance in self._distances or len(self._distances) < _MOST_DISTANCES):
            self._distances[distance] += 1
        span[0], span[1] = min(span[0], step), max(span[1], step)

    def has_ended_before(self, position: Position) -> bool:
        """Return whether an epoch had already ended at a smaller step.

        A resumed training would repeat the logged steps of the epoch, so its number of steps must
        have changed.
        """
        epoch, step = position
        span = self._spans.get(epoch)
        return span is not None and -self._newest[0] > epoch and span[1] < step

    def drop_after(self, position: Position) -> None:
        """Drop everything after a position."""
        epoch, step = position
        while self._newest and -self._newest[0] > epoch:
            del self._spans[-heapq.heappop(self._newest)]
        if span := self._spans.get(epoch):
            span[1] = min(span[1], step)
            span[0] = min(span)

    def drop_steps_from(self, step: float) -> Position | None:
        """Drop `step` and all later steps, and return the last remaining position."""
        kept = {epoch: span for epoch, span in self._spans.items() if span[0] < step}
        for span in kept.values():
            span[1] = min(span[1], step - 1)
        self._spans, self._newest = kept, [-epoch for epoch in kept]
        heapq.heapify(self._newest)
        return max(((epoch, span[1]) for epoch, span in kept.items()), default=None)

    def steps_per_epoch(self) -> StepsPerEpoch | None:
        """Return how many steps an epoch has, or None if epochs differ or only one is logged."""
        epochs = sorted(self._spans)
        if len(epochs) < 2 or min(span[0] for span in self._spans.values()) < 0:
            return None
        usual = max(self._distances, key=self._distances.__getitem__, default=1.0)
        # The last epoch may be cut short. If a validation was logged after the training, in an
        # epoch of its own, the last but one may be.
        previous, (first, last) = self._spans[epochs[-2]], self._spans[epochs[-1]]
        is_validation = first == last and last - previous[1] <= usual
        choices = [epochs[:-1], *([epochs[:-2]] if is_validation and len(epochs) > 2 else [])]
        if len(epochs) == 2 and (bounds := self._bounds(epochs, 1.0, first=1)):
            return bounds
        for distance in (1.0, usual):
            for whole in choices:
                for origin in (0, 1) if len(whole) > 1 else (0,):
                    if bounds := self._bounds(whole, distance, first=origin):
                        return bounds
        return None

    def _bounds(self, whole: Sequence[int], distance: float, *, first: int) -> StepsPerEpoch | None:
        """Return how many steps an epoch has if `whole` are complete, or None if they differ."""
        least = max(
            math.ceil((span[1] - first + 1) / (epoch + 1)) for epoch, span in self._spans.items()
        )
        most = min(
            *(int((self._spans[epoch][1] - first + distance) // (epoch + 1)) for epoch in whole),
            *(int((self._spans[epoch][0] - first) // epoch) for epoch in whole if epoch),
            MOST_STEPS,
        )
        return StepsPerEpoch(least, most, distance, first) if least <= most else None

    def count_complete(self, steps: StepsPerEpoch | None) -> int:
        """Return the number of epochs up to the last complete one.

        The last epoch is incomplete if it has fewer steps than the others, for example because
        `max_steps` ended the training. A validation after the training is logged in an epoch
        without steps.
        """
        epochs = sorted(self._spans)
        while epochs and steps and not steps.may_end(epochs[-1], self._spans[epochs[-1]][1]):
            epochs.pop()
        return epochs[-1] + 1 if epochs else 0


def whole_epochs(groups: Sequence[EpochValues], steps: StepsPerEpoch | None) -> list[EpochValues]:
    """Return the epochs in which a key that is logged every few steps has all its values."""
    distances = Counter(
        later - earlier
        for earlier, later in itertools.pairwise(step for group in groups for step in group.steps)
    )
    distance = max(distances, key=distances.__getitem__, default=0.0)
    if distance <= 0:  # without steps
        steps = None
    whole = []
    counts = sorted((len(group.values) for group in groups), reverse=True)
    for place, group in enumerate(groups):
        # No other epoch has more values.
        has_most = len(counts) > 1 and len(group.values) >= counts[len(group.values) == counts[0]]
        if steps is None:
            begins = has_most or place > 0 or group.epoch == 0
            ends = has_most or place < len(groups) - 1
        else:
            may_differ = steps.least < steps.most
            begins = steps.begins(group.epoch, group.steps[0], distance) or (
                may_differ and has_most
            )
            ends = steps.ends(group.epoch, group.steps[-1], distance) or (may_differ and has_most)
        span = group.steps[-1] - group.steps[0]
        has_gap = distance > 0 and len(group.values) < span // distance + 1
        if begins and ends and not has_gap:
            whole.append(group)
    return whole
