"""The panels of a W&B Report: which keys of which runs each draws, and the panels themselves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.tables.tables import ordered_names, quality_text
from lightning_costs.report.wandb.view import Keys, keys_of, placed, quality_plots

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Panel

#: Keys of the run that a report attaches its page and tables to.
PAGE = "report/page"
#: Curves that a plot shows at most; W&B draws ten by default.
_MOST_RUNS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelData:
    """What the panels of a report draw from: compared runs in the project, by W&B's ids.

    `held` are keys that some of these runs has, None if they could not be read; panels of other keys are `left_out`.
    """

    keys: Keys
    ids: Sequence[str]
    held: Collection[str] | None = None
    left_out: list[str] = field(default_factory=list)

    def has(self, *names: str) -> bool:
        """Whether a panel of these keys would show anything; one that would not is noted."""
        lacking = [name for name in names if self.held is not None and name not in self.held]
        self.left_out.extend(name for name in lacking if name not in self.left_out)
        return not lacking


def panel_data(
    cmp: ComparisonData, ids: Sequence[str], held: Collection[str] | None = None, before: str = ""
) -> PanelData:
    """What is drawn of a comparison, from the runs with these ids."""
    order = ordered_names(cmp, role="indicator")
    with_amount = [name for name in order if any(run["final"].get(name) is not None for run in cmp.runs)]
    declared = {name: cmp.indicators[name] for name in order}
    return PanelData(keys=keys_of(declared, with_amount, cmp.monitor, before), ids=ids, held=held)


def curves(of: PanelData) -> list[Panel]:
    """Quality against every counter, headline ones first."""
    keys = of.keys
    ordered = [*keys.headline, *(name for name in keys.costs if name not in keys.headline)]
    return list(quality_plots(keys, [name for name in ordered if of.has(keys.cost(name), keys.quality)], _MOST_RUNS))


def scatters(cmp: ComparisonData, of: PanelData) -> list[Panel]:
    """Best quality against what runs cost in the end, one point a run: fronts show."""
    import wandb_workspaces.reports.v2 as wr

    keys = of.keys
    best = keys.cost("best_quality")
    quality = best if of.held is None or best in of.held else keys.quality
    shown = [name for name in ordered_names(cmp, headline=True, role="indicator") if _differs(cmp, name)]
    shown = [name for name in shown if of.has(keys.cost(name), quality)]
    better = {"running_ymax": True} if cmp.mode == "max" else {"running_ymin": True}
    return [
        wr.ScatterPlot(
            title=f"{cmp.monitor} against {cmp.indicators[name]['label']}",
            x=wr.SummaryMetric(keys.cost(name)),
            y=wr.SummaryMetric(quality),
            log_x=all((run["final"][name] or 0) > 0 for run in cmp.runs),
            regression=False,
            layout=placed(index),
            **better,
        )
        for index, name in enumerate(shown)
    ]


def parallel(cmp: ComparisonData, of: PanelData) -> list[Panel]:
    """All headline indicators beside each other, a line a run: where lines cross, they disagree."""
    import wandb_workspaces.reports.v2 as wr

    keys = of.keys
    best = keys.cost("best_quality")
    names = [name for name in ordered_names(cmp, headline=True, role="indicator") if _differs(cmp, name)]
    costs = [(keys.cost(name), cmp.indicators[name]["label"]) for name in names if of.has(keys.cost(name))]
    if of.has(best):
        costs.append((best, f"best {cmp.monitor}"))
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(k), display_name=label) for k, label in costs]
    if len(columns) < 2:
        return []
    layout = placed(0, across=1, height=9)
    return [wr.ParallelCoordinatesPlot(title="Every run by every indicator", columns=columns, layout=layout)]


def bars(cmp: ComparisonData) -> dict[str, list[Panel]]:
    """By target, as `quality_text` writes it: bars of what each run needed, from the tables of `bar_tables`."""
    import wandb_workspaces.reports.v2 as wr

    panels: dict[str, list[Panel]] = {}
    for number, (table, rows) in enumerate(bar_tables(cmp).items()):
        target = quality_text(cmp.targets[number]["target"])
        panels[target] = [
            wr.CustomChart(
                query={"summaryTable": {"tableKey": table}},
                chart_name="wandb/bar/v0",
                chart_fields={"label": "run", "value": column},
                chart_strings={"title": f"{cmp.indicators[column]['label']} to reach {target}"},
                layout=placed(index),
            )
            for index, column in enumerate(name for name in rows[0] if name != "run")
        ]
    return panels


def bar_tables(cmp: ComparisonData) -> dict[str, list[dict[str, Any]]]:
    """By key: a table per target with a row per run and what it needed by each headline counter.

    A run that did not reach the target has no amount: a bar of its whole cost would be read as its cost to quality.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    for number, target in enumerate(cmp.targets, 1):
        names = [name for name in ordered_names(cmp, headline=True) if _spent(target["costs"], name)]
        rows = []
        for label in cmp.labels:
            spends = {name: target["costs"][name][label] for name in names}
            rows.append({"run": label, **{name: s["cost"] if s["reached"] else None for name, s in spends.items()}})
        if names:
            tables[f"report/target_{number}"] = rows
    return tables


def _spent(costs: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    return name in costs and any(spend["reached"] and spend["cost"] is not None for spend in costs[name].values())


def _differs(cmp: ComparisonData, name: str) -> bool:
    """Whether the indicator tells runs apart."""
    amounts = {run["final"][name] for run in cmp.runs} - {None}
    return len(amounts) > 1 or (len(cmp.runs) == 1 and len(amounts) == 1)
