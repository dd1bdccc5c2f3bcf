"""Options that commands share, the runs that they name, and the comparison of those."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from lightning_costs.analysis.schema import TOLERANCE
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.report.terminal.console import say
from lightning_costs.run.record import RunRecord

if TYPE_CHECKING:
    from lightning_costs import comparison


class Mode(StrEnum):
    """Which direction of the quality metric is better."""

    MAX = "max"
    MIN = "min"


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
    list[float] | None, typer.Option(help="Costs of training and of this number of queries; may be given repeatedly.")
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


def chosen_mode(mode: Mode | None) -> Literal["max", "min"] | None:
    """The direction as `compare` takes it."""
    return None if mode is None else "max" if mode is Mode.MAX else "min"


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

    def load(
        self, monitor: str | None = None, mode: Mode | None = None, known: set[str] | None = None
    ) -> list[RunRecord]:
        """The runs; those that are left out are listed on stderr, unless they are `known`, to which they are added."""
        from lightning_costs.sources.loader import find_runs  # imports polars, which `run` does without

        found = find_runs(
            list(self.paths),
            monitor=monitor,
            mode=chosen_mode(mode),
            costs=self.costs or (),
            units=_units(self.units),
            run_column=self.run_column,
            step_column=self.step_column,
            decimal=_decimal(self.decimal),
        )
        notes = [note for note in (*found.left_out, *found.notes) if note not in (known or ())]
        for note in notes:
            say(f"lightning-costs: {note}", error=True)
        if known is not None:
            known.update(notes)
        return found.runs


def compared_runs(
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
    """Compare runs as the options of `compare` and `report` ask for it."""
    from lightning_costs import comparison

    return comparison.compare(
        runs,
        monitor=monitor,
        mode=chosen_mode(mode),
        targets=targets or (),
        tariff=Tariff.from_file(tariff) if tariff is not None else None,
        curve="spent" if curve is Curve.SPENT else "to_reach",
        queries=queries or (),
        group=group,
        tolerance=tolerance,
        reference=reference,
    )
