"""The host clock, and when this process began on it."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import struct
import sys
import time
from collections.abc import Mapping
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any

#: The one clock of every account: monotonic, in seconds.
now_s = time.perf_counter

_runs_ended_s: float | None = None


def process_began_s() -> float:
    """When this process began, on the scale of `now_s`, within a clock tick (10 ms on Linux).

    Linux reports the start in ticks since boot (proc_pid_stat(5), field 22), which a later change of the system
    time cannot spoil; elsewhere psutil's creation time is taken.
    """
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[19])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        import psutil

        try:
            age_s = time.time() - psutil.Process().create_time()
        except (psutil.Error, OSError):
            age_s = 0.0
    return now_s() - max(0.0, age_s)


def is_interactive() -> bool:
    """Whether a person types into this process: its start is then no start of a run."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


def run_start_s() -> float:
    """When a run that is set up now began, on the scale of `now_s`.

    At the process's start or the end of the run before it in this process, whichever is later; in an
    interactive session, now.
    """
    began = now_s() if is_interactive() else process_began_s()
    return began if _runs_ended_s is None else max(began, _runs_ended_s)


def first_run_here() -> bool:
    """Whether no run of this process has ended yet."""
    return _runs_ended_s is None


def mark_run_end(ended_s: float) -> None:
    """Note when a run of this process ended, on the scale of `now_s`: the next one begins there."""
    global _runs_ended_s, _handed_over
    _runs_ended_s = ended_s
    _handed_over = False  # it trained here: who was handed the monitor loaded its data


class RunBegin:
    """When the run of a monitor that is made now will have begun.

    The start of this process, as `run_start_s` has it. A strategy may fork or spawn the processes that train. They then
    get the monitor of the process that runs the script, and the run began there: `perf_counter` is one clock for all
    processes of a machine. A monitor that a process makes for itself begins with that process.
    """

    def __init__(self) -> None:
        global _of_children
        self._pid = os.getpid()
        made_s = self._made_s = now_s()
        self._began_s = made_s if is_interactive() else process_began_s()
        if _handed_over:  # a run that spawned processes trained is over, and its end was not reported to this one
            self._began_s = made_s
        if _of_children[0] != self._pid:
            _of_children = self._pid, mmap.mmap(-1, 8)
        self._children: mmap.mmap | None = _of_children[1]
        self._handed = False

    def seconds(self) -> float:
        """On the scale of `now_s`."""
        parent = multiprocessing.parent_process()
        if self._pid not in (os.getpid(), os.getppid(), parent.pid if parent is not None else None):
            return run_start_s()  # carried further than to a child: to another machine, or by way of a file
        ended_s: float = 0.0 if self._children is None else struct.unpack("d", self._children[:])[0]
        return max(self._began_s, _runs_ended_s or 0.0, ended_s)  # a forked child knows its parent's last run too

    def imports_s(self, began_s: float) -> float:
        """Seconds from the run's begin until its monitor was made: interpreter, imports, what the script did first."""
        return max(0.0, self._made_s - began_s) if first_run_here() else 0.0

    def ended(self) -> None:
        """The run is over: if a forked child trained it, the process that owns the monitor is notified."""
        if self._children is not None and self._pid != os.getpid():
            self._children[:] = struct.pack("d", now_s())

    def __getstate__(self) -> dict[str, Any]:
        """For a spawned process: what the memory that is shared with forked ones says, as a number."""
        global _handed_over
        began_s = now_s() if self._handed else self.seconds()  # handed over again: the run before it is over
        if get_spawning_popen() is not None:  # else it goes into a file, or nowhere
            self._handed = _handed_over = True
        return {**vars(self), "_began_s": began_s, "_children": None, "_handed": False}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)

    def __deepcopy__(self, memo: object) -> RunBegin:
        return self


#: The process that this was made in, and memory that it shares with its forked children: when a run ended in one.
_of_children: tuple[int, mmap.mmap | None] = (0, None)
#: Whether a monitor was handed to a spawned process.
_handed_over = False
