"""How sure a figure is: exact, estimated over a sample, or modelled; one notation for people and one for programs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from lightning_costs.records.formatting import format_amount, format_number
from lightning_costs.records.meter_info import COMPONENTS

#: Counted or read; estimated from a sample, with an interval; or modelled, without a bound of the error.
Certainty = Literal["exact", "estimated", "modelled"]

#: What an exact count of a sample takes for granted: it cannot show a step that differs without a sign.
TAKEN_ALIKE = "uncounted steps are taken to be like the counted ones of their kind"

_SAMPLED = re.compile(r"(^|; )estimated over \d+ sampled steps of \d+, 95 % interval [^;]*")
_MODELS = {"model", "estimate", "constant"}
_PARTS = {f"{part}_energy_j": part for part in COMPONENTS}
#: Columns of the components of energy: each is from a meter, a model or a constant.
ENERGY_PARTS = tuple(_PARTS)


def certainty(header: Mapping[str, Any], name: str) -> Certainty:
    """How sure a column of a run is.

    Example:
        >>> methods = {"flop": "exact; ...", "ram_energy_j": "constant: 20 W"}
        >>> header = {"methods": methods, "intervals": {"mac": [1, 2]}}
        >>> certainty(header, "flop"), certainty(header, "mac"), certainty(header, "ram_energy_j")
        ('exact', 'estimated', 'modelled')
    """
    if name in (header.get("intervals") or {}):
        return "estimated"
    if name in _PARTS:
        return "modelled" if _is_modelled(header, name) else "exact"
    modelled = _MODELS & _first_words(header, name) or (
        is_of_energy(name) and any(_is_modelled(header, n) for n in _PARTS)
    )
    return "modelled" if modelled else "exact"


def is_of_energy(name: str) -> bool:
    """Whether a column is energy, or made from it: as sure as the components of energy are."""
    return name.endswith("energy_j") or name in ("co2e_g", "electricity_usd", "water_l")


def modelled_share(header: Mapping[str, Any], name: str, final: Mapping[str, float | None]) -> float:
    """The share of a run's amount that comes from a model or a constant: of energy, by its components.

    Example:
        >>> header = {"methods": {"gpu_energy_j": "counter", "ram_energy_j": "constant: 20 W"}}
        >>> modelled_share(header, "energy_j", {"energy_j": 4.0, "gpu_energy_j": 3.0, "ram_energy_j": 1.0})
        0.25
        >>> modelled_share(header, "flop", {"flop": 4.0}), modelled_share(header, "ram_energy_j", {"ram_energy_j": 1.0})
        (0.0, 1.0)
    """
    if certainty(header, name) != "modelled":
        return 0.0
    parts = {part: amount for part in _PARTS if (amount := final.get(part)) is not None}
    total = sum(parts.values())
    if name in _PARTS or not is_of_energy(name) or not total:
        return 1.0
    return sum(amount for part, amount in parts.items() if certainty(header, part) == "modelled") / total


def _is_modelled(header: Mapping[str, Any], component: str) -> bool:
    """Whether a component's energy is no meter's, as the header says of the component, or of its column."""
    how = (header.get("energy") or {}).get(_PARTS[component])
    words = {str(how.get("method"))} if isinstance(how, Mapping) else _first_words(header, component)
    return bool(_MODELS & words)


def _first_words(header: Mapping[str, Any], name: str) -> set[str]:
    how = str((header.get("methods") or {}).get(name, ""))
    return set(re.findall("[a-z]+", re.split("[;:(]", how)[0].lower()))


def amount_text(amount: float | None, unit: str, kind: Certainty, interval: tuple[float, float] | None = None) -> str:
    """An amount for people: as it is if exact, with ± if estimated, with ≈ if modelled.

    Example:
        >>> amount_text(2e9, "flop", "exact"), amount_text(2e9, "flop", "estimated", (1.9e9, 2.1e9))
        ('2.00 GFLOP', '2.00 GFLOP ± 5 %')
        >>> amount_text(45.5, "j", "modelled"), amount_text(None, "j", "modelled")
        ('≈ 45.5 J', 'missing')
    """
    error = max(interval[1] - amount, amount - interval[0]) if interval is not None and amount is not None else None
    return noted(format_amount(amount, unit), amount, kind, error)


def noted(text: str, amount: float | None, kind: Certainty, error: float | None = None) -> str:
    """An amount that is text already, in the notation of its certainty; `error` is half of its interval."""
    if amount is None or kind == "exact":
        return text
    if kind == "modelled":
        return f"≈ {text}"
    if error is None or not amount:
        return f"{text} ± ?"
    share = 100 * error / amount
    return f"{text} ± {'<0.1' if share < 0.1 else format_number(float(f'{share:.2g}'))} %"


def amount_of(header: Mapping[str, Any], name: str, amount: float | None, unit: str) -> str:
    """An amount of a run's column for people, in the notation of its certainty."""
    interval = (header.get("intervals") or {}).get(name)
    return amount_text(amount, unit, certainty(header, name), tuple(interval) if interval else None)


def convention(method: str) -> str:
    """What a method's text says beside how sure the figure is: runs that are counted alike have it in common.

    Example:
        >>> convention("estimated over 9 sampled steps of 90, 95 % interval 1 FLOP to 2 FLOP; step census: products")
        'step census: products'
        >>> convention("exact; step census: products"), convention("step census: products")
        ('step census: products', 'step census: products')
    """
    return _SAMPLED.sub("", method).removeprefix("exact; ").removeprefix("; ").removeprefix(f"{TAKEN_ALIKE}; ")
