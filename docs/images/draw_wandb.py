"""Draws the pictures of docs/wandb.md: the panels of a report, from the spec that `--to wandb --dry-run` writes.

W&B draws its panels itself; this draws the same x and y from the run folders, so that one sees what to expect.

    make demo
    python docs/images/draw_wandb.py demo/costs docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import altair as alt

from lightning_costs import Comparison, compare, load_runs
from lightning_costs.report.charts.look import styled
from lightning_costs.report.wandb.publish import dry_run

_SHOWN = ("energy_j", "train_s", "flop", "samples", "cloud_usd", "co2e_g")


def panels(spec: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Configurations of the report's panels of one kind."""
    grids = [block["metadata"] for block in spec["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    found = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    return [panel["config"] for panel in found if panel["viewType"] == kind]


def curve(cmp: Comparison, config: dict[str, Any]) -> alt.Chart:
    """One line plot: each run's rows, x and y by the keys of the spec."""
    column = config["xAxis"].removeprefix("cost/")
    rows = [
        {"run": label, "x": x, "y": y}
        for label, points in cmp.curves.items()
        for x, y in zip(points[column], points["quality"], strict=True)
    ]
    x = alt.X("x:Q", title=config["xAxis"], axis=alt.Axis(format="~s", tickCount=4), scale=alt.Scale(zero=False))
    y = alt.Y("y:Q", title=config["metrics"][0], scale=alt.Scale(domain=[0.8, 1.0], clamp=True))
    chart = alt.Chart(alt.Data(values=rows), width=230, height=150).mark_line(interpolate="linear")
    return chart.encode(x=x, y=y, color=alt.Color("run:N", title=None))


def scatter(cmp: Comparison, config: dict[str, Any]) -> alt.Chart:
    """One scatter plot: a point a run, from summaries."""
    column = config["xAxis"].removeprefix("summary:cost/")
    rows = [{"run": run["label"], "x": run["final"][column], "y": run["best_quality"]} for run in cmp.runs]
    x = alt.X("x:Q", title=f"cost/{column}", axis=alt.Axis(format="~s", tickCount=4), scale=alt.Scale(zero=False))
    y = alt.Y("y:Q", title="cost/best_quality", scale=alt.Scale(zero=False))
    chart = alt.Chart(alt.Data(values=rows), width=230, height=150).mark_point(filled=True, size=90)
    return chart.encode(x=x, y=y, color=alt.Color("run:N", title=None))


def bar(cmp: Comparison, rows: list[dict[str, Any]], column: str, target: str) -> alt.Chart:
    """One panel of bars, from a table of the page's run."""
    values = [{"run": row["run"], "needed": row[column]} for row in rows if row[column] is not None]
    x = alt.X("needed:Q", title=column, axis=alt.Axis(format="~s", tickCount=4))
    title = f"{cmp.indicators[column]['label']} to reach {target}"
    chart = alt.Chart(alt.Data(values=values), width=230, height=90, title=title).mark_bar()
    return chart.encode(x=x, y=alt.Y("run:N", title=None), color=alt.Color("run:N", title=None, legend=None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("costs", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    cmp = compare(load_runs(options.costs))
    spec = dry_run(cmp, "me/digits")
    lines = {config["xAxis"].removeprefix("cost/"): config for config in panels(spec, "Run History Line Plot")}
    dots = {config["xAxis"].removeprefix("summary:cost/"): config for config in panels(spec, "Scatter Plot")}
    curves = [curve(cmp, lines[column]) for column in _SHOWN if column in lines]
    fronts = [scatter(cmp, dots[column]) for column in ("energy_j", "flop", "opt_state_bytes") if column in dots]
    (key, rows), *_ = reversed(list(spec["tables"].items()))
    target = f"{cmp.monitor} {cmp.targets[int(key.rpartition('_')[2]) - 1]['target']:g}"
    bars = [bar(cmp, rows, column, target) for column in ("energy_j", "flop", "samples") if column in rows[0]]
    for name, charts in (("wandb-curves", curves), ("wandb-report", [*fronts, *bars])):
        drawn = alt.concat(*charts, columns=3).resolve_scale(x="independent", y="independent", color="shared")
        styled(drawn).save(options.out / f"{name}.svg")


if __name__ == "__main__":
    main()
