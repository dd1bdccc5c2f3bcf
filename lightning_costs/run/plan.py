"""A run against the prediction that it was given: plan and actual, and what past errors say of intervals to come."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_costs.records.formatting import format_amount
from lightning_costs.records.units import unit_of_name

#: What is compared, and what people call it; totals only if the run took about as many steps as planned.
_PER_STEP = {"step_s": "time per step", "peak_mem_bytes": "peak memory"}
_TOTALS = {"total_s": "time", "energy_j": "energy", "cloud_usd": "cloud cost", "co2e_g": "CO2e"}
#: Steps that may differ from the plan, as a share.
_SAME_STEPS = 0.02
#: The quantile of the normal distribution behind an 80 % interval, and how many errors the prior counts for.
_QUANTILE, _PRIOR_ERRORS = 1.2815515655446004, 4


#: Where a run's prediction is, if none is passed: the JSON of `lightning-costs predict --json`.
PREDICTION = "LIGHTNING_COSTS_PREDICTION"


def read_prediction(given: object) -> dict[str, Any]:
    """What a run's header keeps of the prediction that it is given: its setting and amounts; empty without one.

    Args:
        given: A `Prediction`, its plain data, or the path of a JSON file with one; by default the file that
            LIGHTNING_COSTS_PREDICTION names.

    Raises:
        ValueError: For what is no prediction, or holds several.
    """
    given = given if given is not None else os.environ.get(PREDICTION) or None
    if given is None:
        return {}
    if isinstance(given, str | os.PathLike):
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"the prediction {str(given)!r} cannot be read: {error}") from error
    elif not isinstance(given, Mapping) and hasattr(given, "as_dict"):
        given = given.as_dict()
    found: Any = given
    if isinstance(found, Mapping) and "predictions" in found:
        found = found["predictions"]
        if len(found) != 1:
            raise ValueError(f"a run takes one prediction, the file has {len(found)}: predict one setting for it")
        found = found[0]
    if not isinstance(found, Mapping) or not isinstance(found.get("amounts"), Mapping):
        raise ValueError("prediction must be a Prediction, or the JSON file of lightning-costs predict --json")
    kept = {name: found[name] for name in ("setting", "coverage") if name in found}
    ends = ("middle", "low", "high")
    amounts = {
        str(name): {end: getattr(one, end, None) if not isinstance(one, Mapping) else one.get(end) for end in ends}
        for name, one in found["amounts"].items()
    }
    return {**kept, "amounts": amounts}


class PlanError(NamedTuple):
    """One amount, planned and actual; `widths` is the error in standard deviations of the prediction's logarithm."""

    name: str
    label: str
    planned: float
    actual: float
    low: float
    high: float
    widths: float | None

    @property
    def share(self) -> float:
        """How much more it was than planned, as a share of the plan."""
        return self.actual / self.planned - 1

    @property
    def inside(self) -> bool:
        """Whether the interval holds the actual amount."""
        return self.low <= self.actual <= self.high


def steady_step_s(final: Mapping[str, float | None]) -> float | None:
    """Mean seconds of a step outside warm-up, waiting for data included; None if no step is known."""
    steps, train_s = final.get("steps"), final.get("train_s")
    if not steps or not train_s:
        return None
    steady_s, samples, steady = final.get("steady_s"), final.get("samples"), final.get("steady_samples")
    return steady_s * samples / steady / steps if steady_s and samples and steady else train_s / steps


def plan_errors(header: Mapping[str, Any], final: Mapping[str, float | None]) -> list[PlanError]:
    """A run's amounts against those of its prediction; empty without one."""
    amounts = (header.get("prediction") or {}).get("amounts") or {}
    planned_steps, steps = _likely(amounts, "steps"), final.get("steps")
    whole = planned_steps and steps and abs(steps / planned_steps - 1) <= _SAME_STEPS
    actual = {**final, "step_s": steady_step_s(final)}
    found = []
    for name, label in (_PER_STEP | _TOTALS if whole else _PER_STEP).items():
        planned, amount = _likely(amounts, name), actual.get(name)
        if not planned or not amount or planned <= 0 or amount <= 0:
            continue
        low, high = amounts[name].get("low"), amounts[name].get("high")
        width = math.log(high / planned) / _QUANTILE if high and high > planned else None
        widths = math.log(amount / planned) / width if width else None
        found.append(PlanError(name, label, planned, amount, low or planned, high or planned, widths))
    return found


def _likely(amounts: Mapping[str, Any], name: str) -> float | None:
    return (amounts.get(name) or {}).get("middle")


def describe_plan(header: Mapping[str, Any], final: Mapping[str, float | None]) -> list[str]:
    """Plan against actual, a sentence an amount; none without a prediction.

    Example:
        >>> plan = {"step_s": {"middle": 0.1, "low": 0.09, "high": 0.11}}
        >>> describe_plan({"prediction": {"amounts": plan}}, {"steps": 10.0, "train_s": 1.2})
        ['time per step: 120 ms, predicted 100 ms (90 ms to 110 ms): 20 % more, outside the 80 % interval']
    """
    sentences = []
    for one in plan_errors(header, final):
        unit = unit_of_name(one.name)
        actual, planned, low, high = (format_amount(x, unit) for x in (one.actual, one.planned, one.low, one.high))
        more = f"{100 * abs(one.share):.0f} % {'more' if one.share >= 0 else 'less'}"
        where = "inside" if one.inside else "outside"
        sentences.append(
            f"{one.label}: {actual}, predicted {planned} ({low} to {high}): {more}, {where} the 80 % interval"
        )
    return sentences


def describe_errors(runs: Iterable[tuple[Mapping[str, Any], Mapping[str, float | None]]]) -> list[str]:
    """The errors of a project's predictions, a sentence an amount: how many, the median, the worst, and coverage."""
    by_name: dict[str, list[PlanError]] = {}
    for header, final in runs:
        for one in plan_errors(header, final):
            by_name.setdefault(one.label, []).append(one)
    sentences = []
    for label, found in by_name.items():
        shares = sorted(abs(one.share) for one in found)
        inside = sum(one.inside for one in found)
        sentences.append(
            f"predicted {label}: median error {100 * shares[len(shares) // 2]:.0f} %, worst {100 * shares[-1]:.0f} %, "
            f"{inside} of {len(found)} inside the 80 % interval"
        )
    return sentences


def recalibration(widths: Sequence[float]) -> float:
    """The factor by which past errors, in widths, stretch or shrink intervals; 1 without any.

    The standard deviation under a prior that counts as four errors of one width (conjugate to the normal).

    Example:
        >>> recalibration([]), round(recalibration([3.0] * 8), 2), round(recalibration([0.1] * 96), 2)
        (1.0, 2.52, 0.22)
    """
    squares = sum(error**2 for error in widths)
    return math.sqrt((_PRIOR_ERRORS + squares) / (_PRIOR_ERRORS + len(widths)))
