"""Device idle between steps: how much, how much of it waiting for data explains, and the transfers kept apart."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, final

from lightning_costs.indicators.base import Measured, Ratio, rank_max
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.device_timeline import DeviceTimeline
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount, DeviceTime, StepSample

_METHOD = "CUDA events on the compute stream, read late; steps outside warm-up"


def _device(sample: StepSample) -> DeviceTime:
    """The window of the device's events."""
    device = sample.device
    if device is None:
        raise Missing("the device's events were not read")
    if device.step_times_s and not device.timed_s:
        raise Missing("needs to know when the work on a batch begins: put it in `with recorder.train_batch(batch):`")
    return device


class _DeviceAmount(Measured, ABC):
    """An amount of the device's own timeline, under the column's name there unless it has a `field`."""

    field: ClassVar[str] = ""

    def open(self, setting: ProbeContext) -> None:
        if not setting.on_cuda:
            raise Missing(
                "needs a CUDA device: where a CPU trains, it works whenever it does not wait; "
                "data_wait_s against train_s says how long it waited for batches"
            )
        setting.probe(DeviceTimeline)
        self.method = _METHOD

    def read(self, sample: StepSample) -> Amount:
        amount: float = getattr(_device(sample), self.field or self.name)
        return amount


@final
class IdleS(_DeviceAmount):
    """Device seconds with nothing to do between the end of one batch's work and the begin of the next one's.

    Transfers of batches are not in it. A lower bound: gaps inside a step, and before a first kernel that is launched
    late, are not seen.
    """

    name, unit, kind, family = "idle_s", "s", "counter", "time"
    label = "device idle between steps"

    def open(self, setting: ProbeContext) -> None:
        super().open(setting)
        self.method = f"{_METHOD}; a lower bound: gaps inside a step are not seen"


@final
class IdleDataS(_DeviceAmount):
    """The part of `idle_s` that would vanish, at most, if every batch were there at once.

    In each gap the lesser of the device's idle and of the host's waiting for data.
    """

    name, unit, kind, family = "idle_data_s", "s", "counter", "time"
    role, label = "diagnostic", "device idle while waiting for data"


@final
class IdleHooksS(_DeviceAmount):
    """The part of `idle_s` in loggers and other callbacks' hooks: it is `other_s`, all else of `idle_s` is `train_s`.

    In each gap the lesser of what waiting for data leaves of the device's idle and of the host's time in them.
    """

    name, unit, kind, family = "idle_hooks_s", "s", "counter", "time"
    role, label = "diagnostic", "device idle in hooks and loggers"


@final
class H2dDeviceS(_DeviceAmount):
    """Device seconds of batch transfers on the compute stream, in the steps of `timed_s`."""

    name, unit, kind, family = "h2d_device_s", "s", "counter", "time"
    role, label, field = "diagnostic", "batch transfer, on the device", "h2d_s"


@final
class TimedS(_DeviceAmount):
    """Device seconds over which idle and transfers were seen: the denominator of their fractions."""

    name, unit, kind, family = "timed_s", "s", "counter", "time"
    role, label = "diagnostic", "device time seen by events"


@final
class IdleFraction(Ratio):
    """Idle of all devices in the window over the device time in which it was seen: `idle_s` over `timed_s`."""

    name, unit, kind, family = "idle_fraction", "fraction", "gauge", "time"
    label, headline = "device idle", True
    needs = ("idle_s", "timed_s")


@final
class RankMaxIdleFraction(_DeviceAmount):
    """The window's idle fraction of the device that idles most."""

    name, unit, kind, family = "rank_max_idle_fraction", "fraction", "gauge", "time"
    across, role, label = "max", "diagnostic", "device idle, the worst device"

    def read(self, sample: StepSample) -> Amount:
        device = _device(sample)
        return device.idle_s / device.timed_s if device.timed_s > 0 else None


@final
class H2dS(Measured):
    """Host seconds of handing batches to the device: a part of `train_s`.

    A copy from pinned memory is handed over at once; one from pageable memory makes the host wait, for the device's
    earlier work too.
    """

    name, unit, kind, family = "h2d_s", "s", "counter", "time"
    scope, across, role, label = "job", "rank0", "diagnostic", "batch transfer, on the host"

    def open(self, setting: ProbeContext) -> None:
        self._setting = setting
        self._hands_over: bool | None = None

    def read(self, sample: StepSample) -> float:
        if self._hands_over is None:  # other indicators may have attached the timeline after this one opened
            self._hands_over = self._setting.on_cuda or self._setting.attached(DeviceTimeline) is not None
            if not self._hands_over:
                self.method = "zero by definition: the host trains, nothing is handed over"
        if not self._hands_over:
            return 0.0
        if sample.h2d_s is None:
            raise Missing("the moment at which a batch is handed to the device is not reported")
        return sample.h2d_s


RankMaxH2dS = rank_max(H2dS, "batch transfer, the worst rank")
