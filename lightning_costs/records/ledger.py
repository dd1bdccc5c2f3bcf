"""The ledger: totals of counters, readings of gauges, what of the totals was lost, and their state for a resume."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from lightning_costs.records.declaration import Declaration
from lightning_costs.records.samples import Amount

#: Columns that say how much of another one was lost to restarts.
LOST = {"lost_s": "total_s", "lost_samples": "samples", "lost_flop": "flop", "lost_energy_j": "energy_j"}


class Ledger:
    """Folds the job's windows into totals. Totals never go down; what went missing stays missing.

    Of every total it also knows how much was lost: spent after the checkpoint that a restart went back to. That
    changes at restarts only.

    Example:
        >>> from lightning_costs.indicators.counts import Steps
        >>> ledger = Ledger({"steps": Steps.declaration()})
        >>> ledger.add({"steps": 2.0})
        >>> checkpoint = ledger.state_dict()
        >>> ledger.add({"steps": 3.0})
        >>> ledger.mark_lost_since(checkpoint)
        >>> ledger.costs, ledger.lost
        ({'steps': 5.0}, {'steps': 3.0})
    """

    def __init__(self, declarations: Mapping[str, Declaration]) -> None:
        self._declarations = dict(declarations)
        self._costs: dict[str, Amount] = {
            name: 0.0 if declared.kind == "counter" else None
            for name, declared in self._declarations.items()
            if declared.kind != "static"
        }
        self._counters = [name for name in self._costs if self._declarations[name].kind == "counter"]
        self._gauges = [(n, self._declarations[n].fold == "max") for n in self._costs if n not in self._counters]
        self._lost: dict[str, Amount] = {name: 0.0 for name in self._counters if name not in LOST}

    @property
    def costs(self) -> dict[str, Amount]:
        """Totals of counters and readings of gauges so far."""
        return dict(self._costs)

    @property
    def now(self) -> Mapping[str, Amount]:
        """The same, not copied: for who reads and forgets."""
        return self._costs

    @property
    def lost(self) -> dict[str, Amount]:
        """What of each counter's total was lost to restarts; None if that is unknown."""
        return dict(self._lost)

    def add(self, window: Mapping[str, Amount], *, unreadable: Container[str] = ()) -> None:
        """Fold one window.

        A counter that is absent or None is missing from now on; so is an `unreadable` gauge. Any other gauge keeps its
        last reading.
        """
        costs, amount_of = self._costs, window.get
        for name in self._counters:
            if (so_far := costs[name]) is not None:
                amount = amount_of(name)
                costs[name] = None if amount is None else so_far + amount
        for name, is_most in self._gauges:
            amount = amount_of(name)
            if amount is not None and not (is_most and (so_far := costs[name]) is not None and so_far > amount):
                costs[name] = amount
            if name in unreadable:
                costs[name] = None

    def set_gauges(self, gauges: Mapping[str, Amount], *, unreadable: Container[str] = ()) -> None:
        """Set gauges that follow from the totals; one that is None keeps its last reading, unless it is unreadable."""
        for name, amount in gauges.items():
            if amount is not None or name in unreadable:
                self._costs[name] = amount

    def set_derived_totals(self, costs: Mapping[str, Amount], lost: Mapping[str, Amount] | None = None) -> None:
        """Set totals that are made from other totals; and what of them was lost, where an attempt begins."""
        self._costs |= costs
        self._lost |= lost or {}

    def state_dict(self) -> dict[str, Any]:
        """Plain containers for a checkpoint."""
        return {"costs": dict(self._costs), "lost": dict(self._lost)}

    def load_state_dict(self, state: Mapping[str, Any], *also: Mapping[str, Any]) -> list[str]:
        """Continue from `state_dict`, or from the furthest of several states of one run: totals never go down.

        A counter that is missing in one of them stays missing: it cannot be right without its past. A gauge can,
        at its next reading; until then it is that of the state which got furthest. Lost work is what `state_dict` knew.

        Returns:
            Names of the counters that are missing now.
        """
        states: list[Mapping[str, Mapping[str, Amount]]] = [state, *also]
        furthest = max((s["costs"] for s in states), key=lambda costs: costs.get("total_s") or 0.0)
        for name in self._costs:
            if name in self._counters:
                self._costs[name] = _most([s["costs"].get(name) for s in states])
            else:
                self._costs[name] = furthest.get(name)
        for name in self._lost:
            self._lost[name] = states[0].get("lost", {}).get(name)
        self._tell()
        return [name for name in self._counters if self._costs[name] is None and name not in LOST]

    def mark_lost_since(self, state: Mapping[str, Any] | None) -> None:
        """What was spent after `state_dict` bought nothing; without a state, nothing that was spent so far did.

        With C and its lost part L in the state: lost = total - (C - L). This holds however many restarts there were,
        and from whichever checkpoint.
        """
        for name in self._lost:
            then = 0.0 if state is None else state["costs"].get(name)
            lost_then = 0.0 if state is None else state.get("lost", {}).get(name)
            total = self._costs[name]
            unknown = total is None or then is None or lost_then is None
            self._lost[name] = None if unknown else (total - then) + lost_then  # type: ignore[operator]
        self._tell()

    def mark_lost_unknown(self) -> None:
        """Mark lost work as unknown."""
        self._lost = dict.fromkeys(self._lost)
        self._tell()

    @property
    def lost_is_known(self) -> bool:
        """Whether lost work is known, for any counter whose total is known."""
        known = [self._lost[name] is not None for name in self._lost if self._costs[name] is not None]
        return any(known) or not known

    def _tell(self) -> None:
        """The columns of lost work; one is missing if its total is."""
        for name, base in LOST.items():
            if name in self._costs:
                self._costs[name] = None if self._costs.get(base) is None else self._lost[base]


def _most(amounts: list[Amount]) -> Amount:
    known = [amount for amount in amounts if amount is not None]
    return max(known) if len(known) == len(amounts) else None
