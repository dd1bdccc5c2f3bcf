"""A pipeline's lanes brought together: each rank leaves one in the store that the job met in, and one rank reads them.

A lane is left once, after the first steps, and read at the end of the run: no collective, nothing on a stream.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, final

from lightning_costs.ranks.exchange import default_store
from lightning_costs.records.pipeline.timeline import Lane

_log = logging.getLogger("lightning_costs")
#: Seconds that the reader waits at most for lanes that are not there yet.
MOST_S = 1.0
_PAUSE_S = 0.002
#: How many pipelines of the same ranks this process has watched: all of them watch these in the same order.
_watched: Counter[str] = Counter()


def global_rank() -> int | None:
    """This process among those of torch.distributed; None if it is not initialized."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return int(distributed.get_rank())


@final
class TimelineExchange:
    """The lanes of a pipeline's ranks, in the job's store."""

    def __init__(self, ranks: Sequence[int], store: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._ranks, self._store, self._clock = ranks, store, clock
        who = f"{ranks[0]}-{ranks[-1]}-{len(ranks)}"
        self._prefix = f"lightning-costs/lanes/{who}/{_watched[who]}"
        _watched[who] += 1
        #: Number of the step whose lane was left last.
        self.left = -1

    def _open(self) -> Any:
        if self._store is None:
            self._store = default_store()
        return self._store

    def leave(self, lane: Lane) -> None:
        """Leave this rank's lane, in place of the one before; where the store fails, the picture does without it."""
        self.left = lane["step"]
        try:
            self._open().set(f"{self._prefix}/{lane['rank']}", json.dumps(lane))
        except Exception as error:  # noqa: BLE001 - a store has errors of its own
            _log.warning("this stage's timeline could not be left in the job's store: %r", error)

    def read(self, own: Lane, most_s: float) -> list[Lane]:
        """The lanes of all ranks that have left one by now, or within `most_s` seconds, and this rank's own."""
        lanes = [own]
        try:
            self._read_others(own, lanes, most_s)
        except Exception as error:  # noqa: BLE001 - as above
            _log.warning("other stages' timelines could not be read from the job's store: %r", error)
        return lanes

    def _read_others(self, own: Lane, lanes: list[Lane], most_s: float) -> None:
        store = self._open()
        waiting = {rank: f"{self._prefix}/{rank}" for rank in self._ranks if rank != own["rank"]}
        until_s = self._clock() + most_s
        while waiting:
            for rank in [rank for rank, key in waiting.items() if store.check([key])]:
                lanes.append(json.loads(store.get(waiting.pop(rank))))
            if not waiting or self._clock() >= until_s:
                return
            time.sleep(_PAUSE_S)
