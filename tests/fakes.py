"""Stand-ins with a known truth: a clock that is told, an NVML that is told, indicators in one line."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pynvml

from lightning_costs.indicators.base import Derived, Indicator, Measured
from lightning_costs.records.declaration import Declaration
from lightning_costs.records.meter_info import MeterInfo
from lightning_costs.records.samples import Amount, StepSample


class FakeClock:
    """Seconds that pass only when told. Multiples of a power of two keep sums exact."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    perf_counter = __call__
    #: What `time` says when the clock says 0.
    EPOCH_S = 1_700_000_000.0

    def time(self) -> float:
        return self.EPOCH_S + self.now


class TickingClock(FakeClock):
    """A clock that each look at it moves, by as much."""

    TICK_S = 1e-4

    def __call__(self) -> float:
        self.now += self.TICK_S
        return self.now


@contextmanager
def patient() -> Iterator[None]:
    """Ranks that all come wait for each other as long as a busy machine needs."""
    from lightning_costs.ranks import exchange

    waits = (exchange.MAX_WAIT_S, exchange.MIN_WAIT_S)
    before = [dict(wait_s) for wait_s in waits]
    for wait_s in waits:
        wait_s.update(evaluate=60.0, epoch=60.0, end=60.0)
    yield
    for wait_s, impatient in zip(waits, before, strict=True):
        wait_s.update(impatient)


class FakeEvent:
    """A moment on a `FakeStream`."""

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s
        self.free = False


class FakeStream:
    """A stream that runs what is queued in order, each at once where it has nothing else to do.

    Stands in for `lightning_costs.probes.device_timeline.EventSource`, and refuses what CUDA's events would.
    """

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.free_at_s = clock()
        #: What ran: begin, end, kind.
        self.ran: list[tuple[float, float, str]] = []
        self.in_use = 0

    def launch(self, seconds: float, kind: str = "work") -> None:
        begin_s = max(self._clock(), self.free_at_s)
        self.free_at_s = begin_s + seconds
        self.ran.append((begin_s, self.free_at_s, kind))

    def synchronize(self) -> None:
        self._clock.now = max(self._clock(), self.free_at_s)

    def spent_s(self, begin_s: float, end_s: float, kind: str) -> float:
        """The truth: seconds of a kind between two moments; of 'idle', those in which nothing ran."""
        inside = [(max(a, begin_s), min(b, end_s), k) for a, b, k in self.ran if a < end_s and b > begin_s]
        if kind == "idle":
            return end_s - begin_s - sum(b - a for a, b, _ in inside)
        return sum(b - a for a, b, k in inside if k == kind)

    def record(self) -> FakeEvent:
        self.in_use += 1
        return FakeEvent(max(self._clock(), self.free_at_s))

    def done(self, event: FakeEvent) -> bool:
        assert not event.free, "asked for an event that was released"
        return self._clock() >= event.at_s

    def between_s(self, earlier: FakeEvent, later: FakeEvent) -> float:
        assert self.done(earlier), "the device has not passed the earlier event"
        assert self.done(later), "the device has not passed the later event"
        return later.at_s - earlier.at_s

    def release(self, event: FakeEvent) -> None:
        assert not event.free, "released twice"
        event.free = True
        self.in_use -= 1


class FakeMeter:
    """A meter of one component's power, which is told and may change; by a clock, else by the time itself."""

    method = "counter: told"

    def __init__(self, watts: float, clock: Callable[[], float] | None = None) -> None:
        clock = clock or time.perf_counter
        self._clock, self._watts = clock, watts
        self._joules, self._since, self._told = 0.0, clock(), 0.0
        #: Raised at the next reading.
        self.fails: Exception | None = None
        self.reads = self.detached = 0
        #: The truth when it was let go.
        self.ended_j = 0.0

    @property
    def watts(self) -> float:
        return self._watts

    @watts.setter
    def watts(self, watts: float) -> None:
        self.total_j()
        self._watts = watts

    def total_j(self) -> float:
        """The truth so far."""
        now = self._clock()
        self._joules, self._since = self._joules + self._watts * (now - self._since), now
        return self._joules

    def joules(self) -> float:
        if self.fails is not None:
            raise self.fails
        self.reads += 1
        spent, self._told = self.total_j() - self._told, self._joules
        return spent

    def metering(self) -> MeterInfo:
        return MeterInfo(method="counter", instrument="told", error_j=1.0, detail="the truth")

    def detach(self) -> None:
        self.detached += 1
        self.ended_j = self.total_j()


class FakeGpu:
    """A GPU over a power curve in watts: the handle that `FakeNvml` gives.

    Args:
        clock: When it is.
        power_w: The truth: watts at a moment of the clock.
        counter: Whether it has an energy counter.
        power: Whether it tells its power.
        samples: Whether its driver keeps samples of power.
        step_s: The counter moves so often only.
        sample_s: Time between two samples that the driver keeps; 120 of them, as drivers do.
        limit_w: Its power limit; None where it does not tell.
        grid_s: Step of the integral; None for one midpoint a reading, exact for a constant and a ramp.
        mig: UUIDs of the MIG slices that it is cut into; None with MIG off.
    """

    def __init__(
        self,
        clock: FakeClock,
        power_w: Callable[[float], float],
        *,
        counter: bool = True,
        power: bool = True,
        samples: bool = False,
        step_s: float = 0.0,
        sample_s: float = 0.02,
        limit_w: float | None = 500.0,
        grid_s: float | None = None,
        mig: Sequence[str] | None = None,
    ) -> None:
        self.clock, self.power_w = clock, power_w
        self.counter, self.power, self.samples = counter, power, samples
        self.step_s, self.sample_s, self.limit_w, self.grid_s = step_s, sample_s, limit_w, grid_s
        self.mig = None if mig is None else [FakeSlice(self, uuid) for uuid in mig]
        self.lost = False
        self._mj, self._since = 5_000_000.0, clock()  # since the driver was loaded, long before us

    def spent_j(self, begin_s: float, end_s: float) -> float:
        """The truth, by the midpoint rule."""
        steps = 1 if self.grid_s is None else max(1, round((end_s - begin_s) / self.grid_s))
        step_s = (end_s - begin_s) / steps
        return sum(self.power_w(begin_s + (i + 0.5) * step_s) for i in range(steps)) * step_s

    def reset_counter(self) -> None:
        self._mj, self._since = 0.0, self.clock()

    def total_mj(self) -> int:
        now = self.clock()
        if self.step_s:
            now = max(self._since, self.step_s * math.floor(now / self.step_s + 1e-9))
        self._mj += 1e3 * self.spent_j(self._since, now)
        self._since = now
        return round(self._mj)


class FakeSlice:
    """A MIG slice of a GPU: NVML meters nothing of it."""

    def __init__(self, parent: FakeGpu, uuid: str) -> None:
        self.parent, self.uuid = parent, uuid


class FakeNvml:
    """The calls of NVML that are used, with the vendor's own error classes, constants and structures.

    There is no call that finds a device by its index.

    Args:
        clock: When it is.
        power_w: Power of the one device, which any handle means; or None where `gpus` are given.
        gpus: Devices by UUID.
        options: Of the one device.
    """

    def __init__(
        self,
        clock: FakeClock,
        power_w: Callable[[float], float] | None = None,
        *,
        gpus: Mapping[str, FakeGpu] | None = None,
        **options: Any,
    ) -> None:
        self.clock = clock
        self.gpu = FakeGpu(clock, power_w, **options) if power_w is not None else None
        self.gpus = dict(gpus or {})
        self.asked: list[str] = []
        self.inits = self.shutdowns = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("NVML_ERROR", "NVML_TOTAL_POWER", "NVMLError")):
            return getattr(pynvml, name)
        raise AttributeError(name)

    def _of(self, handle: object, has: bool = True, *, slices: bool = False) -> Any:
        device = handle if isinstance(handle, FakeGpu | FakeSlice) else self.gpu
        assert device is not None
        gpu = device.parent if isinstance(device, FakeSlice) else device
        if gpu.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        if not has or (isinstance(device, FakeSlice) and not slices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return device

    def nvmlInit(self) -> None:  # noqa: N802 - the vendor's name, as are those below
        self.inits += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shutdowns += 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu | FakeSlice:  # noqa: N802
        self.asked.append(uuid)
        slices = {s.uuid: s for gpu in self.gpus.values() for s in gpu.mig or ()}
        if uuid not in self.gpus | slices:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.gpus.get(uuid) or slices[uuid]

    def nvmlDeviceIsMigDeviceHandle(self, handle: object) -> Any:  # noqa: N802
        return ctypes.c_uint(isinstance(self._of(handle, slices=True), FakeSlice))  # as pynvml gives it, no int

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: FakeSlice) -> FakeGpu:  # noqa: N802
        return handle.parent

    def nvmlDeviceGetMigMode(self, handle: object) -> list[int]:  # noqa: N802
        mig = self._of(handle).mig
        return [int(mig is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: object) -> int:  # noqa: N802
        self._of(handle)
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: object, index: int) -> FakeSlice:  # noqa: N802
        slices = self._of(handle).mig
        if index >= len(slices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return slices[index]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:  # noqa: N802
        gpu = self._of(handle)
        return self._of(handle, gpu.counter).total_mj()

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:  # noqa: N802
        gpu = self._of(handle)
        return round(1e3 * self._of(handle, gpu.power).power_w(self.clock()))

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: object) -> int:  # noqa: N802
        gpu = self._of(handle)
        return round(1e3 * self._of(handle, gpu.limit_w is not None).limit_w)

    def nvmlDeviceGetSamples(self, handle: object, kind: int, since_us: int) -> tuple[int, list[Any]]:  # noqa: N802
        assert kind == pynvml.NVML_TOTAL_POWER_SAMPLES
        gpu = self._of(handle, self._of(handle).samples)
        newest = math.floor(self.clock() / gpu.sample_s + 1e-9)
        samples = []
        for index in range(newest - 119, newest + 1):
            at_s = index * gpu.sample_s
            sample = pynvml.c_nvmlSample_t()
            sample.timeStamp = round(1e6 * (self.clock.EPOCH_S + at_s))
            sample.sampleValue.uiVal = round(1e3 * gpu.power_w(at_s))
            if sample.timeStamp > since_us and at_s >= 0:
                samples.append(sample)
        if not samples:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, samples


class FakeGpmGpu:
    """A GPU whose activity is told; its driver takes a GPM sample every `every_s`.

    Args:
        shares: Busy shares of SMs, tensor cores and memory bandwidth, over time.
        clock_hz: SM clock over time.
        throttled_s: Seconds of throttling that passed at a time, by policy.
    """

    def __init__(
        self,
        clock: FakeClock,
        shares: Callable[[float], tuple[float, float, float]],
        *,
        clock_hz: Callable[[float], float] = lambda t: 1.98e9,
        throttled_s: Mapping[str, Callable[[float], float]] | None = None,
        every_s: float = 0.125,
        supported: bool = True,
    ) -> None:
        self.clock, self.shares, self.clock_hz, self.every_s, self.supported = (
            clock, shares, clock_hz, every_s, supported,
        )  # fmt: skip
        self.throttled_s = dict(throttled_s or {})

    def active_s(self, begin_s: float, end_s: float, steps: int = 512) -> tuple[float, ...]:
        """The truth between two moments, by the midpoint rule."""
        step_s = (end_s - begin_s) / steps
        looks = [self.shares(begin_s + (i + 0.5) * step_s) for i in range(steps)]
        return tuple(sum(look[k] for look in looks) * step_s for k in range(3))


class FakeGpm:
    """The calls of NVML for GPM metrics, the clock and violation counters; a handle is a `FakeGpmGpu`."""

    NVML_GPM_METRIC_SM_UTIL, NVML_GPM_METRIC_ANY_TENSOR_UTIL, NVML_GPM_METRIC_DRAM_BW_UTIL = 2, 5, 10
    NVML_GPM_METRICS_GET_VERSION = 1
    NVML_CLOCK_SM = 1
    NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL, NVML_PERF_POLICY_TOTAL_APP_CLOCKS = "power", "thermal", "any"
    NVMLError = pynvml.NVMLError

    def __init__(self) -> None:
        self.allocated = self.shutdowns = self.policy_reads = 0
        self.lost = False

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shutdowns += 1

    def nvmlGpmQueryDeviceSupport(self, handle: FakeGpmGpu) -> Any:  # noqa: N802
        return SimpleNamespace(isSupportedDevice=int(handle.supported))

    def nvmlGpmSampleAlloc(self) -> Any:  # noqa: N802
        self.allocated += 1
        return SimpleNamespace(gpu=None, at_s=0.0)

    def nvmlGpmSampleFree(self, sample: Any) -> None:  # noqa: N802
        self.allocated -= 1

    def nvmlGpmSampleGet(self, handle: FakeGpmGpu, sample: Any) -> None:  # noqa: N802
        if self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        sample.gpu, sample.at_s = handle, handle.every_s * math.floor(handle.clock() / handle.every_s)

    def c_nvmlGpmMetricsGet_t(self) -> Any:  # noqa: N802
        return SimpleNamespace(metrics=[SimpleNamespace(metricId=0, value=0.0, nvmlReturn=0) for _ in range(98)])

    def nvmlGpmMetricsGet(self, request: Any) -> None:  # noqa: N802
        gpu, begin_s, end_s = request.sample1.gpu, request.sample1.at_s, request.sample2.at_s
        index = {2: 0, 5: 1, 10: 2}
        for slot in request.metrics[: request.numMetrics]:
            elapsed_s = end_s - begin_s
            slot.value = 100 * gpu.active_s(begin_s, end_s)[index[slot.metricId]] / elapsed_s if elapsed_s else math.nan

    def nvmlDeviceGetClockInfo(self, handle: FakeGpmGpu, kind: int) -> int:  # noqa: N802
        assert kind == self.NVML_CLOCK_SM
        return round(handle.clock_hz(handle.clock()) / 1e6)

    def nvmlDeviceGetMaxClockInfo(self, handle: FakeGpmGpu, kind: int) -> int:  # noqa: N802
        assert kind == self.NVML_CLOCK_SM
        return 1980

    def nvmlDeviceGetViolationStatus(self, handle: FakeGpmGpu, policy: str) -> Any:  # noqa: N802
        self.policy_reads += 1
        if policy not in handle.throttled_s:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(violationTime=round(1e9 * handle.throttled_s[policy](handle.clock())))


def declared(name: str, unit: str | None = None, kind: str = "counter", **more: Any) -> Declaration:
    """A column's declaration; the unit is the name's last word where none is given."""
    values: dict[str, Any] = {
        "name": name,
        "unit": unit or name.rpartition("_")[2],
        "kind": kind,
        "fold": "sum" if kind == "counter" else "last",
        "scope": "rank",
        "across": "sum" if kind == "counter" else "max",
        "better": "lower",
        "family": "data",
        "role": "indicator",
        "label": name,
        "headline": False,
    }
    return Declaration(**(values | more))


def measured(
    name: str,
    unit: str | None = None,
    kind: str = "counter",
    *,
    reads: Iterable[Amount | Exception] | Callable[[StepSample], Amount] = (),
    opens: Exception | None = None,
    closes: Exception | None = None,
    **more: Any,
) -> Measured:
    """An indicator that reads what it is told, window by window; exceptions among the readings are raised."""
    readings = None if callable(reads) else iter(reads)

    def open_(self: Measured, setting: object) -> None:
        if opens is not None:
            raise opens

    def read(self: Measured, sample: StepSample) -> Amount:
        if readings is None:
            return reads(sample)  # type: ignore[operator]
        reading = next(readings)
        if isinstance(reading, Exception):
            raise reading
        return reading

    def close(self: Measured) -> None:
        if closes is not None:
            raise closes

    body = {
        "name": name,
        "unit": unit or name.rpartition("_")[2],
        "kind": kind,
        "family": "data",
        "open": open_,
        "read": read,
        "close": close,
    }
    return type("Told", (Measured,), body | more)()


def derived(
    name: str,
    unit: str | None = None,
    kind: str = "counter",
    *,
    needs: tuple[str, ...],
    of: Callable[[Mapping[str, float]], Amount],
    **more: Any,
) -> Derived:
    """A derived indicator from a function of the window."""
    body = {
        "name": name,
        "unit": unit or name.rpartition("_")[2],
        "kind": kind,
        "family": "data",
        "needs": needs,
        "of": lambda self, window, tariff: of(window),
    }
    return type("Computed", (Derived,), body | more)()


def sample(**values: Any) -> StepSample:
    """A window of which only what matters is said."""
    accounts_s = {"setup": 0.0, "train": 0.0, "evaluate": 0.0, "checkpoint": 0.0, "other": 0.0}
    accounts_s |= values.pop("accounts_s", {})
    given: dict[str, Any] = {
        "step": 0,
        "epoch": 0,
        "trigger": "train",
        "begun_s": 0.0,
        "ended_s": sum(accounts_s.values()),
    } | values
    return StepSample(accounts_s=accounts_s, **given)


def names(indicators: Iterable[Indicator]) -> list[str]:
    return [i.name for i in indicators]
