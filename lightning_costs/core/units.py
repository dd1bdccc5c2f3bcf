"""Units of the columns, the naming rule that ends a quantity's name in its unit, and amounts written for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Physical and monetary units, with what a person calls them.
PHYSICAL = ("s", "j", "w", "bytes", "flop", "mac", "g", "usd", "fraction")
#: Units that count things.
COUNTS = (
    "params",
    "samples",
    "tokens",
    "steps",
    "batches",
    "epochs",
    "calls",
    "elements",
    "devices",
    "nodes",
)
UNITS = (*PHYSICAL, *COUNTS, *(f"{unit}_per_s" for unit in (*PHYSICAL, *COUNTS) if unit != "s"))

JOULE_PER_KWH = 3.6e6
#: What people read where a reading is missing.
MISSING = "missing"


def check_name(name: str, unit: str) -> None:
    """Refuse a quantity whose name does not end in its unit.

    `samples_per_device_per_s` ends in the rate of its unit `samples_per_s`: a rate may name what it is per.

    Args:
        name: Column name, lower case with underscores.
        unit: One of `UNITS`.

    Raises:
        TypeError: For an unknown unit, a malformed name, or a name that does not end in the unit.

    Example:
        >>> check_name("train_s", "s")
        >>> check_name("energy_mj", "j")
        Traceback (most recent call last):
        TypeError: indicator name 'energy_mj' must be its unit 'j' or end in '_j'
    """
    if unit not in UNITS:
        raise TypeError(f"indicator {name!r} has unit {unit!r}; expected one of {', '.join(UNITS)}")
    if not name.replace("_", "").isalnum() or name != name.lower():
        raise TypeError(f"indicator name {name!r} must be lower-case letters, digits and underscores")
    base, rate, _ = unit.partition("_per_s")
    per = name.removesuffix("_per_s")
    fits = (
        (name == unit or name.endswith(f"_{unit}"))
        if not rate
        else name.endswith("_per_s") and (per == base or per.endswith(f"_{base}") or f"{base}_per_" in per)
    )
    if not fits:
        raise TypeError(f"indicator name {name!r} must be its unit {unit!r} or end in '_{unit}'")


def human(amount: float | None, unit: str) -> str:
    """An amount in the unit a person would choose, with three significant digits.

    Args:
        amount: In `unit`; None is a missing reading.
        unit: One of `UNITS`.

    Returns:
        Text such as '1 h 02 min', '3.51 GiB', '12.3 kJ' or 'missing'.

    Example:
        >>> human(3725.0, "s"), human(2.5e9, "flop_per_s"), human(1536, "bytes"), human(None, "j")
        ('1 h 02 min', '2.50 GFLOP/s', '1.50 KiB', 'missing')
        >>> human(0.0421, "usd"), human(0.253, "fraction"), human(67128463, "samples")
        ('$0.0421', '25.3 %', '67.1 M samples')
    """
    if amount is None:
        return MISSING
    if math.isnan(amount):
        return "not a number"
    if math.isinf(amount):
        return "not reached" if amount > 0 else "-inf"
    amount += 0.0  # -0.0 is 0
    base, rate, _ = unit.partition("_per_s")
    tail = "/s" if rate else ""
    if unit == "s":
        return _duration(amount)
    if base == "bytes":
        return _scaled(amount, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB")) + tail
    if base == "j":
        if abs(amount) >= 0.1 * JOULE_PER_KWH:
            return f"{digits(amount / JOULE_PER_KWH)} kWh{tail}"
        return _scaled(amount, 1000.0, ("J", "kJ")) + tail
    if base == "usd":
        return f"${digits(amount)}{tail}"
    if base == "fraction":
        return f"{digits(100 * amount)} %{tail}"
    if base in ("flop", "mac", "w", "g"):
        word = {"flop": "FLOP", "mac": "MAC", "w": "W", "g": "g"}[base]
        steps = ("", "k", "M", "G", "T", "P", "E") if base != "g" else ("", "k", "M")
        return _scaled(amount, 1000.0, tuple(p + word for p in steps)) + tail
    number = digits(amount) if abs(amount) < 1e5 else _scaled(amount, 1000.0, ("", "k", "M", "G", "T")).strip()
    one = "batch" if base == "batches" else base.removesuffix("s")
    return f"{number} {one if amount == 1 else base}{tail}"


def digits(amount: float) -> str:
    """A number with three significant digits, whole numbers below 100,000 in full.

    Example:
        >>> digits(1234), digits(0.001234), digits(12.345), digits(1.0)
        ('1234', '0.00123', '12.3', '1')
    """
    if float(amount).is_integer() and abs(amount) < 1e5:
        return str(int(amount))
    if amount and (abs(amount) < 1e-4 or abs(amount) >= 1e6):
        return f"{amount:.2e}"
    places = max(0, 2 - math.floor(math.log10(abs(amount)))) if amount else 0
    return f"{amount:.{places}f}"


def _scaled(amount: float, base: float, words: Sequence[str]) -> str:
    power = 0
    while abs(amount) >= base and power < len(words) - 1:
        amount /= base
        power += 1
    if amount and abs(amount) < 1e-3:
        text = f"{amount:.2e}"
    elif power == 0 and abs(amount) < 999.5:  # beyond, three digits would be an exponent
        text = f"{amount:.3g}"
    else:
        text = _three(amount)
    return f"{text} {words[power]}"


def _three(amount: float) -> str:
    return f"{amount:.{2 if abs(amount) < 10 else 1 if abs(amount) < 100 else 0}f}"


def _duration(seconds: float) -> str:
    if seconds < 0:
        return f"-{_duration(-seconds)}"
    if 0 < seconds < 0.9995e-3:
        return f"{1e6 * seconds:.3g} us"
    if 0 < seconds < 0.9995:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
