"""Commands about runs one by one: measure one, show one, watch those in progress."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lightning_costs.cli.options import Direction, Targets, chosen_mode
from lightning_costs.cli.places import next_after_show, no_run_at
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.printable import printable
from lightning_costs.report.terminal import run as run_view
from lightning_costs.report.terminal.console import Terminal, say
from lightning_costs.run.plan import PREDICTION, read_prediction
from lightning_costs.run.record import printable_run
from lightning_costs.storage.run_folder.lock import writer_status


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
    trace: Annotated[bool, typer.Option("--trace", help="Profile a few steps now and then.")] = False,
    infer: Annotated[Infer, typer.Option(help="Measure a forward pass after training.")] = Infer.FALSE,
    tariff: Annotated[Path | None, typer.Option(help="TOML file under which the run is priced.")] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="Stop at this much, as energy_j=3.6e6; may be given repeatedly.")
    ] = None,
    prometheus: Annotated[
        Path | None, typer.Option(metavar="FILE.prom", help="Keep the totals in this file for node_exporter.")
    ] = None,
    otlp: Annotated[bool, typer.Option("--otlp", help="Send the totals to OTEL_EXPORTER_OTLP_ENDPOINT.")] = False,
    prediction: Annotated[
        Path | None, typer.Option(help="JSON of `predict --json`: the run's end says plan against actual.")
    ] = None,
) -> None:
    """Run an unmodified script of Lightning, transformers' Trainer or Accelerate, and measure its training."""
    from lightning_costs.cli import run_process
    from lightning_costs.integrations.huggingface.autoload import search_path
    from lightning_costs.integrations.lightning.options import RunOptions
    from lightning_costs.storage.paths import run_root

    try:
        read_prediction(prediction)
        options = RunOptions(
            monitor=monitor,
            mode=chosen_mode(mode),
            targets=tuple(target or ()),
            save_dir=str(run_root(save_dir)),
            name=name,
            log=log.value,
            log_every_n_steps=log_every_n_steps,
            batch_size_key=batch_size_key,
            count=count.value if count is not None else None,
            trace=trace,
            infer="auto" if infer is Infer.AUTO else infer is Infer.TRUE,
            tariff=Tariff.from_file(tariff).as_dict() if tariff is not None else None,
            budget=_limits(budget) if budget else None,
            prometheus=str(prometheus.absolute()) if prometheus is not None else None,
            otlp=otlp,
        )
    except (ValueError, OSError) as error:
        raise typer.BadParameter(printable(str(error))) from error
    planned = {} if prediction is None else {PREDICTION: str(prediction.resolve())}
    run_process.run(command, options.as_environment() | search_path() | planned, Path(options.save_dir))


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
    words = filter(None, [goodput_sentence(spent), advice.words() if advice else None])
    for line in (*run_view.sentences(record), *words, *lines):
        console.sentence(line)
    for detail in goodput_tables(spent) if everything else ():
        console.print(detail)
    say(f"next: {proposed}")


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


def _status(run: Path, status: str) -> str:
    if status == "running" and writer_status(run) is None:
        return "running, or killed: its writer runs on another machine"
    return status
