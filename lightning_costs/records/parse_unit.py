"""Units that others write, with the factor to ours: GMAC, kWh, GiB, ms, M params."""

from __future__ import annotations

import re
from typing import NamedTuple

from lightning_costs.records.units import COUNTS, JOULE_PER_KWH, PHYSICAL, UNITS

_SI = {"": 1.0, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SI |= {"P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
#: Words for our units, as they follow a prefix.
_WORDS = {
    **{"s": "s", "sec": "s", "J": "j", "W": "w", "g": "g", "B": "bytes", "bytes": "bytes"},
    **{"FLOP": "flop", "FLOPs": "flop", "MAC": "mac", "MACs": "mac", "params": "params", "parameters": "params"},
    **{"samples": "samples", "images": "samples", "img": "samples", "tokens": "tokens", "steps": "steps"},
    **{"$": "usd", "USD": "usd"},
}
_WHOLE = {
    "min": ("s", 60.0),
    "h": ("s", 3600.0),
    "d": ("s", 86400.0),
    "%": ("fraction", 0.01),
    "$": ("usd", 1.0),
    "USD": ("usd", 1.0),
    "t": ("g", 1e6),
    **{f"{prefix}Wh": ("j", JOULE_PER_KWH / 1e3 * _SI[prefix]) for prefix in ("", "m", "k", "M", "G", "T")},
}
#: Words written out, in any case.
_LONG = {
    **dict.fromkeys(("second", "seconds", "secs"), ("s", 1.0)),
    **dict.fromkeys(("msec", "msecs", "millisecond", "milliseconds"), ("s", 1e-3)),
    **dict.fromkeys(("mins", "minute", "minutes"), ("s", 60.0)),
    **dict.fromkeys(("hr", "hrs", "hour", "hours"), ("s", 3600.0)),
    **dict.fromkeys(("day", "days"), ("s", 86400.0)),
    **dict.fromkeys(("thousand", "thousands"), ("", 1e3)),
    **dict.fromkeys(("million", "millions", "mio", "mio."), ("", 1e6)),
    **dict.fromkeys(("billion", "billions"), ("", 1e9)),
    **dict.fromkeys(("trillion", "trillions"), ("", 1e12)),
    **dict.fromkeys(("percent", "pct"), ("fraction", 0.01)),
    **dict.fromkeys(("tonne", "tonnes"), ("g", 1e6)),
    **dict.fromkeys(("image", "images", "imgs", "sample"), ("samples", 1.0)),
    **{
        "tok": ("tokens", 1.0),
        "token": ("tokens", 1.0),
        "step": ("steps", 1.0),
        "joule": ("j", 1.0),
        "joules": ("j", 1.0),
    },
    **dict.fromkeys(("pf-day", "pf-days", "pflop/s-day", "pflop/s-days", "petaflop/s-days"), ("flop", 8.64e19)),
}
#: What comes after an amount of something per second, of carbon, and before one in powers of ten.
_PER_S = re.compile(r"(.+?)(?:/ ?| per )(?:s|sec|second)")
_CARBON = re.compile(r"(.*[gt]) ?CO[2₂](?:-?eq?)?", re.IGNORECASE)
_POWER = re.compile(r"[x×*]? ?(?:10\^?([⁰¹²³⁴-⁹]{1,2}|(?<=\^)\d{1,2})|1e\+?(\d{1,2})) ?(.*)", re.IGNORECASE)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


class ParsedUnit(NamedTuple):
    """A unit of the package, or an unknown word, with the factor from the foreign unit."""

    unit: str
    factor: float


def parse_unit(text: str) -> ParsedUnit:
    """Read a unit as people write it: prefix and word, binary prefixes for bytes, `/s` for a rate.

    Args:
        text: Such as 'GMAC', 'kWh', 'GiB', 'ms', 'hours', 'img/s', 'M' (millions, of whatever the column counts).

    Returns:
        The package's unit with its factor. An unknown word is kept, with factor 1; a bare prefix has the
        unit ''.

    Example:
        >>> parse_unit("GMAC"), parse_unit("kWh"), parse_unit("img/s")
        (ParsedUnit(unit='mac', factor=1000000000.0), ParsedUnit(unit='j', factor=3600000.0),
         ParsedUnit(unit='samples_per_s', factor=1.0))
        >>> parse_unit("M"), parse_unit("furlongs")
        (ParsedUnit(unit='', factor=1000000.0), ParsedUnit(unit='furlongs', factor=1.0))
        >>> parse_unit("hours"), parse_unit("tCO2e"), parse_unit("10^18 FLOPs")
        (ParsedUnit(unit='s', factor=3600.0), ParsedUnit(unit='g', factor=1000000.0),
         ParsedUnit(unit='flop', factor=1e+18))
    """
    text = " ".join(text.split())
    if not text:
        raise ValueError("a unit must be a word such as GMAC, kWh, GiB or ms; got nothing")
    if re.fullmatch("[kKMGTPE]?FLOPS|[kmgtpe]?flops", text):
        prefix = text[:-5]
        raise ValueError(f"unit {text!r} could be {prefix}FLOP or {prefix}FLOP/s: write which of them it is")
    if text in UNITS:
        return ParsedUnit(text, 1.0)
    if (found := _known(text)) is not None:
        return found
    if (power := _POWER.fullmatch(text)) is not None:
        of = _known(power[3]) if power[3] else ParsedUnit("", 1.0)
        times = float(f"1e{(power[1] or power[2]).translate(_SUPERSCRIPTS)}")
        return ParsedUnit(text, 1.0) if of is None else ParsedUnit(of.unit, of.factor * times)
    rate = _PER_S.fullmatch(text)
    if rate is None or (found := _known(rate[1])) is None:
        return ParsedUnit(text, 1.0)
    return ParsedUnit(f"{found.unit}_per_s", found.factor)


def _known(text: str) -> ParsedUnit | None:
    if text in _WHOLE:
        return ParsedUnit(*_WHOLE[text])
    if text.lower() in _LONG:
        return ParsedUnit(*_LONG[text.lower()])
    if (carbon := _CARBON.fullmatch(text)) is not None:
        mass = _known(carbon[1])
        return mass if mass is not None and mass.unit == "g" else None
    if text in _SI:
        return ParsedUnit("", _SI[text])
    if text in (*PHYSICAL, *COUNTS):
        return ParsedUnit(text, 1.0)
    found = re.fullmatch(r"(Ki|Mi|Gi|Ti|Pi)?(B|bytes)", text)
    if found and found[1]:
        return ParsedUnit("bytes", _BINARY[found[1]])
    for word, unit in sorted(_WORDS.items(), key=lambda pair: -len(pair[0])):
        prefix = text.removesuffix(word)
        if prefix != text and prefix.strip() in _SI:
            return ParsedUnit(unit, _SI[prefix.strip()])
    return None
