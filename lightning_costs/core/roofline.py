"""The roofline: whether arithmetic or memory bounds a piece of work (Williams, Waterman and Patterson 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Where work lies under a device's two peaks.

    Args:
        intensity_flop_per_byte: Arithmetic intensity: operations for each byte moved.
        ridge_flop_per_byte: Intensity from which on the device can be busy computing; None for unknown peaks.
        bound: What limits the work at best; None for unknown peaks.
        attainable_flop_per_s: The rate under the roof at this intensity; None for unknown peaks.
    """

    intensity_flop_per_byte: float
    ridge_flop_per_byte: float | None
    bound: Literal["memory", "compute"] | None
    attainable_flop_per_s: float | None

    def words(self) -> str:
        """One sentence for people."""
        has = f"{self.intensity_flop_per_byte:.3g} FLOP a byte"
        if self.ridge_flop_per_byte is None:
            return f"{has}; the device's peaks are unknown"
        needs = f"computing bounds it from {self.ridge_flop_per_byte:.3g} on"
        return f"{self.bound}-bound: {has}, {needs}"


def place(
    *, flop: float, access_bytes: float, peak_flop_per_s: float | None, peak_bytes_per_s: float | None
) -> Roofline:
    """Place work under the roof min(peak FLOP/s, intensity x peak bytes/s).

    Args:
        flop: Operations of the work.
        access_bytes: Bytes that it reads and writes.
        peak_flop_per_s: The device's peak for the number formats in use; None where unknown.
        peak_bytes_per_s: The device's memory bandwidth; None where unknown.

    Raises:
        ValueError: For a negative count, no bytes, or a peak that is not positive.

    Example:
        >>> placed = place(flop=4e9, access_bytes=1e9, peak_flop_per_s=1e12, peak_bytes_per_s=1e11)
        >>> placed.bound, placed.ridge_flop_per_byte, placed.attainable_flop_per_s
        ('memory', 10.0, 400000000000.0)
        >>> placed.words()
        'memory-bound: 4 FLOP a byte, computing bounds it from 10 on'
        >>> place(flop=4e9, access_bytes=1e9, peak_flop_per_s=None, peak_bytes_per_s=None).words()
        "4 FLOP a byte; the device's peaks are unknown"
    """
    if flop < 0 or access_bytes <= 0:
        raise ValueError(f"a roofline needs flop >= 0 and access_bytes > 0, got {flop!r} and {access_bytes!r}")
    for name, peak in (("peak_flop_per_s", peak_flop_per_s), ("peak_bytes_per_s", peak_bytes_per_s)):
        if peak is not None and not peak > 0:
            raise ValueError(f"{name} must be positive or None, got {peak!r}")
    intensity = flop / access_bytes
    if peak_flop_per_s is None or peak_bytes_per_s is None:
        return Roofline(
            intensity_flop_per_byte=intensity, ridge_flop_per_byte=None, bound=None, attainable_flop_per_s=None
        )
    ridge = peak_flop_per_s / peak_bytes_per_s
    return Roofline(
        intensity_flop_per_byte=intensity,
        ridge_flop_per_byte=ridge,
        bound="memory" if intensity < ridge else "compute",
        attainable_flop_per_s=min(peak_flop_per_s, intensity * peak_bytes_per_s),
    )
