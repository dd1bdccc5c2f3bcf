"""A budget: limits on counters, their used share, and the time until the next check."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from lightning_costs.records.declaration import Declaration
from lightning_costs.records.formatting import format_amount
from lightning_costs.records.samples import Amount

#: A step may cost this many times the highest pace before a limit could be passed between two checks.
SAFETY_FACTOR = 2.0
#: Looks are not further apart than this, in seconds at the pace seen.
MOST_S = 10.0
#: Totals of a train point may miss the meters' last half second: nearer to a limit the meters are read.
CLOSE_S = 1.0
_UNKNOWN = (0.0, 0.0, 0.0)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LimitExceeded:
    """A limit that a total is at or past, both in the unit of the column."""

    column: str
    limit: float
    amount: float

    def words(self, unit: str) -> str:
        """The amount and the limit in human units.

        Example:
            >>> LimitExceeded(column="energy_j", limit=3.6e6, amount=3.7e6).words("j")
            '1.03 kWh of 1 kWh'
        """
        return f"{format_amount(self.amount, unit)} of {format_amount(self.limit, unit)}"


def validate_limits(limits: Mapping[str, float]) -> dict[str, float]:
    """Limits as numbers.

    Example:
        >>> validate_limits({"cloud_usd": 50})
        {'cloud_usd': 50.0}
    """
    if not isinstance(limits, Mapping) or not limits:
        raise ValueError(f"limits must map counter columns to amounts, such as {{'energy_j': 3.6e6}}, got {limits!r}")
    for column, limit in limits.items():
        number = isinstance(limit, int | float) and not isinstance(limit, bool)
        if not number or not math.isfinite(limit) or limit <= 0:
            raise ValueError(f"the limit of {column!r} must be a finite number above 0, got {limit!r}")
    return {str(column): float(limit) for column, limit in limits.items()}


def validate_interval(steps: int | None) -> None:
    """Refuse a number of steps between two points that is none; None is not given.

    Raises:
        ValueError: Says what was expected.
    """
    if steps is not None and (isinstance(steps, bool) or not hasattr(steps, "__index__") or steps < 0):
        raise ValueError(f"log_every_n_steps must be a whole number of at least 0, got {steps!r}")


def validate_limit_columns(columns: Sequence[str], declarations: Mapping[str, Declaration]) -> None:
    """Refuse what no total is kept of."""
    counters = [name for name, declared in declarations.items() if declared.kind == "counter"]
    for column in columns:
        if column not in declarations:
            near = difflib.get_close_matches(column, counters, n=4, cutoff=0.4) or counters
            raise ValueError(f"a budget limits {column!r}, which is no column; did you mean {', '.join(near)}?")
        if (kind := declarations[column].kind) != "counter":
            raise ValueError(
                f"a budget limits {column!r}, which is a {kind}; only counters add up to a total, such as "
                f"{', '.join(difflib.get_close_matches(column, counters, n=4, cutoff=0.0))}"
            )


def unenforceable_limits(
    limits: Mapping[str, float], declarations: Mapping[str, Declaration], lacking: Mapping[str, str]
) -> str | None:
    """The limits that cannot be enforced, in words; None if there are none."""
    texts = [
        f"the budget of {format_amount(limits[name], declarations[name].unit)} cannot be enforced, as {name} is "
        f"missing: {why}"
        for name, why in lacking.items()
    ]
    return "; ".join(texts) or None


@dataclass(frozen=True, slots=True)
class _Mark:
    steps: int
    at_s: float
    totals: Mapping[str, Amount]


@final
class Budget:
    """Watches totals against limits, and says after how many steps and seconds to look again.

    Let R be what is left of a limit, and r the highest pace seen: the mean since the first step, or the last window's
    if that is more. The next check is after R / 2r steps, or seconds. No limit is passed between two checks, unless
    steps cost more than twice that pace. Evaluations are checked separately and belong to no step. Time-like
    totals increase by the second exactly, whatever a step takes.

    Example:
        >>> budget = Budget({"energy_j": 100.0})
        >>> for step in (1, 2):
        ...     assert budget.update(step, float(step), {"energy_j": 5.0 * step}) is None
        >>> budget.next_step - 2  # 90 J are left, at 5 J a step
        9
        >>> budget.update(11, 11.0, {"energy_j": 101.0})
        LimitExceeded(column='energy_j', limit=100.0, amount=101.0)
    """

    def __init__(self, limits: Mapping[str, float]) -> None:
        self.limits = validate_limits(limits)
        #: The next check, whichever comes first: after that many steps, or at this moment.
        self.next_step, self.next_s = 0, 0.0
        self._first: _Mark | None = None
        self._last: _Mark | None = None
        #: By column: highest amount a step and a second; mean amount a step.
        self._paces: dict[str, tuple[float, float, float]] = {}
        self._step_s = math.inf
        self._warned: set[str] = set()
        self._lost: set[str] = set()

    def due(self, steps: int, at_s: float) -> bool:
        """Whether a check is due, after that many steps at this moment."""
        return steps >= self.next_step or at_s >= self.next_s

    def near_limit(self, totals: Mapping[str, Amount]) -> bool:
        """Whether a limit may be near, so that totals without the latest readings are not enough."""
        steps, seconds = self._room(totals)
        return steps < 2 or seconds < CLOSE_S

    def update(
        self, steps: int, at_s: float, totals: Mapping[str, Amount], *, most_steps: float = math.inf
    ) -> LimitExceeded | None:
        """Record the totals after `steps` steps, and set the next check.

        Returns:
            The limit that is passed by most; None if none is.
        """
        if steps > 0:
            self._learn(_Mark(steps, at_s, {column: totals.get(column) for column in self.limits}))
        steps_clear, seconds_clear = self._room(totals)
        apart = min(steps_clear, most_steps, MOST_S / self._step_s if self._step_s > 0 else math.inf)
        self.next_step = steps + (max(1, math.floor(apart)) if math.isfinite(apart) else 1 << 30)
        self.next_s = at_s + seconds_clear
        over = [
            LimitExceeded(column=column, limit=limit, amount=amount)
            for column, limit in self.limits.items()
            if (amount := totals.get(column)) is not None and amount >= limit
        ]
        return max(over, key=lambda passed: passed.amount / passed.limit, default=None)

    def _learn(self, mark: _Mark) -> None:
        last, self._last = self._last, mark
        if self._first is None or last is None:  # what was before the first step is no step's cost
            self._first = mark
            return
        steps = mark.steps - last.steps
        if steps <= 0:
            return
        self._step_s = (mark.at_s - last.at_s) / steps
        for column in self.limits:
            now, before, begun = (m.totals[column] for m in (mark, last, self._first))
            if now is None or before is None or begun is None:
                self._paces.pop(column, None)
                continue
            mean = (now - begun) / (mark.steps - self._first.steps)
            seconds, all_s = mark.at_s - last.at_s, mark.at_s - self._first.at_s
            a_second = max(_per(now - before, seconds), _per(now - begun, all_s))
            self._paces[column] = (max((now - before) / steps, mean), a_second, mean)

    def _room(self, totals: Mapping[str, Amount]) -> tuple[float, float]:
        """Steps and seconds in which no limit can be passed; none while the pace is unknown."""
        steps = seconds = math.inf
        for column, limit in self.limits.items():
            amount = totals.get(column)
            if amount is None:
                continue
            left, (a_step, a_second, _) = max(0.0, limit - amount), self._paces.get(column, _UNKNOWN)
            if not a_step and self._young:  # meters move in steps of their own: nothing yet is not nothing ever
                return 0.0, math.inf
            if a_step > 0:
                steps = min(steps, left / (SAFETY_FACTOR * a_step))
            if a_second > 0:
                seconds = min(seconds, left / (SAFETY_FACTOR * a_second))
        return steps, seconds

    @property
    def _young(self) -> bool:
        """Whether too little time went by since the first step for every meter to have moved."""
        return self._first is None or self._last is None or self._last.at_s - self._first.at_s < CLOSE_S

    def newly_unenforceable(self, totals: Mapping[str, Amount]) -> dict[str, float]:
        """Limits that can no longer be enforced because their totals became missing; each reported once."""
        lost = {
            name: limit for name, limit in self.limits.items() if totals.get(name) is None and name not in self._lost
        }
        self._lost |= set(lost)
        return lost

    @property
    def enforceable(self) -> bool:
        """Whether any limit is still held."""
        return len(self._lost) < len(self.limits)

    def limits_nearly_reached(
        self, totals: Mapping[str, Amount], share: float
    ) -> list[tuple[LimitExceeded, float | None]]:
        """Limits of which this share is used, each reported once, as soon as a pace is known.

        Returns:
            What is used, and the steps that are left at the mean pace; None if it costs nothing.
        """
        passed = []
        for column, limit in self.limits.items():
            amount = totals.get(column)
            if column in self._warned or column not in self._paces or amount is None or amount < share * limit:
                continue
            self._warned.add(column)
            pace = self._paces[column][2]
            left = max(0.0, limit - amount) / pace if pace > 0 else None
            passed.append((LimitExceeded(column=column, limit=limit, amount=amount), left))
        return passed


def _per(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def describe_budget(header: Mapping[str, Any], costs: Mapping[str, Amount]) -> list[str]:
    """What of a run's budget is used, and whether it stopped the run.

    Example:
        >>> header = {"indicators": {"energy_j": {"unit": "j"}},
        ...           "budget": {"limits": {"energy_j": 3.6e6}},
        ...           "stopped": {"by": "CostBudget", "step": 41, "column": "energy_j", "limit": 3.6e6,
        ...                       "amount": 3.61e6}}
        >>> describe_budget(header, {"energy_j": 3.7e6})
        ['stopped by CostBudget at step 41: energy_j was 1.00 kWh of 1 kWh', 'of the budget: energy_j 103 % of 1 kWh']
    """
    lines = []
    if stopped := header.get("stopped"):
        declared = header["indicators"][stopped["column"]]
        passed = LimitExceeded(**{name: stopped[name] for name in ("column", "limit", "amount")})
        lines.append(
            f"stopped by {stopped['by']} at step {stopped['step']}: {passed.column} was "
            f"{passed.words(declared['unit'])}"
        )
    used = []
    for column, limit in (header.get("budget") or {}).get("limits", {}).items():
        declared, amount = header["indicators"][column], costs.get(column)
        share = "an unknown part" if amount is None else format_amount(amount / limit, "fraction")
        used.append(f"{column} {share} of {format_amount(limit, declared['unit'])}")
    if used:
        lines.append(f"of the budget: {', '.join(used)}")
    return lines
