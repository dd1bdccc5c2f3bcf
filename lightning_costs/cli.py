"""The command line: run a script measured, show a run, compare runs, write a report, total a project."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from json import dumps
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from lightning_costs.compare import comparison
from lightning_costs.compare.matched import TOLERANCE
from lightning_costs.core.records import RunRecord
from lightning_costs.core.reprice import priced_columns
from lightning_costs.core.summary import attempts_told, sentences, summary_rows, total_of
from lightning_costs.core.tariff import Tariff
from lightning_costs.core.units import human
from lightning_costs.stores.loader import load_run, load_runs
from lightning_costs.stores.lock import writer_of
from lightning_costs.stores.repriced import reprice_folder

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What training costs, by every indicator at once.",
)


class Mode(StrEnum):
    """Which direction of the quality metric is better."""

    MAX = "max"
    MIN = "min"


class Log(StrEnum):
    """Which costs loggers get."""

    COMPLETE = "complete"
    HEADLINE = "headline"


class Infer(StrEnum):
    """Whether the cost of a forward pass is measured after training."""

    AUTO = "auto"
    TRUE = "true"
    FALSE = "false"


class Target(StrEnum):
    """What a report is written as: a page, figures or tables of a comparison, or a statement of what all of it cost."""

    HTML = "html"
    FIGURES = "figures"
    CSV = "csv"
    MD = "md"
    LATEX = "latex"
    HF_YAML = "hf-yaml"


class Curve(StrEnum):
    """Whether work that restarts lost is in the costs."""

    SPENT = "spent"
    TO_REACH = "to_reach"


Paths = Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold them.")]
Monitor = Annotated[str | None, typer.Option(help="Quality metric; by default the one the runs name.")]
Direction = Annotated[Mode | None, typer.Option(help="Whether more or less of it is better.")]
TariffFile = Annotated[Path | None, typer.Option("--tariff", help="TOML file under which all runs are priced.")]
Curves = Annotated[Curve, typer.Option(help="All that was spent, or what it took to reach: without lost work.")]
Targets = Annotated[list[float] | None, typer.Option("--target", help="A quality target; may be given repeatedly.")]
Queries = Annotated[
    list[float] | None, typer.Option(help="Costs of training and so many queries; may be given repeatedly.")
]
Group = Annotated[
    str | None,
    typer.Option(help="What makes runs seeds of one method: name, name~PATTERN, group, or a setting such as module."),
]
Tolerance = Annotated[float, typer.Option(help="Runs are matched within this share: 0.05 is 5 %.")]


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="What to run: python train.py ...")],
    monitor: Annotated[str | None, typer.Option(help="Quality metric; by default that of the checkpoints.")] = None,
    mode: Direction = None,
    target: Targets = None,
    save_dir: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("costs"),
    name: Annotated[str | None, typer.Option(help="What people call the run.")] = None,
    log: Annotated[Log, typer.Option(help="Costs that loggers get.")] = Log.COMPLETE,
    log_every_n_steps: Annotated[int | None, typer.Option(help="Optimizer steps between two points.")] = None,
    infer: Annotated[Infer, typer.Option(help="Measure a forward pass after training.")] = Infer.AUTO,
    tariff: Annotated[Path | None, typer.Option(help="TOML file under which the run is priced.")] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="Stop at this much, as energy_j=3.6e6; may be given repeatedly.")
    ] = None,
) -> None:
    """Run an unmodified Lightning script and measure what its training costs."""
    from lightning_costs.launch import command as launched
    from lightning_costs.launch.options import RunOptions

    try:
        options = RunOptions(
            monitor=monitor,
            mode=_mode(mode),
            targets=tuple(target or ()),
            save_dir=str(save_dir.absolute()),
            name=name,
            log="complete" if log is Log.COMPLETE else "headline",
            log_every_n_steps=log_every_n_steps,
            infer="auto" if infer is Infer.AUTO else infer is Infer.TRUE,
            tariff=Tariff.from_file(tariff).as_dict() if tariff is not None else None,
            budget=_limits(budget) if budget else None,
        )
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    launched.run(command, options.as_environment())


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    everything: Annotated[bool, typer.Option("--all", help="Every column, not the headline ones alone.")] = False,
) -> None:
    """Show one run in human units, missing costs with how to get them."""
    record = load_run(run)
    header = record.header
    console = Console()
    attempts = len(header["attempts"])
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    console.print(f"{record.name}  ({_status(run, header['status'])}, {tries}, from {record.source})", highlight=False)
    table = Table("cost", "amount", "how, or why it is missing", box=None, pad_edge=False)
    for row in summary_rows(header, record.final, everything=everything):
        table.add_row(row.label, row.text, row.note)
    console.print(table)
    for sentence in (*attempts_told(header, record.final), *sentences(header, record.final)):
        console.print(sentence, highlight=False, soft_wrap=True)
    monitor = header.get("monitor")
    if monitor in record.points.columns:
        seen = record.points[str(monitor)].drop_nulls()
        if seen.len():
            best = seen.max() if header.get("mode") == "max" else seen.min()
            console.print(f"best {monitor}: {best!s:.8} over {seen.len()} evaluations", highlight=False)
    console.print(f"next: lightning-costs compare {run.parent}", highlight=False, soft_wrap=True)


def _limits(texts: Sequence[str]) -> dict[str, float]:
    """Limits from `column=amount`, of columns that the command's monitor measures."""
    from lightning_costs.core.budget import check_columns
    from lightning_costs.indicators import default_indicators

    limits = {}
    for text in texts:
        column, _, amount = text.partition("=")
        try:
            limits[column] = float(amount)
        except ValueError:
            raise ValueError(f"--budget must be COLUMN=AMOUNT, such as energy_j=3.6e6, got {text!r}") from None
    check_columns(list(limits), {indicator.name: indicator.declaration() for indicator in default_indicators()})
    return limits


def _mode(mode: Mode | None) -> Literal["max", "min"] | None:
    return None if mode is None else "max" if mode is Mode.MAX else "min"


def _status(run: Path, status: str) -> str:
    if status == "running" and writer_of(run) is None:
        return "running, or killed: whether its writer lives cannot be told from here"
    return status


def _compared(
    paths: Sequence[Path],
    monitor: str | None,
    mode: Mode | None,
    tariff: Path | None,
    targets: Sequence[float] | None,
    curve: Curve,
    queries: Sequence[float] | None = None,
    group: str | None = None,
    tolerance: float = TOLERANCE,
) -> comparison.Comparison:
    return comparison.compare(
        load_runs(list(paths)),
        monitor=monitor,
        mode=_mode(mode),
        targets=targets or (),
        tariff=Tariff.from_file(tariff) if tariff is not None else None,
        curve="spent" if curve is Curve.SPENT else "to_reach",
        queries=queries or (),
        group=group,
        tolerance=tolerance,
    )


@app.command()
def compare(
    paths: Paths,
    monitor: Monitor = None,
    mode: Direction = None,
    target: Targets = None,
    tariff: TariffFile = None,
    curve: Curves = Curve.SPENT,
    queries: Queries = None,
    group: Group = None,
    tolerance: Tolerance = TOLERANCE,
    json: Annotated[Path | None, typer.Option("--json", help="Write the comparison as JSON to this file.")] = None,
) -> None:
    """Compare runs: cost-to-quality, Pareto fronts and rank disagreement by every indicator."""
    from lightning_costs.report.text import comparison_text

    compared = _compared(paths, monitor, mode, tariff, target, curve, queries, group, tolerance)
    print(comparison_text(compared))
    if json is not None:
        compared.to_json(json)
        print(f"wrote {json}")
    again = "" if curve is Curve.SPENT else f" --curve {curve.value}"
    again += "" if group is None else f" --group {quote(group)}"
    print(f"next: lightning-costs report {' '.join(map(str, paths))}{again} --to html -o report.html")


@app.command()
def report(
    paths: Paths,
    monitor: Monitor = None,
    mode: Direction = None,
    target: Targets = None,
    tariff: TariffFile = None,
    curve: Curves = Curve.SPENT,
    queries: Queries = None,
    group: Group = None,
    tolerance: Tolerance = TOLERANCE,
    to: Annotated[Target, typer.Option(help="What to write.")] = Target.HTML,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Where to write it; by default report.html, the folder figures or tables, statements to the terminal.",
        ),
    ] = None,
    tables: Annotated[
        bool, typer.Option("--tables", help="For md and latex: the tables of the comparison beneath the statement.")
    ] = False,
    training_type: Annotated[
        str | None, typer.Option(help="For hf-yaml: pre-training or fine-tuning.", show_default=False)
    ] = None,
) -> None:
    """Write a page, figures or tables that compare runs, or a statement of what all of them cost, for a paper."""
    if training_type is not None and to is not Target.HF_YAML:
        raise typer.BadParameter("--training-type is a field of --to hf-yaml")
    if tables and to not in (Target.MD, Target.LATEX):
        raise typer.BadParameter("--tables goes with --to md and --to latex")
    comparing = tables or to in (Target.HTML, Target.FIGURES, Target.CSV)
    if not comparing and (target or queries or group or curve is Curve.TO_REACH):
        raise typer.BadParameter(
            f"--target, --queries, --group and --curve compare runs; --to {to.value} states all that was spent"
            + ("" if to is Target.HF_YAML else ", and with --tables how they compare")
        )
    compared = None
    if comparing:
        compared = _compared(paths, monitor, mode, tariff, target, curve, queries, group, tolerance)
        if to is Target.HTML:
            print(f"wrote {compared.to_html(out or Path('report.html'))}")
        elif to is Target.FIGURES:
            folder = out or Path("figures")
            print(f"wrote {len(compared.to_figures(folder))} files to {folder}")
        elif to is Target.CSV:
            folder = out or Path("tables")
            print(f"wrote {len(compared.to_csv(folder))} files to {folder}")
        if not tables:
            return
    text = _stated(paths, monitor, mode, tariff, to, training_type, compared)
    if out is None:
        sys.stdout.write(text)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        print(f"wrote {out}")


def _stated(
    paths: Sequence[Path],
    monitor: str | None,
    mode: Mode | None,
    tariff: Path | None,
    to: Target,
    training_type: str | None,
    compared: comparison.Comparison | None,
) -> str:
    from lightning_costs.report import statement
    from lightning_costs.report.comparison_tables import comparison_tables

    said = statement.statement(
        load_runs(list(paths)),
        tariff=Tariff.from_file(tariff) if tariff is not None else None,
        monitor=monitor,
        mode=_mode(mode),
    )
    if to is Target.HF_YAML:
        return statement.model_card(said, training_type=training_type)
    beneath = comparison_tables(compared) if compared is not None else ()
    cautions = [caution["text"] for caution in compared.cautions] if compared is not None else ()
    write = statement.markdown if to is Target.MD else statement.latex
    return write(said, tables=beneath, cautions=cautions)


@app.command(name="reprice")
def reprice_run(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    tariff: Annotated[Path, typer.Option(help="TOML file under which the run is priced.")],
    json: Annotated[bool, typer.Option("--json", help="Print what changed as JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also where nobody can tell whether the run is over.")] = False,
) -> None:
    """Price a finished run under another tariff: carbon and money of every point anew, in its folder."""
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
        print(dumps({"run": after.id, "tariff": header["tariff"], "columns": changes}, indent=1))
        return
    table = Table("cost", "before", "now", "how, or why it is missing", box=None, pad_edge=False)
    for name, change in changes.items():
        declared = header["indicators"][name]
        amounts = (human(change[when], declared["unit"]) for when in ("before", "after"))
        table.add_row(declared["label"], *amounts, change["how"])
    Console().print(table)
    print(f"next: lightning-costs show {run}")


@app.command()
def total(directory: Annotated[Path, typer.Argument(help="A folder of runs.")]) -> None:
    """Add up what a whole project cost, failed and killed runs included."""
    runs = load_runs(directory)
    table = Table("cost", *_statuses(runs), "all", box=None, pad_edge=False)
    declared: dict[str, dict[str, Any]] = {}
    for run in runs:
        declared |= dict(run.header["indicators"])
    table.add_row("runs", *(str(len(_of(runs, status))) for status in _statuses(runs)), str(len(runs)))
    groups = [*(_of(runs, status) for status in _statuses(runs)), runs]
    for name, declaration in declared.items():
        if declaration["kind"] != "counter" or declaration["role"] != "indicator":
            continue
        cells = [total_of([run.final for run in group], name) for group in groups]
        if all(amount is None for amount, _ in cells):
            continue
        table.add_row(declaration["label"], *(_cell(amount, lacking, declaration["unit"]) for amount, lacking in cells))
    Console().print(table)


def _cell(amount: float | None, lacking: int, unit: str) -> str:
    text = human(amount, unit)
    return f"{text} (+ {lacking} unknown)" if lacking and amount is not None else text


def _statuses(runs: Sequence[RunRecord]) -> list[str]:
    return sorted({str(run.header["status"]) for run in runs})


def _of(runs: Sequence[RunRecord], status: str) -> list[RunRecord]:
    return [run for run in runs if run.header["status"] == status]


def main() -> NoReturn:
    """Run the command line; what a user can mend is one line, not a traceback."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"lightning-costs: {error}") from None
    raise SystemExit(0)
