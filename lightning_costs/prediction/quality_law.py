"""How quality scales with samples or FLOPs over several runs: a power law, with what a target needs by it.

error = floor + scale x cost^-exponent (Hestness et al. 2017, 'Deep learning scaling is predictable, empirically';
Kaplan et al. 2020), by least squares in logarithms. Intervals are a bootstrap's over runs (Efron 1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from lightning_costs.records.forecast import COVERAGE, Forecast
from lightning_costs.records.formatting import format_amount
from lightning_costs.records.units import unit_of_name
from lightning_costs.run.record import RunRecord

Floats = NDArray[np.float64]
#: Fewest runs, the least ratio of their costs, and the share of the variance that the law must explain.
LEAST_RUNS, LEAST_RATIO, LEAST_FIT = 4, 4.0, 0.9
#: Runs from which a floor is fitted, too.
_RUNS_WITH_FLOOR = 6
#: How far beyond the most expensive run the law is followed.
MOST_BEYOND = 10.0
_RESAMPLES, _SEED = 400, 20211025


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class QualityLaw:
    """A power law of a metric's error against a cost.

    Args:
        monitor: The metric; its error is the metric itself if less is better, else 1 minus it.
        mode: Whether more of it is better.
        cost: The column that it is a law of.
        floor: What no cost takes away.
        scale: The factor of the power.
        exponent: Above 0.
        fit: Share of the logarithm's variance that it explains.
        points: Of each run, its cost and error.
    """

    monitor: str
    mode: str
    cost: str
    floor: float
    scale: float
    exponent: float
    fit: float
    points: tuple[tuple[float, float], ...]

    def needed(self, target: float) -> Forecast:
        """The cost that a target needs, with the 80 % interval over resampled runs.

        Raises:
            ValueError: If the law never gets there, or only beyond ten times the most expensive run.
        """
        error = target if self.mode == "min" else 1 - target
        most = max(cost for cost, _ in self.points)
        found = _needed(self.floor, self.scale, self.exponent, error)
        if found is None:
            raise ValueError(f"{self.monitor} {target:g} is beyond the law's floor: no {self.cost} are enough by it")
        if found > MOST_BEYOND * most:
            raise ValueError(
                f"{self.monitor} {target:g} needs {found / most:.3g} times the {self.cost} of the largest run by "
                f"the law, which is followed up to {MOST_BEYOND:g} times; measure a larger run"
            )
        draws = np.random.default_rng(_SEED).integers(0, len(self.points), size=(_RESAMPLES, len(self.points)))
        costs, errors = (np.array(column) for column in zip(*self.points, strict=True))
        ends = []
        for drawn in draws:
            if len(set(costs[drawn])) > 2:
                floor, scale, exponent, _ = _fitted(costs[drawn], errors[drawn])
                ends.append(_needed(floor, scale, exponent, error) if exponent > 0 else None)
        ordered = sorted(math.inf if end is None else end for end in ends)
        tail = round((1 - COVERAGE) / 2 * len(ordered))
        return Forecast(middle=found, low=ordered[tail], high=ordered[-1 - tail])

    def words(self) -> str:
        """The law for people, with the caution that it needs."""
        floor = f"{self.floor:.3g} + " if self.floor else ""
        what = self.monitor if self.mode == "min" else f"1 - {self.monitor}"
        most = format_amount(max(cost for cost, _ in self.points), unit_of_name(self.cost))
        return (
            f"{what} = {floor}{self.scale:.3g} x {self.cost}^-{self.exponent:.3g} over {len(self.points)} runs, up to "
            f"{most} ({100 * self.fit:.0f} % of the variance). It holds for what these runs share: another model, "
            "schedule or data set has a law of its own, and the order of methods may turn (Dehghani et al. 2021)"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def fit_quality_law(
    runs: Sequence[RunRecord], *, monitor: str | None = None, mode: str | None = None, cost: str = "samples"
) -> QualityLaw:
    """Fit the law to the best quality and the cost of each run.

    Raises:
        ValueError: If there are too few runs, their costs are too alike, or the fit is poor.
    """
    monitor = monitor or next((str(run.header["monitor"]) for run in runs if run.header.get("monitor")), None)
    mode = mode or next((str(run.header["mode"]) for run in runs if run.header.get("mode")), None)
    if monitor is None or mode not in ("max", "min"):
        raise ValueError("a quality law needs the runs' metric: give monitor= and mode='max' or 'min'")
    points = sorted(point for run in runs if (point := _point(run, monitor, mode, cost)) is not None)
    if len(points) < LEAST_RUNS:
        raise ValueError(f"a quality law needs {LEAST_RUNS} runs with {monitor} and {cost}, got {len(points)}")
    costs, errors = (np.array(column) for column in zip(*points, strict=True))
    if costs[-1] < LEAST_RATIO * costs[0]:
        raise ValueError(
            f"the runs' {cost} differ by a factor of {costs[-1] / costs[0]:.3g}: a law needs {LEAST_RATIO:g} or more"
        )
    floor, scale, exponent, fit = _fitted(costs, errors)
    if exponent <= 0 or fit < LEAST_FIT:
        raise ValueError(
            f"no power law: it explains {100 * max(0.0, fit):.0f} % of the variance of {monitor} over {cost}, and "
            f"{100 * LEAST_FIT:.0f} % are needed; nothing is extrapolated"
        )
    return QualityLaw(
        monitor=monitor,
        mode=str(mode),
        cost=cost,
        floor=floor,
        scale=scale,
        exponent=exponent,
        fit=fit,
        points=tuple(points),
    )


def _point(run: RunRecord, monitor: str, mode: str, cost: str) -> tuple[float, float] | None:
    spent = run.final.get(cost)
    if monitor not in run.points.columns or not spent:
        return None
    values = [value for value in run.points.get_column(monitor).to_list() if value is not None and math.isfinite(value)]
    if not values:
        return None
    error = min(values) if mode == "min" else 1 - max(values)
    if error <= 0:
        raise ValueError(
            f"{monitor} leaves no error in {run.name}: of a metric to raise, the law is that of 1 minus it"
        )
    return spent, error


def _fitted(costs: Floats, errors: Floats) -> tuple[float, float, float, float]:
    """Floor, scale, exponent, and the share of the variance that they explain; a floor of many runs only."""
    floors = np.linspace(0, 0.98, 50) * errors.min() if len(set(costs)) >= _RUNS_WITH_FLOOR else np.zeros(1)
    best = (0.0, 0.0, 0.0, -math.inf)
    for floor in floors:
        y, x = np.log(errors - floor), np.log(costs)
        slope, base = np.polyfit(x, y, 1)
        fitted = floor + np.exp(base + slope * x)
        rest = np.log(errors) - np.log(fitted)
        spread = float(((np.log(errors) - np.log(errors).mean()) ** 2).sum())
        fit = 1 - float((rest**2).sum()) / spread if spread else -math.inf
        if fit > best[3] + 1e-3:  # a floor that hardly helps is none
            best = (float(floor), float(np.exp(base)), float(-slope), fit)
    return best


def _needed(floor: float, scale: float, exponent: float, error: float) -> float | None:
    return (scale / (error - floor)) ** (1 / exponent) if error > floor else None
