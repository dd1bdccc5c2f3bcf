"""Resident memory of this process: on Linux from a file that stays open, elsewhere by psutil."""

from __future__ import annotations

import os
from collections.abc import Callable

import psutil


def rss_reader() -> Callable[[], int]:
    """A function that returns the resident set of the process that calls it, in bytes.

    Opening `/proc/self/statm` (proc_pid_statm(5): its second number, in pages) takes most of the time of a reading. A
    forked child that keeps the function would read its parent's: it opens the file again.
    """
    try:
        statm = _Statm(os.sysconf("SC_PAGE_SIZE"))
        statm()
    except (OSError, ValueError, IndexError, AttributeError):
        return lambda: int(psutil.Process().memory_info().rss)
    return statm


class _Statm:
    def __init__(self, page_bytes: int) -> None:
        self._page_bytes = page_bytes
        self._pid = -1
        self._file = -1

    def __call__(self) -> int:
        if self._pid != os.getpid():
            self._file, self._pid = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC), os.getpid()
        return int(os.pread(self._file, 128, 0).split()[1]) * self._page_bytes

    def __del__(self) -> None:
        if self._pid == os.getpid():
            os.close(self._file)
