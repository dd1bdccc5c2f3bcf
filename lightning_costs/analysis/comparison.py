"""Runs in, a comparison out: everything that a report shows, as plain data."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from lightning_costs.analysis import claim_cautions as claims
from lightning_costs.analysis.agreement_schema import Ranks
from lightning_costs.analysis.answer import answer, hardest_shared_target
from lightning_costs.analysis.below_zero import without_below_zero
from lightning_costs.analysis.breakdowns import cost_breakdowns
from lightning_costs.analysis.cautions import (
    below_zero_cautions,
    clash_cautions,
    hindsight_cautions,
    mode_cautions,
    restart_cautions,
    run_cautions,
)
from lightning_costs.analysis.contrasts import GroupedRuns, contrasts
from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.families import families, family_pairs
from lightning_costs.analysis.leads import leads
from lightning_costs.analysis.lifecycle import lifecycle
from lightning_costs.analysis.matched import matched_pairs
from lightning_costs.analysis.metric import Metric, agree_on_metric, declared_otherwise
from lightning_costs.analysis.pareto import dominance, pareto_fronts
from lightning_costs.analysis.rank_correlation import average_ranks, lower_is_cheaper, rank_pairs
from lightning_costs.analysis.rounding import may_be_rounded
from lightning_costs.analysis.run_data import declarations, downsample_curve, read_run, unique_labels
from lightning_costs.analysis.schema import Contrasts, Declaration, RunRow, TargetRow
from lightning_costs.analysis.seed_groups import SeedGroups, find_seed_groups, group_of_each, members, seed_of
from lightning_costs.analysis.seeds import aggregate_groups
from lightning_costs.analysis.setup import split_setups
from lightning_costs.analysis.summary import summary
from lightning_costs.analysis.sweep import sweep
from lightning_costs.analysis.targets import EvaluationCurve, chosen_targets, target_row
from lightning_costs.pricing.reprice import reprice
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.printable import printable, printable_data
from lightning_costs.records.samples import Amount
from lightning_costs.records.units import is_rate
from lightning_costs.run.kept import Curve as CostCurve
from lightning_costs.run.record import RunRecord, printable_run

if TYPE_CHECKING:
    pass


#: Most values of curves that a comparison holds for drawing: runs x columns x evaluations.
DRAWN_VALUES = 2_000_000
_LEAST_DRAWN = 64


def compare_runs(
    runs: Sequence[RunRecord],
    *,
    monitor: str | None,
    mode: Literal["max", "min"] | None,
    targets: Sequence[float],
    tariff: Tariff | None,
    curve: CostCurve,
    queries: Sequence[float],
    group: str | None,
    reference: str | None,
    tolerance: float,
) -> ComparisonData:
    """Compare runs by quality and by every cost at once: `lightning_costs.compare` says what each argument is."""
    if curve not in get_args(CostCurve):
        raise ValueError(f"curve must be 'spent' or 'to_reach', got {curve!r}")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance must be a finite number of at least 0, such as 0.05 for 5 %, got {tolerance!r}")
    possible, removed = without_below_zero(runs)
    spent = [printable_run(run if tariff is None else reprice(run, tariff)) for run in possible]
    runs = spent if curve == "spent" else [run.to_reach() for run in spent]
    if not runs:
        raise ValueError("expected at least one run to compare, got none; is the folder of runs the right one?")
    metric = agree_on_metric(runs, None if monitor is None else printable(monitor), mode)
    labels = unique_labels(runs)
    against = declared_otherwise(runs, labels, metric)
    found_groups = _groups(runs, group)
    of_each = [None] * len(runs) if found_groups.groups is None else found_groups.groups
    by_group = None if found_groups.groups is None else members(labels, found_groups.groups)
    declared, clashing = declarations(runs)
    evidence = [
        read_run(run, label, metric, declared, method) for run, label, method in zip(runs, labels, of_each, strict=True)
    ]
    rows = [each.run for each in evidence]
    courses = {each.run["label"]: each.course for each in evidence}
    ranked = {name: row for name, row in declared.items() if row["role"] == "indicator"}
    costs = {name: row for name, row in ranked.items() if not is_rate(row["unit"])}
    better = {name: row["better"] for name, row in ranked.items()}
    counters = {name: row["better"] for name, row in ranked.items() if row["kind"] == "counter"}
    finals = {name: [row["final"][name] for row in rows] for name in ranked}
    cost_finals = {name: finals[name] for name in costs}
    best = [row["best_quality"] for row in rows]
    first = _extreme(labels, best, "higher" if metric.mode == "max" else "lower")
    target_rows = _targets(runs, targets, metric, best, rows, courses, counters)
    swept = sweep(courses, counters, metric.mode, by_group)
    by_indicator = pareto_fronts(labels, finals, best, ranked, metric.mode)
    on_cost = {name: by_indicator[name] for name in costs if name in by_indicator}
    dominant = dominance(labels, cost_finals, best, costs, metric.mode, on_cost)
    leaders, fields = leads(labels, cost_finals, best, costs, target_rows)
    by_family = families(labels, cost_finals, costs, leaders, fields)
    printed = [may_be_rounded(run) for run in runs]
    ranks = _ranks(labels, cost_finals, best, costs, better, metric, found_groups.groups, printed)
    alike = matched_pairs(labels, cost_finals, best, tolerance)
    setups = split_setups({row["label"]: row["setup"] for row in rows})
    seeds = None
    amounts = {name: dict(zip(labels, row, strict=True)) for name, row in finals.items()}
    if by_group is not None:
        seeds = aggregate_groups(
            found_groups.by, by_group, dict(zip(labels, best, strict=True)), amounts, target_rows, better
        )
    most = max(_LEAST_DRAWN, DRAWN_VALUES // max(1, len(runs) * len(declared)))
    grouped = GroupedRuns(
        members={label: [label] for label in labels} if by_group is None else by_group,
        seeds={label: seed_of(run) for label, run in zip(labels, runs, strict=True)},
        best=dict(zip(labels, best, strict=True)),
        finals=amounts,
        declared=costs,
    )
    short = answer(rows, metric, target_rows, grouped, found_groups.sentence)
    as_spent = dict(zip(labels, spent, strict=True))
    return ComparisonData(
        monitor=metric.monitor,
        mode=metric.mode,
        runs=rows,
        indicators=declared,
        curves={label: downsample_curve(course, most) for label, course in courses.items()},
        drawn_evaluations=most if any(row["evaluations"] > most for row in rows) else None,
        targets=target_rows,
        sweep=swept,
        fronts=by_indicator,
        dominance=dominant,
        ranks=ranks,
        families=by_family,
        matched=alike,
        groups=seeds,
        breakdowns=cost_breakdowns(rows, declared),
        leaders=leaders,
        best=first,
        setups=setups,
        summary=summary(
            rows, metric, first, declared, leaders, fields, by_family, dominant, setups, curve, len(against)
        ),
        cautions=[
            *mode_cautions(against, metric),
            *run_cautions(runs, rows, courses, metric, setups, declared, tariff),
            *hindsight_cautions(target_rows),
            *claims.early_leads(rows, swept, metric, first, counters),
            *claims.single_family_leads(by_family),
            *claims.searched_under(rows, leaders, fields),
            *claims.nearly_as_good_cheaper(rows, metric, first, declared),
            *claims.matched_pairs(alike),
            *claims.seed_noise(seeds, metric),
            *claims.few_runs(rows, ranks),
            *restart_cautions(as_spent, curve),
            *below_zero_cautions(removed, labels),
            *clash_cautions(clashing),
        ],
        # A table by the hour is named, with its digest: a year of it is longer than the comparison.
        tariff=None
        if tariff is None
        else printable_data({name: value for name, value in tariff.as_dict().items() if name != "hours"}),
        curve=curve,
        answer=short,
        contrasts=_contrasts(grouped, reference, target_rows, metric, short["labels"]) if by_group else None,
        lifecycle=lifecycle(as_spent, queries, rated=[row["label"] for row in rows if row["best_quality"] is not None]),
    )


def _groups(runs: Sequence[RunRecord], group: str | None) -> SeedGroups:
    """Groups as they were asked for; without a word, those that seeds make, and none for 'none'."""
    if group is None:
        return find_seed_groups(runs)
    if group == "none":
        return SeedGroups(None, "", "")
    return SeedGroups(group_of_each(runs, group), group, "")


def _contrasts(
    grouped: GroupedRuns, reference: str | None, targets: Sequence[TargetRow], metric: Metric, labels: Sequence[str]
) -> Contrasts | None:
    if reference is not None and reference not in grouped.members:
        near = difflib.get_close_matches(reference, grouped.members, n=4, cutoff=0.4) or list(grouped.members)[:8]
        raise ValueError(f"reference={reference!r} is no group; there are {', '.join(map(repr, near))}")
    if len(grouped.members) < 2:
        return None
    target = hardest_shared_target(targets, grouped.members)
    return contrasts(grouped, reference or labels[0], target, metric.mode)


def _targets(
    runs: Sequence[RunRecord],
    given: Sequence[float],
    metric: Metric,
    best: Sequence[Amount],
    rows: Sequence[RunRow],
    courses: Mapping[str, EvaluationCurve],
    counters: Mapping[str, str],
) -> list[TargetRow]:
    """Cost-to-quality at the targets that were given, else in headers, else chosen from results."""
    headers = {
        float(target)
        for run in runs
        if run.header.get("monitor") in (None, metric.monitor)
        for target in run.header.get("targets") or ()
    }
    if strange := [target for target in given if not math.isfinite(target)]:
        raise ValueError(f"a target must be a finite number, got {strange[0]!r}; leave it out")
    if given:
        wanted = [(float(target), "given to compare") for target in dict.fromkeys(given)]
    else:
        wanted = [(target, "declared in the runs") for target in headers]
    declared = bool(wanted)
    if not wanted:
        wanted = chosen_targets(best, metric.mode)
    return [
        target_row(
            target,
            declared=declared,
            basis=basis,
            mode=metric.mode,
            courses=courses,
            finals={row["label"]: row["final"] for row in rows},
            counters=counters,
        )
        for target, basis in sorted(wanted, reverse=metric.mode == "min")
    ]


def _ranks(
    labels: Sequence[str],
    finals: Mapping[str, Sequence[Amount]],
    best: Sequence[Amount],
    ranked: Mapping[str, Declaration],
    better: Mapping[str, str],
    metric: Metric,
    groups: Sequence[str | None] | None,
    printed: Sequence[bool],
) -> Ranks:
    def order(amounts: Sequence[Amount], cheaper: str) -> dict[str, float]:
        ranks = average_ranks(lower_is_cheaper(amounts, cheaper).tolist())
        return {label: rank for label, rank in zip(labels, ranks, strict=True) if rank is not None}

    pairs = rank_pairs(labels, finals, better, groups, printed)
    return {
        "indicators": list(finals),
        "pairs": pairs,
        "orders": {name: order(amounts, better[name]) for name, amounts in finals.items()},
        "quality": order(best, "higher" if metric.mode == "max" else "lower"),
        "families": family_pairs(pairs, finals, ranked),
    }


def _extreme(labels: Sequence[str], amounts: Sequence[Amount], better: str) -> list[str]:
    """Labels with the lowest or highest finite amount."""
    finite = [amount for amount in amounts if amount is not None and math.isfinite(amount)]
    if not finite:
        return []
    extreme = min(finite) if better == "lower" else max(finite)
    return [label for label, amount in zip(labels, amounts, strict=True) if amount == extreme]
