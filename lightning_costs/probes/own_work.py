"""A rank's own work in each batch: what it does before the others wait for it in a collective of the backward pass."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from typing import final

from lightning_costs.records.time_buckets import TimeBuckets


@final
class OwnWork:
    """Adds up, batch by batch, waiting for data, other callbacks and loggers, and what comes before the backward pass.

    The backward pass is left out: a rank computes in it and waits for the others, and no clock separates the two.
    Nothing but these calls costs something: a clock read and, on a device, an event at a backward pass.

    Args:
        accounts: Where the run's time goes.
        mark_device: Called before a batch's first backward pass is queued.
        shared: Whether several ranks train.
    """

    __slots__ = (
        "_accounts",
        "_begun_beside_s",
        "_begun_s",
        "_beside_s",
        "_mark_device",
        "_waited_s",
        "lead_s",
        "shared",
        "times_s",
    )

    def __init__(self, accounts: TimeBuckets, mark_device: Callable[[], None] = lambda: None, *, shared: bool) -> None:
        self._accounts, self._mark_device, self.shared = accounts, mark_device, shared
        #: Seconds from having a batch to its first backward pass, of all since `take_lead_s`; None if not reported.
        self.lead_s: float | None = None
        #: Own work of each batch since the last point, in seconds: all of it, waiting for data, and other accounts.
        self.times_s = (array("d"), array("d"), array("d"))
        self._begun_s = self._begun_beside_s = self._beside_s = self._waited_s = 0.0

    def on_batch(self) -> None:
        """A batch was fetched: the account of its waiting has just been closed, so the clock is not read."""
        self._begun_s, self._begun_beside_s = self._accounts.since_s, self._accounts.beside_s()

    def on_backward(self) -> None:
        """The first backward pass of a batch begins: one clock read."""
        accounts = self._accounts
        accounts.train_s()
        beside_s = accounts.beside_s()
        lead_s = accounts.since_s - self._begun_s - (beside_s - self._begun_beside_s)
        self._mark_device()
        self.lead_s = (self.lead_s or 0.0) + lead_s
        self._note(lead_s, beside_s)

    def on_work(self, cpu_s: float) -> None:
        """The work on a batch is done in a loop that does not report its backward passes.

        Args:
            cpu_s: CPU time of the thread that trains: a rank that waits in a collective spends none.
        """
        self._note(cpu_s, self._accounts.beside_s())

    def _note(self, work_s: float, beside_s: float) -> None:
        whole, waits, others = self.times_s
        waited_s = self._accounts.data_wait_s()
        waits.append(wait_s := waited_s - self._waited_s)
        others.append(beside_s - self._beside_s - wait_s)
        whole.append(work_s + beside_s - self._beside_s)
        self._beside_s, self._waited_s = beside_s, waited_s

    def take_lead_s(self) -> float | None:
        """`lead_s`, which starts again from zero."""
        lead_s = self.lead_s
        if lead_s is not None:
            self.lead_s = 0.0
        return lead_s

    def take(self) -> tuple[array[float], ...]:
        """`times_s`, which start again from none."""
        times_s, self.times_s = self.times_s, (array("d"), array("d"), array("d"))
        return times_s


#: CPU seconds of this thread.
cpu_s = time.thread_time
