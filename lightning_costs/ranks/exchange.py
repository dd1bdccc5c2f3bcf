"""The exchange of totals between ranks, over the store that the job's processes met in: host, not training stream.

Each rank publishes a snapshot at each point, a few hundred bytes, and continues; rank 0 reads them. Only rank 0 waits,
for a small share of the time since its last point. The other ranks wait only for the costs of an evaluation.
No process group is made: making one is slow for thousands of ranks (gloo#407), and one over gloo fails on hosts with
several interfaces (pytorch#68726); a collective would make every rank wait for the slowest.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, final

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.ranks.aggregator import JobWindow, RankAggregator
from lightning_costs.ranks.snapshot import NO_BLOCKS, RankTotals, decode, encode
from lightning_costs.records.declaration import Declaration
from lightning_costs.records.missing import Missing, by_type, type_only
from lightning_costs.records.samples import Amount, CostVector, RankInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch._C._distributed_c10d import Store

_log = logging.getLogger("lightning_costs")
_FAILED: Final = "the exchange between ranks failed"

#: Rank 0 waits for late snapshots at most this share of the time since its last point, and this many seconds.
WAIT_FRACTION: Final = 0.01
MAX_WAIT_S: Final = {"train": 0.05, "evaluate": 1.0, "epoch": 1.0, "end": 2.0}
#: Points for which rank 0 waits even after a short window.
MIN_WAIT_S: Final = {"train": 0.0, "evaluate": 0.25, "epoch": 0.25, "end": 2.0}
#: If a run does not finish, the launcher kills the other ranks, and no snapshot may arrive. An error must not be
#: delayed by this package, so that every rank can still report its own.
UNFINISHED_S: Final = {"failed": 0.03, "interrupted": 0.25}
Hurry = Literal["failed", "interrupted"] | None
#: Snapshots of a rank that are kept: one that is a point ahead does not hide what rank 0 reads.
SLOTS: Final = 4
_PAUSE_S: Final = 0.0002
#: Bytes that identify snapshots of rank 0's exchange, and not of another one of that name.
_TOKEN: Final = 8
#: Index of the next exchange in this process. Ranks create exchanges in the same order, so equal indices match.
_made = itertools.count()


def default_store() -> Store:
    """The store of torch.distributed's default group, which has to be initialized."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


def job_store() -> Store:
    """The store in which the processes of this job met."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        raise Missing("torch.distributed is not initialized, so the ranks cannot exchange their costs")
    store = default_store()
    base: Any = store
    while hasattr(base, "underlying_store"):
        base = base.underlying_store
    if type(base).__name__ not in ("TCPStore", "HashStore"):
        raise Missing(
            f"the job's processes met in a {type(base).__name__}, in which messages between ranks would pile up: "
            'initialize torch.distributed with init_method="env://" or "tcp://..."'
        )
    return store


@final
class Exchange:
    """Leaves this rank's snapshots, and on rank 0 joins everybody's."""

    def __init__(
        self,
        store: Store,
        place: RankInfo,
        places: Sequence[RankInfo],
        declarations: Mapping[str, Declaration],
        clock: Callable[[], float] = time.monotonic,
        name: str | None = None,
    ) -> None:
        self._store, self._clock = store, clock
        self._rank = place.rank
        self._prefix = f"lightning-costs/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{name or next(_made)}"
        self._totals = RankTotals({name: declared.kind == "counter" for name, declared in declarations.items()})
        self._aggregator = RankAggregator(declarations, places) if self._rank == 0 else None
        self._ranks = [p.rank for p in places]
        self._joined: set[int] = set()
        self._joined_last_s = clock()
        self._published_missing: frozenset[str] = frozenset()
        self._waits = {"batch": True, "headline": True}
        #: Points of this rank so far.
        self.points = 0
        #: Why snapshots are left no longer; None while they are.
        self.failed: str | None = None
        self._failure = ""
        self._token = secrets.token_bytes(_TOKEN) if self._rank == 0 else bytes(_TOKEN)
        try:
            if self._rank == 0:
                store.set(f"{self._prefix}/token", self._token.hex())
            for slot in range(SLOTS):
                store.set(self._key(self._rank, slot), "")
            store.add(f"{self._prefix}/joined", 1)
        except Exception as error:
            raise Missing(type_only("the job's store takes no snapshots", error), warn=True) from error

    def _key(self, rank: int, slot: int) -> str:
        return f"{self._prefix}/{rank}/{slot % SLOTS}"

    def publish(
        self,
        vector: CostVector,
        *,
        batches: int,
        final: bool,
        missing: Mapping[str, str],
        blocks: NDArray[np.float32] = NO_BLOCKS,
    ) -> None:
        """Leave a snapshot with what this rank has spent so far; nothing is waited for."""
        self._totals.add(vector.amounts)
        snapshot = self._totals.snapshot(
            vector.place, points=self.points, batches=batches, final=final, missing=missing, blocks=blocks
        )
        if self._aggregator is not None:
            self._aggregator.update(snapshot, self._clock())
        elif self.failed is None:
            try:
                self._learn_token()
                if missing.keys() != self._published_missing:
                    self._published_missing = frozenset(missing)
                    self._store.set(f"{self._prefix}/why/{self._rank}", json.dumps(dict(missing)))
                note = self._token + encode(snapshot, self._totals.columns)
                self._store.set(self._key(self._rank, self.points), note)  # type: ignore[arg-type]  # bytes pass
            except Exception as error:  # noqa: BLE001 - rank 0 has ended; this rank's training must continue
                reraise_from_signal(error)
                self._fail(error)

    def publish_statics(self, statics: Mapping[str, Amount]) -> None:
        """Leave the run's single numbers, before the final snapshot: of a pipeline each stage has its own."""
        if self._aggregator is None and self.failed is None:
            try:
                self._store.set(f"{self._prefix}/statics/{self._rank}", json.dumps(dict(statics)))
            except Exception as error:  # noqa: BLE001 - rank 0 has ended
                reraise_from_signal(error)
                self._fail(error)

    def publish_oom(self, facts: Mapping[str, Any]) -> None:
        """Leave what this rank knows of memory that ran out; of several ranks, the last one's stays."""
        try:
            self._store.set(f"{self._prefix}/oom/0", json.dumps(dict(facts)))
        except Exception as error:  # noqa: BLE001 - rank 0 has ended
            reraise_from_signal(error)
            self._fail(error)

    def oom_elsewhere(self) -> dict[str, Any]:
        """What a rank published of it; empty if none did."""
        return self._left_by(0, "oom")

    def other_stages(self) -> list[int]:
        """On rank 0: the lowest rank of each other stage of its own copy of the model, as far as ranks reported."""
        if self._aggregator is None:
            return []
        places = self._aggregator.places
        own = next(place for place in places if place.rank == self._rank)
        ranks = {p.stage: p.rank for p in reversed(places) if p.replica == own.replica and p.stage != own.stage}
        return sorted(ranks.values())

    def statics_of(self, rank: int) -> Mapping[str, Amount]:
        """The snapshot of a rank; empty if it has none."""
        return self._left_by(rank, "statics")

    def _learn_token(self) -> None:
        """What rank 0 made its exchange with: one of the same name that it had no part in is another."""
        if not any(self._token) and self._store.check([key := f"{self._prefix}/token"]):
            self._token = bytes.fromhex(self._store.get(key).decode())

    def collect(
        self, own: CostVector, *, trigger: str, exact: bool = False, batches: int = 0, hurry: Hurry = None
    ) -> JobWindow:
        """On rank 0, after `publish`: the job's window, of all snapshots that came in time.

        The trigger 'end' makes everybody who is late gone. If `exact`, snapshots written after rank 0's `batches` are
        waited for, where ranks leave them outside points. `hurry` is how an unfinished run ended: others may be dead.
        """
        roll = self._aggregator
        if roll is None:
            raise ValueError("only rank 0 joins")
        ending = trigger == "end"
        began = self._clock()
        wait_s = MAX_WAIT_S["evaluate"] if exact else MAX_WAIT_S.get(trigger, 0.0)
        if not ending:
            share_s = WAIT_FRACTION * (began - self._joined_last_s)
            wait_s = min(wait_s, max(share_s, MIN_WAIT_S["evaluate" if exact else trigger]))
        if hurry:
            wait_s = UNFINISHED_S[hurry]
        wants = batches if exact and self._waits["batch"] else 0
        if self.failed is None:
            self._read(roll, until_s=began + wait_s, wants=wants, ending=ending)
        if wants and roll.pending_ranks(self.points, wants):
            self._waits["batch"] = False  # only rank 0 asks for it in this run
        now = self._clock()
        if self.points:
            roll.drop_silent_ranks(self.points, now, ending=ending)
        self._joined_last_s = now
        joined = roll.aggregate(own.amounts, self.points)
        return replace(joined, missing=self._reasons(joined)) if joined.missing else joined

    def _read(self, roll: RankAggregator, *, until_s: float, wants: int, ending: bool) -> None:
        """Read snapshots until all have come that can be expected, or it is `until_s`."""
        try:
            while late := roll.pending_ranks(self.points, wants):
                self._look_who_joined(late)
                self._read_those_of(roll, late, self.points)
                late = roll.pending_ranks(self.points, wants)
                worth = set(late) if ending else set(late) - roll.stalled_ranks(self.points)
                if not worth or self._clock() >= until_s:
                    break
                time.sleep(_PAUSE_S)
            for before in range(1, SLOTS):  # what the late ones left at earlier points
                self._read_those_of(roll, roll.pending_ranks(self.points), self.points - before)
                if self.points > before:
                    late = roll.unwatched_ranks(self.points - before)
                    self._read_those_of(roll, late, self.points - before)
        except Exception as error:  # noqa: BLE001 - whatever a store or a stranger's snapshot raises
            reraise_from_signal(error)
            self._fail(error)

    def _read_those_of(self, roll: RankAggregator, ranks: Iterable[int], point: int) -> None:
        keys = [self._key(rank, point) for rank in ranks if rank in self._joined]
        for snapshot in self._store.multi_get(keys) if keys else ():
            if snapshot.startswith(self._token):
                try:
                    found = decode(snapshot[_TOKEN:], self._totals.columns)
                except ValueError as error:  # an error text of the package, which says what to do
                    raise Missing(str(error)) from error
                roll.update(found, self._clock())

    def _look_who_joined(self, late: Iterable[int]) -> None:
        """Reading what was never written would block."""
        if len(self._joined) == len(self._ranks):
            return
        if self._store.add(f"{self._prefix}/joined", 0) >= len(self._ranks):
            self._joined = set(self._ranks)
            return
        self._joined |= {rank for rank in late if rank not in self._joined and self._store.check([self._key(rank, 0)])}

    def _reasons(self, joined: JobWindow) -> dict[str, str]:
        """Why columns are missing, in the words of the rank without them, if it published any."""
        if self.failed is not None:
            return {n: f"{why} ({_FAILED}: {self._failure})" for n, why in joined.missing.items()}
        published = {rank: self._left_by(rank, "why") for rank in set(joined.lacking.values())}
        own = {
            name: f"rank {rank}: {published[rank][name]}"
            for name, rank in joined.lacking.items()
            if name in published[rank]
        }
        return joined.missing | own

    def _fail(self, error: Exception) -> None:
        """Stop publishing and reading snapshots; at the end of a job, this shows the others that rank 0 has ended."""
        if self.failed is None:
            _log.log(logging.INFO if self._aggregator is None else logging.WARNING, "%s: %r", _FAILED, error)
        self.failed = repr(error)
        # A store's errors name hosts, which a header does not.
        self._failure = str(error) if isinstance(error, Missing) else by_type(error)

    def _left_by(self, rank: int, what: str) -> dict[str, Any]:
        """What a rank published beside its snapshots; empty if nothing."""
        key = f"{self._prefix}/{what}/{rank}"
        try:
            return dict(json.loads(self._store.get(key))) if self.failed is None and self._store.check([key]) else {}
        except Exception as error:  # noqa: BLE001 - whatever a store raises
            reraise_from_signal(error)
            self._fail(error)
            return {}

    def report(self) -> dict[str, Any]:
        """For the header, on rank 0: the ranks that reported, and the straggler."""
        about: dict[str, Any] = {} if self._aggregator is None else self._aggregator.report()
        return about | ({"failed": self._failure} if self.failed is not None else {})

    def broadcast_headline(
        self, headline: Mapping[str, float], trigger: Literal["evaluate", "epoch"]
    ) -> dict[str, float]:
        """Rank 0's numbers at this point, on every rank the same; empty if they do not arrive in time."""
        key = f"{self._prefix}/headline/{self.points % SLOTS}"
        if self.failed is not None:
            return {}
        try:
            if self._aggregator is not None:
                self._store.set(key, json.dumps([self.points, dict(headline)]))
                return dict(headline)
            until_s = self._clock() + (MAX_WAIT_S[trigger] if self._waits["headline"] else 0.0)
            while True:
                if self._store.check([key]):
                    points, numbers = json.loads(self._store.get(key))
                    if points == self.points:
                        self._waits["headline"] = True
                        return dict(numbers)
                if self._clock() >= until_s:
                    self._waits["headline"] = False
                    return {}
                time.sleep(_PAUSE_S)
        except Exception as error:  # noqa: BLE001 - rank 0 has ended
            reraise_from_signal(error)
            self._fail(error)
            return {}
