"""GPU energy from the power that W&B's own system metrics hold, for unmeasured runs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Power of a GPU that the run's process used, and of every GPU of the machine.
_OWN = re.compile(r"(?:system\.)?gpu\.process\.(\d+)\.powerWatts")
_ANY = re.compile(r"(?:system\.)?gpu\.(\d+)\.powerWatts")


class WandbGpuEnergy(NamedTuple):
    """Energy at the rows of a run, in J since the first sample of power, and how it was got."""

    at_rows_j: list[float | None]
    total_j: float
    method: str


def gpu_energy(events: Sequence[Mapping[str, object]], times_s: Sequence[float | None]) -> WandbGpuEnergy | None:
    """Integrate the power of GPUs over time: trapezoids between samples, constant power after the last.

    Args:
        events: W&B's system metrics, each with `_timestamp` in s.
        times_s: When rows were logged, by the same clock.

    Returns:
        None where fewer than two samples of power are there. Rows before the first sample have no energy.

    Example:
        >>> events = [{"_timestamp": t, "gpu.0.powerWatts": 100.0} for t in (10.0, 20.0)]
        >>> gpu_energy(events, [5.0, 15.0, 21.0]).at_rows_j
        [None, 500.0, 1100.0]
    """
    for pattern, scope in ((_OWN, "those that the process used"), (_ANY, "all of the machine's, others' work too")):
        samples = _samples(events, pattern)
        if not samples:
            continue
        rows_s = np.array([np.nan if time is None else time for time in times_s])
        until_s = max([*(time for time in times_s if time is not None), *(times[-1] for times, _ in samples)])
        at_rows = sum(_energy(times, watts, rows_s) for times, watts in samples)
        total_j = sum(float(_energy(times, watts, np.array([until_s]))[0]) for times, watts in samples)
        longest = max(float(np.diff(times).max()) for times, _ in samples)
        how = f"power of {len(samples)} GPUs ({scope}) in W&B's system metrics, integrated over samples"
        spent = [None if np.isnan(energy) else float(energy) for energy in np.atleast_1d(at_rows)]
        return WandbGpuEnergy(spent, total_j, f"{how} {longest:.3g} s apart at most")
    return None


def _samples(
    events: Sequence[Mapping[str, object]], pattern: re.Pattern[str]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Times and power of each GPU that has two samples at least, in the order of time."""
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for event in events:
        time = event.get("_timestamp")
        for name, value in event.items():
            if (gpu := pattern.fullmatch(name)) and isinstance(value, int | float) and isinstance(time, int | float):
                found[gpu[1]][float(time)] = float(value)
    ordered = [sorted(samples.items()) for samples in found.values() if len(samples) > 1]
    return [(np.array([time for time, _ in one]), np.array([watts for _, watts in one])) for one in ordered]


def _energy(
    times: NDArray[np.float64], watts: NDArray[np.float64], until_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[moments]: energy from the first sample to each, NaN before it."""
    so_far = np.concatenate([[0.0], np.cumsum(np.diff(times) * (watts[1:] + watts[:-1]) / 2)])
    last = np.clip(np.searchsorted(times, until_s, side="right") - 1, 0, len(times) - 1)
    power = np.interp(until_s, times, watts)
    spent: NDArray[np.float64] = so_far[last] + (until_s - times[last]) * (watts[last] + power) / 2
    return np.where(until_s >= times[0], spent, np.nan)
