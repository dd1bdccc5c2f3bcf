"""Runs in, a comparison out: everything that a report shows, as plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from lightning_costs.compare.cautions import cautions, clash_cautions, restart_cautions
from lightning_costs.compare.evidence import declarations, read_run, unique_labels
from lightning_costs.compare.lifecycle import lifecycle
from lightning_costs.compare.metric import Metric, agree_on_metric
from lightning_costs.compare.pareto import nondominated
from lightning_costs.compare.ranks import rank_agreement
from lightning_costs.compare.schema import (
    Curve,
    DeclarationRow,
    Lead,
    Lifecycle,
    Mode,
    Ranks,
    RunRow,
    Setups,
    TargetRow,
)
from lightning_costs.compare.setup import split_setups
from lightning_costs.compare.targets import chosen_targets, target_row
from lightning_costs.core.reach import Curve as CostCurve
from lightning_costs.core.records import Amount, RunRecord
from lightning_costs.core.reprice import reprice
from lightning_costs.core.tariff import Tariff

if TYPE_CHECKING:
    import altair


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs compared by quality and by every cost at once. Plain data; a report draws it and computes nothing.

    Args:
        monitor: The quality metric.
        mode: Which direction of it is better.
        runs: One row per run, in the order they were given.
        indicators: Declarations of the columns that are compared.
        curves: By run label: `step`, `quality` and every counter and gauge, where the metric was logged.
        targets: Cost-to-quality per target, hardest last.
        fronts: Indicator to the labels on the Pareto front of best quality against the final amount.
        ranks: Agreement of indicators about the order of runs.
        leaders: Indicator to who is cheapest by it: for counters, to the last target that anybody reached;
            for others, at the end.
        best: Labels of the runs with the best quality.
        setups: What runs have in common and what they differ in.
        cautions: What limits the claims, in words.
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
    targets: list[TargetRow]
    fronts: dict[str, list[str]]
    ranks: Ranks
    leaders: dict[str, Lead]
    best: list[str]
    setups: Setups
    cautions: list[str]
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

    def _repr_html_(self) -> str:
        from lightning_costs.report.notebook import comparison_html

        return comparison_html(self)

    def as_dict(self) -> dict[str, Any]:
        """The comparison as data that JSON can hold: None for what is infinite or not a number.

        A target that was never reached says so in `reached`.
        """
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

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

    Raises:
        ValueError: For no runs, no metric that all runs can be compared by, a target that is not a number, an
            unknown curve, or a number of queries below 0.
    """
    if curve not in get_args(CostCurve):
        raise ValueError(f"curve must be 'spent' or 'to_reach', got {curve!r}")
    spent = list(runs) if tariff is None else [reprice(run, tariff) for run in runs]
    runs = spent if curve == "spent" else [run.to_reach() for run in spent]
    if not runs:
        raise ValueError("expected at least one run to compare, got none; is the folder of runs the right one?")
    metric = agree_on_metric(runs, monitor, mode)
    labels = unique_labels(runs)
    declared, clashing = declarations(runs)
    evidence = [read_run(run, label, metric, declared) for run, label in zip(runs, labels, strict=True)]
    rows = [each.run for each in evidence]
    curves = {each.run["label"]: each.curve for each in evidence}
    ranked = {name: row for name, row in declared.items() if row["role"] == "indicator"}
    finals = {name: [row["final"][name] for row in rows] for name in ranked}
    best = [row["best_quality"] for row in rows]
    target_rows = _targets(runs, targets, metric, best, rows, curves, ranked)
    setups = split_setups({row["label"]: row["setup"] for row in rows})
    return Comparison(
        monitor=metric.monitor,
        mode=metric.mode,
        runs=rows,
        indicators=declared,
        curves=curves,
        targets=target_rows,
        fronts=_fronts(labels, finals, best, ranked, metric.mode),
        ranks=rank_agreement(labels, finals, {name: row["better"] for name, row in ranked.items()}),
        leaders=_leaders(labels, finals, ranked, target_rows),
        best=_extreme(labels, best, "higher" if metric.mode == "max" else "lower"),
        setups=setups,
        cautions=[
            *cautions(runs, rows, curves, metric, setups, target_rows, tariff),
            *restart_cautions(dict(zip(labels, spent, strict=True)), curve),
            *clash_cautions(clashing),
        ],
        tariff=None if tariff is None else tariff.as_dict(),
        curve=curve,
        lifecycle=lifecycle(dict(zip(labels, spent, strict=True)), queries),
    )


def _targets(
    runs: Sequence[RunRecord],
    given: Sequence[float],
    metric: Metric,
    best: Sequence[Amount],
    rows: Sequence[RunRow],
    curves: Mapping[str, Curve],
    ranked: Mapping[str, DeclarationRow],
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
    counters = {name: row["better"] for name, row in ranked.items() if row["kind"] == "counter"}
    return [
        target_row(
            target,
            declared=declared,
            basis=basis,
            mode=metric.mode,
            curves=curves,
            finals={row["label"]: row["final"] for row in rows},
            counters=counters,
        )
        for target, basis in sorted(wanted, reverse=metric.mode == "min")
    ]


def _fronts(
    labels: Sequence[str],
    finals: Mapping[str, Sequence[Amount]],
    best: Sequence[Amount],
    ranked: Mapping[str, DeclarationRow],
    mode: Mode,
) -> dict[str, list[str]]:
    return {
        name: [
            label
            for label, kept in zip(
                labels, nondominated(amounts, best, better=ranked[name]["better"], mode=mode), strict=True
            )
            if kept
        ]
        for name, amounts in finals.items()
    }


def _leaders(
    labels: Sequence[str],
    finals: Mapping[str, Sequence[Amount]],
    ranked: Mapping[str, DeclarationRow],
    targets: Sequence[TargetRow],
) -> dict[str, Lead]:
    leaders: dict[str, Lead] = {}
    for name, amounts in finals.items():
        if ranked[name]["kind"] != "counter":
            if first := _extreme(labels, amounts, ranked[name]["better"]):
                leaders[name] = {"labels": first, "basis": "at the end of the run"}
            continue
        for row in reversed(targets):
            if won := row["winners"][name]:
                leaders[name] = {"labels": won, "basis": f"to reach {row['target']:.4g}"}
                break
    return leaders


def _extreme(labels: Sequence[str], amounts: Sequence[Amount], better: str) -> list[str]:
    """Labels with the lowest or highest finite amount."""
    finite = [amount for amount in amounts if amount is not None and math.isfinite(amount)]
    if not finite:
        return []
    extreme = min(finite) if better == "lower" else max(finite)
    return [label for label, amount in zip(labels, amounts, strict=True) if amount == extreme]


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def _needs_report(method: str, error: ImportError) -> ImportError:
    return ImportError(f"{method} needs {error.name or 'altair'}: pip install 'lightning-costs[report]'")
