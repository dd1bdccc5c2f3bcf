"""The ledger: totals of counters and readings of gauges, folded window by window, and their state for a resume."""

from __future__ import annotations

from collections.abc import Mapping
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

    @property
    def costs(self) -> dict[str, Amount]:
        """Totals of counters and readings of gauges so far."""
        return dict(self._costs)

    def add(self, window: Mapping[str, Amount], *, lost: frozenset[str] = frozenset()) -> None:
        """Fold one window.

        Args:
            window: Column name to the job's amount of this window. A counter that is absent or None is missing
                from now on; a gauge that is absent or None keeps its last reading.
            lost: Gauges that cannot be read any more: they become missing.
        """
        for name, so_far in self._costs.items():
            declared, amount = self._declarations[name], window.get(name)
            if declared.kind == "counter":
                self._costs[name] = None if so_far is None or amount is None else so_far + amount
            elif name in lost:
                self._costs[name] = None
            elif amount is not None:
                keep = declared.fold == "max" and so_far is not None and so_far > amount
                self._costs[name] = so_far if keep else amount

    def state(self) -> dict[str, Any]:
        """Plain containers for a checkpoint."""
        return {"costs": dict(self._costs)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`. A column that the earlier attempt did not have is missing from then on.

        A counter cannot be right without its past; a gauge can, at its next reading.
        """
        earlier: Mapping[str, Amount] = state["costs"]
        for name in self._costs:
            self._costs[name] = earlier.get(name)
