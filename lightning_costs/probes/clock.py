"""The host clock, and when this process began on it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

#: The one clock of every account: monotonic, in seconds.
now_s = time.perf_counter

_runs_ended_s: float | None = None


def process_began_s() -> float:
    """When this process began, on the scale of `now_s`, within a clock tick (10 ms on Linux).

    Linux tells the start in ticks since boot (proc_pid_stat(5), field 22), which a later change of the system
    time cannot spoil; elsewhere psutil's creation time is taken.
    """
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[19])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        import psutil

        age_s = time.time() - psutil.Process().create_time()
    return now_s() - max(0.0, age_s)


def interactive() -> bool:
    """Whether a person types into this process: its start is then no start of a run."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


def run_begins_s(made_s: float | None = None) -> float:
    """When a run that is set up now began, on the scale of `now_s`.

    At the process's start or the end of the run before it in this process, whichever is later; in an
    interactive session, when its monitor was made.

    Args:
        made_s: When its monitor was made; now by default.
    """
    began = (now_s() if made_s is None else made_s) if interactive() else process_began_s()
    return began if _runs_ended_s is None else max(began, _runs_ended_s)


def run_ended(ended_s: float) -> None:
    """Note when a run of this process ended, on the scale of `now_s`: the next one begins there."""
    global _runs_ended_s
    _runs_ended_s = ended_s
