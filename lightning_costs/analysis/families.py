"""Agreement counted by family: indicators that cannot disagree are one, however many columns say it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_costs.analysis.agreement_schema import Families, FamilyPair, FamilyRow, RankPair
from lightning_costs.analysis.leads import Field
from lightning_costs.analysis.schema import Declaration, Leader
from lightning_costs.records.samples import Amount

#: Columns that are another one times a rate: with the same rate for all runs they say the same.
_MADE_FROM = {
    "cloud_usd": ("device_s", "total_s", "node_s"),
    "electricity_usd": ("energy_j",),
    "co2e_g": ("energy_j",),
    "embodied_co2e_g": ("device_s", "total_s", "node_s", "flop"),
    "water_l": ("energy_j",),
}
#: Two columns are proportional where their ratio varies by less than this share.
_PROPORTIONAL = 1e-6


def families(
    labels: Sequence[str],
    finals: Mapping[str, Sequence[Amount]],
    declared: Mapping[str, Declaration],
    leaders: Mapping[str, Leader],
    fields: Mapping[str, Field],
) -> Families:
    """Count who leads by family of indicators, never by column.

    A priced column joins the family of what it is made from if all runs have the same rate: on one machine, run
    time, device time and cloud money are one indicator, as are energy and carbon. A family is led by the runs that lead
    by all of its columns, and contested where not all runs tie in it.
    """
    rows: dict[str, FamilyRow] = {}
    for name, amounts in finals.items():
        if not any(amount is not None for amount in amounts):
            continue
        family, why = family_of(name, finals, declared)
        row = rows.setdefault(family, {"family": family, "columns": [], "merged": {}, "leaders": [], "split": False})
        row["columns"].append(name)
        if why:
            row["merged"][name] = why
    contested = 0
    leads: dict[str, list[str]] = {}
    for row in rows.values():
        # A column by which all runs tie has no leader, and does not speak against the others.
        leading = [
            who
            for name in row["columns"]
            if name in leaders and len(who := set(leaders[name]["labels"])) < fields[name].taking
        ]
        if not leading:
            continue
        contested += 1
        common = set.intersection(*leading)
        row["leaders"] = [label for label in labels if label in common]
        row["split"] = not common
        for label in row["leaders"]:
            leads.setdefault(label, []).append(row["family"])
    return {"rows": list(rows.values()), "leads": leads, "contested": contested}


def family_of(
    name: str, finals: Mapping[str, Sequence[Amount]], declared: Mapping[str, Declaration]
) -> tuple[str, str | None]:
    """The family that an indicator counts in, and why it is not the one it declares."""
    for base in _MADE_FROM.get(name, ()):
        if base in declared and base in finals and proportional(finals[name], finals[base]):
            family = declared[base]["family"]
            if family != declared[name]["family"]:
                return family, f"{base} times one rate for all runs"
            break
    return declared[name]["family"], None


def family_pairs(
    pairs: Sequence[RankPair], finals: Mapping[str, Sequence[Amount]], declared: Mapping[str, Declaration]
) -> list[FamilyPair]:
    """How far two families agree about the order of runs: the least and most of their columns' Spearman."""
    of = {name: family_of(name, finals, declared)[0] for name in finals}
    found: dict[tuple[str, str], FamilyPair] = {}
    for pair in pairs:
        first, second = of[pair["first"]], of[pair["second"]]
        rho = pair["spearman"]
        if first == second or rho is None:
            continue
        key = (first, second) if first < second else (second, first)
        named = [pair["first"], pair["second"]]
        row = found.setdefault(
            key,
            {"first": key[0], "second": key[1], "lowest": rho, "highest": rho, "lowest_pair": named, "pairs": 0},
        )
        row["pairs"] += 1
        row["highest"] = max(row["highest"], rho)
        if rho < row["lowest"]:
            row["lowest"], row["lowest_pair"] = rho, named
    return list(found.values())


def proportional(first: Sequence[Amount], second: Sequence[Amount]) -> bool:
    """Whether one column is the other times one number, over two runs or more; a run without one has neither."""
    ratios = []
    for a, b in zip(first, second, strict=True):
        if a is None or b is None:
            if a is not None:
                return False
            continue
        if not (0 < a < math.inf and 0 < b < math.inf):
            return False
        ratios.append(a / b)
    return len(ratios) > 1 and max(ratios) <= min(ratios) * (1 + _PROPORTIONAL)
