"""The W&B Report of a comparison, as wandb-workspaces' own object: nothing here speaks to a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.statement.escape import markdown as escaped
from lightning_costs.report.statement.render import written_by
from lightning_costs.report.tables.tables import group_tables, target_tables
from lightning_costs.report.terminal.comparison import CHOSEN, fit_to_width
from lightning_costs.report.wandb import panels
from lightning_costs.report.wandb import text as words
from lightning_costs.report.wandb.panels import PanelData
from lightning_costs.report.wandb.view import placed

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report

#: Most characters of a title that W&B takes.
_LONGEST_TITLE = 128
#: How a report of the package begins its description: by it, it is found again.
MARK = "Quality against every cost, by lightning-costs."


def report(cmp: ComparisonData, entity: str, project: str, of: PanelData, *, title: str, page_run: str) -> Report:
    """Everything that the comparison says, with panels that W&B draws from the runs themselves."""
    import wandb_workspaces.reports.v2 as wr

    compared = wr.Runset(name="compared runs", filters=_chosen(of.ids), **_HERE)
    attached = wr.Runset(name="page", filters=f"ID in {json.dumps([page_run])}", **_HERE)

    def grid(drawn: Sequence[Any], runset: Any = compared) -> list[Any]:
        return [wr.PanelGrid(runsets=[runset], panels=list(drawn))] if drawn else []

    def section(title: str, *parts: Any) -> list[Any]:
        texts = (wr.MarkdownBlock(part) if isinstance(part, str) else part for part in parts if part)
        return [wr.H1(title), *texts]

    few = fit_to_width(cmp)
    blocks: list[Any] = [wr.TableOfContents(), *section("What was found", " ".join(map(escaped, cmp.summary)))]
    if cautions := words.cautions(cmp):
        blocks += [wr.H2("Cautions"), wr.MarkdownBlock("\n".join(f"- {caution}" for caution in cautions))]
    if len(few.runs) < len(cmp.runs):
        blocks.append(wr.MarkdownBlock(f"Of {len(cmp.runs)} runs, tables show {len(few.runs)}: {CHOSEN}."))
    blocks += section("Quality against every cost", *grid(panels.curves(of)))
    blocks += section("Pareto fronts", words.fronts(few), *grid(panels.scatters(cmp, of)))
    bars = panels.bars(cmp)
    for table in target_tables(few, headline=True):
        drawn = grid(bars.get(table.target, ()), attached)
        heading = f"Cost to reach {_plain(cmp.monitor)} {table.target}"
        blocks += section(heading, f"Target: {escaped(table.basis)}.", words.target_table(few, table), *drawn)
    for table in group_tables(cmp, headline=True):
        heading = f"Medians by group to reach {_plain(cmp.monitor)} {table.target}"
        blocks += section(heading, words.group_table(cmp, table))
    blocks += section("At the end of each run", words.finals(few), *grid(panels.parallel(cmp, of)))
    blocks += section("Do indicators agree?", words.ranks(cmp))
    blocks += section("Matched pairs", words.matched(cmp))
    differences = wr.RunComparer(diff_only="split", layout=placed(0, across=1, height=9))
    blocks += section("Setups", words.setups(few), *grid([differences] if of.ids else ()))
    if lacking := words.missing(few):
        blocks += section("Missing", lacking)
    page = wr.MediaBrowser(
        title="The page", media_keys=[panels.PAGE], num_columns=1, layout=placed(0, across=1, height=24)
    )
    blocks += section("The page", *grid([page], attached))
    if not of.ids:
        blocks.append(
            wr.MarkdownBlock("None of the compared runs is in this project: what W&B draws of runs is left out.")
        )
    elif of.left_out:
        names = ", ".join(f"`{name}`" for name in of.left_out)
        blocks.append(wr.MarkdownBlock(f"No run in this project logged {names}; panels of them are left out."))
    again = "Written again under the same title, this report is replaced."
    blocks.append(wr.MarkdownBlock(f"*Written by {escaped(written_by())}. {again}*"))
    return wr.Report(
        project=project, entity=entity, title=_plain(title), description=MARK, width="fluid", blocks=blocks
    )


def as_json(made: Report) -> dict[str, Any]:
    """The report as W&B's server would get it."""
    document: dict[str, Any] = json.loads(made._to_model().model_dump_json(by_alias=True, exclude_none=True))
    return document


#: A runset that names no entity means the report's own project, and asks no server for its number.
_HERE = {"entity": "", "project": ""}


def _chosen(ids: Sequence[str]) -> str:
    return f"ID in {json.dumps(list(ids))}"


def _plain(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_TITLE]
