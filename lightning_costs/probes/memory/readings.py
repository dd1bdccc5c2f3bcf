"""Memory as device and host report it: torch's caching allocator and resident memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Self, final

import psutil
import torch

from lightning_costs.probes.context import ProbeContext
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import StepSample


@final
class Allocator:
    """Statistics of the training device's allocator, by torch's names (`torch.cuda.memory_stats`); nothing is reset."""

    def __init__(self, device: torch.device | None) -> None:
        self._device = device
        self._sample: StepSample | None = None
        self._stats: Mapping[str, int] = self._look()
        #: What they were when the run began.
        self.begun = self._stats

    @classmethod
    def attach(cls, setting: ProbeContext) -> Self:
        """The allocator of the device that trains.

        Raises:
            Missing: Without a CUDA device.
        """
        if not setting.on_cuda:
            raise Missing("no CUDA device trains; see host_rss_bytes")
        return cls(setting.device)

    def detach(self) -> None:
        """Nothing is held."""

    def stats(self, sample: StepSample) -> Mapping[str, int]:
        """As of the window's end."""
        if sample is not self._sample:
            self._sample, self._stats = sample, self._look()
        return self._stats

    def _look(self) -> Mapping[str, int]:
        return torch.cuda.memory_stats(self._device)


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
