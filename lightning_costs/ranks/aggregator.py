"""The aggregator: which ranks reported, their totals together, and the straggler."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from lightning_costs.ranks.reduce import RankReducer
from lightning_costs.ranks.snapshot import NO_BLOCKS, RankSnapshot
from lightning_costs.ranks.stragglers import Straggler, StragglerDetector, split_blocks
from lightning_costs.records.declaration import Declaration
from lightning_costs.records.samples import Amount, RankInfo

#: Seconds of silence, spanning two points, after which a rank is lost. Columns that only it reports are missing.
RANK_TIMEOUT_S = 60.0
#: Points for which a rank's own work is kept until that of the others is there.
MOST_POINTS = 4
#: The column of what ranks waited for stragglers.
WAITED = "straggler_s"
#: What parts of a rank's own work are called, and its rest: on a device by its events, else by the host's accounts.
DEVICE_PHASES, HOST_PHASES = ("input", "transfer", "between steps"), ("input", "other", "training")
#: And of what comes before a backward pass, which has no parts.
LED_PHASES = ("", "", "training")
#: Columns whose spread over ranks goes into the header, where ranks have them.
SPREAD = (
    "data_wait_s",
    "rank_max_lead_s",
    "h2d_s",
    "idle_s",
    "samples",
    "step_p50_s",
    "peak_mem_bytes",
    "opt_state_bytes",
    "overhead_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWindow:
    """The job's window, from the ranks that reported.

    Args:
        window: Amounts since the last joining; None if they are missing, a gauge's also if it was not read.
        even: The same since the last point at which every rank reported, and gauges; None if not all reported at this
            one. Rates are computed from it, so a late rank's share is in neither part of them.
        stragglers: Found at this point.
        missing: Why a column is missing from now on.
        lacking: Of those, the rank that reports but has no reading: it may know the reason.
    """

    window: dict[str, Amount]
    even: dict[str, Amount] | None
    missing: dict[str, str]
    lacking: dict[str, int]
    stragglers: Sequence[Straggler] = ()


@final
class RankAggregator:
    """Keeps every rank's last snapshot, and joins them into windows of the job.

    A late rank counts with its last totals: the job's totals catch up with its next snapshot. A rank without any
    snapshot counts as nothing spent so far. Columns that only a lost rank reports are missing.
    """

    def __init__(self, declarations: Mapping[str, Declaration], places: Sequence[RankInfo]) -> None:
        self._declarations = dict(declarations)
        self.columns = list(declarations)
        self._counter = np.array([declared.kind == "counter" for declared in declarations.values()], dtype=bool)
        self._own = [name for name, declared in declarations.items() if declared.across == "rank0"]
        self._joint = RankReducer(declarations, places)
        self._rows = {place.rank: row for row, place in enumerate(self._joint.places)}
        ranks = len(self._rows)
        self._amounts = np.full((ranks, len(self.columns)), np.nan)
        self._amounts[:, self._counter] = 0.0
        self._missing = np.zeros((ranks, len(self.columns)), dtype=bool)
        self._points = np.full(ranks, -1)
        self._batches = np.full(ranks, -1)
        self._final = np.zeros(ranks, dtype=bool)
        #: Of each rank: the own work that it published at the last points.
        self._blocks: list[dict[int, NDArray[np.float32]]] = [{} for _ in range(ranks)]
        self._watched_point = 0
        self._watched, self._forward = (StragglerDetector(self._joint.places) for _ in range(2))
        self._watched_amounts = self._amounts.copy()
        self._reported_s = np.full(ranks, math.nan)
        self._dropped: dict[int, str] = {}
        counters = [name for name, counter in zip(self.columns, self._counter, strict=True) if counter]
        self._totals: dict[str, Amount] = dict.fromkeys(counters, 0.0)
        self._since_even: dict[str, Amount] = dict(self._totals)
        self._relocated = False

    @property
    def places(self) -> list[RankInfo]:
        """[ranks]: where each is, as it said itself."""
        return self._joint.places

    def update(self, snapshot: RankSnapshot, now_s: float) -> None:
        """A snapshot came; of an older one than the last of its rank nothing but its own work is new."""
        row = self._rows.get(snapshot.place.rank)
        if row is None or snapshot.place.rank in self._dropped:
            return
        if len(snapshot.blocks):
            self._blocks[row][snapshot.points] = snapshot.blocks
            while len(self._blocks[row]) > MOST_POINTS:
                del self._blocks[row][min(self._blocks[row])]
        stamp = (snapshot.points, snapshot.batches, snapshot.final)
        if stamp <= (self._points[row], self._batches[row], self._final[row]):
            return
        self._points[row], self._batches[row], self._final[row] = stamp
        self._amounts[row], self._missing[row] = snapshot.amounts, snapshot.missing
        self._reported_s[row] = now_s
        if self._joint.places[row] != snapshot.place:
            self._joint.places[row] = snapshot.place
            self._relocated = True

    def pending_ranks(self, points: int, batches: int = 0) -> list[int]:
        """Ranks, not lost, that wrote neither a final snapshot nor one at this point, or none of these batches."""
        behind = ((self._points < points) | (self._batches < batches)) & ~self._final
        return [rank for row in np.flatnonzero(behind) if (rank := self._joint.places[row].rank) not in self._dropped]

    def unwatched_ranks(self, points: int) -> list[int]:
        """Ranks whose own work at this point is not known, if their snapshot has not been joined with all others'."""
        if points <= self._watched_point:
            return []
        return [place.rank for row, place in enumerate(self._joint.places) if points not in self._blocks[row]]

    def stalled_ranks(self, points: int) -> set[int]:
        """Ranks that were late at the point before this one, too: waiting for them is of no use."""
        return {rank for rank in self.pending_ranks(points) if max(1, self._points[self._rows[rank]]) < points - 1}

    def drop_silent_ranks(self, points: int, now_s: float, *, ending: bool) -> None:
        """Record lost ranks at this point: a late rank at the end, or one that was silent for `PATIENCE_S`."""
        for rank in self.pending_ranks(points):
            row = self._rows[rank]
            silent_s = now_s - self._reported_s[row]
            never = self._points[row] < 0
            if ending:
                behavior = "never reported" if never else f"did not report after its point {self._points[row]}"
                self._dropped[rank] = f"rank {rank} {behavior}, and the run has ended"
            elif self._points[row] < points - 1 and silent_s > RANK_TIMEOUT_S:
                self._dropped[rank] = f"rank {rank} did not report for {silent_s:.0f} s"
        if points >= 0 and np.isnan(self._reported_s).any():  # a rank that never writes is waited for from now on
            self._reported_s[np.isnan(self._reported_s)] = now_s

    def aggregate(self, own: Mapping[str, Amount], points: int) -> JobWindow:
        """The job's window since the last call; columns that are rank 0's own come from its window."""
        if self._relocated:
            self._joint, self._relocated = RankReducer(self._declarations, self._joint.places), False
        readings = self._amounts
        if self._dropped:
            readings = readings.copy()
            readings[[self._rows[rank] for rank in self._dropped]] = np.nan
        amounts = dict(zip(self.columns, self._joint.reduce(readings, self._points >= 0), strict=True))
        window: dict[str, Amount] = {**amounts, **{name: own.get(name) for name in self._own}}
        for name, before in self._totals.items():
            if name in self._own:
                continue
            total = amounts[name]
            self._totals[name] = total
            window[name] = None if total is None or before is None else max(0.0, total - before)
        stragglers: Sequence[Straggler] = ()
        if WAITED in self.columns and len(self._blocks) > 1:
            waited_s, stragglers = self._watch(points)
            window[WAITED] = (own.get(WAITED) or 0.0) + waited_s
        missing, lacking = self._reasons(readings, amounts)
        for name, so_far in self._since_even.items():
            amount = window[name]
            self._since_even[name] = None if so_far is None or amount is None else so_far + amount
        even = None
        if (self._points == points).all():
            even = {**window, **self._since_even}
            self._since_even = {n: None if so_far is None else 0.0 for n, so_far in self._since_even.items()}
        return JobWindow(window=window, even=even, missing=missing, lacking=lacking, stragglers=stragglers)

    def _watch(self, points: int) -> tuple[float, Sequence[Straggler]]:
        """What ranks waited for stragglers since such a point, and who was found; of a point at which all wrote.

        Points before are watched with it, if their last snapshots came late.
        """
        seen = []
        for point in range(max(self._watched_point, points - MOST_POINTS) + 1, points + 1):
            own = [blocks.get(point, NO_BLOCKS) for blocks in self._blocks]
            if len(own[0]) and all(len(each) == len(own[0]) for each in own):
                seen.append(split_blocks(np.array(own, np.float64)))
        stages = {place.stage for place in self._joint.places}
        if not seen or len(stages) > 1 or self.pending_ranks(points):  # what stages wait for is the pipeline's bubble
            return 0.0, ()
        own_s, parts_s, forward_s = zip(*seen, strict=True)
        parts_s = np.mean(parts_s, axis=0)
        spent, self._watched_amounts = self._amounts - self._watched_amounts, self._amounts.copy()
        self._watched_point = points
        on_device = not np.isnan(spent[:, self.columns.index("timed_s")]).any() if "timed_s" in self.columns else False
        batches, length_s = int(self._batches[0]), float(spent[0, self.columns.index("train_s")])
        phases = DEVICE_PHASES if on_device else HOST_PHASES
        waited_s, found = self._watched.observe(
            np.concatenate([*own_s, parts_s], axis=2), batches=batches, length_s=length_s, phases=phases
        )
        if not np.isnan(led_s := np.concatenate(forward_s, axis=2)).any():
            led_s = np.concatenate([led_s, np.zeros_like(parts_s)], axis=2)
            more = self._forward.observe(led_s, batches=batches, length_s=length_s, phases=LED_PHASES)
            waited_s, found = waited_s + more[0], [*found, *more[1]]
        return waited_s, found

    def _reasons(
        self, readings: NDArray[np.float64], amounts: Mapping[str, Amount]
    ) -> tuple[dict[str, str], dict[str, int]]:
        """Why columns are missing that a rank does not report any more, and the reporting ranks among those."""
        why: dict[str, str] = {}
        lacking: dict[str, int] = {}
        if all(amount is not None for amount in amounts.values()):
            return why, lacking
        lost = self._missing.copy()
        for rank in self._dropped:
            lost[self._rows[rank]] = True
        for columns, spoken, members in self._joint.owners(readings, self._points >= 0):
            for owned, index in zip(*np.nonzero(np.isnan(spoken)), strict=True):
                column, rows = int(columns[index]), members[owned]
                name = self.columns[column]
                if name in why or name in self._own or not (self._counter[column] or lost[rows, column].all()):
                    continue
                ranks = [self._joint.places[row].rank for row in rows]
                reasons = [self._dropped[rank] for rank in ranks if rank in self._dropped]
                if reasons:
                    why[name] = reasons[0]
                else:
                    why[name], lacking[name] = f"rank {ranks[0]} has no reading of it", ranks[0]
        return why, lacking

    def report(self) -> dict[str, Any]:
        """For the header: the ranks that reported, the spread of some columns over ranks, and the straggler."""
        places = self._joint.places
        most = self._points.max()
        behind = [p.rank for row, p in enumerate(places) if self._points[row] < most and not self._final[row]]
        about: dict[str, Any] = {"heard": int((self._points >= 0).sum()), "of": len(places)}
        if late := [rank for rank in behind if rank not in self._dropped]:
            about["late"] = late
        if self._dropped:
            about["gone"] = dict(sorted((str(rank), why) for rank, why in self._dropped.items()))
        about["spread"] = {name: s for name in SPREAD if name in self.columns and (s := self._spread(name)) is not None}
        if (slowest := self._slowest()) is not None:
            about["slowest"] = slowest
        about |= self._watched.report()
        if self._forward.found:
            about["stragglers"] = [*about["stragglers"], *self._forward.report()["stragglers"]]
        return about

    def _spread(self, name: str) -> dict[str, Any] | None:
        amounts = self._amounts[:, self.columns.index(name)]
        known = np.flatnonzero(~np.isnan(amounts) & (self._points >= 0))
        if len(known) < 2:
            return None
        low, high = known[amounts[known].argmin()], known[amounts[known].argmax()]
        places = self._joint.places
        return {
            "min": float(amounts[low]),
            "min_rank": places[low].rank,
            "median": float(np.median(amounts[known])),
            "max": float(amounts[high]),
            "max_rank": places[high].rank,
        }

    def _slowest(self) -> dict[str, Any] | None:
        """The rank that is busiest by itself before the ranks meet: waiting for data, then until its backward pass."""
        parts = ("data_wait_s", "rank_max_lead_s")
        if not set(parts) <= set(self.columns):
            return None
        wait_s, lead_s = (self._amounts[:, self.columns.index(name)] for name in parts)
        alone_s = wait_s + lead_s
        known = np.flatnonzero(~np.isnan(alone_s) & (self._points >= 0))
        if len(known) < 2:
            return None
        row = int(known[alone_s[known].argmax()])
        place = self._joint.places[row]
        return {
            "rank": place.rank,
            "node": place.node,
            "ahead_s": float(alone_s[row] - np.median(np.delete(alone_s[known], alone_s[known].argmax()))),
            "data_wait_s": float(wait_s[row]),
            "lead_s": float(lead_s[row]),
        }
