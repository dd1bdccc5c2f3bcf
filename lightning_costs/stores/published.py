"""Tables that people publish: one row per model, or curves with a row per run and step; CSV, TSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_costs.core.legible import legible
from lightning_costs.core.records import RunRecord
from lightning_costs.core.units import digits
from lightning_costs.stores.imported import PUBLISHED, fallen, imported
from lightning_costs.stores.limits import check_table
from lightning_costs.stores.places import Place
from lightning_costs.stores.reading import CostColumn, Reading, cost_columns
from lightning_costs.stores.table import OWN

if TYPE_CHECKING:
    import polars

RUN_COLUMNS = ("run", "run_name", "model", "method", "name")
STEP_COLUMNS = ("step", "global_step", "trainer/global_step")
#: What people write into a cell that holds nothing.
EMPTY = ("", "-", "–", "—", "na", "n/a", "null", "none", "missing")
#: Columns of our own beside those of the table, under names that no table has.
_RUN, _ROW, _AT = "\0run", "\0row", "\0at"
#: Facts of a run that its header has a place for.
_HEADER = ("group", "status")


def read_published(place: Place, reading: Reading) -> list[RunRecord]:
    """Runs of a table: one per row, or, where it has steps, one per name with a curve.

    Raises:
        ValueError: Names the row and column of what cannot be: no number, an infinite cost, a total that falls, two
            values for one step.
    """
    frame = _frame(place)
    run = _run_column(frame, reading, place)
    step = _step_column(frame, reading, place)
    names = _names(frame, run, place)
    curves = step is not None and names.n_unique() < frame.height
    costs = cost_columns(frame.columns, reading, kind="counter" if curves else "static")
    _all_found(frame, reading, costs, place)
    _no_name_of_ours(costs, reading.monitor, place)
    metrics = _metrics(frame, reading, costs, {run, step, *OWN, *_HEADER})
    data = _numbers(frame, costs, metrics, step, names, place)
    facts = [c for c in frame.columns if c not in {run, step, *metrics, *(cost.column for cost in costs)}]
    if not curves:
        return _rows(frame, data, costs, metrics, facts, reading, place)
    return _curves(frame, data, costs, metrics, facts, reading, place)


def _kept_and_fixed(costs: Sequence[CostColumn]) -> tuple[list[str], list[str]]:
    """Names of the costs that a run's points hold, and of those that a run has one of."""
    names = [(cost.declared.name, cost.declared.kind == "static") for cost in costs]
    return [name for name, static in names if not static], [name for name, static in names if static]


def _rows(
    frame: polars.DataFrame,
    data: polars.DataFrame,
    costs: Sequence[CostColumn],
    metrics: Sequence[str],
    facts: Sequence[str],
    reading: Reading,
    place: Place,
) -> list[RunRecord]:
    """A run per row."""
    kept, fixed = _kept_and_fixed(costs)
    points = data.select("step", "epoch", "time", "trigger", *kept, *metrics)
    records = []
    told_by_row = frame.select(facts).to_dicts() if facts else [{}] * data.height
    for at, (amounts, told) in enumerate(zip(data.to_dicts(), told_by_row, strict=True)):
        records.append(
            imported(
                points[at],
                costs,
                reading,
                run_id=f"{place.name} row {at + 1}",
                name=amounts[_RUN],
                source=place.name,
                statics={name: amounts[name] for name in fixed},
                methods={c.declared.name: f"as published in {place.name}" for c in costs},
                **_about(told),
            )
        )
    return records


def _curves(
    frame: polars.DataFrame,
    data: polars.DataFrame,
    costs: Sequence[CostColumn],
    metrics: Sequence[str],
    facts: Sequence[str],
    reading: Reading,
    place: Place,
) -> list[RunRecord]:
    """A run per name."""
    names = data[_RUN]
    data = _one_per_step(data, [c.declared.name for c in costs] + list(metrics), place)
    _never_fall(data, [c.declared.name for c in costs if c.declared.kind == "counter"], place)
    kept, fixed = _kept_and_fixed(costs)
    facts_of = _constant(frame.select(facts), names)
    statics = _statics(data, fixed, place)
    methods = {c.declared.name: f"as published in {place.name}" for c in costs}
    columns = data.select(_RUN, "step", "epoch", "time", "trigger", *kept, *metrics)
    records = []
    for (name,), points in columns.partition_by(_RUN, as_dict=True, include_key=False, maintain_order=True).items():
        records.append(
            imported(
                points,
                costs,
                reading,
                run_id=place.name,
                name=str(name),
                source=place.name,
                statics=statics.get(str(name), {}),
                methods=methods,
                **_about(facts_of.get(str(name), {})),
            )
        )
    return records


def _constant(facts: polars.DataFrame, names: polars.Series) -> dict[str, dict[str, Any]]:
    """By run, the facts that are the same in all of its rows: others are no facts of a run."""
    import polars

    if not facts.width:
        return {}
    named = facts.with_columns(names)
    counted = named.group_by(_RUN).agg(polars.all().n_unique())
    kept = [name for name in facts.columns if counted[name].max() == 1]
    firsts = named.group_by(_RUN, maintain_order=True).first().select(_RUN, *kept)
    return {row.pop(_RUN): row for row in firsts.to_dicts()}


def _about(told: dict[str, Any]) -> dict[str, Any]:
    """Group, status and setup of a run from the columns that are neither costs nor metrics."""
    said = {key: value for key, value in told.items() if value is not None and str(value).strip().lower() not in EMPTY}
    header = {key: str(said[key]) for key in _HEADER if key in said}
    return {"setup": {"origin": PUBLISHED, **{k: v for k, v in said.items() if k not in _HEADER}}, **header}


def _frame(place: Place) -> polars.DataFrame:
    """The table as it is: of CSV texts, of Parquet typed columns."""
    import polars

    if place.suffix == ".parquet":
        try:
            file = io.BytesIO(place.read()) if place.remote else Path(place.path)
            check_table(place.name, file)
            return polars.read_parquet(file)
        except (polars.exceptions.PolarsError, polars.exceptions.PanicException) as error:
            raise ValueError(f"{place} is no table: {legible(str(error))}".splitlines()[0]) from error
    text = place.read().decode("utf-8-sig", "replace")
    separator = "\t" if place.suffix == ".tsv" else ","
    head = next(csv.reader(io.StringIO(text), delimiter=separator), [])
    if len(head) == 1 and head[0].count(";") > 1:
        separator = ";"
        head = head[0].split(";")
    if twice := sorted({name for name in head if head.count(name) > 1}):
        raise ValueError(f"{place}: two columns are named {twice[0]!r}; rename one")
    try:
        return polars.read_csv(io.StringIO(text), separator=separator, infer_schema=False)
    except polars.exceptions.PolarsError as error:
        raise ValueError(f"{place} is no table: {error}".splitlines()[0]) from error


def _run_column(frame: polars.DataFrame, reading: Reading, place: Place) -> str:
    import polars

    if reading.run_column is not None:
        if reading.run_column not in frame.columns:
            raise ValueError(f"{place} has no column {reading.run_column!r}; it has {_listed(frame.columns)}")
        return reading.run_column
    by_name = {column.lower(): column for column in reversed(frame.columns)}
    for name in RUN_COLUMNS:
        if name in by_name:
            return by_name[name]
    texts = [c for c in frame.columns if frame[c].dtype == polars.String and _numeric(frame[c]).null_count()]
    if not texts:
        raise ValueError(
            f"{place} has no column that names its runs (such as {', '.join(RUN_COLUMNS[:3])}); "
            "say which it is: run_column=, --run-column"
        )
    return texts[0]


def _step_column(frame: polars.DataFrame, reading: Reading, place: Place) -> str | None:
    if reading.step_column is not None:
        if reading.step_column not in frame.columns:
            raise ValueError(f"{place} has no column {reading.step_column!r}; it has {_listed(frame.columns)}")
        return reading.step_column
    return next((name for name in STEP_COLUMNS if name in frame.columns), None)


def _names(frame: polars.DataFrame, run: str, place: Place) -> polars.Series:
    import polars

    names = frame[run].cast(polars.String)
    empty = names.fill_null("").str.strip_chars().eq("")
    if empty.any():
        raise ValueError(f"{place}, row {_first(empty)}: no name in column {run!r}")
    return names.rename(_RUN)


def _all_found(frame: polars.DataFrame, reading: Reading, costs: Sequence[CostColumn], place: Place) -> None:
    if not costs:
        wanted = ", ".join(repr(cost.column) for cost in reading.costs) or "any name of a cost of ours"
        raise ValueError(
            f"{place} has no cost: looked for {wanted} among its columns {_listed(frame.columns)}; "
            "name them: costs=['params', 'images_per_s:max'], --cost params --cost images_per_s:max"
        )


def _no_name_of_ours(costs: Sequence[CostColumn], monitor: str | None, place: Place) -> None:
    names = [cost.declared.name for cost in costs]
    for name in names:
        if name in OWN:
            raise ValueError(f"{place}: a cost cannot be named {name!r}; give it another name: --cost {name}_s={name}")
    if monitor in (*OWN, *names):
        what = "a cost" if monitor in names else "what every point has"
        raise ValueError(f"{place}: {monitor!r} cannot be the quality metric: it is {what}")


def _metrics(
    frame: polars.DataFrame, reading: Reading, costs: Sequence[CostColumn], other: set[str | None]
) -> list[str]:
    """Quality metrics: the monitor where it was named, else every column of numbers that is no cost."""
    taken = {cost.column for cost in costs} | {cost.declared.name for cost in costs} | other
    if reading.monitor in frame.columns:
        return [str(reading.monitor)]
    return [c for c in frame.columns if c not in taken and not _is_text(frame[c])]


def _is_text(column: polars.Series) -> bool:
    numbers = _numeric(column)
    return bool(numbers.null_count() == len(column) or (_filled(column) & numbers.is_null()).any())


def _numbers(
    frame: polars.DataFrame,
    costs: Sequence[CostColumn],
    metrics: Sequence[str],
    step: str | None,
    names: polars.Series,
    place: Place,
) -> polars.DataFrame:
    """The table in numbers: run, row (from 1), step, epoch, costs in our units, metrics."""
    import polars

    def column(name: str) -> polars.Series:
        numbers = _numeric(frame[name])
        wrong = _filled(frame[name]) & numbers.is_null()
        if wrong.any():
            raise ValueError(
                f"{place}, row {_first(wrong)} ({_called(names, wrong)}): {name} is "
                f"{str(frame[name].filter(wrong)[0])[:40]!r}, expected a number, or nothing where it is unknown"
            )
        return numbers

    columns = [names, polars.int_range(1, frame.height + 1, eager=True).alias(_ROW)]
    steps = polars.Series("step", [None] * frame.height, polars.Float64) if step is None else column(step)
    if step is not None:
        lost = steps.is_null() | steps.is_nan() | (steps != steps.round())
        if lost.any():
            raise ValueError(f"{place}, row {_first(lost)} ({_called(names, lost)}): {step} must be a whole number")
    columns.append(steps.cast(polars.Int64).rename("step"))
    epochs = _numeric(frame["epoch"]) if "epoch" in frame.columns else None
    whole = epochs is not None and not _is_text(frame["epoch"]) and "epoch" not in metrics
    columns.append(
        epochs.cast(polars.Int64, strict=False).rename("epoch")
        if epochs is not None and whole
        else polars.Series("epoch", [None] * frame.height, polars.Int64)
    )
    columns.append(polars.Series("time", [None] * frame.height, polars.Float64))
    columns.append(polars.Series("trigger", ["evaluate"] * frame.height, polars.String))
    for cost in costs:
        amounts = column(cost.column).fill_nan(None) * cost.factor
        endless = amounts.is_infinite().fill_null(False)
        if endless.any():
            raise ValueError(
                f"{place}, row {_first(endless)} ({_called(names, endless)}): {cost.column} is infinite; what a run "
                "spent is finite, and what is unknown is left empty"
            )
        columns.append(amounts.rename(cost.declared.name))
    return polars.DataFrame(columns + [column(name) for name in metrics])


def _one_per_step(data: polars.DataFrame, values: Sequence[str], place: Place) -> polars.DataFrame:
    """Rows in the order of steps; those of one run and step are one, where they do not contradict each other."""
    import polars

    keys = [_RUN, "step"]
    if not _in_order(data):
        order = data.group_by(_RUN, maintain_order=True).agg(polars.len()).with_row_index(_AT).drop("len")
        data = data.join(order, on=_RUN, how="left", maintain_order="left").sort(_AT, "step", _ROW).drop(_AT)
    beside = (polars.col(_RUN) == polars.col(_RUN).shift(1)) & (polars.col("step") == polars.col("step").shift(1))
    if not data.select(beside.any()).item():
        return data
    again = data.select(keys).is_duplicated()
    several = (
        data.filter(again)
        .group_by(keys, maintain_order=True)
        .agg(polars.col(_ROW).max(), *(polars.col(name).drop_nulls().n_unique() for name in values))
    )
    for name in values:
        wrong = several.filter(polars.col(name) > 1)
        if wrong.height:
            run, step, row = wrong.select(_RUN, "step", _ROW).row(0)
            raise ValueError(
                f"{place}, row {row}: run {run!r} has another {name} at step {step} already; "
                "give runs of one name names of their own"
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

    same = (polars.col(_RUN) == polars.col(_RUN).shift(1)).fill_null(False)
    back = same & (polars.col("step") < polars.col("step").shift(1))
    stretches, backwards = data.select(stretches=(~same).sum(), backwards=back.sum()).row(0)
    return bool(stretches == data[_RUN].n_unique() and not backwards)


def _never_fall(data: polars.DataFrame, names: Sequence[str], place: Place) -> None:
    import polars

    def before(name: str) -> polars.Expr:
        return polars.col(name).forward_fill().shift(1).over(_RUN)

    fall = data.select((polars.col(name) < before(name)).any().alias(name) for name in names)
    for name in names:
        if not fall[name][0]:
            continue
        told = data.select(_RUN, _ROW, "step", after=name, before=before(name))
        run, row, step, after, last = told.filter(polars.col("after") < polars.col("before")).row(0)
        raise ValueError(
            f"{place}, row {row}: run {run!r} at step {step}: {fallen(name, last, after)}; "
            f"where it is a state and no total, say --cost {name}:gauge"
        )


def _statics(data: polars.DataFrame, names: Sequence[str], place: Place) -> dict[str, dict[str, float | None]]:
    import polars

    found: dict[str, dict[str, float | None]] = {}
    if not names:
        return found
    seen = data.group_by(_RUN, maintain_order=True).agg(polars.col(name).drop_nulls().unique() for name in names)
    for row in seen.iter_rows(named=True):
        for name in names:
            if len(row[name]) > 1:
                low, high = min(row[name]), max(row[name])
                raise ValueError(
                    f"{place}: run {row[_RUN]!r} has {name} from {digits(low)} to {digits(high)}, and one number "
                    f"is expected; say --cost {name}:gauge or --cost {name}:counter"
                )
        found[row[_RUN]] = {name: row[name][0] if len(row[name]) else None for name in names}
    return found


def _numeric(column: polars.Series) -> polars.Series:
    import polars

    if column.dtype == polars.String:
        column = column.str.strip_chars()
    return column.cast(polars.Float64, strict=False)


def _filled(column: polars.Series) -> polars.Series:
    """Which cells hold something."""
    import polars

    if column.dtype != polars.String:
        return column.is_not_null()
    return column.is_not_null() & ~column.fill_null("").str.strip_chars().str.to_lowercase().is_in(EMPTY)


def _first(rows: polars.Series) -> int:
    return int(rows.arg_true()[0]) + 1


def _called(names: polars.Series, rows: polars.Series) -> str:
    return f"run {str(names.filter(rows)[0])[:60]!r}"


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
