"""What part of a node's CPU time is this job's: node energy is everybody's who computes there."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from typing import Any, final

from lightning_costs.probes.clock import now_s

_log = logging.getLogger("lightning_costs")

#: Walking the node's processes takes milliseconds: not more often than this.
_EVERY_S = 60.0
#: Launchers whose ranks are siblings of this process, below its parent.
_SIBLINGS = ("TORCHELASTIC_RUN_ID", "SLURM_STEP_ID", "OMPI_COMM_WORLD_RANK")


def job_root(environ: Mapping[str, str] = os.environ, processes: int = 1) -> int:
    """Process id at the root of the job's processes on this node.

    Lightning starts the other ranks of a node below the first one; torchrun, srun and mpirun below themselves.
    """
    siblings = processes > 1 and any(name in environ for name in _SIBLINGS)
    return os.getppid() if siblings else os.getpid()


@final
class CpuShare:
    """CPU seconds of the job's process tree over the busy CPU seconds of the node, since it was made.

    Processes that have ended count where their parent has waited for them, as the operating system then adds them up.
    """

    def __init__(self, processes: int = 1) -> None:
        self._root = job_root(processes=processes)
        self._looked_s = now_s()
        self._fraction: float | None = None
        self._tree_s, self._busy_s = self._look() or (math.nan, math.nan)

    def _look(self) -> tuple[float, float] | None:
        """CPU seconds of the job and of the node so far; None where the system does not show them."""
        import psutil

        try:
            return self._tree(), self._busy()
        except (psutil.Error, OSError) as error:
            _log.debug("the job's share of the node's CPU time is unknown: %r", error)
            return None

    def fraction(self, *, now: bool = False) -> float | None:
        """The share so far, looked up once a minute, or now; None where the node was not seen busy yet."""
        at_s = now_s()
        if now or at_s - self._looked_s >= _EVERY_S:
            self._looked_s = at_s
            if (found := self._look()) is not None and (busy_s := found[1] - self._busy_s) > 0:
                self._fraction = min(1.0, max(0.0, (found[0] - self._tree_s) / busy_s))
        return self._fraction

    def _tree(self) -> float:
        import psutil

        seconds = 0.0
        root = psutil.Process(self._root)
        for process in (root, *root.children(recursive=True)):
            try:
                times: Any = process.cpu_times()
            except psutil.Error:  # it has just ended, or is another user's
                continue
            seconds += times.user + times.system
            seconds += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        return seconds

    def _busy(self) -> float:
        import psutil

        times: Any = psutil.cpu_times()
        idle_s = times.idle + getattr(times, "iowait", 0.0)
        twice_s = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # in user and nice too, on Linux
        return float(sum(times) - idle_s - twice_s)
