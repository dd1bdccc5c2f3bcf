"""The outcome of a run as flat numbers: best quality, and the cost to each declared target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

from lightning_costs.records.samples import Amount


@final
class RunOutcome:
    """Best quality and cost-to-quality of a run, from its evaluations one after the other.

    Args:
        header: The run's: its metric, direction, targets and declarations.
        columns: Names that metrics cannot have as columns: a metric of such a name is left out.

    Example:
        >>> outcome = RunOutcome({"monitor": "acc", "mode": "max", "targets": [0.5], "indicators": {
        ...     "steps": {"kind": "counter", "role": "indicator"}}})
        >>> outcome.update(1, {"acc": 0.4}, {"steps": 2.0})
        >>> outcome.update(2, {"acc": 0.6}, {"steps": 3.0})
        >>> outcome.summary()
        {'best_quality': 0.6, 'best_step': 2, 'target_reached': True, 'to_target_steps': 3.0}
    """

    def __init__(self, header: Mapping[str, Any], columns: tuple[str, ...] = ()) -> None:
        declared: Mapping[str, Any] = header["indicators"]
        monitor = header.get("monitor")
        self._monitor = None if monitor in declared or monitor in columns else monitor
        self._sign = {"max": 1.0, "min": -1.0}.get(header.get("mode") or "", math.nan)
        self._targets = list(header.get("targets") or ())
        self._counters = [n for n, row in declared.items() if row["kind"] == "counter" and row["role"] == "indicator"]
        self._seen = self._evaluated = False
        self._best: tuple[float, int] | None = None
        self._hits: dict[int, dict[str, float]] = {}

    def update(
        self, step: int, quality: Mapping[str, float], costs: Mapping[str, Amount], *, evaluated: bool = True
    ) -> None:
        """A point of the run; one that holds no quality is passed over.

        So is that of training steps, if evaluations log a metric of the same name.
        """
        if self._monitor is None or (value := quality.get(self._monitor)) is None:
            return
        if evaluated and not self._evaluated:
            self._evaluated, self._best, self._hits = True, None, {}
        elif self._evaluated and not evaluated:
            return
        self._seen = True
        if not math.isfinite(value) or math.isnan(self._sign):
            return
        if self._best is None or self._sign * value > self._sign * self._best[0]:
            self._best = value, step
        for number, target in enumerate(self._targets):
            if number not in self._hits and self._sign * value >= self._sign * target:
                spent = {name: costs.get(name) for name in self._counters}
                self._hits[number] = {n: a for n, a in spent.items() if a is not None and not math.isnan(a)}

    def summary(self) -> dict[str, float | bool]:
        """The numbers; empty for a run that does not know its metric or logged none.

        `best_quality` is reached at `best_step`. `to_target_<column>` is every counter's total at the first evaluation
        at or past the first declared target. `to_target_2_<column>` is the same at the second, in the order of the
        header's `targets`. A target that was not reached has no such numbers: `target_reached` (`target_2_reached`) is
        False. Each is the amount that `compare` names.
        """
        if not self._seen or math.isnan(self._sign):
            return {}
        numbers: dict[str, float | bool] = {}
        if self._best is not None:
            numbers = {"best_quality": self._best[0], "best_step": self._best[1]}
        for number in range(len(self._targets)):
            named = "target" if number == 0 else f"target_{number + 1}"
            numbers[f"{named}_reached"] = number in self._hits
            numbers |= {f"to_{named}_{name}": amount for name, amount in self._hits.get(number, {}).items()}
        return numbers
