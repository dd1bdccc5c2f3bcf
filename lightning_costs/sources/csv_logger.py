"""Rows of a logger as the points of a run: CSVLogger's folders here, W&B's histories in `wandb_runs`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_costs.records.declaration import Declaration
from lightning_costs.records.samples import Amount
from lightning_costs.run.record import RunRecord
from lightning_costs.sources.cells import hint, numbers
from lightning_costs.sources.columns import CostColumn, ReadOptions, cost_columns, known_columns, refuse_other_unit
from lightning_costs.sources.delimited import ROW, Texts, read_delimited
from lightning_costs.sources.imported import (
    describe_decrease,
    finite_or_none,
    first_decrease,
    make_imported_run,
    number,
)
from lightning_costs.storage.loggers import PREFIX
from lightning_costs.storage.paths import SourcePath
from lightning_costs.storage.run_folder.frames import as_frame

if TYPE_CHECKING:
    import polars

METRICS = "metrics.csv"
_STEP = "step"
#: Columns of a logger's row that are neither costs nor metrics.
BOOKKEEPING = ("step", "_step", "_runtime", "_timestamp", "trainer/global_step", "epoch", "time", "trigger")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRun:
    """What a logger kept of a run: rows as written, and final costs that it keeps apart (W&B's summary) by column.

    The `step` column is `stamped` if it is Lightning's stamp, from which the number of steps follows.
    """

    rows: Sequence[Mapping[str, object]]
    step: str
    stamped: bool
    totals: Mapping[str, object]


def read_csv_logger(folder: SourcePath, reading: ReadOptions) -> RunRecord:
    """The run of a CSVLogger's folder, `metrics.csv` in it.

    Raises:
        ValueError: It is no table, has no steps, or a step, a value of the monitor or a cost is no number.
    """
    rows = _rows(folder.joinpath(METRICS), reading)
    name = f"{folder.parent.name}/{folder.name}" if folder.name.startswith("version_") else folder.name
    return run_of_log(
        LoggedRun(rows=rows, step=_STEP, stamped=True, totals={}),
        reading,
        run_id=name,
        name=name,
        source=f"{name}/{METRICS}",
        setup={"origin": "CSVLogger, setup unknown", **_hparams(folder)},
    )


def _rows(file: SourcePath, reading: ReadOptions) -> list[Mapping[str, object]]:
    """The numbers of each row, read as those of a table are: in any encoding, with any separator and decimal mark."""
    texts = _whole_rows(file)
    reading.seen.notes |= dict.fromkeys(texts.notes)
    frame = texts.frame
    if _STEP not in frame.columns:
        raise ValueError(
            f"{file} has no column {_STEP!r}, as CSVLogger's have; give the file itself, and it is read as a table: "
            "--step-column COLUMN says what its steps are"
        )
    asked = {_STEP, reading.monitor, *(cost.column for cost in reading.costs)}
    rows: list[dict[str, object]] = [{} for _ in range(frame.height)]
    for column in frame.columns:
        if column == ROW:
            continue
        found = numbers(frame[column], reading.decimal)
        if column in asked and found.wrong.any():
            cell = str(frame[column].filter(found.wrong)[0]).strip()
            raise ValueError(
                f"{file}, row {frame[ROW].filter(found.wrong)[0]}: {column} is {cell[:40]!r}, expected a number"
                f"{hint(cell, reading.decimal)}"
            )
        for row, value in zip(rows, found.values.to_list(), strict=True):
            row[column] = value
    return list(rows)


def _whole_rows(file: SourcePath) -> Texts:
    """The table of the file; a last row that is torn, as a killed process leaves it, is left out."""
    content = file.read()
    try:
        return read_delimited(str(file), content, tabs=False)
    except ValueError:
        whole, end, torn = content.rpartition(b"\n")
        if not (end and torn):
            raise
        texts = read_delimited(str(file), whole + end, tabs=False)
        return Texts(texts.frame, [*texts.notes, f"{file}: its last row is torn and was left out"])


def _hparams(folder: SourcePath) -> dict[str, Any]:
    """The hyperparameters beside it; what is no plain YAML is left out."""
    file = folder.joinpath("hparams.yaml")
    if not file.is_file():
        return {}
    import yaml

    try:
        found = yaml.safe_load(file.read())
    except yaml.YAMLError:  # tags of Python objects, which must not be built from a file
        return {}
    return {"hparams": found} if isinstance(found, dict) and found else {}


def run_of_log(log: LoggedRun, reading: ReadOptions, *, run_id: str, name: str, source: str, **about: Any) -> RunRecord:
    """A run from rows of a logger.

    Rows of one step are one point, until a row repeats a column: that begins another. A cost that is not logged with
    a quality is missing there. A counter that falls is missing, with its reason; so is a cost that is not finite.
    """
    columns = list(dict.fromkeys(column for row in log.rows for column in row))
    columns += [column for column in log.totals if column not in columns]
    costs = cost_columns(columns, reading, kind="counter", log=True)
    own = bool(costs)
    costs += _of_the_log_itself(log, columns, costs)
    points = _points(log)
    metrics = _metrics(points, costs)
    missing: dict[str, str] = {}
    frame = _frame(points, metrics, reading.monitor)
    statics: dict[str, Amount] = {}
    amounts: dict[str, list[Amount]] = {}
    for cost in costs:
        column = cost.declared.name
        values = [_amount(point, cost, log) for point in points]
        if PREFIX not in cost.column:  # what the package logged has its unit in its name
            refuse_other_unit(cost, values, lambda at: f"{source}, step {points[at]['step']:.0f}")
        total = finite_or_none(number(log.totals.get(cost.column)))
        if total is not None and _is_stamp(cost, log):
            total += 1.0
        if cost.declared.kind == "static":
            seen = [value for value in values if value is not None]
            statics[column] = total * cost.factor if total is not None else seen[-1] if seen else None
            continue
        if cost.declared.kind == "counter" and (fall := first_decrease(values)) is not None:
            at, before, after = fall
            missing[column] = (
                f"{describe_decrease(column, before, after)} (at step {points[at]['step']:.0f} of {source})"
            )
            values = [None] * len(values)
        elif total is not None and cost.declared.kind == "counter":
            values = _ended(values, total * cost.factor)
        amounts[column] = values
    frame = _with_costs(frame, amounts)
    methods = {"steps": "one more than the step of the logger's row"} if log.stamped and not own else {}
    return make_imported_run(
        frame,
        costs,
        reading,
        run_id=run_id,
        name=name,
        source=source,
        statics=statics,
        missing=missing,
        methods=methods,
        **about,
    )


def _ended(values: list[Amount], total: float) -> list[Amount]:
    """Totals ending with the final one: in the last row if that has none, otherwise in one more row."""
    known = [value for value in values if value is not None]
    return [*values, total if not known or total >= known[-1] else known[-1]]


def _with_costs(frame: polars.DataFrame, amounts: Mapping[str, list[Amount]]) -> polars.DataFrame:
    """The points with their costs, and one more row if a column has a separate final total."""
    import polars

    longest = max((len(values) for values in amounts.values()), default=frame.height)
    if longest > frame.height and frame.height:
        end = frame[-1].select("step", "epoch", "time").with_columns(trigger=polars.lit("end"))
        frame = polars.concat([frame, end], how="diagonal")
    return frame.with_columns(
        polars.Series(name, [*values, *([None] * (frame.height - len(values)))][: frame.height], polars.Float64)
        for name, values in amounts.items()
    )


def _frame(points: Sequence[Mapping[str, Any]], metrics: Sequence[str], monitor: str | None) -> polars.DataFrame:
    """The points without their costs."""
    triggers = ["evaluate" if monitor is None or monitor in point else "train" for point in points]
    return as_frame(
        {
            "step": ("int", [int(point["step"]) for point in points]),
            "epoch": ("int", [_whole(point.get("epoch")) for point in points]),
            "time": ("float", [None] * len(points)),
            "trigger": ("text", triggers),
            **{name: ("float", [point.get(name) for point in points]) for name in metrics},
        }
    )


def _of_the_log_itself(log: LoggedRun, columns: Sequence[str], costs: Sequence[CostColumn]) -> list[CostColumn]:
    """Costs of a log without measurement: steps by Lightning's stamp, seconds since the run's start."""
    taken = {cost.declared.name for cost in costs} | {cost.column for cost in costs}
    found = []
    if log.stamped and "steps" not in taken:
        found.append(CostColumn(column=log.step, factor=1.0, declared=known_columns()["steps"]))
    if "_runtime" in columns and not taken & {"_runtime", "total_s", "runtime_s"}:
        runtime = Declaration(
            name="runtime_s", unit="s", across="rank0", family="time", label="time since the run's start"
        )
        found.append(CostColumn(column="_runtime", factor=1.0, declared=runtime))
    return found


def _is_stamp(cost: CostColumn, log: LoggedRun) -> bool:
    """Whether a cost is the number of steps, which is one more than the stamp of the last."""
    return cost.column == log.step and cost.declared.name == "steps"


def _amount(point: Mapping[str, Any], cost: CostColumn, log: LoggedRun) -> Amount:
    if _is_stamp(cost, log):
        return float(point["step"]) + 1.0
    amount = finite_or_none(point.get(cost.column))
    return None if amount is None else amount * cost.factor


def _points(log: LoggedRun) -> list[dict[str, Any]]:
    """Rows with a step and numbers, those of one step together until a column repeats."""
    points: list[dict[str, Any]] = []
    for row in log.rows:
        step = number(row.get(log.step))
        if step is None:
            continue
        values = {name: amount for name, value in row.items() if (amount := number(value)) is not None}
        values["step"] = step
        shared = ("step", log.step, *BOOKKEEPING)
        if points and points[-1]["step"] == step and not (values.keys() & points[-1].keys()) - {*shared}:
            points[-1] |= values
        else:
            points.append(values)
    return points


def _metrics(points: Sequence[Mapping[str, Any]], costs: Sequence[CostColumn]) -> list[str]:
    taken = {*BOOKKEEPING, *(cost.column for cost in costs), *(cost.declared.name for cost in costs)}
    names = dict.fromkeys(name for point in points for name in point)
    return [name for name in names if name not in taken]


def _whole(value: Amount) -> int | None:
    return None if value is None or not math.isfinite(value) else int(value)
