"""Rates outside warm-up, and the spread of step times. Counts are added first and divided last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from lightning_costs.indicators.base import Derived, FromSample, Measured, Ratio
from lightning_costs.indicators.counts import CountedSamples, CountedTokens
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.device_timeline import DeviceTimeline
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount, StepSample


@final
class SteadyS(FromSample):
    """Training seconds outside warm-up (first steps, compilation, census): the denominator of the rates."""

    name, unit, kind, family = "steady_s", "s", "counter", "time"
    scope, across, role, label = "job", "rank0", "diagnostic", "time outside warm-up"


@final
class SteadySamples(CountedSamples):
    """Samples outside warm-up."""

    name, role, label = "steady_samples", "diagnostic", "samples outside warm-up"


@final
class SteadyTokens(CountedTokens):
    """Tokens outside warm-up."""

    name, role, label = "steady_tokens", "diagnostic", "tokens outside warm-up"


@final
class SamplesPerS(Ratio):
    """Throughput of the window: samples of all replicas over training seconds outside warm-up."""

    name, unit, kind, family = "samples_per_s", "samples_per_s", "gauge", "time"
    better, label, headline = "higher", "throughput", True
    needs = ("steady_samples", "steady_s")


@final
class SamplesPerDevicePerS(Derived):
    """Throughput of the window per allocated device."""

    name, unit, kind, family = "samples_per_device_per_s", "samples_per_s", "gauge", "time"
    better, label = "higher", "throughput per device"
    needs = ("steady_samples", "steady_s", "devices")

    def of(self, window: Mapping[str, float], tariff: Tariff) -> Amount:
        seconds = window["steady_s"]
        return window["steady_samples"] / window["devices"] / seconds if seconds > 0 else None


@final
class TokensPerS(Ratio):
    """Tokens of all replicas over training seconds outside warm-up."""

    name, unit, kind, family = "tokens_per_s", "tokens_per_s", "gauge", "time"
    better, label = "higher", "token throughput"
    needs = ("steady_tokens", "steady_s")


def quantile(ascending: Sequence[float], share: float) -> float:
    """A quantile by linear interpolation between order statistics (Hyndman and Fan 1996, definition 7).

    Example:
        >>> quantile([1.0, 2.0, 4.0], 0.75)
        3.0
    """
    place = share * (len(ascending) - 1)
    below = int(place)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (ascending[above] - ascending[below]) * (place - below)


class _StepTime(Measured):
    """A quantile of the window's step times, from the end of one step to the end of the next."""

    name, unit, kind, family = "step_time_s", "s", "gauge", "time"
    scope, across = "job", "rank0"
    quantile: ClassVar[float] = 0.5

    def open(self, setting: ProbeContext) -> None:
        if setting.on_cuda:
            setting.probe(DeviceTimeline)
            self.method = "device events, read late"
        else:
            self.method = "host clock"

    def read(self, sample: StepSample) -> Amount:
        if sample.step_times_s is None:
            raise Missing("step times could not be measured")
        return quantile(sorted(sample.step_times_s), self.quantile) if sample.step_times_s else None


@final
class StepP50S(_StepTime):
    """Median step time of the window."""

    name, label, quantile = "step_p50_s", "step time, median", 0.5


@final
class StepP95S(_StepTime):
    """95th percentile of the window's step times."""

    name, label, quantile = "step_p95_s", "step time, 95th percentile", 0.95


@final
class StepMaxS(_StepTime):
    """Longest step of the window."""

    name, label, quantile, role = "step_max_s", "step time, longest", 1.0, "diagnostic"
