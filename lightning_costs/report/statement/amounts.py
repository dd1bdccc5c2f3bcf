"""Amounts as a paper writes them: three significant digits, units spelt, powers of ten; and the exact figure."""

from __future__ import annotations

import math

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_MASS = ((1e6, "t"), (1e3, "kg"), (1.0, "g"), (1e-3, "mg"))
_ENERGY = ((3.6e9, "MWh"), (3.6e5, "kWh"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"))


def three(amount: float) -> str:
    """A number with three significant digits, thousands apart, as a power of ten where that is shorter.

    Example:
        >>> three(12.04), three(1234.5), three(0.00123), three(1.234e18), three(0.0)
        ('12.0', '1,230', '0.00123', '1.23 × 10¹⁸', '0')
        >>> three(3.0), three(999.6), three(1e-7)
        ('3', '1,000', '1.00 × 10⁻⁷')
    """
    if not math.isfinite(amount):
        return "not a finite number"
    if amount == 0:
        return "0"
    mantissa, _, exponent = f"{amount:.2e}".partition("e")
    power = int(exponent)
    if not -4 <= power < 6:
        return f"{mantissa} × 10{str(power).translate(_SUPERSCRIPTS)}"
    rounded = float(f"{mantissa}e{power}")
    if float(amount).is_integer() and abs(amount) < 1000:
        return str(int(amount))
    return f"{rounded:,.{max(0, 2 - power)}f}"


def told(amount: float, unit: str) -> str:
    """An amount in the unit that a paper would use.

    Example:
        >>> told(44321.0, "s"), told(360.0, "s"), told(4.6, "s"), told(8.6e-6, "s")
        ('12.3 h', '6 min', '4.60 s', '8.60 µs')
        >>> told(7.2e6, "j"), told(91.3, "j"), told(1234.0, "g"), told(3.21, "usd"), told(1.5e15, "flop")
        ('2 kWh', '91.3 J', '1.23 kg', 'USD 3.21', '1.50 × 10¹⁵ FLOP')
    """
    if unit == "s":
        return _time(amount)
    if unit == "j":
        factor, word = _step(_ENERGY, amount)
        return f"{three(amount / (3.6e6 if word == 'kWh' else factor))} {word}"
    if unit == "g":
        factor, word = _step(_MASS, amount)
        return f"{three(amount / factor)} {word}"
    if unit == "usd":
        return f"USD {three(amount)}"
    if unit == "flop":
        return f"{three(amount)} FLOP"
    return f"{three(amount)} {unit.replace('_per_s', '/s')}"


def device_time(device_s: float, *, node: bool = False) -> str:
    """Device time in device-hours, in device-seconds where it is short; node time where a device is a node.

    Example:
        >>> device_time(354321.0), device_time(12.0, node=True)
        ('98.4 device-hours', '12 node-seconds')
    """
    what = "node" if node else "device"
    return f"{three(device_s / 3600)} {what}-hours" if device_s >= 360 else f"{three(device_s)} {what}-seconds"


def exact(amount: float) -> str:
    """An amount with ten significant digits, in its own unit.

    Example:
        >>> exact(16123.417), exact(0.1 + 0.2), exact(1.5e18)
        ('16123.417', '0.3', '1.5e+18')
    """
    return f"{amount:.10g}"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{three(seconds / 3600)} h"
    if seconds >= 120:
        return f"{three(seconds / 60)} min"
    if seconds >= 1 or seconds == 0:
        return f"{three(seconds)} s"
    return f"{three(1e3 * seconds)} ms" if seconds >= 1e-3 else f"{three(1e6 * seconds)} µs"


def _step(steps: tuple[tuple[float, str], ...], amount: float) -> tuple[float, str]:
    if amount == 0:
        return 1.0, next(word for factor, word in steps if factor == 1.0)
    return next((step for step in steps if abs(amount) >= step[0]), steps[-1])
