"""Groups of runs against a reference: ratios of every cost and differences of quality, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_costs.analysis.paired import (
    difference,
    excludes,
    interquartile_mean,
    pair_by_seed,
    paired_spread,
    probability_of_improvement,
    ratio,
    unpaired_spread,
)
from lightning_costs.analysis.schema import Contrast, Contrasts, Declaration, Mode, QualityContrast, Spread, TargetRow
from lightning_costs.records.samples import Amount

#: Units of what is counted, not measured: every machine gets the same.
_COUNTED = ("params", "flop", "mac", "elements", "calls")
#: Costs that differ by no more than this share are equal, however sure the difference is.
_ALIKE = 1e-3
#: Fewest pairs of one seed that two groups are paired by.
_LEAST_PAIRS = 2


@dataclass(frozen=True)
class GroupedRuns:
    """Runs in groups, with what is held against each other.

    Args:
        members: Group to run labels.
        seeds: Run label to seed, None if it is not known.
        best: Run label to best quality.
        finals: Column to run label to amount at the end.
        declared: Declarations of the columns.
    """

    members: Mapping[str, Sequence[str]]
    seeds: Mapping[str, str | None]
    best: Mapping[str, Amount]
    finals: Mapping[str, Mapping[str, Amount]]
    declared: Mapping[str, Declaration]

    def amounts(self, column: str, target: TargetRow | None) -> Mapping[str, Amount]:
        """By run label: what reaching the target cost, or the amount at the end."""
        if target is None or column not in target["costs"]:
            return self.finals[column]
        return {label: spend["cost"] for label, spend in target["costs"][column].items()}

    def pairs(self, one: str, two: str) -> list[tuple[str, str]]:
        """Labels of the runs of one seed; none if the groups share fewer than two."""
        pairs = pair_by_seed(*({label: self.seeds[label] for label in self.members[name]} for name in (one, two)))
        return pairs if len(pairs) >= _LEAST_PAIRS else []

    def ratio(self, column: str, target: TargetRow | None, one: str, two: str) -> Spread:
        """One group's amounts over the other's, with the interval; the other way round if more of it is better."""
        amounts = self.amounts(column, target)
        if self.declared[column]["better"] == "higher":
            one, two = two, one
        if pairs := self.pairs(one, two):
            counted = self.declared[column]["unit"] in _COUNTED
            return paired_spread([(amounts[a], amounts[b]) for a, b in pairs], ratio, counted=counted)
        return unpaired_spread(self.values(amounts, one), self.values(amounts, two), ratio)

    def quality_difference(self, mode: Mode, one: str, two: str) -> Spread:
        """One group's best qualities less the other's, signed so that more is better."""
        sign = 1 if mode == "max" else -1
        signed = {label: None if value is None else sign * value for label, value in self.best.items()}
        if pairs := self.pairs(one, two):
            return paired_spread([(signed[a], signed[b]) for a, b in pairs], difference)
        return unpaired_spread(self.values(signed, one), self.values(signed, two), difference)

    def values(self, amounts: Mapping[str, Amount], name: str) -> list[Amount]:
        """[runs]: amounts of a group."""
        return [amounts[label] for label in self.members[name]]


def contrasts(runs: GroupedRuns, reference: str, target: TargetRow | None, mode: Mode) -> Contrasts:
    """Hold every group against the reference, by every indicator at the target and at the end."""
    others = [name for name in runs.members if name != reference]
    costs: list[Contrast] = []
    for column, declared in runs.declared.items():
        places: list[tuple[Literal["target", "end"], TargetRow | None]] = [("end", None)]
        if target is not None and column in target["costs"]:
            places.insert(0, ("target", target))
        for at, row in places:
            for name in others:
                found = runs.ratio(column, row, name, reference)
                if found["median"] is None:
                    continue
                amounts = runs.amounts(column, row)
                ours, theirs = runs.values(amounts, name), runs.values(amounts, reference)
                costs.append(
                    {
                        "group": name,
                        "column": column,
                        "at": at,
                        "ratio": found,
                        "verdict": cost_verdict(found),
                        "interquartile_mean": interquartile_mean(ours),
                        "improvement": probability_of_improvement(ours, theirs, declared["better"]),
                    }
                )
    return {
        "reference": reference,
        "target": None if target is None else target["target"],
        "paired": {name: bool(runs.pairs(name, reference)) for name in others},
        "costs": costs,
        "quality": [_quality(runs, name, reference, mode) for name in others],
    }


def cost_verdict(found: Spread) -> Literal["less", "more", "equal", "undecided"]:
    """What the interval of a ratio says: less or more if it excludes 1, equal if it is as good as 1.

    Example:
        >>> from lightning_costs.analysis.paired import paired_spread, ratio
        >>> [cost_verdict(paired_spread([(a, 1.0)] * 3, ratio)) for a in (0.5, 0.9999, 2.0)]
        ['less', 'equal', 'more']
    """
    low, high = found["low"], found["high"]
    if low is not None and high is not None and 1 - _ALIKE <= low <= high <= 1 + _ALIKE:
        return "equal"
    if not excludes(found, 1.0):
        return "undecided"
    return "less" if found["high"] is not None and found["high"] < 1 else "more"


def _quality(runs: GroupedRuns, name: str, reference: str, mode: Mode) -> QualityContrast:
    found = runs.quality_difference(mode, name, reference)
    ours, theirs = runs.values(runs.best, name), runs.values(runs.best, reference)
    verdict: Literal["better", "worse", "equal", "undecided"] = "undecided"
    if found["low"] == found["high"] == 0.0:
        verdict = "equal"
    elif excludes(found, 0.0):
        verdict = "better" if found["low"] is not None and found["low"] > 0 else "worse"
    return {
        "group": name,
        "difference": found,
        "verdict": verdict,
        "interquartile_mean": interquartile_mean(ours),
        "improvement": probability_of_improvement(ours, theirs, "higher" if mode == "max" else "lower"),
    }
