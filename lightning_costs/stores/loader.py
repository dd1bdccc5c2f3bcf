"""Runs back from run folders, in any of their states: finished, running, or killed in the middle of a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_costs.core.records import SCHEMA_VERSION, CurvePoint, RunRecord
from lightning_costs.stores.folder import HEADER, JOURNAL, PARQUET, decode, from_json

if TYPE_CHECKING:
    import polars

_OWN = ("step", "epoch", "time", "trigger")


def read_journal(path: Path) -> list[CurvePoint]:
    """Points of a journal; a torn last line is left out, a torn line within it too (a killed attempt's last)."""
    points = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                points.append(decode(line))
            except ValueError:
                continue
    return points


def quality_columns(points: Sequence[CurvePoint], taken: Mapping[str, Any]) -> dict[str, str]:
    """Column name of every metric that the points hold: its own, unless a cost has that name already."""
    names = dict.fromkeys(name for point in points for name in point.quality)
    return {name: f"quality/{name}" if name in taken or name in _OWN else name for name in names}


def to_frame(points: Sequence[CurvePoint], header: Mapping[str, Any]) -> polars.DataFrame:
    """Points as a table: [points] rows; step, epoch, time, trigger, cost columns, metric columns."""
    import polars

    declared: Mapping[str, Any] = header["indicators"]
    costs = [name for name, declaration in declared.items() if declaration["kind"] != "static"]
    metrics = quality_columns(points, declared)
    columns: dict[str, polars.Series] = {
        "step": polars.Series("step", [p.step for p in points], polars.Int64),
        "epoch": polars.Series("epoch", [p.epoch for p in points], polars.Int64),
        "time": polars.Series("time", [p.time for p in points], polars.Float64),
        "trigger": polars.Series("trigger", [p.trigger for p in points], polars.String),
    }
    for name in costs:
        columns[name] = polars.Series(name, [p.costs.get(name) for p in points], polars.Float64)
    for metric, column in metrics.items():
        columns[column] = polars.Series(column, [p.quality.get(metric) for p in points], polars.Float64)
    return polars.DataFrame(columns)


def load_run(path: str | Path) -> RunRecord:
    """A run from its folder.

    Args:
        path: The folder that holds `header.json`.

    Returns:
        The run; `source` says whether its points came from Parquet (finished) or from the journal.

    Raises:
        FileNotFoundError: Where there is no run.
        ValueError: For a header that is broken or from a newer version.
    """
    import polars

    folder = Path(path)
    if not (folder / HEADER).is_file():
        raise FileNotFoundError(f"no run at {folder}: expected a folder that holds {HEADER}")
    try:
        header: dict[str, Any] = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        version = int(header["schema_version"])
        if version <= SCHEMA_VERSION and not all("kind" in declared for declared in header["indicators"].values()):
            raise KeyError("kind")
        header["statics"] = {name: from_json(amount) for name, amount in header.get("statics", {}).items()}
        if "targets" in header:
            header["targets"] = [from_json(target) for target in header["targets"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / HEADER} is no header of a run: {error!r}") from error
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{folder} was written with schema version {version}, this package reads up to {SCHEMA_VERSION}; "
            "install a newer lightning-costs"
        )
    journal, parquet = folder / JOURNAL, folder / PARQUET
    finished = parquet.is_file() and (not journal.is_file() or parquet.stat().st_mtime_ns >= journal.stat().st_mtime_ns)
    if finished:
        frame = polars.read_parquet(parquet)
        metrics = [name for name in frame.columns if name not in _OWN and name not in header["indicators"]]
        return RunRecord(header={**header, "quality": metrics}, points=frame, source=PARQUET)
    points = read_journal(journal)
    metrics = list(quality_columns(points, header["indicators"]).values())
    return RunRecord(header={**header, "quality": metrics}, points=to_frame(points, header), source=JOURNAL)


def load_runs(paths: str | Path | Sequence[str | Path]) -> list[RunRecord]:
    """Runs from folders of runs, or folders that hold them at any depth, oldest first.

    Raises:
        FileNotFoundError: Where a path holds no run at all.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found: dict[Path, RunRecord] = {}
    for path in map(Path, given):
        folders = [path] if (path / HEADER).is_file() else sorted(p.parent for p in path.rglob(HEADER))
        if not folders:
            raise FileNotFoundError(f"no run under {path}: expected folders that hold {HEADER}")
        for folder in folders:
            if folder.resolve() not in found:
                found[folder.resolve()] = load_run(folder)
    return sorted(found.values(), key=lambda run: str(run.header.get("created", "")))
