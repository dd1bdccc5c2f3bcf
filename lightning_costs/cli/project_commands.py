"""Commands about money and sums: price a run again, add up a project."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from lightning_costs.cli.options import Sources, TariffFile
from lightning_costs.cli.places import command as next_command
from lightning_costs.cli.places import make_writable
from lightning_costs.pricing.reprice import priced_columns
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.formatting import format_amount
from lightning_costs.report.terminal.console import Terminal, say


def reprice(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    tariff: Annotated[Path, typer.Option(help="TOML file under which the run is priced.")],
    json: Annotated[bool, typer.Option("--json", help="Print what changed as JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also if it is unknown whether the run has ended.")] = False,
) -> None:
    """Price a finished run under another tariff: rewrite carbon and money of every point in its folder."""
    from lightning_costs.storage.run_folder.reprice import reprice_folder

    before, after = reprice_folder(run, Tariff.from_file(tariff), force=force)
    was, now, header = before.final, after.final, after.header
    changes = {
        name: {
            "before": was.get(name),
            "after": now.get(name),
            "how": header["missing"].get(name) or header["methods"].get(name, ""),
        }
        for name in priced_columns(header)
    }
    if json:
        answer = {"run": after.id, "tariff": header["tariff"], "columns": changes}
        from lightning_costs.analysis.data import plain

        say(dumps(plain(answer), indent=1))
        return
    table = Table("cost", "before", "now", "how, or why it is missing", box=None, pad_edge=False)
    for name, change in changes.items():
        declared = header["indicators"][name]
        amounts = (format_amount(change[when], declared["unit"]) for when in ("before", "after"))
        table.add_row(declared["label"], *amounts, change["how"])
    Terminal().print(table)
    say(f"next: {next_command('show', run)}")


def total(
    paths: Annotated[list[str], typer.Argument(metavar="DIR...", help="Folders of runs, or other sources of them.")],
    by: Annotated[
        str,
        typer.Option(
            metavar="PART",
            help="What to tell apart: status, group, tag, month, owner, commit, script, a hyperparameter or a setting.",
        ),
    ] = "status",
    tariff: TariffFile = None,
    top: Annotated[int, typer.Option(min=0, help="How many of the runs that cost most are listed.")] = 5,
    spent: Annotated[bool, typer.Option("--goodput", help="Show where the wall clock went, by cause.")] = False,
    waste: Annotated[bool, typer.Option("--waste", help="List the runs that wasted most, by cause.")] = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the sums as CSV to this file.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the sums as JSON to this file.")] = None,
    focus: Annotated[
        Path | None, typer.Option("--focus", help="Write every attempt's cost as FOCUS 1.2 CSV, for FinOps tools.")
    ] = None,
    account: Annotated[
        str | None, typer.Option(help="With --focus: BillingAccountId; by default a run's owner.", show_default=False)
    ] = None,
) -> None:
    """Add up what a whole project cost, failed and killed runs included, and list the runs that cost most."""
    from lightning_costs.analysis.data import plain
    from lightning_costs.analysis.waste import project_waste
    from lightning_costs.report.terminal.costliest import costliest_runs, differs_text
    from lightning_costs.report.terminal.goodput import goodput_sentence, goodput_tables
    from lightning_costs.report.terminal.project_total import (
        modelled_note,
        priced_runs,
        project_csv,
        project_rows,
        project_total,
        shown_parts,
    )
    from lightning_costs.report.terminal.waste import groups_table, waste_notes, waste_table
    from lightning_costs.run.goodput import goodput, goodput_of_project

    make_writable(csv, json, focus)
    priced = Tariff.from_file(tariff) if tariff is not None else None
    runs = Sources(paths).load()
    found = project_total(runs, by=by, tariff=priced)
    whole = goodput_of_project(goodput(run.header, run.final) for run in priced_runs(runs, priced))
    table = Table("cost", box=None, pad_edge=False)
    for part in shown_parts(found):
        table.add_column(" ".join(part.split()), justify="right")
    for row in project_rows(found):
        table.add_row(*row)
    console = Terminal()
    console.print(table)
    for note in filter(None, (goodput_sentence(whole), modelled_note(found), *found.notes)):
        console.sentence(note)
    for detail in goodput_tables(whole) if spent else ():
        console.print(detail)
    wasted = project_waste(priced_runs(runs, priced)) if waste else None
    if wasted is not None:
        console.print("\nRuns that wasted most", style="bold")
        for detail in filter(None, (waste_table(wasted, top), groups_table(wasted))):
            console.print(detail)
        for note in waste_notes(wasted, top):
            console.sentence(note)
    costliest = costliest_runs(runs, tariff=priced, most=top)
    if costliest:
        label = next(row["label"] for run in runs if (row := run.header["indicators"].get(costliest[0].column)))
        console.print(f"\nRuns that cost most, by {label}", style="bold")
        ranking = Table("run", "status", label, "share", "settings unlike most runs'", box=None, pad_edge=False)
        for each in costliest:
            ranking.add_row(each.label, each.status, each.text, f"{100 * each.share:.3g} %", differs_text(each.differs))
        console.print(ranking)
    beside = {"costliest": [asdict(each) for each in costliest], "goodput": whole.as_dict()}
    beside |= {} if wasted is None else {"waste": wasted.as_dict()}
    as_json = dumps(plain({**found.as_dict(), **beside}), indent=1) + "\n"
    files = {csv: project_csv(found), json: as_json}
    if focus is not None:
        from lightning_costs.report.tables.focus import focus_csv

        files[focus], notes = focus_csv(priced_runs(runs, priced), account=account)
        for note in notes:
            say(note)
    for path, text in files.items():
        if path is not None:
            path.write_text(text, encoding="utf-8")
            say(f"wrote {path}")
