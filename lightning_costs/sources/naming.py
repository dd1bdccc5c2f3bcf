"""What a published table calls its runs and steps: columns that name them, and the folder of a file that holds one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_costs.sources.cells import filled, numbers
from lightning_costs.sources.columns import ReadOptions, not_there
from lightning_costs.sources.delimited import ROW
from lightning_costs.storage.paths import SourcePath

if TYPE_CHECKING:
    import polars

#: The run of a row, as the tables here call it.
RUN = "\0run"
#: What runs are called, the best first.
RUN_COLUMNS = ("run", "run_name", "model", "method", "name")
#: What tells runs apart in curves besides; then what runs of one method differ in.
_MORE = (
    *("algorithm", "algo", "optimizer", "architecture", "arch", "network", "submission", "config", "group"),
    *("workload", "task", "env", "benchmark", "study", "trial"),
)
SEEDS = ("run_id", "seed", "replicate", "repetition", "fold")
STEP_COLUMNS = ("step", "global_step", "trainer/global_step", "_step", "iteration", "iter", "epoch")
#: Asks for the file's folder in place of a column.
FOLDER = "folder"
#: Names of files that say nothing: the run is named after their folder.
_NO_NAMES = ("eval_measurements", "measurements", "metrics", "log", "logs", "history", "progress", "results", "result")


class Names(NamedTuple):
    """The columns that name runs together; none where the file does.

    Args:
        columns: The columns, the most telling first.
        seeds: Those of them that distinguish runs of one method.
        file: The path of the file or its folder, if that is part of the name: `shortened` makes names of several.
    """

    columns: tuple[str, ...]
    seeds: tuple[str, ...] = ()
    file: str = ""


def step_column(frame: polars.DataFrame, reading: ReadOptions, place: SourcePath) -> str | None:
    """The column of steps: the given one, otherwise one of the usual names in any case."""
    if reading.step_column is not None:
        if reading.step_column not in frame.columns:
            raise ValueError(f"{place} has no column {not_there(reading.step_column, _shown(frame))}")
        return reading.step_column
    taken = {reading.monitor, *reading.run_columns, *(cost.column for cost in reading.costs if cost.name != "steps")}
    return next((column for column in _of_names(frame, STEP_COLUMNS) if column not in taken), None)


def run_names(frame: polars.DataFrame, reading: ReadOptions, step: str | None, place: SourcePath) -> Names:
    """The columns that name runs: the given ones, otherwise those with the usual names.

    In curves they are as many as it takes: a model and its seed name a run together. In a table of results a row is a
    run, whatever else has its name.
    """
    if reading.run_columns:
        wanted = [c for c in reading.run_columns if c != FOLDER or c in frame.columns]
        for column in wanted:
            if column not in frame.columns:
                raise ValueError(f"{place} has no column {not_there(column, _shown(frame))}")
        asked = len(wanted) < len(reading.run_columns)
        return Names(columns=tuple(wanted), file=_path(place).rpartition("/")[0] if asked else "")
    taken = {step, reading.monitor, *(cost.column for cost in reading.costs)}
    usual = [c for c in _of_names(frame, RUN_COLUMNS) if c not in taken]
    texts = [c for c in _shown(frame) if c not in taken and _is_text(frame[c])]
    first = next((c for c in usual if c in texts), next(iter(usual), None))
    if step is None:
        first = first or next(iter(texts), None)
        if first is None:
            raise ValueError(
                f"{place} has no column that names its runs (such as {', '.join(RUN_COLUMNS[:3])}); name one, "
                f"or several together: run_column=, --run-column; '{FOLDER}' is the file's folder"
            )
        return Names(columns=(first,))
    usual += [c for c in _of_names(frame, (*_MORE, *SEEDS)) if c not in taken]
    first = next((c for c in usual if c in texts), first)
    first = first or next((c for c in texts if _may_be_names(frame[c])), None)
    columns = [] if first is None else [first]
    for column in usual:
        if column not in columns and _count(frame, [*columns, column]) > _count(frame, columns):
            columns.append(column)
    seeds = [c for c in columns[1:] if c.lower() in SEEDS or (c.lower() in RUN_COLUMNS and c not in texts)]
    if first is None:
        seeds = [c for c in columns if c.lower() in SEEDS]
    return Names(columns=tuple(columns), seeds=tuple(seeds), file=_path(place) if first is None else "")


def named(frame: polars.DataFrame, names: Names, columns: Sequence[str], place: SourcePath) -> polars.Series:
    """The name of each row's run by some of its columns; numbers stand behind what they are numbers of."""
    import polars

    cells = []
    for column in columns:
        texts = frame[column].cast(polars.String).str.strip_chars()
        empty = ~filled(texts) if column in names.seeds else texts.fill_null("").eq("")
        if empty.any():
            raise ValueError(f"{place}, row {frame[ROW].filter(empty)[0]}: no name in column {column!r}")
        labelled = column != names.columns[0] or bool(names.file)
        cells.append(f"{column} " + texts if labelled and not _is_text(frame[column]) else texts)
    if names.file:
        cells.insert(0, polars.Series([names.file] * frame.height, dtype=polars.String))
    joined = polars.DataFrame([cell.alias(str(at)) for at, cell in enumerate(cells)])
    return joined.select(polars.concat_str(polars.all(), separator=", ").alias(RUN))[RUN]


def check_one_run_each(
    frame: polars.DataFrame, run: polars.Series, names: Names, step: str, others: Iterable[str], reading: ReadOptions
) -> tuple[str, str] | None:
    """Why rows of one name may be several runs, and the column that tells them apart; None if none does.

    A text that is repeated within a run tells runs apart, as notes and times, which are new in each row, do not. So
    does a number that stays the same from one start of the steps to the next.
    """
    import polars

    looked = [column for column in others if column not in names.columns]
    metric = reading.monitor if reading.monitor in frame.columns else None
    rows = frame.with_columns(run).filter(filled(frame[metric])) if metric else frame.with_columns(run)
    steps = numbers(rows[step], reading.decimal).values.alias(step)
    for column in looked:
        text = _is_text(rows[column])
        if column == metric or (not text and rows[column].n_unique() * 2 > rows.height):
            continue
        held = rows.select(RUN, steps, polars.col(column).cast(polars.String).str.strip_chars().alias("v"))
        held = held.filter(filled(held["v"]))
        values = polars.col("v").unique(maintain_order=True)
        per_run = held.group_by(RUN, maintain_order=True).agg(values=values.len(), rows=polars.len(), of=values)
        several = per_run.filter(polars.col("values") > 1)
        if not several.height:
            continue
        if text:
            again = held.height >= 2 * held["v"].n_unique()
            several = several.filter((polars.col("rows") > polars.col("values")) | again)
        else:
            changes = (polars.col("v") != polars.col("v").shift(1)).sum()
            written = held.group_by(RUN).agg(written=changes)
            ordered = held.sort(step, maintain_order=True).group_by(RUN).agg(ordered=changes)
            blocks = several.join(written, on=RUN).join(ordered, on=RUN)
            several = blocks.filter(
                (polars.col("written") == polars.col("values") - 1)
                & (polars.col("ordered") > polars.col("written"))
                & (polars.col("rows") > polars.col("values"))
            )
        if several.height:
            name, differing = several.select(RUN, "of").row(0)
            some = ", ".join(repr(value[:40]) for value in differing[:3]) + (", ..." if len(differing) > 3 else "")
            return f"rows of run {name[:60]!r} differ in {column!r} ({some})", column
    return None


def _path(place: SourcePath) -> str:
    """A file's whole path without its endings."""
    path = place.path if place.remote else str(Path(place.path).resolve())
    folder, _, name = path.replace("\\", "/").rpartition("/")
    return f"{folder}/{stem(name)}"


def stem(name: str) -> str:
    """A file's name without the suffix of its format.

    Example:
        >>> stem("curves.v2.csv.gz"), stem("log.parquet")
        ('curves.v2', 'log')
    """
    return name.removesuffix(".gz").rpartition(".")[0] or name


def shortened(paths: Iterable[str]) -> dict[str, str]:
    """Names of files by their paths: what tells them apart, from the first folder that differs.

    Example:
        >>> shortened(["/logs/adam/trial_1/eval_measurements", "/logs/sgd/trial_1/eval_measurements"])
        {'/logs/adam/trial_1/eval_measurements': 'adam/trial_1', '/logs/sgd/trial_1/eval_measurements': 'sgd/trial_1'}
        >>> shortened(["/logs/adam/metrics"]), shortened(["/logs/adam"])
        ({'/logs/adam/metrics': 'adam'}, {'/logs/adam': 'adam'})
    """
    parts = {path: path.strip("/").split("/") for path in paths}
    if len({split[-1] for split in parts.values()}) == 1:
        parts = {
            path: split[:-1] if len(split) > 1 and split[-1].lower() in _NO_NAMES else split
            for path, split in parts.items()
        }
    if len(parts) == 1:
        return {path: split[-1] for path, split in parts.items()}
    shortest = min(map(len, parts.values()), default=1)
    common = 0
    while common < shortest - 1 and len({split[common] for split in parts.values()}) == 1:
        common += 1
    return {path: "/".join(split[common:]) for path, split in parts.items()}


def _of_names(frame: polars.DataFrame, usual: Sequence[str]) -> list[str]:
    """Columns of the usual names, in any case, the most usual first."""
    by_name = {column.lower(): column for column in reversed(frame.columns)}
    return [by_name[name] for name in usual if name in by_name]


def _is_text(column: polars.Series) -> bool:
    import polars

    return column.dtype in (polars.String, polars.Categorical, polars.Enum) and bool(numbers(column).wrong.any())


def _may_be_names(column: polars.Series) -> bool:
    """Whether a text column is filled and holds no times of day or dates."""
    held = column.filter(filled(column)).cast(str).str.strip_chars()
    times = held.str.contains(r"^\d{4}-\d\d-\d\d|^\d{1,2}:\d\d")
    return 2 * len(held) > len(column) and not times.all()


def _count(frame: polars.DataFrame, columns: Sequence[str]) -> int:
    return frame.select(columns).n_unique() if columns else 1


def _shown(frame: polars.DataFrame) -> list[str]:
    return [column for column in frame.columns if column != ROW]
