"""Amounts written for people: by itself (`format_amount`), on an axis that has one unit (`choose_unit`), in a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lightning_costs.records.units import JOULE_PER_KWH

#: What people read where a reading is missing.
MISSING = "missing"


class DisplayUnit(NamedTuple):
    """Divide an amount by `factor` and write `suffix` behind it."""

    factor: float
    suffix: str


class _Step(NamedTuple):
    """A unit for amounts of at least `least`."""

    least: float
    factor: float
    word: str


def _steps(base: float, words: Sequence[str], least: float = 1.0) -> tuple[_Step, ...]:
    return tuple(_Step(least * base**power, base**power, word) for power, word in enumerate(words))


_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
#: By base unit; rates have those of what they are a rate of.
_UNITS = {
    "bytes": _steps(1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB")),
    "j": (_Step(1, 1, "J"), _Step(1e3, 1e3, "kJ"), _Step(0.1 * JOULE_PER_KWH, JOULE_PER_KWH, "kWh")),
    **{
        base: _steps(1000.0, [prefix + word for prefix in _PREFIXES])
        for base, word in {"flop": "FLOP", "mac": "MAC", "w": "W", "hz": "Hz", "g": "g", "l": "L"}.items()
    },
    "usd": (_Step(0, 1, "USD"),),
}
_COUNTS = _steps(1000.0, _PREFIXES[:5])
#: An axis takes a larger unit later: from 10 of it for counts, from 2 of it for times.
_AXIS_COUNTS = _steps(1000.0, _PREFIXES[:5], least=10.0)
_AXIS_TIMES = tuple(
    _Step(2 * factor, factor, word) for factor, word in ((1e-6, "µs"), (1e-3, "ms"), (1, "s"), (60, "min"), (3600, "h"))
)
_PAPER = {
    "s": (*_steps(1e-3, ("s", "ms", "µs"))[::-1], _Step(120, 60, "min"), _Step(3600, 3600, "h")),
    "j": (_Step(0, 1e-3, "mJ"), *_UNITS["j"], _Step(3.6e9, 3.6e9, "MWh")),
    "l": (_Step(0, 1e-3, "mL"), _Step(1, 1, "L"), _Step(1e3, 1e3, "m³")),
    "g": (_Step(0, 1e-3, "mg"), *_UNITS["g"][:2], _Step(1e6, 1e6, "t")),
}
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def format_amount(amount: float | None, unit: str) -> str:
    """An amount in the unit a person would choose, with three significant digits.

    Args:
        amount: In `unit`; None is a missing reading.
        unit: One of `UNITS`.

    Returns:
        Text such as '1 h 02 min', '3.51 GiB', '12.3 kJ' or 'missing'.

    Example:
        >>> (format_amount(3725.0, "s"), format_amount(2.5e9, "flop_per_s"), format_amount(1536, "bytes"),
        ...  format_amount(None, "j"))
        ('1 h 02 min', '2.50 GFLOP/s', '1.50 KiB', 'missing')
        >>> format_amount(0.0421, "usd"), format_amount(0.253, "fraction"), format_amount(67128463, "samples")
        ('$0.0421', '25.3 %', '67.1 M samples')
        >>> format_amount(21555, "samples"), format_amount(0.0000236, "usd"), format_amount(8.6e-6, "s")
        ('21,555 samples', '$0.0000236', '8.6 µs')
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
    if base == "usd":
        return f"${_money(amount)}{tail}"
    if base == "fraction":
        return f"{format_number(100 * amount)} %{tail}"
    if base in _UNITS:
        step = _fitting(_UNITS[base][:3] if base == "g" else _UNITS[base], amount)  # a Mg is a tonne, a Gg no word
        return (
            f"{format_number(amount / step.factor) if step.word == 'kWh' else _scaled(amount, step)} {step.word}{tail}"
        )
    step = _fitting(_COUNTS, amount)
    number = _apart(format_number(amount)) if abs(amount) < 1e5 else f"{_scaled(amount, step)} {step.word}".strip()
    one = "batch" if base == "batches" else base.removesuffix("s")
    return f"{number} {one if amount == 1 else base}{tail}"


def format_number(amount: float) -> str:
    """A number with three significant digits, whole numbers below 100,000 in full.

    Example:
        >>> format_number(1234), format_number(0.001234), format_number(12.345), format_number(1.0)
        ('1234', '0.00123', '12.3', '1')
    """
    if float(amount).is_integer() and abs(amount) < 1e5:
        return str(int(amount))
    if amount and (abs(amount) < 1e-4 or abs(amount) >= 1e6):
        return f"{amount:.2e}"
    places = max(0, 2 - math.floor(math.log10(abs(amount)))) if amount else 0
    return f"{amount:.{places}f}"


def choose_unit(unit: str, largest: float | None) -> DisplayUnit:
    """The unit to show a column in, chosen by its largest amount so that a chart has one unit on its axis.

    Example:
        >>> choose_unit("s", 9000.0), choose_unit("j", 7.2e6).suffix, choose_unit("bytes", 3e9).suffix
        (DisplayUnit(factor=3600, suffix='h'), 'kWh', 'GiB')
        >>> (choose_unit("flop_per_s", 2e12).suffix, choose_unit("params", 3e7).suffix, choose_unit("fraction",
        ...  0.5).suffix)
        ('TFLOP/s', 'M params', '%')
    """
    peak = largest if largest is not None and math.isfinite(largest) else 0.0
    base, rate, _ = unit.partition("_per_s")
    tail = "/s" if rate else ""
    if unit == "fraction":
        return DisplayUnit(0.01, "%")
    if base in _UNITS or unit == "s":
        _, factor, word = _fitting(_AXIS_TIMES if unit == "s" else _UNITS[base], peak)
        return DisplayUnit(factor, f"{word}{tail}")
    _, factor, word = _fitting(_AXIS_COUNTS, peak)
    return DisplayUnit(factor, f"{word} {base}{tail}".strip())


def format_3_digits(amount: float) -> str:
    """A number with three significant digits, thousands apart, as a power of ten if that is shorter.

    Example:
        >>> (format_3_digits(12.04), format_3_digits(1234.5), format_3_digits(0.00123),
        ...  format_3_digits(1.234e18), format_3_digits(0.0))
        ('12.0', '1,230', '0.00123', '1.23 × 10¹⁸', '0')
        >>> format_3_digits(3.0), format_3_digits(999.6), format_3_digits(1e-7)
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
    if float(amount).is_integer() and abs(amount) < 1000:
        return str(int(amount))
    return f"{float(f'{mantissa}e{power}'):,.{max(0, 2 - power)}f}"


def format_for_paper(amount: float, unit: str) -> str:
    """An amount in the unit that a paper would use.

    Example:
        >>> (format_for_paper(44321.0, "s"), format_for_paper(360.0, "s"), format_for_paper(4.6, "s"),
        ...  format_for_paper(8.6e-6, "s"))
        ('12.3 h', '6 min', '4.60 s', '8.60 µs')
        >>> (format_for_paper(7.2e6, "j"), format_for_paper(91.3, "j"), format_for_paper(1234.0, "g"),
        ...  format_for_paper(3.21, "usd"))
        ('2 kWh', '91.3 J', '1.23 kg', 'USD 3.21')
        >>> format_for_paper(1.5e15, "flop")
        '1.50 × 10¹⁵ FLOP'
    """
    if unit == "usd":
        return f"USD {format_3_digits(amount)}"
    if unit == "flop":
        return f"{format_3_digits(amount)} FLOP"
    _, factor, word = _fitting(_PAPER[unit], amount) if unit in _PAPER else (0, 1, unit.replace("_per_s", "/s"))
    shown = amount / factor if factor >= 1 else amount * round(1 / factor)  # 1e-6 is no exact number, 1e6 is
    return f"{format_3_digits(shown)} {word}"


def format_device_time(device_s: float, *, node: bool = False) -> str:
    """Device time in device-hours, or device-seconds if it is short; node time if a device is a node.

    Example:
        >>> format_device_time(354321.0), format_device_time(12.0, node=True)
        ('98.4 device-hours', '12 node-seconds')
    """
    what = "node" if node else "device"
    return (
        f"{format_3_digits(device_s / 3600)} {what}-hours"
        if device_s >= 360
        else f"{format_3_digits(device_s)} {what}-seconds"
    )


def format_exact(amount: float) -> str:
    """An amount with ten significant digits, in its own unit.

    Example:
        >>> format_exact(16123.417), format_exact(0.1 + 0.2), format_exact(1.5e18)
        ('16123.417', '0.3', '1.5e+18')
    """
    return f"{amount:.10g}"


def counted(count: int, what: str = "run") -> str:
    """A number and what it counts.

    Example:
        >>> counted(1), counted(2), counted(0, "family"), counted(2, "batch"), counted(1, "family"), counted(2, "day")
        ('1 run', '2 runs', '0 families', '2 batches', '1 family', '2 days')
    """
    if count == 1:
        return f"{count} {what}"
    if what.endswith("y") and what[-2:-1] not in "aeiou":
        return f"{count} {what[:-1]}ies"
    return f"{count} {what}{'es' if what.endswith(('s', 'ch')) else 's'}"


def list_words(words: Sequence[str], most: int | None = None, *, mark: str = ",") -> str:
    """Words as a list in a sentence; at most `most` are spelt out.

    Example:
        >>> list_words(["a", "b", "c"]), list_words(["a", "b", "c"], 2), list_words(["a", "b", "c"], mark=";")
        ('a, b and c', 'a, b and 1 more', 'a; b and c')
    """
    if most is not None and len(words) > most:
        return f"{f'{mark} '.join(words[:most])} and {len(words) - most} more"
    return " and ".join(filter(None, (f"{mark} ".join(words[:-1]), *words[-1:])))


def _fitting(steps: Sequence[_Step], amount: float) -> _Step:
    """The largest unit that the amount is large enough for; the plain one for nothing."""
    if amount == 0:
        return next(step for step in steps if step.factor == 1)
    return next((step for step in reversed(steps) if abs(amount) >= step.least), steps[0])


def _apart(number: str) -> str:
    """A number's text with its thousands apart; an exponent stays."""
    whole, point, rest = number.partition(".")
    return number if "e" in number else f"{int(whole):,}{point}{rest}" if abs(float(number)) >= 1000 else number


def _money(amount: float) -> str:
    """Dollars with three significant digits; small ones without an exponent, so that two amounts can be compared."""
    if 1e-9 <= abs(amount) < 1e-4:
        return f"{amount:.{2 - math.floor(math.log10(abs(amount)))}f}"
    return _apart(format_number(amount))


def _scaled(amount: float, step: _Step) -> str:
    shown = amount / step.factor
    if shown and abs(shown) < 1e-3:
        return f"{shown:.2e}"
    if step.factor == 1 and abs(shown) < 999.5:  # beyond, three digits would be an exponent
        return f"{shown:.3g}"
    return f"{shown:.{2 if abs(shown) < 10 else 1 if abs(shown) < 100 else 0}f}"


def _duration(seconds: float) -> str:
    if seconds < 0:
        return f"-{_duration(-seconds)}"
    if 0 < seconds < 0.9995e-3:
        return f"{1e6 * seconds:.3g} µs"
    if 0 < seconds < 0.9995:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
