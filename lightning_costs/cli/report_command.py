"""`lightning-costs report`: a page, W&B Report, figures or tables of a comparison, or a statement of costs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lightning_costs.analysis.schema import TOLERANCE
from lightning_costs.cli.options import (
    Costs,
    Curve,
    Curves,
    DecimalMark,
    Direction,
    Group,
    Mode,
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
    chosen_mode,
    compared_runs,
)
from lightning_costs.cli.places import make_writable
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.printable import printable
from lightning_costs.report.terminal.console import say
from lightning_costs.run.record import RunRecord

if TYPE_CHECKING:
    from lightning_costs import comparison


class FigureFormat(StrEnum):
    """What a figure is written as."""

    PDF = "pdf"
    SVG = "svg"
    PNG = "png"


class Target(StrEnum):
    """What a report is: a page, W&B Report, figures, tables of a comparison, a statement of costs, or a trace."""

    HTML = "html"
    WANDB = "wandb"
    FIGURES = "figures"
    CSV = "csv"
    MD = "md"
    LATEX = "latex"
    HF_YAML = "hf-yaml"
    ANNEX_XI = "annex-xi"
    BOAMPS = "boamps"
    NEURIPS = "neurips"
    TRACE = "trace"


def report(
    paths: Paths,
    monitor: Monitor = None,
    mode: Direction = None,
    target: Targets = None,
    tariff: TariffFile = None,
    curve: Curves = Curve.SPENT,
    queries: Queries = None,
    group: Group = None,
    reference: Reference = None,
    tolerance: Tolerance = TOLERANCE,
    cost: Costs = None,
    decimal: DecimalMark = None,
    unit: Units = None,
    run_column: RunColumn = None,
    step_column: StepColumn = None,
    to: Annotated[Target, typer.Option(help="What to write.")] = Target.HTML,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Where to write it; by default report.html, trace.json, the folder figures or tables, statements to "
            "the terminal.",
        ),
    ] = None,
    tables: Annotated[
        bool, typer.Option("--tables", help="For md and latex: the tables of the comparison beneath the statement.")
    ] = False,
    training_type: Annotated[
        str | None, typer.Option(help="For hf-yaml: pre-training or fine-tuning.", show_default=False)
    ] = None,
    short: Annotated[bool, typer.Option("--short", help="For md and latex: three sentences.")] = False,
    give: Annotated[
        list[str] | None,
        typer.Option(help="For boamps: NAME=VALUE that no run knows; again for more.", show_default=False),
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="For wandb: entity/project; by default that of the runs.", show_default=False)
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="For wandb: the report's title, by which it is found again.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="For wandb: write it to a file, ask no server.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="For figures: a figure's name, or a column; again for more.", show_default=False),
    ] = None,
    formats: Annotated[
        list[FigureFormat] | None,
        typer.Option("--format", help="For figures: again for more; by default all three.", show_default=False),
    ] = None,
    width: Annotated[
        str | None, typer.Option(help="For figures: column, text or millimetres; by default text.", show_default=False)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="For html: write it again as points come, until all runs have ended.")
    ] = False,
    every_s: Annotated[
        float, typer.Option("--every", min=1.0, max=3600.0, help="With --follow: seconds between two looks.")
    ] = 10.0,
) -> None:
    """Write a page, W&B Report, figures or tables that compare runs, or a statement of what all of them cost."""
    if to is not Target.WANDB and (project or title or dry_run):
        raise typer.BadParameter("--project, --title and --dry-run are of --to wandb")
    if to is not Target.FIGURES and (only or formats or width):
        raise typer.BadParameter("--only, --format and --width are of --to figures")
    if training_type is not None and to is not Target.HF_YAML:
        raise typer.BadParameter("--training-type is a field of --to hf-yaml")
    if tables and to not in (Target.MD, Target.LATEX):
        raise typer.BadParameter("--tables goes with --to md and --to latex")
    if short and to not in (Target.MD, Target.LATEX):
        raise typer.BadParameter("--short goes with --to md and --to latex")
    if give and to is not Target.BOAMPS:
        raise typer.BadParameter("--give goes with --to boamps")
    if follow and to is not Target.HTML:
        raise typer.BadParameter("--follow goes with --to html")
    sources = Sources(paths, cost, unit, run_column, step_column, decimal)
    comparing = tables or to in (Target.HTML, Target.WANDB, Target.FIGURES, Target.CSV)
    if not comparing and (target or queries or group or curve is Curve.TO_REACH):
        raise typer.BadParameter(
            f"--target, --queries, --group and --curve compare runs; --to {to.value} states all that was spent"
            + ("" if to not in (Target.MD, Target.LATEX) else ", and with --tables how they compare")
        )
    if to is Target.WANDB:
        project = project or next((path for path in paths if path.startswith("wandb:")), None)
        if project is None:
            raise typer.BadParameter("--to wandb needs --project entity/project, if no run is from W&B")
    folders = to in (Target.FIGURES, Target.CSV)
    make_writable(None if out is None else out / "README" if folders else out)

    def held_together(runs: Sequence[RunRecord]) -> comparison.Comparison:
        return compared_runs(runs, monitor, mode, tariff, target, curve, queries, group, tolerance, reference)

    if follow:
        from lightning_costs.cli.watch import follow_page

        known: set[str] = set()
        page = out or Path("report.html")
        follow_page(lambda: sources.load(monitor, mode, known), held_together, page, every_s=every_s)
        return
    runs = sources.load(monitor, mode)
    if to is Target.TRACE:
        from lightning_costs.report.trace import trace_json

        trace = out or Path("trace.json")
        trace.write_text(trace_json(runs), encoding="utf-8")
        say(f"wrote {trace}; ui.perfetto.dev and chrome://tracing open it")
        return
    compared = None
    if comparing:
        compared = held_together(runs)
        if to is Target.HTML:
            say(f"wrote {compared.to_html(out or Path('report.html'))}")
        elif to is Target.WANDB and project is not None:
            _to_wandb(compared, project, title, out, dry_run=dry_run)
        elif to is Target.FIGURES:
            folder = out or Path("figures")
            chosen: list[Literal["pdf", "svg", "png"]] = [one.value for one in formats or FigureFormat]
            written = compared.to_figures(folder, only=only or (), formats=chosen, width=_width(width))
            say(f"wrote {len(written)} files to {folder}")
        elif to is Target.CSV:
            folder = out or Path("tables")
            say(f"wrote {len(compared.to_csv(folder))} files to {folder}")
        if not tables:
            return
    text = _stated(runs, monitor, mode, tariff, to, training_type, _given(give), compared, short=short)
    if out is None:
        sys.stdout.write(printable(text))
    else:
        out.write_text(text, encoding="utf-8")
        say(f"wrote {out}")


def _width(text: str | None) -> Literal["column", "text"] | float:
    """A figure's width: a word, or millimetres."""
    if text in (None, "text"):
        return "text"
    if text == "column":
        return "column"
    try:
        return float(str(text).removesuffix("mm"))
    except ValueError:
        raise typer.BadParameter(f"--width must be column, text or millimetres, got {text!r}") from None


def _to_wandb(
    compared: comparison.Comparison, project: str, title: str | None, out: Path | None, *, dry_run: bool
) -> None:
    """Write a W&B Report, or what would be written."""
    from lightning_costs.report.wandb.publish import publish, write_dry_run

    if dry_run:
        say(f"wrote {write_dry_run(compared, project, out or Path('report.wandb.json'), title=title)}")
        return
    if out is not None:
        raise typer.BadParameter("--out is for --dry-run and for what is written to files")
    from lightning_costs.report.page.page import page

    written = publish(compared, project, title=title, page=page(compared))
    say(f"wrote {written.url}")
    say(f"view  {written.view}")
    if not written.drawn:
        say("none of the runs is in that project: what W&B draws of runs is left out; tables and page hold all of them")
    elif written.left_out:
        say(f"no run there has {', '.join(written.left_out)}: panels of them are left out")


def _stated(
    runs: Sequence[RunRecord],
    monitor: str | None,
    mode: Mode | None,
    tariff: Path | None,
    to: Target,
    training_type: str | None,
    given: Mapping[str, str],
    compared: comparison.Comparison | None,
    *,
    short: bool,
) -> str:
    from lightning_costs.report import statement
    from lightning_costs.report.tables.plain_tables import comparison_tables

    stated = statement.build_statement(
        runs,
        tariff=Tariff.from_file(tariff) if tariff is not None else None,
        monitor=monitor,
        mode=chosen_mode(mode),
    )
    if to is Target.HF_YAML:
        return statement.model_card(stated, training_type=training_type)
    if to is Target.BOAMPS:
        return statement.boamps(stated, given)
    if to in (Target.ANNEX_XI, Target.NEURIPS):
        return (statement.annex_xi if to is Target.ANNEX_XI else statement.neurips)(stated)
    beneath = comparison_tables(compared) if compared is not None else ()
    cautions = [caution["text"] for caution in compared.cautions] if compared is not None else ()
    write = statement.markdown if to is Target.MD else statement.latex
    return write(stated, tables=beneath, cautions=cautions, short=short)


def _given(texts: Sequence[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts or ()]
    if strange := [name for name, mark, _ in pairs if not mark]:
        raise typer.BadParameter(f"--give takes NAME=VALUE, got {strange[0]!r}")
    return {name.strip().replace("-", "_"): value.strip() for name, _, value in pairs}
