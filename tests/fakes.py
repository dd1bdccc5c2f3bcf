"""Stand-ins with a known truth: a clock that is told, an NVML that is told, indicators in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning_costs.core.indicator import Declaration, Derived, Indicator, Measured
from lightning_costs.core.records import Amount, StepSample


class FakeClock:
    """Seconds that pass only when told. Multiples of a power of two keep sums exact."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    perf_counter = __call__


class FakeEvent:
    """A moment on a `FakeStream`."""

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s
        self.free = False


class FakeStream:
    """A stream that runs what is queued in order, each at once where it has nothing else to do.

    Stands in for `lightning_costs.probes.device_steps.Events`, and refuses what CUDA's events would.
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


class FakeNvml:
    """The five calls of NVML that are used, over a power curve in watts.

    Energy is the curve's integral by the midpoint rule, exact for a constant and for a ramp.
    """

    class NVMLError(Exception):
        pass

    def __init__(
        self,
        clock: FakeClock,
        power_w: Callable[[float], float],
        *,
        counter: bool = True,
        power: bool = True,
    ) -> None:
        self._clock, self._power_w = clock, power_w
        self.has_counter, self.has_power = counter, power
        self._mj, self._since = 5_000_000.0, clock()  # since the driver was loaded, long before us
        self.shutdowns = 0

    def reset_counter(self) -> None:
        self._mj, self._since = 0.0, self._clock()

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:  # noqa: N802 - the vendor's name
        if not self.has_counter:
            raise self.NVMLError("Not Supported")
        now = self._clock()
        self._mj += 1e3 * self._power_w((now + self._since) / 2) * (now - self._since)
        self._since = now
        return round(self._mj)

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:  # noqa: N802 - the vendor's name
        if not self.has_power:
            raise self.NVMLError("GPU is lost")
        return round(1e3 * self._power_w(self._clock()))

    def nvmlShutdown(self) -> None:  # noqa: N802 - the vendor's name
        self.shutdowns += 1


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
    given = {"step": 0, "epoch": 0, "trigger": "train", "begun_s": 0.0, "ended_s": sum(accounts_s.values())} | values
    return StepSample(accounts_s=accounts_s, **given)


def names(indicators: Iterable[Indicator]) -> list[str]:
    return [i.name for i in indicators]
