"""Runs in, a comparison out: everything that a report shows, as plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from lightning_costs.compare import claim_cautions as claims
from lightning_costs.compare.below_zero import without_below_zero
from lightning_costs.compare.breakdowns import breakdowns
from lightning_costs.compare.cautions import (
    below_zero_cautions,
    clash_cautions,
    hindsight_cautions,
    mode_cautions,
    restart_cautions,
    run_cautions,
)
from lightning_costs.compare.dominance import dominance, fronts
from lightning_costs.compare.evidence import declarations, drawn_curve, read_run, unique_labels
from lightning_costs.compare.families import families, family_pairs
from lightning_costs.compare.grouping import group_of_each, members
from lightning_costs.compare.leads import leads
from lightning_costs.compare.lifecycle import lifecycle
from lightning_costs.compare.matched import TOLERANCE, matched
from lightning_costs.compare.metric import Metric, agree_on_metric, declared_otherwise
from lightning_costs.compare.ranks import average_ranks, oriented, rank_pairs
from lightning_costs.compare.rounding import may_be_rounded
from lightning_costs.compare.schema import (
    Breakdown,
    Caution,
    Curve,
    DeclarationRow,
    Dominance,
    Families,
    Groups,
    Lead,
    Lifecycle,
    Matched,
    Mode,
    Ranks,
    RunRow,
    Setups,
    Sweep,
    TargetRow,
)
from lightning_costs.compare.seeds import grouped
from lightning_costs.compare.setup import split_setups
from lightning_costs.compare.summary import summary
from lightning_costs.compare.sweep import sweep
from lightning_costs.compare.targets import Course, chosen_targets, target_row
from lightning_costs.core.legible import encodable, legible, legible_data
from lightning_costs.core.reach import Curve as CostCurve
from lightning_costs.core.records import Amount
from lightning_costs.core.reprice import reprice
from lightning_costs.core.run_record import RunRecord, legible_run
from lightning_costs.core.tariff import Tariff

if TYPE_CHECKING:
    import altair


#: Version of what `as_dict` and `to_json` hold; a key that goes or changes its meaning raises it.
SCHEMA = 3
#: Most values of curves that a comparison holds for drawing: runs x columns x evaluations.
DRAWN_VALUES = 2_000_000
_LEAST_DRAWN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs compared by quality and by every cost at once. Plain data; a report draws it and computes nothing.

    Args:
        monitor: The quality metric.
        mode: Which direction of it is better.
        runs: One row per run, in the order they were given.
        indicators: Declarations of the columns that are compared.
        curves: By run label: `step`, `quality` and every counter and gauge, where the metric was logged. For the eye:
            of very many evaluations some are left out, evenly; no figure is made from them.
        drawn_evaluations: Most evaluations of a run that `curves` hold; None where they hold all.
        targets: Cost-to-quality per target, hardest last.
        sweep: Cost-to-quality over all targets, and how far each winner's lead holds.
        fronts: Indicator to the labels on the Pareto front of best quality against the final amount.
        dominance: The front in all indicators together; who is efficient by every indicator, who by none.
        ranks: Agreement of indicators about the order of runs.
        families: Who leads, counted by families of indicators that say one thing.
        matched: Pairs of runs that are alike by one indicator, and what that hides of the others.
        groups: Seeds of one method together; None where runs were not grouped.
        breakdowns: Time by account, memory and energy by kind, step times, waiting, money.
        leaders: Indicator to who is cheapest by it, of the runs with a quality and a reading of it: for counters, to
            the last target that anybody reached; for others, at the end. Absent where fewer than two have one.
        best: Labels of the runs with the best quality.
        setups: What runs have in common and what they differ in.
        summary: What was found, in sentences that are limited to the setup that was measured.
        cautions: What limits the claims: in words, with the figures behind them and the paper's section.
        tariff: The one tariff that all runs are priced under; None where each has its own.
        curve: 'spent': costs are all that was spent. 'to_reach': work that restarts lost is left out of them.
        lifecycle: Training and queries together, always by all that training spent; at how many queries runs break
            even.
    """

    monitor: str
    mode: Mode
    runs: list[RunRow]
    indicators: dict[str, DeclarationRow]
    curves: dict[str, Curve]
    drawn_evaluations: int | None
    targets: list[TargetRow]
    sweep: Sweep
    fronts: dict[str, list[str]]
    dominance: Dominance
    ranks: Ranks
    families: Families
    matched: Matched
    groups: Groups | None
    breakdowns: dict[str, Breakdown]
    leaders: dict[str, Lead]
    best: list[str]
    setups: Setups
    summary: list[str]
    cautions: list[Caution]
    tariff: dict[str, Any] | None
    lifecycle: Lifecycle
    curve: CostCurve = "spent"

    @property
    def labels(self) -> list[str]:
        """The runs' labels, in the order they were given."""
        return [run["label"] for run in self.runs]

    def chart(self, x: str, y: str | None = None, log: bool = True) -> altair.LayerChart:
        """Draw quality, or another indicator `y`, against the cost `x`.

        Args:
            x: Column of an indicator.
            y: Column of another; None draws the quality metric.
            log: Whether costs are drawn on a logarithmic axis.

        Raises:
            ValueError: For an indicator that is not compared.
            ImportError: Without the extra `report`.
        """
        try:
            from lightning_costs.report.charts import chart
        except ImportError as error:
            raise _needs_report("chart", error) from error
        return chart(self, x, y, log=log)

    def to_html(self, path: str | Path) -> Path:
        """Write the comparison as one HTML file that loads nothing from anywhere.

        Raises:
            ImportError: Without the extra `report`.
        """
        try:
            from lightning_costs.report.html import write_page
        except ImportError as error:
            raise _needs_report("to_html", error) from error
        return write_page(self, Path(path))

    def to_wandb(self, project: str, *, title: str | None = None) -> str:
        """Write the comparison as a W&B Report, or write it anew where the project has one of this title by us.

        Args:
            project: `entity/project`. Panels draw those of the compared runs that it has.
            title: The report's title.

        Returns:
            The report's address.

        Raises:
            ImportError: Without the extras `report` and `wandb`.
            ValueError: Where W&B refuses it or cannot be reached.
        """
        try:
            from lightning_costs.report.html import page
            from lightning_costs.report.wandb.publish import publish
        except ImportError as error:
            raise _needs_report("to_wandb", error) from error
        return publish(self, project, title=title, page=page(self)).url

    def to_figures(self, folder: str | Path) -> list[Path]:
        """Write every chart into a folder, as PNG, SVG and PDF each; returns the files.

        Raises:
            ImportError: Without the extra `report`.
        """
        try:
            from lightning_costs.report.figures import write_figures
        except ImportError as error:
            raise _needs_report("to_figures", error) from error
        return write_figures(self, Path(folder))

    def to_csv(self, folder: str | Path) -> list[Path]:
        """Write every table into a folder, as a CSV file each that a spreadsheet can open safely; returns the files."""
        from lightning_costs.report.csv_tables import write_csv

        return write_csv(self, Path(folder))

    def _repr_html_(self) -> str:
        from lightning_costs.report.notebook import comparison_html

        return comparison_html(self)

    def as_dict(self) -> dict[str, Any]:
        """The comparison as data that JSON can hold: None for what is infinite or not a number.

        A target that was never reached says so in `reached`; docs/comparison-schema.md lists the keys.
        """
        return {"schema": SCHEMA} | {field.name: plain(getattr(self, field.name)) for field in fields(self)}

    def to_json(self, path: str | Path) -> Path:
        """Write `as_dict()` as JSON."""
        path = Path(path)
        path.write_text(json.dumps(self.as_dict(), allow_nan=False, indent=1), encoding="utf-8")
        return path


def compare(
    runs: Sequence[RunRecord],
    *,
    monitor: str | None = None,
    mode: Literal["max", "min"] | None = None,
    targets: Sequence[float] = (),
    tariff: Tariff | None = None,
    curve: CostCurve = "spent",
    queries: Sequence[float] = (),
    group: str | None = None,
    tolerance: float = TOLERANCE,
) -> Comparison:
    """Compare runs by quality and by every cost at once.

    Args:
        runs: At least one.
        monitor: The quality metric, by the name it was logged under; where not given, the one that headers
            agree on.
        mode: 'max' or 'min'; where not given, what the headers say of this metric.
        targets: Qualities to reach, declared before results were seen; where not given, those in the headers,
            else two are chosen from the results and marked as chosen.
        tariff: Prices all runs anew; where not given, each keeps what it recorded.
        curve: 'spent' compares all that was spent; 'to_reach' leaves out work that restarts lost, and its points.
        queries: Numbers of queries (samples to infer) to tell lifecycle costs at; by default a few.
        group: What makes runs seeds of one method: 'name', 'name~PATTERN' (a regular expression; its first bracket
            names the method), 'group' (the header's) or a setting of the setup such as 'optimizers.0.name'.
        tolerance: Runs are matched by an indicator where the larger amount is at most 1 + tolerance times the smaller.

    Raises:
        ValueError: For no runs, no metric that all runs can be compared by, a target that is not a number, an
            unknown curve, a number of queries below 0, a group that a run has not, or a tolerance below 0.
    """
    if curve not in get_args(CostCurve):
        raise ValueError(f"curve must be 'spent' or 'to_reach', got {curve!r}")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance must be a finite number of at least 0, such as 0.05 for 5 %, got {tolerance!r}")
    possible, removed = without_below_zero(runs)
    spent = [legible_run(run if tariff is None else reprice(run, tariff)) for run in possible]
    runs = spent if curve == "spent" else [run.to_reach() for run in spent]
    if not runs:
        raise ValueError("expected at least one run to compare, got none; is the folder of runs the right one?")
    metric = agree_on_metric(runs, None if monitor is None else legible(monitor), mode)
    labels = unique_labels(runs)
    against = declared_otherwise(runs, labels, metric)
    of_each = [None] * len(runs) if group is None else group_of_each(runs, group)
    by_group = None if group is None else members(labels, [str(each) for each in of_each])
    declared, clashing = declarations(runs)
    evidence = [
        read_run(run, label, metric, declared, method) for run, label, method in zip(runs, labels, of_each, strict=True)
    ]
    rows = [each.run for each in evidence]
    courses = {each.run["label"]: each.course for each in evidence}
    ranked = {name: row for name, row in declared.items() if row["role"] == "indicator"}
    better = {name: row["better"] for name, row in ranked.items()}
    counters = {name: row["better"] for name, row in ranked.items() if row["kind"] == "counter"}
    finals = {name: [row["final"][name] for row in rows] for name in ranked}
    best = [row["best_quality"] for row in rows]
    first = _extreme(labels, best, "higher" if metric.mode == "max" else "lower")
    target_rows = _targets(runs, targets, metric, best, rows, courses, counters)
    swept = sweep(courses, counters, metric.mode, by_group)
    by_indicator = fronts(labels, finals, best, ranked, metric.mode)
    dominant = dominance(labels, finals, best, ranked, metric.mode, by_indicator)
    leaders, fields = leads(labels, finals, best, ranked, target_rows)
    by_family = families(labels, finals, ranked, leaders, fields)
    printed = [may_be_rounded(run) for run in runs]
    ranks = _ranks(labels, finals, best, ranked, better, metric, None if group is None else of_each, printed)
    alike = matched(labels, finals, best, tolerance)
    setups = split_setups({row["label"]: row["setup"] for row in rows})
    seeds = None
    if group is not None and by_group is not None:
        amounts = {name: dict(zip(labels, row, strict=True)) for name, row in finals.items()}
        seeds = grouped(group, by_group, dict(zip(labels, best, strict=True)), amounts, target_rows, better)
    most = max(_LEAST_DRAWN, DRAWN_VALUES // max(1, len(runs) * len(declared)))
    as_spent = dict(zip(labels, spent, strict=True))
    return Comparison(
        monitor=metric.monitor,
        mode=metric.mode,
        runs=rows,
        indicators=declared,
        curves={label: drawn_curve(course, most) for label, course in courses.items()},
        drawn_evaluations=most if any(row["evaluations"] > most for row in rows) else None,
        targets=target_rows,
        sweep=swept,
        fronts=by_indicator,
        dominance=dominant,
        ranks=ranks,
        families=by_family,
        matched=alike,
        groups=seeds,
        breakdowns=breakdowns(rows, declared),
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
            *claims.single_family(by_family),
            *claims.searched_under(rows, leaders, fields),
            *claims.almost_as_good(rows, metric, first, declared),
            *claims.matched_pairs(alike),
            *claims.seed_noise(seeds, metric),
            *claims.few_runs(rows, ranks),
            *restart_cautions(as_spent, curve),
            *below_zero_cautions(removed, labels),
            *clash_cautions(clashing),
        ],
        tariff=None if tariff is None else legible_data(tariff.as_dict()),
        curve=curve,
        lifecycle=lifecycle(as_spent, queries, rated=[row["label"] for row in rows if row["best_quality"] is not None]),
    )


def _targets(
    runs: Sequence[RunRecord],
    given: Sequence[float],
    metric: Metric,
    best: Sequence[Amount],
    rows: Sequence[RunRow],
    courses: Mapping[str, Course],
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
    ranked: Mapping[str, DeclarationRow],
    better: Mapping[str, str],
    metric: Metric,
    groups: Sequence[str | None] | None,
    printed: Sequence[bool],
) -> Ranks:
    def order(amounts: Sequence[Amount], cheaper: str) -> dict[str, float]:
        ranks = average_ranks(oriented(amounts, cheaper).tolist())
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


def plain(value: object) -> Any:
    """Data that strict JSON can hold: None for what is infinite or not a number, texts for what has no other form."""
    if isinstance(value, Mapping):
        return {encodable(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, int | float | bool):
        return value
    return encodable(str(value))


def _needs_report(method: str, error: ImportError) -> ImportError:
    return ImportError(f"{method} needs {error.name or 'altair'}: pip install 'lightning-costs[report]'")
