"""Step times on a CUDA device, from pooled events that are read late: the step itself is never waited for."""

from __future__ import annotations

from collections import deque
from typing import Self, final

import torch

from lightning_costs.core.indicator import Missing
from lightning_costs.probes.setting import Setting

#: Events in flight at most; beyond that the oldest are dropped, so that a long window stays bounded.
MOST_EVENTS = 4096


@final
class DeviceSteps:
    """Periods from the end of one step to the end of the next on the compute stream, in seconds.

    One pooled event a step. A period is dropped where something else ran between its ends (an evaluation, a
    checkpoint) or where it is warm-up.
    """

    def __init__(self) -> None:
        self._pool: list[torch.cuda.Event] = []
        self._queue: deque[tuple[torch.cuda.Event, bool]] = deque()

    @classmethod
    def attach(cls, setting: Setting) -> Self:
        """A probe of the setting's CUDA device."""
        if not setting.on_cuda:
            raise Missing("device events need a CUDA device")
        return cls()

    def detach(self) -> None:
        """Let the events go."""
        self._queue.clear()
        self._pool.clear()

    def mark(self, *, steady: bool) -> None:
        """Record the end of a step; `steady` says whether the period that ends here counts."""
        event = self._pool.pop() if self._pool else torch.cuda.Event(enable_timing=True)
        event.record()
        self._queue.append((event, steady))
        if len(self._queue) > MOST_EVENTS:
            self._pool.append(self._queue.popleft()[0])
            oldest, _ = self._queue[0]
            self._queue[0] = (oldest, False)

    def collect(self) -> tuple[float, ...]:
        """Durations of the periods whose ends have happened, oldest first; waits for nothing."""
        periods = []
        while len(self._queue) > 1 and self._queue[1][0].query():
            begun, _ = self._queue.popleft()
            ended, steady = self._queue[0]
            if steady:
                periods.append(begun.elapsed_time(ended) / 1e3)
            self._pool.append(begun)
        return tuple(periods)
