"""Tables that people publish: one row per model, or curves with a row per run and step; CSV, TSV or Parquet."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_costs.analysis.setup import is_outcome
from lightning_costs.records.formatting import format_number
from lightning_costs.records.printable import printable
from lightning_costs.run.record import RunRecord
from lightning_costs.sources.cells import EMPTY, Numbers, hint, numbers
from lightning_costs.sources.columns import CostColumn, ReadOptions, cost_columns, not_there, refuse_other_unit
from lightning_costs.sources.delimited import ROW, read_delimited
from lightning_costs.sources.imported import PUBLISHED, describe_decrease, make_imported_run
from lightning_costs.sources.naming import (
    FOLDER,
    RUN,
    RUN_COLUMNS,
    SEEDS,
    Names,
    check_one_run_each,
    named,
    run_names,
    step_column,
)
from lightning_costs.storage.limits import check_table, refuse_pointer
from lightning_costs.storage.paths import SourcePath
from lightning_costs.storage.run_folder.frames import OWN

if TYPE_CHECKING:
    import polars

#: The order of runs beside columns of the table, under a name that no table has.
_AT = "\0at"
#: Facts of a run that its header has a place for, in any case; W&B's export calls a status so.
_HEADER = {"group": "group", "status": "status", "state": "status"}
#: What people call the package's statuses.
_STATUS = {
    **dict.fromkeys(("finished", "completed", "complete", "done", "success", "succeeded", "ok"), "finished"),
    **dict.fromkeys(("failed", "failure", "error", "aborted"), "failed"),
    **dict.fromkeys(("killed", "crashed", "timeout", "cancelled", "canceled", "preempted"), "killed"),
    **{"interrupted": "interrupted", "running": "running", "unknown": "unknown"},
}
_NEVER = "never: it did not reach the target, as the table says (inf)"
#: A cost to a target, which is infinite for a run that never reached it.
_TO_TARGET = re.compile(r"(?:^|[\W_])(?:to|until|till|reach(?:ed)?|target|ttt|tta)(?:[\W_]|$)", re.IGNORECASE)


def read_results_table(place: SourcePath, reading: ReadOptions) -> list[RunRecord]:
    """Runs of a table: one per row, or, if it has steps, one per name with a curve.

    A run whose name holds its file's has the file's path in its header, as `file`, until `loader` makes a name of it.

    Raises:
        ValueError: Names the row and column of what cannot be: no number, an infinite cost, a total that falls, two
            values for one step, rows of several runs under one name.
    """
    frame = _frame(place, reading)
    columns = [column for column in frame.columns if column != ROW]
    step = step_column(frame, reading, place)
    names = run_names(frame, reading, step, place)
    runs = named(frame, names, names.columns, place)
    curves = step is not None and runs.n_unique() < frame.height
    if not curves:
        names = run_names(frame, reading, None, place) if not names.file else names
        runs = named(frame, names, names.columns, place)
        step = step if step == reading.step_column or _whole(frame, step, reading) else None
    costs = cost_columns(columns, reading, kind="counter" if curves else "static")
    _all_found(columns, reading, costs, place)
    _no_name_of_ours(costs, reading.monitor, place)
    used = {*names.columns, step, *(cost.column for cost in costs)}
    taken = {*used, *(cost.declared.name for cost in costs), *OWN, *(c for c in columns if c.lower() in _HEADER)}
    metrics = _metrics(frame, columns, reading, taken)
    of_name = set(names.columns) if len(names.columns) == 1 else {None}
    facts = [c for c in columns if c not in of_name | {step, *metrics, *(cost.column for cost in costs)}]
    table = _Table(place, reading, frame, names, runs, step, curves, costs, metrics, facts)
    if curves and step is not None:
        _one_run_each(table, step, [c for c in columns if c not in used and _HEADER.get(c.lower()) != "status"])
    data = _numbers(table)
    if not curves:
        return _rows(table, data)
    groups = {}
    if names.seeds and "group" not in map(str.lower, columns):
        methods = [column for column in names.columns if column not in names.seeds]
        groups = dict(zip(runs, named(frame, names, methods, place), strict=True)) if methods or names.file else {}
    return _curves(table, data, groups)


class _Table(NamedTuple):
    """A table, and what its columns are."""

    place: SourcePath
    reading: ReadOptions
    frame: polars.DataFrame
    names: Names
    #: The name of each row's run.
    runs: polars.Series
    step: str | None
    curves: bool
    costs: list[CostColumn]
    metrics: list[str]
    #: Columns that say something of a run and are neither.
    facts: list[str]

    @property
    def kept(self) -> list[str]:
        """Names of the costs that a run's points hold."""
        return [cost.declared.name for cost in self.costs if cost.declared.kind != "static"]

    @property
    def fixed(self) -> list[str]:
        """Names of those that a run has one of."""
        return [cost.declared.name for cost in self.costs if cost.declared.kind == "static"]

    def run(
        self, points: polars.DataFrame, run_id: str, name: str, facts: Mapping[str, Any], **about: Any
    ) -> RunRecord:
        """One run of it, with the given facts."""
        methods = {cost.declared.name: f"as published in {self.place.name}" for cost in self.costs}
        file = {"file": self.names.file} if self.names.file else {}
        about = {"run_id": run_id, "name": name, "source": self.place.name, "methods": methods} | about
        return make_imported_run(points, self.costs, self.reading, **about | _about(facts) | file)


def _one_run_each(table: _Table, step: str, others: Sequence[str]) -> None:
    """Refuse rows of several runs under one name; if the naming columns were given, only note it.

    Models and seeds are several runs in any case.
    """
    place, reading, names = table.place, table.reading, table.names
    found = check_one_run_each(table.frame, table.runs, names, step, others, reading)
    if found is None:
        return
    why, column = found
    options = " ".join(f"--run-column {name}" for name in names.columns or (FOLDER,))
    if not reading.run_columns:
        raise ValueError(
            f"{place}: {why}: they may be several runs. If they are: {options} --run-column {column}; "
            f"if they are one: {options}"
        )
    if column.lower() in (*RUN_COLUMNS, "seed"):
        raise ValueError(f"{place}: {why}: they are several runs, {options} --run-column {column}")
    reading.seen.notes[f"{place}: {why} and are read as one run, as requested"] = None


def _whole(frame: polars.DataFrame, step: str | None, reading: ReadOptions) -> bool:
    """Whether a column that is called as steps are holds some: a fact of a table of results may be called so."""
    if step is None:
        return False
    values = numbers(frame[step], reading.decimal).values
    return not bool((values.is_null() | values.is_nan() | (values != values.round())).any())


def _rows(table: _Table, data: polars.DataFrame) -> list[RunRecord]:
    """A run per row."""
    import polars

    finite = [polars.when(polars.col(name).is_finite()).then(name).alias(name) for name in table.kept]
    points = data.select("step", "epoch", "time", "trigger", *finite, *table.metrics)
    facts_by_row = table.frame.select(table.facts).to_dicts() if table.facts else [{}] * data.height
    # Rows of one name that have seeds are runs of one method, as in curves; what else they differ in, groups check.
    grouped = table.runs.n_unique() < data.height and any(c.lower() in SEEDS for c in table.facts)
    grouped &= "group" not in map(str.lower, table.facts)
    return [
        table.run(
            points[at],
            f"{table.place.name} row {amounts[ROW]}",
            amounts[RUN],
            facts,
            statics={name: amounts[name] if math.isfinite(amounts[name] or 0.0) else None for name in table.fixed},
            missing={n: _NEVER for n in (*table.kept, *table.fixed) if not math.isfinite(amounts[n] or 0.0)},
            **({"group": amounts[RUN]} if grouped else {}),
        )
        for at, (amounts, facts) in enumerate(zip(data.to_dicts(), facts_by_row, strict=True))
    ]


def _curves(table: _Table, data: polars.DataFrame, groups: Mapping[str, str]) -> list[RunRecord]:
    """A run per name."""
    names = data[RUN]
    data = _one_per_step(data, [c.declared.name for c in table.costs] + table.metrics, table.place)
    _never_fall(data, [c.declared.name for c in table.costs if c.declared.kind == "counter"], table.place)
    facts_of = _constant(table.frame.select(table.facts), names)
    statics = _statics(data, table.fixed, table.place)
    columns = data.select(RUN, "step", "epoch", "time", "trigger", *table.kept, *table.metrics)
    records = []
    for (name,), points in columns.partition_by(RUN, as_dict=True, include_key=False, maintain_order=True).items():
        amounts = statics.get(str(name), {})
        records.append(
            table.run(
                points,
                table.place.name,
                str(name),
                facts_of.get(str(name), {}),
                statics={key: None if amount == math.inf else amount for key, amount in amounts.items()},
                missing={key: _NEVER for key, amount in amounts.items() if amount == math.inf},
                **({"group": groups[str(name)]} if groups else {}),
            )
        )
    return records


def _constant(facts: polars.DataFrame, names: polars.Series) -> dict[str, dict[str, Any]]:
    """By run, the facts that are the same in all of its rows: others are no facts of a run."""
    import polars

    if not facts.width:
        return {}
    named = facts.with_columns(names)
    counted = named.group_by(RUN).agg(polars.all().n_unique())
    kept = [name for name in facts.columns if counted[name].max() == 1]
    firsts = named.group_by(RUN, maintain_order=True).first().select(RUN, *kept)
    return {row.pop(RUN): row for row in firsts.to_dicts()}


def _about(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Group, status and setup of a run from the columns that are neither costs nor metrics."""
    known = {
        key: value for key, value in facts.items() if value is not None and str(value).strip().lower() not in EMPTY
    }
    header: dict[str, str] = {}
    for column, value in known.items():
        place = _HEADER.get(column.lower())
        told = str(value).strip() if place == "group" else _STATUS.get(str(value).strip().lower())
        if place is not None and told is not None:
            header.setdefault(place, told)
    setup = {k: v for k, v in known.items() if _HEADER.get(k.lower()) not in header}
    return {"setup": {"origin": PUBLISHED, **setup}, **header}


def _frame(place: SourcePath, reading: ReadOptions) -> polars.DataFrame:
    """The table as it is, of CSV texts, of Parquet typed columns, and the number of each row."""
    import polars

    if place.suffix != ".parquet":
        texts = read_delimited(str(place), place.read(), tabs=".tsv" in place.name.lower())
        reading.seen.notes |= dict.fromkeys(texts.notes)
        return texts.frame
    try:
        content = place.read() if place.remote else None
        refuse_pointer(str(place), place.starts(200) if content is None else content)
        file = Path(place.path) if content is None else content
        check_table(place.name, file)
        frame = polars.read_parquet(file)
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError) as error:
        raise ValueError(f"{place} is no table: {printable(str(error))}".splitlines()[0]) from error
    return frame.with_columns(polars.int_range(1, frame.height + 1, eager=True).alias(ROW))


def _all_found(columns: Sequence[str], reading: ReadOptions, costs: Sequence[CostColumn], place: SourcePath) -> None:
    if costs:
        return
    if reading.costs:
        raise ValueError(f"{place} has no cost: looked for {not_there(reading.costs[0].column, columns)}")
    raise ValueError(
        f"{place} has no cost: none of its columns {', '.join(map(repr, columns[:12]))} names a cost of "
        "the package; name them: costs=['params', 'images_per_s:max'], --cost params --cost images_per_s:max"
    )


def _no_name_of_ours(costs: Sequence[CostColumn], monitor: str | None, place: SourcePath) -> None:
    names = [cost.declared.name for cost in costs]
    for name in names:
        if name in OWN:
            raise ValueError(f"{place}: a cost cannot be named {name!r}; give it another name: --cost {name}_s={name}")
    if monitor in (*OWN, *names):
        what = "a cost" if monitor in names else "what every point has"
        raise ValueError(f"{place}: {monitor!r} cannot be the quality metric: it is {what}")


def _metrics(
    frame: polars.DataFrame, columns: Sequence[str], reading: ReadOptions, taken: set[str | None]
) -> list[str]:
    """Quality metrics: every column of numbers that is not a cost; beside a given monitor those named as outcomes."""
    if reading.monitor not in columns:
        return [c for c in columns if c not in taken and not numbers(frame[c], reading.decimal).is_text]
    others = [c for c in columns if c not in taken and c != reading.monitor and is_outcome(c, 0)]
    read = {c: numbers(frame[c], reading.decimal) for c in others}
    return [str(reading.monitor), *(c for c, found in read.items() if not found.is_text and not found.wrong.any())]


def _numbers(table: _Table) -> polars.DataFrame:
    """The table in numbers: run, row, step, epoch, costs in our units, metrics."""
    import polars

    frame, step, names, decimal = table.frame, table.step, table.runs, table.reading.decimal

    def where_at(row: int) -> str:
        return f"{table.place}, row {frame[ROW][row]} (run {str(names[row])[:60]!r})"

    def where(rows: polars.Series) -> str:
        return where_at(int(rows.arg_true()[0]))

    def column(name: str) -> Numbers:
        found = numbers(frame[name], decimal)
        if found.wrong.any():
            cell = str(frame[name].filter(found.wrong)[0]).strip()
            raise ValueError(
                f"{where(found.wrong)}: {name} is {cell[:40]!r}, expected a number, or nothing if it is "
                f"unknown{hint(cell, decimal)}"
            )
        return found

    columns = [names, frame[ROW]]
    steps = polars.Series("step", [None] * frame.height, polars.Float64) if step is None else column(step).values
    if step is not None:
        lost = steps.is_null() | steps.is_nan() | (steps != steps.round())
        if lost.any():
            raise ValueError(f"{where(lost)}: {step} must be a whole number")
    columns.append(steps.cast(polars.Int64).rename("step"))
    called = next((c for c in frame.columns if c.lower() == "epoch" and c not in table.metrics), None)
    epochs = numbers(frame[called], decimal) if called is not None else None
    columns.append(
        epochs.values.cast(polars.Int64, strict=False).rename("epoch")
        if epochs is not None and not epochs.is_text
        else polars.Series("epoch", [None] * frame.height, polars.Int64)
    )
    columns.append(polars.Series("time", [None] * frame.height, polars.Float64))
    columns.append(polars.Series("trigger", ["evaluate"] * frame.height, polars.String))
    for cost in table.costs:
        found = column(cost.column)
        shares = found.percent and cost.declared.unit == "fraction"  # '75%' in a column of per cent is no 0.0075
        if not found.percent:
            refuse_other_unit(cost, found.values.to_list(), where_at)
        amounts = _converted(found.values.fill_nan(None), 1.0 if shares else cost.factor)
        endless = amounts.is_infinite().fill_null(value=False)
        named_so = _TO_TARGET.search(f"{cost.declared.name} {cost.column}") is not None
        if named_so and (not table.curves or cost.declared.kind == "static"):
            endless &= amounts < 0
        if endless.any():
            raise ValueError(
                f"{where(endless)}: {cost.column} is infinite; what a run spent is finite, and what is unknown is left "
                "empty. Of what it took to reach a target, inf is never: such a column is called ..._to_target"
            )
        columns.append(amounts.rename(cost.declared.name))
    return polars.DataFrame(columns + [column(name).values.alias(name) for name in table.metrics])


def _converted(amounts: polars.Series, factor: float) -> polars.Series:
    """Amounts in our unit, in fifteen digits: 4.1 G is 4.1e9, the number that other sources write out."""
    import polars

    if factor == 1.0:
        return amounts
    exact = [None if amount is None else float(f"{amount * factor:.15g}") for amount in amounts.to_list()]
    return polars.Series(amounts.name, exact, polars.Float64)


def _one_per_step(data: polars.DataFrame, values: Sequence[str], place: SourcePath) -> polars.DataFrame:
    """Rows in the order of steps; those of one run and step are merged if they do not contradict each other."""
    import polars

    keys = [RUN, "step"]
    if not _in_order(data):
        order = data.group_by(RUN, maintain_order=True).agg(polars.len()).with_row_index(_AT).drop("len")
        data = data.join(order, on=RUN, how="left", maintain_order="left").sort(_AT, "step", ROW).drop(_AT)
    beside = (polars.col(RUN) == polars.col(RUN).shift(1)) & (polars.col("step") == polars.col("step").shift(1))
    if not data.select(beside.any()).item():
        return data
    again = data.select(keys).is_duplicated()
    several = (
        data.filter(again)
        .group_by(keys, maintain_order=True)
        .agg(polars.col(ROW).max(), *(polars.col(name).drop_nulls().n_unique() for name in values))
    )
    for name in values:
        wrong = several.filter(polars.col(name) > 1)
        if wrong.height:
            run, step, row = wrong.select(RUN, "step", ROW).row(0)
            raise ValueError(
                f"{place}, row {row}: run {run!r} has another {name} at step {step} already; "
                "say which columns name a run together: --run-column COLUMN --run-column COLUMN"
            )
    rest = [c for c in data.columns if c not in keys]
    return (
        data.group_by(keys, maintain_order=True)
        .agg(polars.col(name).drop_nulls().first() for name in rest)
        .select(data.columns)
    )


def _in_order(data: polars.DataFrame) -> bool:
    """Whether rows of a run stand together, in the order of their steps: most tables do, and need no copy."""
    import polars

    same = (polars.col(RUN) == polars.col(RUN).shift(1)).fill_null(False)
    back = same & (polars.col("step") < polars.col("step").shift(1))
    stretches, backwards = data.select(stretches=(~same).sum(), backwards=back.sum()).row(0)
    return bool(stretches == data[RUN].n_unique() and not backwards)


def _never_fall(data: polars.DataFrame, names: Sequence[str], place: SourcePath) -> None:
    import polars

    def before(name: str) -> polars.Expr:
        return polars.col(name).forward_fill().shift(1).over(RUN)

    fall = data.select((polars.col(name) < before(name)).any().alias(name) for name in names)
    for name in names:
        if not fall[name][0]:
            continue
        changes = data.select(RUN, ROW, "step", after=name, before=before(name))
        run, row, step, after, last = changes.filter(polars.col("after") < polars.col("before")).row(0)
        raise ValueError(
            f"{place}, row {row}: run {run!r} at step {step}: {describe_decrease(name, last, after)}; "
            f"if it is a state and no total, give --cost {name}:gauge"
        )


def _statics(data: polars.DataFrame, names: Sequence[str], place: SourcePath) -> dict[str, dict[str, float | None]]:
    import polars

    found: dict[str, dict[str, float | None]] = {}
    if not names:
        return found
    seen = data.group_by(RUN, maintain_order=True).agg(polars.col(name).drop_nulls().unique() for name in names)
    for row in seen.iter_rows(named=True):
        for name in names:
            if len(row[name]) > 1:
                low, high = min(row[name]), max(row[name])
                raise ValueError(
                    f"{place}: run {row[RUN]!r} has {name} from {format_number(low)} to {format_number(high)}, and "
                    "one number "
                    f"is expected; say --cost {name}:gauge or --cost {name}:counter"
                )
        found[row[RUN]] = {name: row[name][0] if len(row[name]) else None for name in names}
    return found
