"""What the GPU's own counters say: how much of it was active in training, at which clock, and what throttled it."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Literal, final

from lightning_costs.indicators.base import Measured, Ratio
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.gpu_activity import GpuActivity, Throttling
from lightning_costs.records.declaration import Role
from lightning_costs.records.samples import Amount, StepSample


class _ActiveS(Measured):
    """Device seconds of training, weighted by what a counter says was active in them."""

    name, unit, kind, family = "counted_s", "s", "counter", "compute"
    scope, rate_limited = "device", True
    role: ClassVar[Role] = "diagnostic"
    total: ClassVar[Literal["seen_s", "sm_s", "tensor_s", "dram_s", "tensor_peak_s"]] = "seen_s"

    def open(self, setting: ProbeContext) -> None:
        self._activity, self._before_s = setting.probe(GpuActivity), 0.0
        self.method = "NVML GPM metrics of training time, read at points; they lag by up to 0.1 s"

    def read(self, sample: StepSample) -> float:
        self._activity.update(sample)
        total_s: float = getattr(self._activity, self.total)
        new_s, self._before_s = total_s - self._before_s, total_s
        return new_s


@final
class ActivityS(_ActiveS):
    """Device seconds of training that hardware counters saw: the denominator of the active fractions."""

    name, label, total = "activity_s", "device time seen by counters", "seen_s"


@final
class SmActiveS(_ActiveS):
    """Device seconds times the share of streaming multiprocessors that had work (NVML GPM: SM utilization)."""

    name, label, total = "sm_active_s", "SM-active time", "sm_s"


@final
class TensorActiveS(_ActiveS):
    """Device seconds times the share of cycles in which a tensor core was busy (NVML GPM: any tensor utilization)."""

    name, label, total = "tensor_active_s", "tensor-active time", "tensor_s"


@final
class DramActiveS(_ActiveS):
    """Device seconds times the share of memory bandwidth in use (NVML GPM: DRAM bandwidth utilization)."""

    name, label, total = "dram_active_s", "memory-active time", "dram_s"


@final
class TensorPeakS(_ActiveS):
    """Tensor-active seconds, each times its SM clock over the device's highest SM clock."""

    name, label, total = "tensor_peak_s", "tensor-active time at the highest clock", "tensor_peak_s"


class _ActiveFraction(Ratio, ABC):
    """Active seconds of the window over those that the counters saw."""

    unit, kind, family = "fraction", "gauge", "compute"
    better, role = "higher", "diagnostic"


@final
class SmActiveFraction(_ActiveFraction):
    """Share of streaming multiprocessors that had work, over training time."""

    name, label = "sm_active_fraction", "SMs active"
    needs = ("sm_active_s", "activity_s")


@final
class TensorActiveFraction(_ActiveFraction):
    """Share of cycles in which tensor cores were busy, over training time."""

    name, label = "tensor_active_fraction", "tensor cores active"
    needs = ("tensor_active_s", "activity_s")


@final
class DramActiveFraction(_ActiveFraction):
    """Share of the memory bandwidth in use, over training time."""

    name, label = "dram_active_fraction", "memory bandwidth in use"
    needs = ("dram_active_s", "activity_s")


@final
class OfuFraction(_ActiveFraction):
    """Overall FLOP utilization: tensor activity times SM clock over the highest SM clock.

    arXiv 2605.20799. An independent referee of `hfu_fraction`: the chip counts, and no FLOPs are added up. Work outside
    tensor cores is not in it, the padding of tiles is.
    """

    name, label = "ofu_fraction", "overall FLOP utilization by counters"
    needs = ("tensor_peak_s", "activity_s")


@final
class SmClockHz(Measured):
    """SM clock, the mean of readings at points."""

    name, unit, kind, family = "sm_clock_hz", "hz", "gauge", "compute"
    scope, across, better, role, label = "device", "mean", "higher", "diagnostic", "SM clock"
    rate_limited = True

    def open(self, setting: ProbeContext) -> None:
        self._activity = setting.probe(GpuActivity)
        self.method = "NVML, the mean of readings at points"

    def read(self, sample: StepSample) -> Amount:
        self._activity.update(sample)
        return self._activity.take_clock_hz()


class _ThrottledS(Measured):
    """Device seconds below the application clocks, by NVML's violation counters."""

    name, unit, kind, family = "held_s", "s", "counter", "time"
    scope, rate_limited = "device", True
    role: ClassVar[Role] = "diagnostic"
    cause: ClassVar[str] = "any"

    def open(self, setting: ProbeContext) -> None:
        self._throttling, self._before_s = setting.probe(Throttling), 0.0
        self._throttling.total_s(self.cause, now=False)
        self.method = "NVML violation counters over the whole run, read every 5 s and at its end; causes overlap"

    def read(self, sample: StepSample) -> float:
        total_s = self._throttling.total_s(self.cause, now=sample.trigger == "end")
        new_s, self._before_s = total_s - self._before_s, total_s
        return new_s


@final
class ThrottledS(_ThrottledS):
    """Device seconds below the application clocks, whatever the cause; an idle device's low clocks are not in it."""

    name, label = "throttled_s", "throttled"


@final
class PowerThrottledS(_ThrottledS):
    """Device seconds in which the power limit held the clocks down."""

    name, label, cause = "power_throttled_s", "throttled by the power limit", "power"


@final
class ThermalThrottledS(_ThrottledS):
    """Device seconds in which temperature held the clocks down."""

    name, label, cause = "thermal_throttled_s", "throttled by temperature", "thermal"
