"""The command line: run a script measured, show a run, compare runs, write a report, total a project."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, NoReturn

import typer
from rich.table import Table
from rich.text import Text

from lightning_costs.analysis.schema import TOLERANCE
from lightning_costs.cli.places import command as next_command
from lightning_costs.cli.places import make_writable, next_after_show, no_run_at
from lightning_costs.cli.predict import predict_command
from lightning_costs.pricing.reprice import priced_columns
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.formatting import format_amount
from lightning_costs.records.printable import printable
from lightning_costs.records.versions import version_of
from lightning_costs.report.terminal import run as run_view
from lightning_costs.report.terminal.console import Terminal, say, take_any_text
from lightning_costs.run.plan import PREDICTION, read_prediction
from lightning_costs.run.record import RunRecord, printable_run
from lightning_costs.storage.run_folder.lock import writer_status

if TYPE_CHECKING:
    from lightning_costs import comparison

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What training costs, by every indicator at once.",
)


def _version(asked: bool) -> None:
    if asked:
        say(f"lightning-costs {version_of('lightning-costs')}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What training costs, by every indicator at once."""


class Mode(StrEnum):
    """Which direction of the quality metric is better."""

    MAX = "max"
    MIN = "min"


class Log(StrEnum):
    """Which costs loggers, `callback_metrics` and the progress bar get."""

    COMPLETE = "complete"
    HEADLINE = "headline"
    NONE = "none"


class Count(StrEnum):
    """How operators are counted."""

    AUTO = "auto"
    EAGER = "eager"
    OFF = "off"


class Infer(StrEnum):
    """Whether the cost of a forward pass is measured after training."""

    AUTO = "auto"
    TRUE = "true"
    FALSE = "false"


class FigureFormat(StrEnum):
    """What a figure is written as."""

    PDF = "pdf"
    SVG = "svg"
    PNG = "png"


class Target(StrEnum):
    """What a report is written as: a page, W&B Report, figures or tables of a comparison, or a statement of costs."""

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


class Curve(StrEnum):
    """Whether work that restarts lost is in the costs."""

    SPENT = "spent"
    TO_REACH = "to_reach"


Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Run folders, tables (CSV, Parquet), CSVLogger folders, offline W&B runs, MLPerf logs, folders that hold "
        "them, URLs of them, event files of TensorBoard, a Trainer's trainer_state.json, wandb:entity/project, "
        "mlflow:experiment or trackio:project.",
    ),
]
Monitor = Annotated[str | None, typer.Option(help="Quality metric; by default the one the runs name.")]
Direction = Annotated[Mode | None, typer.Option(help="Whether more or less of it is better.")]
TariffFile = Annotated[Path | None, typer.Option("--tariff", help="TOML file under which all runs are priced.")]
Curves = Annotated[Curve, typer.Option(help="All that was spent, or what it took to reach: without lost work.")]
Targets = Annotated[list[float] | None, typer.Option("--target", help="A quality target; may be given repeatedly.")]
Costs = Annotated[
    list[str] | None,
    typer.Option(
        "--cost",
        metavar="NAME[=COLUMN][:max]",
        help="A cost of a table or log, with its better direction if more is better; may be given repeatedly.",
    ),
]
Units = Annotated[
    list[str] | None,
    typer.Option("--unit", metavar="COST=UNIT", help="Unit it is written in, as flops=GMAC; may be given repeatedly."),
]
RunColumn = Annotated[
    list[str] | None,
    typer.Option(help="Column of tables that names runs, 'folder' for the file's; several name them together."),
]
DecimalMark = Annotated[str | None, typer.Option(metavar="MARK", help="Decimal mark of tables: '.' or ','.")]
StepColumn = Annotated[str | None, typer.Option(help="Column of tables that steps are in: they are curves then.")]
Queries = Annotated[
    list[float] | None, typer.Option(help="Costs of training and so many queries; may be given repeatedly.")
]
Group = Annotated[
    str | None,
    typer.Option(
        help="What makes runs seeds of one method: name, name~PATTERN, group, or a setting such as module; none "
        "compares single runs. By default, runs that differ by nothing but their seed."
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(metavar="GROUP", help="The group that others are held against; by default that of the best quality."),
]
Tolerance = Annotated[float, typer.Option(help="Runs are matched within this share: 0.05 is 5 %.")]


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="What to run: python train.py ...")],
    monitor: Annotated[str | None, typer.Option(help="Quality metric; by default that of the checkpoints.")] = None,
    mode: Direction = None,
    target: Targets = None,
    save_dir: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("costs"),
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    log: Annotated[Log, typer.Option(help="Costs that the script's loggers and callback_metrics get.")] = Log.NONE,
    log_every_n_steps: Annotated[int | None, typer.Option(help="Optimizer steps between two points.")] = None,
    batch_size_key: Annotated[
        str | None, typer.Option(help="Part of a batch that has its samples: a key or index, as image or 0.x.")
    ] = None,
    count: Annotated[
        Count | None, typer.Option(help="Count operators: in a few steps, compiled code eagerly, or not at all.")
    ] = None,
    infer: Annotated[Infer, typer.Option(help="Measure a forward pass after training.")] = Infer.FALSE,
    tariff: Annotated[Path | None, typer.Option(help="TOML file under which the run is priced.")] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="Stop at this much, as energy_j=3.6e6; may be given repeatedly.")
    ] = None,
    prediction: Annotated[
        Path | None, typer.Option(help="JSON of `predict --json`: the run's end says plan against actual.")
    ] = None,
) -> None:
    """Run an unmodified script of Lightning or of transformers' Trainer and measure what its training costs."""
    from lightning_costs.cli import run_process
    from lightning_costs.integrations.huggingface.autoload import search_path
    from lightning_costs.integrations.lightning.options import RunOptions
    from lightning_costs.storage.paths import run_root

    try:
        read_prediction(prediction)
        options = RunOptions(
            monitor=monitor,
            mode=_mode(mode),
            targets=tuple(target or ()),
            save_dir=str(run_root(save_dir)),
            name=name,
            log=log.value,
            log_every_n_steps=log_every_n_steps,
            batch_size_key=batch_size_key,
            count=count.value if count is not None else None,
            infer="auto" if infer is Infer.AUTO else infer is Infer.TRUE,
            tariff=Tariff.from_file(tariff).as_dict() if tariff is not None else None,
            budget=_limits(budget) if budget else None,
        )
    except (ValueError, OSError) as error:
        raise typer.BadParameter(printable(str(error))) from error
    planned = {} if prediction is None else {PREDICTION: str(prediction.resolve())}
    run_process.run(command, options.as_environment() | search_path() | planned, Path(options.save_dir))


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    everything: Annotated[bool, typer.Option("--all", help="Every column, not the headline ones alone.")] = False,
    mtbf_h: Annotated[
        float | None, typer.Option(help="Hours between two failures, for advice on checkpoints.", show_default=False)
    ] = None,
) -> None:
    """Show one run in human units, missing costs with how to get them."""
    from lightning_costs.report.terminal.goodput import goodput_sentence, goodput_tables
    from lightning_costs.run.checkpoint_interval import advise_checkpoints
    from lightning_costs.run.goodput import goodput
    from lightning_costs.sources.loader import load_run

    try:
        record = load_run(run)
    except FileNotFoundError:
        raise no_run_at(run) from None
    proposed = next_after_show(run, record)
    record = printable_run(record)
    console = Terminal()
    attempts = len(record.header.get("attempts", ()))
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    status = _status(run, str(record.header.get("status") or "unknown"))
    console.print(f"{record.name}  ({status}, {tries}, from {record.source})")
    rows = run_view.shown_rows(record, everything=everything)
    console.print(run_view.who_table(record, everything=everything))
    console.print()
    console.print(run_view.cost_table(rows, everything=everything, width=console.width))
    lines = run_view.missing_lines(rows, everything=everything, width=console.width)
    spent = goodput(record.header, record.final)
    advice = advise_checkpoints(record.header, record.final, mtbf_s=None if mtbf_h is None else 3600 * mtbf_h)
    words = filter(None, [goodput_sentence(spent), advice and advice.words()])
    for line in (*run_view.sentences(record), *words, *lines):
        console.print(line, soft_wrap=True)
    for detail in goodput_tables(spent) if everything else ():
        console.print(detail)
    say(f"next: {proposed}")


@app.command()
def watch(
    place: Annotated[Path, typer.Argument(metavar="RUN|DIR", help="A run folder, or a folder that holds some.")],
    once: Annotated[bool, typer.Option("--once", help="Print it once and exit.")] = False,
    every_s: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Watch runs in progress: quality, costs so far and at the end, and the share of their budget."""
    from lightning_costs.cli.watch import watch_runs

    if not watch_runs(place, Terminal(), once=once, every_s=every_s):
        raise no_run_at(place)


def _limits(texts: Sequence[str]) -> dict[str, float]:
    """Limits from `column=amount`, of columns that the command's monitor measures."""
    from lightning_costs.indicators import default_indicators
    from lightning_costs.records.limits import validate_limit_columns

    limits = {}
    for text in texts:
        column, _, amount = text.partition("=")
        try:
            limits[column] = float(amount)
        except ValueError:
            raise ValueError(f"--budget must be COLUMN=AMOUNT, such as energy_j=3.6e6, got {text!r}") from None
    validate_limit_columns(
        list(limits), {indicator.name: indicator.declaration() for indicator in default_indicators()}
    )
    return limits


def _mode(mode: Mode | None) -> Literal["max", "min"] | None:
    return None if mode is None else "max" if mode is Mode.MAX else "min"


def _status(run: Path, status: str) -> str:
    if status == "running" and writer_status(run) is None:
        return "running, or killed: whether its writer lives cannot be told from here"
    return status


def _units(texts: Sequence[str] | None) -> dict[str, str]:
    """Units by cost from `cost=unit`."""
    units: dict[str, str] = {}
    for text in texts or ():
        name, given, unit = text.rpartition("=")
        if not (given and name and unit):
            raise ValueError(f"--unit must be COST=UNIT, such as flops=GMAC, got {text!r}")
        if units.setdefault(name, unit) != unit:
            raise ValueError(f"--unit {name} is given twice, as {units[name]!r} and {unit!r}")
    return units


def _decimal(mark: str | None) -> Literal[".", ","] | None:
    if mark not in (None, ".", ","):
        raise ValueError(f"--decimal must be '.' or ',', got {mark!r}")
    return None if mark is None else "," if mark == "," else "."


class Sources(NamedTuple):
    """Where runs are, and how those are read that are no run folders."""

    paths: Sequence[str]
    costs: Sequence[str] | None = None
    units: Sequence[str] | None = None
    run_column: Sequence[str] | None = None
    step_column: str | None = None
    decimal: str | None = None

    def load(self, monitor: str | None = None, mode: Mode | None = None) -> list[RunRecord]:
        """The runs; those that are left out are listed on stderr."""
        from lightning_costs.sources.loader import find_runs  # imports polars, which `run` does without

        found = find_runs(
            list(self.paths),
            monitor=monitor,
            mode=_mode(mode),
            costs=self.costs or (),
            units=_units(self.units),
            run_column=self.run_column,
            step_column=self.step_column,
            decimal=_decimal(self.decimal),
        )
        for said in (*found.left_out, *found.notes):
            say(f"lightning-costs: {said}", error=True)
        return found.runs


def _compared(
    runs: Sequence[RunRecord],
    monitor: str | None,
    mode: Mode | None,
    tariff: Path | None,
    targets: Sequence[float] | None,
    curve: Curve,
    queries: Sequence[float] | None = None,
    group: str | None = None,
    tolerance: float = TOLERANCE,
    reference: str | None = None,
) -> comparison.Comparison:
    from lightning_costs import comparison

    return comparison.compare(
        runs,
        monitor=monitor,
        mode=_mode(mode),
        targets=targets or (),
        tariff=Tariff.from_file(tariff) if tariff is not None else None,
        curve="spent" if curve is Curve.SPENT else "to_reach",
        queries=queries or (),
        group=group,
        tolerance=tolerance,
        reference=reference,
    )


@app.command()
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
    compared = _compared(runs, monitor, mode, tariff, target, curve, queries, group, tolerance, reference)
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
    taken = {param.name for param in getattr(typer.main.get_command(app), "commands", {})["report"].params}
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
            help="Where to write it; by default report.html, the folder figures or tables, statements to the terminal.",
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
            raise typer.BadParameter("--to wandb needs --project entity/project, where no run is from W&B")
    folders = to in (Target.FIGURES, Target.CSV)
    make_writable(None if out is None else out / "README" if folders else out)
    runs = sources.load(monitor, mode)
    compared = None
    if comparing:
        compared = _compared(runs, monitor, mode, tariff, target, curve, queries, group, tolerance, reference)
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

    said = statement.build_statement(
        runs,
        tariff=Tariff.from_file(tariff) if tariff is not None else None,
        monitor=monitor,
        mode=_mode(mode),
    )
    if to is Target.HF_YAML:
        return statement.model_card(said, training_type=training_type)
    if to is Target.BOAMPS:
        return statement.boamps(said, given)
    if to in (Target.ANNEX_XI, Target.NEURIPS):
        return (statement.annex_xi if to is Target.ANNEX_XI else statement.neurips)(said)
    beneath = comparison_tables(compared) if compared is not None else ()
    cautions = [caution["text"] for caution in compared.cautions] if compared is not None else ()
    write = statement.markdown if to is Target.MD else statement.latex
    return write(said, tables=beneath, cautions=cautions, short=short)


def _given(texts: Sequence[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts or ()]
    if strange := [name for name, mark, _ in pairs if not mark]:
        raise typer.BadParameter(f"--give takes NAME=VALUE, got {strange[0]!r}")
    return {name.strip().replace("-", "_"): value.strip() for name, _, value in pairs}


@app.command(name="reprice")
def reprice_run(
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
        told = {"run": after.id, "tariff": header["tariff"], "columns": changes}
        from lightning_costs.analysis.data import plain

        say(dumps(plain(told), indent=1))
        return
    table = Table("cost", "before", "now", "how, or why it is missing", box=None, pad_edge=False)
    for name, change in changes.items():
        declared = header["indicators"][name]
        amounts = (format_amount(change[when], declared["unit"]) for when in ("before", "after"))
        table.add_row(declared["label"], *amounts, change["how"])
    Terminal().print(table)
    say(f"next: {next_command('show', run)}")


@app.command()
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

    make_writable(csv, json)
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
        say(note)
    for detail in goodput_tables(whole) if spent else ():
        console.print(detail)
    wasted = project_waste(priced_runs(runs, priced)) if waste else None
    if wasted is not None:
        console.print("\nRuns that wasted most", style="bold")
        for detail in filter(None, (waste_table(wasted, top), groups_table(wasted))):
            console.print(detail)
        for note in waste_notes(wasted, top):
            say(note)
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
    for path, text in ((csv, project_csv(found)), (json, as_json)):
        if path is not None:
            path.write_text(text, encoding="utf-8")
            say(f"wrote {path}")


@app.command()
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
) -> None:
    """Exit with 1 if a run costs more than its baseline, with 2 if the two cannot be compared."""
    from lightning_costs.analysis.data import plain
    from lightning_costs.analysis.regression_check import Limit, check_regression
    from lightning_costs.report.terminal.check import check_parts

    try:
        make_writable(json)
        found = check_regression(
            _single(run),
            _single(baseline),
            limits=[Limit.parse(text) for text in fail or ()],
            targets=target or (),
            allow=allow or (),
        )
        if json is not None:
            json.write_text(dumps(plain(found.as_dict()), indent=1) + "\n", encoding="utf-8")
    except (ValueError, OSError, ImportError) as error:  # 1 would say that a cost has grown
        say(f"lightning-costs: {error}", error=True)
        raise typer.Exit(2) from None
    console = Terminal()
    for part in check_parts(found):
        console.print(part, soft_wrap=isinstance(part, Text))
    raise typer.Exit(found.exit_code)


app.command(name="predict")(predict_command)


def _single(path: str) -> RunRecord:
    runs = Sources([path]).load()
    if len(runs) != 1:
        raise ValueError(f"expected one run at {path}, found {len(runs)}; name its own folder")
    return runs[0]


def main() -> NoReturn:
    """Run the command line; what a user can mend is one line, not a traceback."""
    take_any_text()
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(printable(f"lightning-costs: {error}")) from None
    raise SystemExit(0)


if __name__ == "__main__":
    main()
