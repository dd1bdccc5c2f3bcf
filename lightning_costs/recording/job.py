"""The job: the windows of all its ranks as one, on rank 0; on other ranks this rank's own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from lightning_costs.indicators.reader import IndicatorReader
from lightning_costs.probes.context import ProbeContext
from lightning_costs.ranks.exchange import Exchange, Hurry, job_store
from lightning_costs.ranks.reduce import reduce_ranks
from lightning_costs.ranks.snapshot import NO_BLOCKS
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount, CostVector, Trigger
from lightning_costs.run.summary import describe_straggler

_log = logging.getLogger("lightning_costs")


@final
class JobAggregator:
    """Joins what the panel reads with what the other ranks' panels read."""

    def __init__(self, panel: IndicatorReader, setting: ProbeContext) -> None:
        self._panel, self._setting = panel, setting
        self._exchange: Exchange | None = None
        #: Why the other ranks cannot be received; None if they can.
        self._alone: str | None = None
        #: What rates may be made of since the last point, if windows were closed between points.
        self._between: Mapping[str, Amount] | None = None

    def start_exchange(self) -> None:
        """Training begins: from now on ranks leave snapshots for rank 0."""
        setting = self._setting
        if len(setting.places) == 1:
            return
        try:
            self._exchange = Exchange(job_store(), setting.place, setting.places, self._panel.measured)
        except Missing as error:
            self._alone = str(error)
            if setting.place.rank == 0:
                _log.warning("sums over ranks are recorded as missing: %s", error)

    @property
    def all_ranks_reporting(self) -> bool:
        """Whether every rank's snapshots can come, as far as is known."""
        if len(self._setting.places) == 1 or self._exchange is not None:
            return True
        try:
            job_store()
        except Missing:
            return False
        return self._alone is None

    def next_point(self) -> None:
        """The windows that follow belong to another point: every rank says so at the same ones."""
        if self._exchange is not None:
            self._exchange.points += 1

    def reduce_window(
        self,
        own: CostVector,
        *,
        trigger: Trigger,
        batches: int,
        exact: bool = False,
        hurry: Hurry = None,
        blocks: NDArray[np.float32] = NO_BLOCKS,
    ) -> tuple[Mapping[str, Amount], Mapping[str, Amount] | None]:
        """The job's window, and what rates may be made of (see `JobWindow.even`), all since the last point.

        Args:
            own: This rank's window.
            trigger: What closed it.
            batches: Batches that this rank has trained on.
            exact: The window was closed between points: other ranks' snapshots of these batches are waited for.
            hurry: How the run ended, if it did not finish.
            blocks: This rank's own work since the last point, at a point.
        """
        job, even = self._reduce(own, trigger=trigger, batches=batches, exact=exact, hurry=hurry, blocks=blocks)
        if self._between is not None and even is not None:
            even = dict(even)
            for name, declared in self._panel.measured.items():
                if declared.kind == "counter" and (amount := even.get(name)) is not None:
                    even[name] = amount + (self._between.get(name) or 0.0)
        self._between = even if exact else None
        return job, even

    def _reduce(
        self,
        own: CostVector,
        *,
        trigger: Trigger,
        batches: int,
        exact: bool,
        hurry: Hurry,
        blocks: NDArray[np.float32],
    ) -> tuple[Mapping[str, Amount], Mapping[str, Amount] | None]:
        panel, places = self._panel, self._setting.places
        exchange = self._exchange
        if len(places) > 1 and own.place.rank != 0:
            if exchange is not None:
                exchange.publish(own, batches=batches, final=trigger == "end", missing=panel.missing, blocks=blocks)
            places = [own.place]
        if exchange is None or own.place.rank != 0:
            job = reduce_ranks([own], panel.measured, places)
            if len(places) > 1:
                panel.mark_unreported(own, job, self._alone)
            return job, job
        exchange.publish(own, batches=batches, final=trigger == "end", missing=panel.missing, blocks=blocks)
        joined = exchange.collect(own, trigger=trigger, exact=exact, batches=batches, hurry=hurry)
        panel.mark_missing(joined.missing)
        for each in joined.stragglers:
            _log.warning("%s", describe_straggler(asdict(each)))
        return joined.window, joined.even

    def publish_oom(self, facts: Mapping[str, Any]) -> None:
        """Memory ran out on this rank, which is not the one that writes."""
        if self._exchange is not None and self._setting.place.rank != 0:
            self._exchange.publish_oom(facts)

    def oom_elsewhere(self) -> dict[str, Any]:
        """What another rank published of memory that ran out; empty if none did."""
        return self._exchange.oom_elsewhere() if self._exchange is not None else {}

    def leave_statics(self, statics: Mapping[str, Amount]) -> None:
        """This rank's single numbers of the run, before its last window."""
        if self._exchange is not None:
            self._exchange.publish_statics(statics)

    def statics(self, own: Mapping[str, Amount], *, final: bool) -> dict[str, Amount]:
        """The run's single numbers: rank 0's own, but parameters of a pipeline, which are those of all its stages."""
        stages = self._exchange.other_stages() if self._exchange is not None else []
        if not stages:
            return dict(own)
        whole = dict(own)
        others = [self._exchange.statics_of(rank) for rank in stages] if final and self._exchange is not None else [{}]
        for name, amount in own.items():
            if self._panel.declarations[name].unit == "params":
                each = [amount, *(other.get(name) for other in others)]
                known = [part for part in each if part is not None]
                whole[name] = sum(known) if len(known) == len(each) else None
        return whole

    def report(self) -> dict[str, Any]:
        """For the header: which ranks were received; empty if one process trains."""
        if self._exchange is not None:
            return self._exchange.report()
        return {} if self._alone is None else {"heard": 1, "of": len(self._setting.places), "failed": self._alone}

    def broadcast_headline(
        self, headline: Mapping[str, float], trigger: Literal["evaluate", "epoch"]
    ) -> dict[str, float]:
        """Rank 0's numbers on every rank, the same; empty if they cannot be had."""
        if len(self._setting.places) == 1:
            return dict(headline)
        return {} if self._exchange is None else self._exchange.broadcast_headline(headline, trigger)
