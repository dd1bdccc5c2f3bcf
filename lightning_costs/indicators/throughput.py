"""Rates outside warm-up, and the spread of step times. Counts are added first and divided last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from lightning_costs.indicators.base import Derived, Measured
from lightning_costs.indicators.counts import counted_samples, counted_tokens
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.device_timeline import DeviceTimeline
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount, StepSample


@final
class SteadyS(Measured):
    """Training seconds outside warm-up (first steps, compilation, census): the denominator of the rates."""

    name, unit, kind, family = "steady_s", "s", "counter", "time"
    scope, across, role, label = "job", "rank0", "diagnostic", "time outside warm-up"

    def read(self, sample: StepSample) -> float:
        return sample.steady_s


@final
class SteadySamples(Measured):
    """Samples outside warm-up."""

    name, unit, kind, family = "steady_samples", "samples", "counter", "data"
    scope, role, label = "replica", "diagnostic", "samples outside warm-up"

    def open(self, setting: ProbeContext) -> None:
        self._sizes = setting.sizes

    def read(self, sample: StepSample) -> Amount:
        return counted_samples(sample.steady_samples, self._sizes)


@final
class SteadyTokens(Measured):
    """Tokens outside warm-up."""

    name, unit, kind, family = "steady_tokens", "tokens", "counter", "data"
    scope, role, label = "replica", "diagnostic", "tokens outside warm-up"

    def open(self, setting: ProbeContext) -> None:
        self._sizes = setting.sizes

    def read(self, sample: StepSample) -> Amount:
        return counted_tokens(sample.steady_tokens, self._sizes)


def rate(amount: float, seconds: float) -> Amount:
    """A rate; None (no new reading) in a window without a steady step."""
    return amount / seconds if seconds > 0 else None


@final
class SamplesPerS(Derived):
    """Throughput of the window: samples of all replicas over training seconds outside warm-up."""

    name, unit, kind, family = "samples_per_s", "samples_per_s", "gauge", "time"
    better, label, headline = "higher", "throughput", True
    needs = ("steady_samples", "steady_s")

    def of(self, window: Mapping[str, float], tariff: Tariff) -> Amount:
        return rate(window["steady_samples"], window["steady_s"])


@final
class SamplesPerDevicePerS(Derived):
    """Throughput of the window per allocated device."""

    name, unit, kind, family = "samples_per_device_per_s", "samples_per_s", "gauge", "time"
    better, label = "higher", "throughput per device"
    needs = ("steady_samples", "steady_s", "devices")

    def of(self, window: Mapping[str, float], tariff: Tariff) -> Amount:
        return rate(window["steady_samples"] / window["devices"], window["steady_s"])


@final
class TokensPerS(Derived):
    """Tokens of all replicas over training seconds outside warm-up."""

    name, unit, kind, family = "tokens_per_s", "tokens_per_s", "gauge", "time"
    better, label = "higher", "token throughput"
    needs = ("steady_tokens", "steady_s")

    def of(self, window: Mapping[str, float], tariff: Tariff) -> Amount:
        return rate(window["steady_tokens"], window["steady_s"])


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
            raise Missing("step times could not be told")
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
