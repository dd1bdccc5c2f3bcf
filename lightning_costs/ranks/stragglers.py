"""Stragglers: ranks whose own work takes longer than the others', found by how often they are the last.

In synchronous training every rank's step takes as long as the slowest one's. What differs is a rank's own work, up to
the collective in which the others wait. Ranks publish it in blocks of the same steps.

The rule is a test by ranks, so it makes no assumption on the noise. If ranks are alike, each is the last in a block
with the probability 1/ranks. Heavy tails and a drift of all ranks change nothing, and one pause makes one block. A rank
is a straggler if chance alone makes it the last as often with the probability `ALPHA`. Its excess has to matter, too:
for the step, beside its own work, and beside the ranks' usual differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from lightning_costs.records.samples import RankInfo

#: The chance that a test names one of equal ranks: with 1,000 points of 10,000 steps and 4 tests each some 0.1 %.
ALPHA = 1e-7
#: Blocks that a test looks back on.
HORIZONS = (12, 24, 48, 96)
#: Steps in a block at least, and blocks of one point at most.
STEPS, BLOCKS = 4, 32
#: The excess of a straggler at least: as a share of the step, and of the others' own work; and the latter as long as
#: the ranks' wander is unknown.
OF_STEP, OF_OWN, OF_OWN_EARLY = 0.02, 0.05, 0.06
#: And times the usual wander of ranks from one chunk of blocks to the next, once enough chunks have shown it.
OF_WANDER, WANDER_CHUNKS, MOST_CHUNKS, CHUNK = 5.0, 8, 64, 12
#: And times the error of its mean, as one rank may be noisier than the others: as Student's t with a chance of `ALPHA`,
#: and some more as the error is made of medians.
OF_ERROR = {12: 12.0, 24: 9.0, 48: 7.0, 96: 6.5}
#: A straggler is over if its excess in this number of blocks is below this share of what finds one.
_OVER_BLOCKS, _OVER = 24, 0.5
#: Share of the blocks that are left out at either end of a mean: pauses.
_TRIMMED = 0.1
#: Most stragglers, and ranks with scores, that the header names.
_MOST_NAMED = _MOST_SCORED = 16


def own_blocks(parts_s: Sequence[Sequence[float]], steps: int, led_s: Sequence[float] = ()) -> NDArray[np.float32]:
    """A rank's own work in blocks of the same steps on every rank, for a snapshot; empty of fewer times than blocks.

    Args:
        parts_s: [3][steps]: own work by step, in seconds, and two of its parts; a device that reports late may miss
            a few steps.
        steps: Steps since the last point, the same number on every rank.
        led_s: [steps]: the device's work before the first backward pass; none if that is not known or not its own.

    Returns:
        [2 x (2 blocks + 2)]: seconds a step of own work in the blocks, of the two parts, and of `led_s` in the
        blocks, NaN if there is none; first lower quartiles, then means. The former show a rank that is slow in every
        step however often the machine interrupts it.

    Example:
        >>> own_blocks([[1.0, 1.0, 1.0, 9.0, 3.0, 3.0, 3.0, 3.0], [1.0] * 8, [0.0] * 8], 8)
        array([ 1.,  3.,  1.,  0., nan, nan,  3.,  3.,  1.,  0., nan, nan],
              dtype=float32)
    """
    blocks = min(BLOCKS, max(1, steps // STEPS))
    own_s, *parts = (np.asarray(part, np.float64) for part in parts_s)
    if len(own_s) < blocks:
        return np.empty(0, np.float32)
    size = len(own_s) // blocks  # all of one size, the last ones: ranks then split alike, and it is one operation
    led = np.asarray(led_s, np.float64) if len(led_s) == len(own_s) else np.full(len(own_s), np.nan)
    grouped, forward = (
        np.sort(times[len(times) - size * blocks :].reshape(blocks, size), axis=1) for times in (own_s, led)
    )
    low = [np.partition(part, len(part) // 4)[len(part) // 4] for part in parts]
    means = [part.mean() for part in parts]
    quartiles = [grouped[:, size // 4], low, forward[:, size // 4]]
    return np.concatenate([*quartiles, grouped.mean(axis=1), means, forward.mean(axis=1)]).astype(np.float32)


def split_blocks(own_s: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """[ranks, 2, blocks] of own work, [ranks, 2, 2] of its parts, [ranks, 2, blocks] of work before a backward pass.

    Args:
        own_s: [ranks, 2 x (2 blocks + 2)], as `own_blocks` makes them.
    """
    both = own_s.reshape(len(own_s), 2, -1)
    blocks = both.shape[2] // 2 - 1
    return both[..., :blocks], both[..., blocks : blocks + 2], both[..., blocks + 2 :]


@lru_cache(maxsize=1024)
def wins_needed(blocks: int, share: float) -> int:
    """In how many of these blocks one must be the last, whose chance is `share` in each; more than all if never.

    Example:
        >>> wins_needed(24, 0.25), wins_needed(24, 0.5), wins_needed(12, 0.5)
        (19, 24, 13)
    """
    tail = 0.0
    for wins in range(blocks, -1, -1):
        tail += math.comb(blocks, wins) * share**wins * (1 - share) ** (blocks - wins)
        if tail > ALPHA:
            return wins + 1
    return 0


@dataclass(slots=True)
class Straggler:
    """Ranks that keep the others waiting: one, or those of a node.

    Args:
        ranks: Which.
        node: Theirs.
        excess_s: Seconds a batch beyond the others, when they were found.
        slower: The same as a share of the others' own work; None if they had none.
        waited_s: What the others waited for them.
        phase: What takes them longer.
        batch: After how many batches that was found.
        until: After how many batches it was over; None if it is not.
    """

    ranks: list[int]
    node: int
    excess_s: float
    slower: float | None
    waited_s: float
    phase: str = ""
    batch: int = 0
    until: int | None = None


class _Open(NamedTuple):
    """A straggler that is not over: its rows, by which statistic it was found, and what is known of it."""

    rows: list[int]
    kind: int
    known: Straggler


@final
class StragglerDetector:
    """Watches the own work of ranks, on rank 0.

    Args:
        places: [ranks], ascending.
    """

    def __init__(self, places: Sequence[RankInfo]) -> None:
        self._places = list(places)
        count = len(self._places)
        nodes = sorted({place.node for place in self._places})
        self._node = np.array([nodes.index(place.node) for place in self._places])
        #: Rows that may be slow together: those of a node.
        self._of_node = [np.flatnonzero(self._node == number).tolist() for number in range(len(nodes))]
        #: [statistics, ranks, blocks] of the longest horizon, and [statistics, blocks]: who was last.
        self._own_s, self._last = np.empty((2, count, 0)), np.empty((2, 0), np.intp)
        #: [blocks]: batches in each, and their mean duration.
        self._weights, self._step_s = np.empty(0), np.empty(0)
        #: [blocks][statistics, ranks, parts] of the point that each is of.
        self._parts_s: list[NDArray[np.float64]] = []
        self._batches = self._new = 0
        #: [statistics, ranks] of each chunk of blocks: own work beyond the others', as a share of a step.
        self._wander: list[NDArray[np.float64]] = []
        self._best_s = np.full(count, np.inf)
        self._scores: list[tuple[int, NDArray[np.float64], NDArray[np.float64]]] = []
        self._every = self._chunks = 0
        self._open: list[_Open] = []
        #: All that were found, the first ones if they are many.
        self.found: list[Straggler] = []

    def observe(
        self, own_s: NDArray[np.float64], *, batches: int, length_s: float, phases: Sequence[str]
    ) -> tuple[float, list[Straggler]]:
        """A point: what ranks did by themselves since the one before.

        Args:
            own_s: [ranks, statistics, blocks + parts], as `own_blocks` makes them.
            batches: So far.
            length_s: Training seconds since the last point.
            phases: What the two parts are called, and the rest.

        Returns:
            What the others waited for stragglers since the last point, and before it for those that are found now;
            and these.
        """
        both = own_s.swapaxes(0, 1)
        own_s, parts_s = both[..., :-2], both[..., -2:]
        blocks, steps, keep = own_s.shape[2], max(1, batches - self._batches), HORIZONS[-1]
        self._batches = batches
        tied = (own_s == own_s.max(axis=1, keepdims=True)).sum(axis=1) > 1
        last = np.where(tied, -1, own_s.argmax(axis=1))
        self._own_s = np.concatenate([self._own_s, own_s], axis=2)[..., -keep:]
        self._last = np.concatenate([self._last, last], axis=1)[:, -keep:]
        self._weights = np.append(self._weights, np.full(blocks, steps / blocks))[-keep:]
        self._step_s = np.append(self._step_s, np.full(blocks, length_s / steps))[-keep:]
        self._parts_s = [*self._parts_s, *[parts_s] * blocks][-keep:]
        self._new += blocks
        waited_s = 0.0
        if self._open:
            waited_s = self._wait(blocks)
            self._end(batches)
        if self._new >= CHUNK:
            self._score(batches)
        new = []
        for kind, rows, horizon in self._suspects():
            if (found := self._test(kind, rows, horizon)) is not None:
                parts = np.mean([each[kind] for each in self._parts_s[-horizon:]], axis=0)
                found.phase, found.batch = self._phase(parts, rows, found.excess_s, phases), batches
                self._open.append(_Open(rows, kind, found))
                waited_s += found.waited_s
                new.append(found)
        self.found = [*self.found, *new][:_MOST_NAMED]
        return waited_s, new

    def _suspects(self) -> Iterator[tuple[int, list[int], int]]:
        """Rows that were the last too often for chance, by statistic and number of blocks: nodes first, then ranks."""
        count, nodes = len(self._places), len(self._of_node)
        for kind, all_last in enumerate(self._last):
            for horizon in reversed([each for each in HORIZONS if each <= len(all_last)]):
                last = all_last[-horizon:]
                last = last[last >= 0]
                if nodes > 1:
                    rows = self._of_node[int(np.bincount(self._node[last], minlength=nodes).argmax())]
                    wins = (self._node[last] == self._node[rows[0]]).sum()
                    if len(rows) > 1 and wins >= wins_needed(horizon, len(rows) / count):
                        yield kind, rows, horizon
                row = int(np.bincount(last, minlength=count).argmax())
                if (last == row).sum() >= wins_needed(horizon, 1 / count):
                    yield kind, [row], horizon

    def _excess_s(self, kind: int, rows: Sequence[int], blocks: int) -> tuple[NDArray[np.float64], float]:
        """[blocks]: the least own work of these rows beyond the median of the others; and what is usual for those."""
        recent = self._own_s[kind, :, -blocks:]
        usual_s = np.median(np.delete(recent, rows, axis=0), axis=0)
        return recent[rows].min(axis=0) - usual_s, float(np.median(usual_s))

    def _test(self, kind: int, rows: list[int], blocks: int) -> Straggler | None:
        """Whether the excess of these rows matters, and is more than noise."""
        if any(set(rows) & set(each.rows) for each in self._open):
            return None
        excess_s, usual_s = self._excess_s(kind, rows, blocks)
        beyond_s, step_s = float(_trimmed_mean(excess_s)), float(self._step_s[-blocks:].mean())
        of_own = OF_OWN if len(self._wander) >= WANDER_CHUNKS else OF_OWN_EARLY
        error_s = float(_deviation(excess_s)) / math.sqrt(blocks)
        noise_s = max(OF_WANDER * self._wander_s(kind, blocks, step_s), OF_ERROR[blocks] * error_s)
        if beyond_s < max(OF_STEP * step_s, of_own * usual_s, noise_s):
            return None
        # A rank that is less noisy than the only other one has the higher quartile, but not the higher mean.
        if _trimmed_mean(self._excess_s(1, rows, blocks)[0]) < beyond_s / 2:
            return None
        return Straggler(
            ranks=[self._places[row].rank for row in rows],
            node=self._places[rows[0]].node,
            excess_s=beyond_s,
            slower=beyond_s / usual_s if usual_s > 0 else None,
            waited_s=float((excess_s.clip(0.0) * self._weights[-blocks:]).sum()),
        )

    def _wander_s(self, kind: int, blocks: int, step_s: float) -> float:
        """How far ranks usually move against each other between this number of blocks, in seconds a batch.

        A robust standard deviation, larger by an allowance for how few are known: slow drift hides in those.
        """
        if len(self._wander) < WANDER_CHUNKS:
            return 0.0
        seen = np.array(self._wander)[:, kind]
        together = max(1, min(blocks // CHUNK, len(seen) // (2 * WANDER_CHUNKS)))
        seen = seen[len(seen) % together :].reshape(-1, together, seen.shape[1]).mean(axis=1)
        return float(_deviation(seen, axis=0)) * (1 + 4 / len(seen)) * step_s

    @staticmethod
    def _phase(parts_s: NDArray[np.float64], rows: list[int], excess_s: float, phases: Sequence[str]) -> str:
        """What most of these rows' excess is."""
        beyond = np.median(parts_s[rows], axis=0) - np.median(np.delete(parts_s, rows, axis=0), axis=0)
        return phases[int(np.append(beyond, excess_s - beyond.sum()).argmax())]

    def _wait(self, blocks: int) -> float:
        """What the others waited in the last blocks for those that are known: for the last of them."""
        most_s = np.zeros(blocks)
        for each in self._open:
            excess_s = self._excess_s(each.kind, each.rows, blocks)[0].clip(0.0)
            each.known.waited_s += float((excess_s * self._weights[-blocks:]).sum())
            most_s = np.maximum(most_s, excess_s)
        return float((most_s * self._weights[-blocks:]).sum())

    def _end(self, batches: int) -> None:
        """Some are as fast as the others again."""
        still = []
        for each in self._open:
            excess_s, usual_s = self._excess_s(each.kind, each.rows, _OVER_BLOCKS)
            least_s = max(OF_STEP * float(self._step_s[-_OVER_BLOCKS:].mean()), OF_OWN * usual_s)
            if _trimmed_mean(excess_s) < _OVER * least_s:
                each.known.until = batches
            else:
                still.append(each)
        if len(still) < len(self._open):  # what they did before finds nothing any more
            self._own_s, self._last = self._own_s[..., -CHUNK:], self._last[:, -CHUNK:]
            self._weights, self._step_s = self._weights[-CHUNK:], self._step_s[-CHUNK:]
        self._open = still

    def _score(self, batches: int) -> None:
        """A chunk of blocks is complete: how ranks compare with the best one, and with their own best."""
        own_s = _trimmed_mean(self._own_s[..., -self._new :])
        step_s = float(self._step_s[-self._new :].mean())
        self._new = 0
        if not (own_s > 0).all() or step_s <= 0:
            return
        self._wander = [*self._wander, np.array([row - _median_of_others(row) for row in own_s]) / step_s]
        del self._wander[:-MOST_CHUNKS]
        usual_s = own_s[0]
        self._best_s = np.minimum(self._best_s, usual_s)
        if self._chunks % (1 << self._every) == 0:
            self._scores.append((batches, usual_s.min() / usual_s, self._best_s / usual_s))
        self._chunks += 1
        if len(self._scores) > MOST_CHUNKS:
            self._scores, self._every = self._scores[::2], self._every + 1

    def report(self) -> dict[str, Any]:
        """For the header: stragglers, and scores of the ranks with the lowest over time."""
        if not self._batches:
            return {}
        about: dict[str, Any] = {"stragglers": [asdict(each) for each in self.found]}
        if self._scores:
            relative = np.array([row for _, row, _ in self._scores])
            individual = np.array([row for _, _, row in self._scores])
            lowest = sorted(np.argsort(np.median(relative, axis=0), kind="stable")[:_MOST_SCORED].tolist())
            about["scores"] = {
                "batches": [batches for batches, _, _ in self._scores],
                "relative": {str(self._places[row].rank): relative[:, row].round(3).tolist() for row in lowest},
                "individual": {str(self._places[row].rank): individual[:, row].round(3).tolist() for row in lowest},
            }
        return about


def _deviation(values: NDArray[np.float64], axis: int = -1) -> np.float64:
    """The standard deviation from medians over an axis, by the median of all distances."""
    return np.float64(1.4826 * np.median(np.abs(values - np.median(values, axis=axis, keepdims=True))))


def _trimmed_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the last axis without a tenth at either end.

    Example:
        >>> float(_trimmed_mean(np.array([1.0] * 9 + [1000.0])))
        1.0
    """
    count = values.shape[-1]
    cut = int(_TRIMMED * count)
    mean: NDArray[np.float64] = np.sort(values, axis=-1)[..., cut : count - cut].mean(axis=-1)
    return mean


def _median_of_others(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each value the median of all others.

    Example:
        >>> _median_of_others(np.array([5.0, 1.0, 3.0, 4.0])).tolist()
        [3.0, 4.0, 4.0, 3.0]
    """
    order = np.argsort(values, kind="stable")
    places = np.empty(len(values), np.intp)
    places[order] = np.arange(len(values))
    ascending, half = values[order], (len(values) - 2) // 2
    low = ascending[half + (places <= half)]
    high = ascending[(half_up := (len(values) - 1) // 2) + (places <= half_up)]
    middle: NDArray[np.float64] = (low + high) / 2
    return middle
