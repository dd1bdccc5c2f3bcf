"""Energy from samples of power, by trapezoids, with a bound on what happened between the samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

#: Samples further apart leave what happened in between unseen; drivers take them every 20 to 100 ms.
GAP_S = 0.15


@final
class PowerIntegrator:
    """Adds up energy over samples of power.

    Between neighbours power is taken to be monotonic, so that a trapezoid is off by half their difference at most times
    the time between them. Across a gap nothing was read: power was between zero and the device's limit.

    Args:
        limit_w: Most power that the device may draw; None if it does not report it.

    Example:
        >>> integral = PowerIntegrator(limit_w=400.0)
        >>> for at_s, power_w in [(0.0, 100.0), (0.1, 200.0), (0.2, 200.0), (10.2, 200.0)]:
        ...     integral.add(at_s, power_w)
        >>> round(integral.joules), integral.unseen_s, round(integral.error_j)
        (2035, 10.0, 2005)
    """

    def __init__(self, limit_w: float | None) -> None:
        self._limit_w = limit_w
        self._last: tuple[float, float] | None = None
        self.joules = 0.0
        #: Seconds across gaps.
        self.unseen_s = 0.0
        #: Most that `joules` can be off; None after a gap where the device does not say its limit.
        self.error_j: float | None = 0.0

    @property
    def at_s(self) -> float | None:
        """When the last sample was taken."""
        return self._last[0] if self._last is not None else None

    def extend(self, samples: Iterable[tuple[float, float]]) -> None:
        """Add samples of (seconds, watts), in the order of time."""
        for at_s, power_w in samples:
            self.add(at_s, power_w)

    def add(self, at_s: float, power_w: float) -> None:
        """Add a sample; one that is not later than the last is known already."""
        if self._last is None:
            self._last = at_s, power_w
            return
        before_s, before_w = self._last
        took_s = at_s - before_s
        if took_s <= 0:
            return
        self._last = at_s, power_w
        mean_w = (before_w + power_w) / 2
        self.joules += mean_w * took_s
        if took_s <= GAP_S:
            error_w: float | None = abs(power_w - before_w) / 2
        else:
            self.unseen_s += took_s
            error_w = None if self._limit_w is None else max(mean_w, self._limit_w - mean_w)
        if self.error_j is not None:
            self.error_j = None if error_w is None else self.error_j + error_w * took_s
