"""How energy was got, as plain data for the header, and how a reading is shared out over the accounts it spans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, final

from lightning_costs.records.time_buckets import ACCOUNTS, PARTS

#: A meter's own count of energy; power times time; a calculation from load; a constant power; no such device.
MeterMethod = Literal["counter", "power", "model", "constant", "none"]
COMPONENTS = ("gpu", "cpu", "ram")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterInfo:
    """How the energy of a component was got.

    Args:
        method: Which way.
        instrument: The source of the reading.
        error_j: Bound of the error of the total in joules, without the instrument's own accuracy; None if there is
            none, as for a model.
        detail: What the reading covers, what is assumed, what the bound is made of.
        facts: Further figures (a cross-check, a share), by name with unit.
    """

    method: MeterMethod
    instrument: str
    error_j: float | None
    detail: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the header."""
        plain = asdict(self)
        return {**{name: value for name, value in plain.items() if name != "facts"}, **self.facts}


def split_by_bucket(joules: float, seconds: Mapping[str, float], now: str) -> dict[str, float]:
    """A reading's energy over the accounts that the time since the reading before it went to, by their seconds.

    Exact where the time went to one account; else as if the power had been the same in all of them. If no time passed,
    the account of `now` gets it.

    Example:
        >>> split_by_bucket(6.0, {"train": 1.0, "data_wait": 1.0, "evaluate": 1.0}, now="train")
        {'train': 4.0, 'evaluate': 2.0}
    """
    spent = dict.fromkeys(ACCOUNTS, 0.0)
    for name, amount_s in seconds.items():
        spent[PARTS.get(name, name)] += amount_s
    total_s = sum(spent.values())
    if total_s <= 0:
        return {PARTS.get(now, now): joules}
    return {account: joules * amount_s / total_s for account, amount_s in spent.items() if amount_s > 0}


@final
class EdgeErrorBound:
    """The bound of a counter that moves in steps: its lag times the highest mean power between two readings.

    Example:
        >>> edge = EdgeErrorBound(0.1)
        >>> edge.note(spent_j=50.0, elapsed_s=0.5)
        >>> edge.joules
        10.0
    """

    def __init__(self, lag_s: float) -> None:
        self._lag_s = lag_s
        self._peak_w = 0.0

    def note(self, spent_j: float, elapsed_s: float) -> None:
        """What was spent between two readings; readings closer than the lag give no power."""
        if elapsed_s > self._lag_s:
            self._peak_w = max(self._peak_w, spent_j / elapsed_s)

    @property
    def joules(self) -> float:
        """The bound, in joules."""
        return self._lag_s * self._peak_w
