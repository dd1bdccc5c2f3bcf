"""torch's caching allocator on a CUDA device: one look a window for all who ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, final

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
