"""The ledger: totals of counters and readings of gauges, folded window by window, and their state for a resume."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from lightning_costs.core.indicator import Declaration
from lightning_costs.core.records import Amount


class Ledger:
    """Folds the job's windows into totals. Totals never go down; what went missing stays missing.

    Args:
        declarations: By column name.

    Example:
        >>> from lightning_costs.indicators.counts import Steps
        >>> ledger = Ledger({"steps": Steps.declaration()})
        >>> ledger.add({"steps": 2.0})
        >>> ledger.add({"steps": 3.0})
        >>> ledger.costs
        {'steps': 5.0}
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

    @property
    def costs(self) -> dict[str, Amount]:
        """Totals of counters and readings of gauges so far."""
        return dict(self._costs)

    def add(self, window: Mapping[str, Amount], *, lost: Container[str] = ()) -> None:
        """Fold one window.

        Args:
            window: Column name to the job's amount of this window. A counter that is absent or None is missing
                from now on; a gauge that is absent or None keeps its last reading.
            lost: Gauges that cannot be read any more: they become missing.
        """
        costs, amount_of = self._costs, window.get
        for name in self._counters:
            if (so_far := costs[name]) is not None:
                amount = amount_of(name)
                costs[name] = None if amount is None else so_far + amount
        for name, is_most in self._gauges:
            amount, so_far = amount_of(name), costs[name]
            if amount is not None and not (is_most and so_far is not None and so_far > amount):
                costs[name] = amount
            if name in lost:
                costs[name] = None

    def state(self) -> dict[str, Any]:
        """Plain containers for a checkpoint."""
        return {"costs": dict(self._costs)}

    def restore(self, state: Mapping[str, Any], *also: Mapping[str, Any]) -> list[str]:
        """Continue from `state`, or from the furthest of several states of one run: totals never go down.

        A counter that one of them lacks is missing from then on: it cannot be right without its past. A gauge can,
        at its next reading; until then it is that of the state which got furthest.

        Returns:
            Names of the counters that are missing now.
        """
        states: list[Mapping[str, Amount]] = [s["costs"] for s in (state, *also)]
        furthest = max(states, key=lambda costs: costs.get("total_s") or 0.0)
        for name in self._costs:
            if name in self._counters:
                totals = [costs.get(name) for costs in states]
                known = [total for total in totals if total is not None]
                self._costs[name] = max(known) if len(known) == len(totals) else None
            else:
                self._costs[name] = furthest.get(name)
        return [name for name in self._counters if self._costs[name] is None]
