"""How much of the devices' peak rate the training used: MFU and HFU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from lightning_costs.indicators.base import Derived, Measured, Ratio
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.device_peaks import find_peak
from lightning_costs.probes.opcount.counter import StepOpCounter
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount, StepSample


@final
class FlopPerS(Ratio):
    """Executed FLOPs over training seconds, outside warm-up."""

    name, unit, kind, family = "flop_per_s", "flop_per_s", "gauge", "compute"
    better, label, headline = "higher", "FLOP rate", True
    needs = ("steady_flop", "steady_s")


@final
class PeakFlopPerS(Measured):
    """Most FLOP/s that the training devices can do in the number formats in use, dense.

    Products in several formats count by the time that each would take: the whole over the sum of flop / peak.

    Args:
        flop_per_s: Peak of one device, where the table has none or you measured it (`lightning_costs.measure`).
    """

    name, unit, kind, family = "peak_flop_per_s", "flop_per_s", "gauge", "compute"
    better, across, role, label = "higher", "sum", "diagnostic", "peak FLOP rate of the devices"

    def __init__(self, flop_per_s: float | None = None) -> None:
        if flop_per_s is not None and not flop_per_s > 0:
            raise ValueError(f"flop_per_s must be a positive rate, got {flop_per_s!r}")
        self._given = flop_per_s

    def open(self, setting: ProbeContext) -> None:
        self._census = setting.probe(StepOpCounter)
        if self._given is not None:
            self.method = "given by the user"
            return
        peak = find_peak(setting.device)
        if peak is None:
            raise Missing(
                f"the table has no peak of {_called(setting)}: pass PeakFlopPerS(flop_per_s=...) among the indicators"
            )
        self._peak = peak
        self.method = f"table: dense figures of {peak.source}"

    def read(self, sample: StepSample) -> Amount:
        return self._given if self._given is not None else self._peak.mixed_precision_peak(self._census.flop_by_dtype)


def _called(setting: ProbeContext) -> str:
    if not setting.on_cuda:
        return f"device {setting.device!s}"
    import torch

    return f"'{torch.cuda.get_device_properties(setting.device).name}'"


class _Utilization(Derived):
    name, unit, kind, family = "utilization_fraction", "fraction", "gauge", "compute"
    better = "higher"

    def of(self, window: Mapping[str, float], tariff: Tariff) -> Amount:
        flop, seconds, peak = (window[name] for name in self.needs)
        return flop / peak / seconds if peak > 0 and seconds > 0 else None


@final
class MfuFraction(_Utilization):
    """Model FLOP utilization: model FLOPs per second over the devices' peak (Chowdhery et al. 2022, PaLM)."""

    name, label = "mfu_fraction", "model FLOP utilization"
    needs = ("steady_model_flop", "steady_s", "peak_flop_per_s")


@final
class HfuFraction(_Utilization):
    """Hardware FLOP utilization: executed FLOPs per second over the devices' peak, recomputation included."""

    name, label = "hfu_fraction", "hardware FLOP utilization"
    needs = ("steady_flop", "steady_s", "peak_flop_per_s")
