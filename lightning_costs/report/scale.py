"""Units that a person would read an axis in, with the factor to them."""

from __future__ import annotations

import math
from typing import NamedTuple

from lightning_costs.core.units import JOULE_PER_KWH


class Display(NamedTuple):
    """Divide an amount by `factor` and write `suffix` behind it."""

    factor: float
    suffix: str


_TIME = ((1e-6, "us"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"))
_BYTES = tuple((1024.0**power, word) for power, word in enumerate(("B", "KiB", "MiB", "GiB", "TiB", "PiB")))
_SI = tuple((1000.0**power, word) for power, word in enumerate(("", "k", "M", "G", "T", "P", "E")))
_WORDS = {"flop": "FLOP", "mac": "MAC", "w": "W", "g": "g", "usd": "USD"}


def display(unit: str, largest: float | None) -> Display:
    """The unit to show a column in, chosen by its largest amount so that a chart has one unit on its axis.

    Args:
        unit: One of `core.units.UNITS`.
        largest: Largest amount of the column; None where it has none.

    Example:
        >>> display("s", 9000.0), display("j", 7.2e6).suffix, display("bytes", 3e9).suffix
        (Display(factor=3600.0, suffix='h'), 'kWh', 'GiB')
        >>> display("flop_per_s", 2e12).suffix, display("params", 3e7).suffix, display("fraction", 0.5).suffix
        ('TFLOP/s', 'M params', '%')
    """
    peak = abs(largest) if largest is not None and math.isfinite(largest) else 0.0
    base, rate, _ = unit.partition("_per_s")
    tail = "/s" if rate else ""
    if unit == "fraction":
        return Display(0.01, "%")
    if unit == "s":
        return _largest_step(_TIME, peak, 2.0)
    if base == "bytes":
        return _tailed(_largest_step(_BYTES, peak, 1.0), tail)
    if base == "j":
        if peak >= 0.1 * JOULE_PER_KWH:
            return Display(JOULE_PER_KWH, f"kWh{tail}")
        return Display(1000.0, f"kJ{tail}") if peak >= 1000.0 else Display(1.0, f"J{tail}")
    if base == "usd":
        return Display(1.0, f"USD{tail}")
    if base in _WORDS:
        factor, prefix = _largest_step(_SI, peak, 1.0)
        return Display(factor, f"{prefix}{_WORDS[base]}{tail}")
    factor, prefix = _largest_step(_SI[:5], peak, 10.0)
    return Display(factor, f"{prefix} {base}{tail}".strip())


def _largest_step(steps: tuple[tuple[float, str], ...], peak: float, least: float) -> Display:
    if not peak:
        return Display(1.0, dict(steps)[1.0])
    fitting = [step for step in steps if peak >= least * step[0]]
    return Display(*(fitting[-1] if fitting else steps[0]))


def _tailed(shown: Display, tail: str) -> Display:
    return Display(shown.factor, f"{shown.suffix}{tail}")
