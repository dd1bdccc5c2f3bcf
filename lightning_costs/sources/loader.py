"""Runs from wherever they are: run folders, tables, curves, loggers' folders, W&B, MLPerf logs; here or by URL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from lightning_costs.records.printable import printable
from lightning_costs.run.record import RunRecord
from lightning_costs.sources.columns import ReadOptions, check_declared, parsed_costs, scales_differ
from lightning_costs.sources.csv_logger import METRICS, read_csv_logger
from lightning_costs.sources.mlflow import META, MLFLOW, is_run, read_mlflow, read_mlflow_folder
from lightning_costs.sources.mlperf import TOKEN, is_mlperf, read_mlperf
from lightning_costs.sources.naming import FOLDER, shortened
from lightning_costs.sources.results_table import read_results_table
from lightning_costs.sources.tensorboard import EVENTS, read_tensorboard
from lightning_costs.sources.trackio import TRACKIO, read_trackio
from lightning_costs.sources.trainer_state import STATE, latest_states, read_trainer_state
from lightning_costs.sources.wandb import (
    ONLINE,
    TRANSACTIONS,
    OfflineAttempt,
    joined_attempts,
    read_attempt,
    read_online,
    run_of_attempts,
)
from lightning_costs.storage.paths import SourcePath
from lightning_costs.storage.run_folder.files import HEADER, JOURNAL, PARQUET
from lightning_costs.storage.run_folder.reader import read_folder
from lightning_costs.storage.saved_runs import HEADERS, SavedRun, read_saved, saved_at

_log = logging.getLogger("lightning_costs")

_Read = Callable[[SourcePath, ReadOptions], RunRecord | OfflineAttempt]
#: The identity of a run, so that it is read once, and the function that reads it.
_Entry = tuple[object, Callable[[], RunRecord | OfflineAttempt]]
TABLES = (".csv", ".tsv", ".parquet")
#: Trackers whose runs have names of their own, by what stands before these.
_TRACKERS = {ONLINE: read_online, MLFLOW: read_mlflow, TRACKIO: read_trackio}
LOGS = (".log", ".txt", ".out")
#: A run's evaluations, as AlgoPerf writes them into a folder per run.
ALGOPERF = "eval_measurements.csv"


def load_run(path: str | Path) -> RunRecord:
    """Load a run from its folder, or the single run that `save_runs` wrote.

    Args:
        path: The folder that holds `header.json`, the JSON of a saved run, or a URL of either.

    Returns:
        The run. `source` is the file of its points: Parquet (finished) or the journal. Its status is 'killed' if the
        header says 'running' but its writer has ended; the file is not changed.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: For a header that is broken or from a newer version, or for several saved runs.
    """
    place = SourcePath.of(path)
    if (saved := saved_at(place)) is not None:
        runs = read_saved(saved, _key(saved))
        if len(runs) != 1:
            raise ValueError(f"{place} holds {len(runs)} runs, and one was expected; load_runs reads them all")
        return runs[0][1]()
    with place.as_folder() as folder:
        if not (folder / HEADER).is_file():
            raise FileNotFoundError(f"no run at {printable(str(path))}: expected a folder that holds {HEADER}")
        return read_folder(folder)


def load_runs(
    paths: str | Path | Sequence[str | Path],
    *,
    monitor: str | None = None,
    mode: Literal["max", "min"] | None = None,
    costs: Sequence[str] = (),
    units: Mapping[str, str] | None = None,
    run_column: str | Sequence[str] | None = None,
    step_column: str | None = None,
    decimal: Literal[".", ","] | None = None,
) -> list[RunRecord]:
    """Load runs from any mixture of sources. Runs with a start time come first, oldest first.

    A path is a run folder; the JSON of runs that `save_runs` wrote; a table (CSV, TSV, Parquet: a row per model, or
    curves with a row per run and step); a folder of Lightning's CSVLogger; an offline run of W&B; a log of MLPerf; a
    folder that holds such things at any depth; a URL of any of these that fsspec reads; or
    `wandb:entity/project[/run]`, `mlflow:experiment[/run]` or `trackio:project[/run]`. TensorBoard's event files and a
    Hugging Face Trainer's `trainer_state.json` are found in folders, too. A folder with run folders or saved runs is
    read for them alone, because loggers' folders beside them hold the same runs. Tables within folders are not read. A
    saved run or a W&B run whose run folder is given too is loaded once, from its folder.

    An unreadable run is left out with a warning that gives the reason, as long as there are others.

    Args:
        paths: One or several.
        monitor: The quality metric's column in tables, and the metric that runs without one of their own are for.
        mode: Which direction of it is better.
        costs: Costs of other sources than run folders: `NAME[=COLUMN][:min|max][:counter|gauge|static]`. By default
            columns of a table that are named as the package's columns, and `cost/<name>` of logs.
        units: Cost or column to the unit that it is written in, such as {'flops': 'GMAC'}.
        run_column: Column of tables that names runs, or several that name them together, 'folder' for the file's
            folder; by default `run`, `model` or the like, with `seed` or the like in curves.
        step_column: Column of tables that steps are in, which makes them curves; by default `step` or the like.
        decimal: The decimal mark of tables, for those that group thousands by the other one or write a comma; by
            default a dot.

    Raises:
        FileNotFoundError: If a path holds no run at all.
        ValueError: For what cannot be read as runs; it names the row. For a run only if no other is there. For a
            cost or unit that fits nothing.
    """
    found = find_runs(
        paths,
        monitor=monitor,
        mode=mode,
        costs=costs,
        units=units,
        run_column=run_column,
        step_column=step_column,
        decimal=decimal,
    )
    for note in (*found.left_out, *found.notes):
        _log.warning("%s", note)
    return found.runs


class Found(NamedTuple):
    """Runs, those that had to be left out, each in words that say why, and what must be known of how all were read."""

    runs: list[RunRecord]
    left_out: list[str]
    notes: list[str]


def find_runs(
    paths: str | Path | Sequence[str | Path],
    *,
    monitor: str | None = None,
    mode: Literal["max", "min"] | None = None,
    costs: Sequence[str] = (),
    units: Mapping[str, str] | None = None,
    run_column: str | Sequence[str] | None = None,
    step_column: str | None = None,
    decimal: Literal[".", ","] | None = None,
) -> Found:
    """As `load_runs`, with the runs that were left out, for callers that report them elsewhere than in the log."""
    reading = ReadOptions(
        monitor=monitor,
        mode=mode,
        costs=parsed_costs(costs),
        units=units,
        run_columns=() if run_column is None else (run_column,) if isinstance(run_column, str) else tuple(run_column),
        step_column=step_column,
        decimal=decimal,
    )
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found: dict[object, RunRecord] = {}
    broken: dict[object, Exception] = {}
    attempts: dict[object, OfflineAttempt] = {}
    for path in given:
        for key, read in _at(path, reading):
            if key in found or key in broken or key in attempts:
                continue
            try:
                one = read()
            except (ValueError, OSError) as error:
                broken[key] = error
                continue
            if isinstance(one, OfflineAttempt):
                attempts[key] = one
            else:
                found[key] = one
    for several in joined_attempts(list(attempts.values())):
        key = ("W&B", tuple(attempt.folder for attempt in several), len(found))
        try:
            found[key] = run_of_attempts(several, reading)
        except (ValueError, OSError) as error:
            broken[key] = error
    if broken and not found:
        first, *others = broken.values()
        if not others:
            raise first
        raise ValueError(f"{first} (as {len(others)} more of these runs cannot be read)") from first
    saved = {run.id for key, run in found.items() if isinstance(key, SavedRun)}
    folders = [run for key, run in found.items() if run.source in (PARQUET, JOURNAL) and not isinstance(key, SavedRun)]
    twice = saved | {run.id for run in folders}
    begun = {(run.id, run.header.get("created")) for run in folders}
    runs = [
        run
        for key, run in found.items()
        if run.header.get("recorded_as") not in twice
        and not (isinstance(key, SavedRun) and (run.id, run.header.get("created")) in begun)
    ]
    left_out = [printable(f"left out: {error}") for error in broken.values()]
    check_declared(reading, runs, left_out)
    return Found(
        sorted(_named(runs), key=lambda run: (not run.header.get("created"), str(run.header.get("created", "")))),
        left_out,
        [printable(note) for note in (*reading.seen.notes, *scales_differ(reading, runs))],
    )


def _named(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Rename runs that are named after their file, by the parts of the paths that differ."""
    names = shortened(dict.fromkeys(run.header["file"] for run in runs if "file" in run.header))

    def renamed(run: RunRecord) -> RunRecord:
        header = dict(run.header)
        path = header.pop("file")
        changes = {key: str(header[key]).replace(path, names[path], 1) for key in ("name", "group") if header.get(key)}
        return RunRecord(header=header | changes, points=run.points, source=run.source)

    return [renamed(run) if "file" in run.header else run for run in runs]


def _at(path: str | Path, reading: ReadOptions) -> list[_Entry]:
    """The runs at one path: the identity of each, and the function that reads it."""
    for prefix, read in _TRACKERS.items():
        if str(path).startswith(prefix):
            return [((prefix, run.id), partial(_itself, run)) for run in read(str(path), reading)]
    place = SourcePath.of(path)
    if not place.exists():
        raise FileNotFoundError(f"no run under {printable(str(path))}: there is no such file or folder")
    if place.is_file() and (saved := saved_at(place)) is not None:
        return [*read_saved(saved, _key(saved))]
    if place.is_file() and place.name != HEADER:
        return [((_key(place), at), partial(_itself, run)) for at, run in enumerate(_of_file(place, reading))]
    found = [_entry(place.parent, _recorded, reading)] if place.is_file() else _under(place, reading)
    if not found:
        raise FileNotFoundError(
            f"no run under {printable(str(path))}: expected folders that hold {HEADER}, a JSON of saved runs, a "
            f"logger's {METRICS}, TensorBoard's event files, a {STATE}, an offline run of W&B, or a file that is a "
            f"table ({', '.join(TABLES)}) or an MLPerf log"
        )
    return found


def _entry(place: SourcePath, read: _Read, reading: ReadOptions) -> _Entry:
    return _key(place), partial(read, place, reading)


def _itself(run: RunRecord) -> RunRecord:
    return run


def is_table(place: SourcePath) -> bool:
    """Whether a file's name is that of a table, gzipped or not."""
    return place.name.lower().removesuffix(".gz").endswith(TABLES)


def _of_file(place: SourcePath, reading: ReadOptions) -> list[RunRecord]:
    if is_table(place):
        return read_results_table(place, reading)
    if is_mlperf(place):
        return [read_mlperf(place, reading)]
    if place.name == STATE:
        return [read_trainer_state(place, reading)]
    if EVENTS in place.name:
        return [read_tensorboard(place.parent, reading)]
    raise ValueError(
        f"{place} is no source of runs: expected a table ({', '.join(TABLES)}, .csv.gz), a log with {TOKEN} "
        "lines, the .json of saved runs, or a folder"
    )


def _under(place: SourcePath, reading: ReadOptions) -> list[_Entry]:
    """Runs in a folder, at any depth: run folders and saved runs alone if there are any."""
    files = place.walk()
    folders = {file.parent.path: file.parent for file in files if file.name == HEADER}
    ours = [_entry(folder, _recorded, reading) for _, folder in sorted(folders.items())]
    for file in files:
        if file.suffix == HEADERS and saved_at(file) is not None:
            ours += read_saved(file, _key(file))
    if ours:
        return ours
    found: list[tuple[SourcePath, _Read]] = []
    for file in files:
        if file.name == METRICS:
            found.append((file.parent, read_csv_logger))
        elif file.suffix == TRANSACTIONS and not file.remote:
            found.append((file.parent, _attempt))
        elif file.name == ALGOPERF:
            found.append((file, _alone))
        elif file.suffix in LOGS and is_mlperf(file):
            found.append((file, read_mlperf))
        elif file.name == META and is_run(file):
            found.append((file.parent, read_mlflow_folder))
    return [_entry(at, read, reading) for at, read in [*found, *_trackers(files, {at.path for at, _ in found})]]


def _trackers(files: Sequence[SourcePath], taken: set[str]) -> list[tuple[SourcePath, _Read]]:
    """Runs of TensorBoard and of a Trainer's state, except those that another source records in more detail."""
    events = {file.parent.path: file.parent for file in files if EVENTS in file.name and not file.remote}
    found: list[tuple[SourcePath, _Read]] = [(at, read_tensorboard) for at in events.values() if at.path not in taken]
    for training, state in latest_states(file for file in files if file.name == STATE).items():
        if not any(Path(at).is_relative_to(training) for at in events):  # the Trainer's own, with costs in them
            found.append((state, read_trainer_state))
    return found


def _alone(place: SourcePath, reading: ReadOptions) -> RunRecord:
    """The run of a table that holds one."""
    (run,) = read_results_table(place, replace(reading, run_columns=(FOLDER,)))
    return run


def _attempt(place: SourcePath, _: ReadOptions) -> OfflineAttempt:
    return read_attempt(place)


def _recorded(place: SourcePath, _: ReadOptions) -> RunRecord:
    return load_run(place.url)


def _key(place: SourcePath) -> object:
    """What is the same for one thing by several paths."""
    return place.path if place.remote else Path(place.path).resolve()
