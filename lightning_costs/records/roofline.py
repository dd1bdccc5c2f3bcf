"""The roofline: whether arithmetic or memory bounds a piece of work (Williams, Waterman and Patterson 2009)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

from lightning_costs.records.formatting import format_amount


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Where work lies under a device's two peaks.

    Args:
        intensity_flop_per_byte: Arithmetic intensity: operations for each byte moved.
        ridge_flop_per_byte: Intensity from which on the device can be busy computing; None for unknown peaks.
        bound: What limits the work at best; None for unknown peaks.
        attainable_flop_per_s: The rate under the roof at this intensity; None for unknown peaks.
        attained_fraction: The measured rate over the attainable one; None where either is unknown. Above 1 where the
            bytes are overestimated (caches serve some of them).
    """

    intensity_flop_per_byte: float
    ridge_flop_per_byte: float | None
    bound: Literal["memory", "compute"] | None
    attainable_flop_per_s: float | None
    attained_fraction: float | None = None

    def words(self) -> str:
        """One sentence for people."""
        has = f"{self.intensity_flop_per_byte:.3g} FLOP a byte"
        if self.ridge_flop_per_byte is None:
            return f"{has}; the device's peaks are unknown"
        needs = f"computing bounds it from {self.ridge_flop_per_byte:.3g} on"
        placed = f"{self.bound}-bound: {has}, {needs}"
        if self.attained_fraction is None:
            return placed
        attained = format_amount(self.attained_fraction, "fraction")
        return f"{placed}; {attained} of the attainable {format_amount(self.attainable_flop_per_s, 'flop_per_s')}"


def roofline(
    *,
    flop: float,
    access_bytes: float,
    peak_flop_per_s: float | None,
    peak_bytes_per_s: float | None,
    flop_per_s: float | None = None,
) -> Roofline:
    """Place work under the roof min(peak FLOP/s, intensity x peak bytes/s).

    Example:
        >>> placed = roofline(flop=4e9, access_bytes=1e9, peak_flop_per_s=1e12, peak_bytes_per_s=1e11)
        >>> placed.bound, placed.ridge_flop_per_byte, placed.attainable_flop_per_s
        ('memory', 10.0, 400000000000.0)
        >>> placed.words()
        'memory-bound: 4 FLOP a byte, computing bounds it from 10 on'
        >>> roofline(flop=4e9, access_bytes=1e9, peak_flop_per_s=1e12, peak_bytes_per_s=1e11, flop_per_s=1e11).words()
        'memory-bound: 4 FLOP a byte, computing bounds it from 10 on; 25 % of the attainable 400 GFLOP/s'
        >>> roofline(flop=4e9, access_bytes=1e9, peak_flop_per_s=None, peak_bytes_per_s=None).words()
        "4 FLOP a byte; the device's peaks are unknown"
    """
    if not (0 <= flop < math.inf and 0 < access_bytes < math.inf):
        raise ValueError(f"a roofline needs flop >= 0 and access_bytes > 0, got {flop!r} and {access_bytes!r}")
    for name, peak in (("peak_flop_per_s", peak_flop_per_s), ("peak_bytes_per_s", peak_bytes_per_s)):
        if peak is not None and not 0 < peak < math.inf:
            raise ValueError(f"{name} must be positive or None, got {peak!r}")
    if flop_per_s is not None and not 0 <= flop_per_s < math.inf:
        raise ValueError(f"flop_per_s must not be negative, got {flop_per_s!r}; pass None if it was not measured")
    intensity = flop / access_bytes
    if peak_flop_per_s is None or peak_bytes_per_s is None:
        return Roofline(
            intensity_flop_per_byte=intensity, ridge_flop_per_byte=None, bound=None, attainable_flop_per_s=None
        )
    ridge = peak_flop_per_s / peak_bytes_per_s
    attainable = min(peak_flop_per_s, intensity * peak_bytes_per_s)
    return Roofline(
        intensity_flop_per_byte=intensity,
        ridge_flop_per_byte=ridge,
        bound="memory" if intensity < ridge else "compute",
        attainable_flop_per_s=attainable,
        attained_fraction=flop_per_s / attainable if flop_per_s is not None and attainable else None,
    )
