"""Commands that hold runs against each other: compare them, check one against a baseline."""

from __future__ import annotations

import shlex
from contextlib import suppress
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from lightning_costs.analysis.schema import TOLERANCE
from lightning_costs.cli.options import (
    Costs,
    Curve,
    Curves,
    DecimalMark,
    Direction,
    Group,
    Monitor,
    Paths,
    Queries,
    Reference,
    RunColumn,
    Sources,
    StepColumn,
    Targets,
    TariffFile,
    Tolerance,
    Units,
    compared_runs,
)
from lightning_costs.cli.places import make_writable
from lightning_costs.records.printable import printable
from lightning_costs.report.terminal.console import Terminal, say
from lightning_costs.run.record import RunRecord


def compare(
    context: typer.Context,
    paths: Paths,
    monitor: Monitor = None,
    mode: Direction = None,
    target: Targets = None,
    tariff: TariffFile = None,
    curve: Curves = Curve.SPENT,
    queries: Queries = None,
    tolerance: Tolerance = TOLERANCE,
    cost: Costs = None,
    decimal: DecimalMark = None,
    unit: Units = None,
    run_column: RunColumn = None,
    step_column: StepColumn = None,
    group: Group = None,
    reference: Reference = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the comparison as JSON to this file.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every table: fronts, rank correlations, lifecycle.")
    ] = False,
) -> None:
    """Compare runs: who is best, who is cheapest by which costs, where costs disagree; with --all, every table."""
    from lightning_costs.report.terminal.answer import answer_lines
    from lightning_costs.report.terminal.comparison import comparison_lines, lifecycle_lines

    make_writable(json)
    sources = Sources(paths, cost, unit, run_column, step_column, decimal)
    runs = sources.load(monitor, mode)
    compared = compared_runs(runs, monitor, mode, tariff, target, curve, queries, group, tolerance, reference)
    console = Terminal()
    width = console.width
    for part in comparison_lines(compared, width) if everything else answer_lines(compared, width):
        console.print(part, soft_wrap=not everything)
    if queries and not everything:
        for part in (Text(), *lifecycle_lines(compared, width)):
            console.print(part)
    console.print()
    if json is not None:
        compared.to_json(json)
        say(f"wrote {json}")
    say(f"next: lightning-costs report {_as_page(context)}")


def _as_page(context: typer.Context) -> str:
    """Arguments of `report` that write what this command compared as a page, as a shell reads them."""
    taken = {
        param.name for param in getattr(context.parent and context.parent.command, "commands", {})["report"].params
    }
    sources: list[str] = []
    options: list[str] = []
    for param in context.command.params:
        value = context.params.get(param.name or "")
        if param.name not in taken or value is None or value == param.get_default(context):
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            text = str(each.value if isinstance(each, StrEnum) else each)
            if param.param_type_name == "argument":
                sources.append(text)
            else:
                options += [param.opts[0], text]
    options += ["--to", "html", "-o", "report.html"]
    dashed = any(source.startswith("-") for source in sources)
    return shlex.join([*options, "--", *sources] if dashed else [*sources, *options])


def check(
    run: Annotated[str, typer.Argument(help="The run to check.")],
    baseline: Annotated[str, typer.Option(help="The run to compare it with.")],
    fail: Annotated[
        list[str] | None,
        typer.Option(
            "--fail",
            metavar="COLUMN>AMOUNT",
            help="What fails, as 'flop>2%', 'samples@0.9>10%', 'samples_per_s<5%'; may be given repeatedly. By default "
            "FLOPs and memory that grow by 2 %, and samples to declared targets by 10 %.",
        ),
    ] = None,
    target: Targets = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Setup keys that may differ, as 'optimizers.*'; may be given repeatedly."),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write what was found as JSON to this file.")] = None,
    md: Annotated[Path | None, typer.Option("--md", help="Write it as Markdown, for a pull request.")] = None,
) -> None:
    """Exit with 1 if a run costs more than its baseline, with 2 if the two cannot be compared."""
    from lightning_costs.analysis.data import plain
    from lightning_costs.analysis.regression_check import Limit, check_regression
    from lightning_costs.report.terminal.check import check_markdown, check_parts, unchecked_markdown

    try:
        make_writable(json, md)
        new, old = _single(run), _single(baseline)
        found = check_regression(
            new,
            old,
            limits=[Limit.parse(text) for text in fail or ()],
            targets=target or (),
            allow=allow or (),
        )
        if json is not None:
            json.write_text(dumps(plain(found.as_dict()), indent=1) + "\n", encoding="utf-8")
        if md is not None:
            md.write_text(check_markdown(found, new.name, old.name), encoding="utf-8")
    except (ValueError, OSError, ImportError) as error:  # 1 would say that a cost has grown
        if md is not None:
            with suppress(OSError):
                md.write_text(unchecked_markdown(printable(str(error))), encoding="utf-8")
        say(f"lightning-costs: {error}", error=True)
        raise typer.Exit(2) from None
    console = Terminal()
    for part in check_parts(found):
        console.print(part, soft_wrap=isinstance(part, Text))
    raise typer.Exit(found.exit_code)


def _single(path: str) -> RunRecord:
    runs = Sources([path]).load()
    if len(runs) != 1:
        raise ValueError(f"expected one run at {path}, found {len(runs)}; name its own folder")
    return runs[0]
