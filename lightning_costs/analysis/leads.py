"""Who is cheapest by an indicator, of the runs that can be compared by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lightning_costs.analysis.schema import CostToTarget, Declaration, Leader, TargetRow
from lightning_costs.records.samples import Amount


class Field(NamedTuple):
    """Of the runs with a quality: how many have a reading of an indicator, and how many have none."""

    taking: int
    lacking: int


def leads(
    labels: Sequence[str],
    finals: Mapping[str, Sequence[Amount]],
    best: Sequence[Amount],
    declared: Mapping[str, Declaration],
    targets: Sequence[TargetRow],
) -> tuple[dict[str, Leader], dict[str, Field]]:
    """Who is cheapest by each indicator, and of how many.

    For counters to the last target that any run reached, for others at the end. A run without quality leads nothing.
    A run that alone has a reading is cheaper than no other, unless it is the only run.
    """
    rated = [index for index, quality in enumerate(best) if quality is not None]
    found: dict[str, Leader] = {}
    fields: dict[str, Field] = {}
    for name, amounts in finals.items():
        if declared[name]["kind"] == "counter":
            row = next((row for row in reversed(targets) if leading(row, name)), None)
            if row is not None:
                found[name] = {"labels": leading(row, name), "basis": f"to reach {row['target']:.4g}"}
                taking = sum(takes_part(row["costs"][name][labels[index]]) for index in rated)
                fields[name] = Field(taking, len(rated) - taking)
            continue
        here = {labels[index]: amounts[index] for index in rated}
        known = {label: amount for label, amount in here.items() if amount is not None and math.isfinite(amount)}
        if known and (len(known) > 1 or len(labels) == 1):
            extreme = (min if declared[name]["better"] == "lower" else max)(known.values())
            first = [label for label, amount in known.items() if amount == extreme]
            found[name] = {"labels": first, "basis": "at the end of the run"}
            fields[name] = Field(len(known), len(here) - len(known))
    return found, fields


def leading(row: TargetRow, name: str) -> list[str]:
    """The runs that needed least of a counter to reach a target; none if there is no other run to need more."""
    spends = row["costs"].get(name, {}).values()
    if len(spends) > 1 and sum(map(takes_part, spends)) < 2:
        return []
    return row["winners"].get(name) or []


def takes_part(spend: CostToTarget) -> bool:
    """Whether a run can be compared by what a target cost it: it has a reading there, or of what it spent in vain."""
    return (spend["cost"] if spend["reached"] else spend["spent_at_end"]) is not None
