"""Runs back from run folders, in any of their states: finished, running, or killed in the middle of a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_costs.pricing.reprice import price_points, priced_amounts
from lightning_costs.records.printable import printable
from lightning_costs.records.samples import SCHEMA_VERSION, Amount, CurvePoint
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.limits import (
    MOST_HEADER_BYTES,
    MOST_POINTS_BYTES,
    check_size,
    check_table,
    check_values,
    read_at_most,
)
from lightning_costs.storage.run_folder.files import HEADER, JOURNAL, PARQUET, points_apart
from lightning_costs.storage.run_folder.frames import OWN, cost_columns, quality_columns, read_parquet, to_frame
from lightning_costs.storage.run_folder.header import header_of
from lightning_costs.storage.run_folder.journal import read_journal
from lightning_costs.storage.run_folder.lock import writer_status

if TYPE_CHECKING:
    import polars


def read_folder(folder: Path) -> RunRecord:
    """A run from its folder."""
    header = read_header(folder)
    try:
        return _with_points(header, folder)
    except (ValueError, OSError):
        raise
    except Exception as error:  # untrusted data: an error concerns this run alone
        raise ValueError(f"the points of {printable(str(folder))} cannot be read: {printable(repr(error))}") from error


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a folder's run, with what its writer could not write any more: that it was killed."""
    if not (folder / HEADER).is_file():
        raise FileNotFoundError(f"no run at {printable(str(folder))}: expected a folder that holds {HEADER}")
    try:
        header = header_of(read_at_most(folder / HEADER, MOST_HEADER_BYTES))
    except ValueError as error:
        raise ValueError(f"{printable(str(folder / HEADER))} is no header of a run: {error}") from error
    check_not_newer(header, printable(str(folder)))
    return _as_it_is(header, folder)


def check_not_newer(header: Mapping[str, Any], where: str) -> None:
    """Refuse a header that a later version of this package wrote."""
    if (version := header["schema_version"]) > SCHEMA_VERSION:
        raise ValueError(
            f"{where} was written with schema version {version}, this package reads up to {SCHEMA_VERSION}; "
            "install a newer lightning-costs"
        )


def _with_points(header: dict[str, Any], folder: Path) -> RunRecord:
    journal, parquet = folder / JOURNAL, folder / PARQUET
    was_repriced = "repriced" in header  # what the header says counts, though the files of points were not reached
    finished = parquet.is_file() and (not journal.is_file() or parquet.stat().st_mtime_ns >= journal.stat().st_mtime_ns)
    if finished and (frame := _parquet(parquet, header, else_from=journal)) is not None:
        metrics = [name for name in frame.columns if name not in OWN and name not in header["indicators"]]
        frame = price_points(frame, header) if was_repriced else frame
        return RunRecord(header={**header, "quality": metrics}, points=frame, source=PARQUET)
    points = _journal(journal)
    metrics = list(quality_columns(points, header["indicators"]).values())
    check_values(f"{printable(str(folder))}: {JOURNAL}", len(points), len(header["indicators"]) + len(metrics))
    frame = to_frame(points, header)
    frame = price_points(frame, header) if was_repriced else frame
    return RunRecord(header={**header, "quality": metrics}, points=frame, source=JOURNAL)


def _journal(path: Path) -> list[CurvePoint]:
    """The points of the journal; none if there is none."""
    if not path.is_file():
        return []
    check_size(printable(str(path)), path.stat().st_size, MOST_POINTS_BYTES)
    return read_journal(path)


def _parquet(path: Path, header: Mapping[str, Any], *, else_from: Path) -> polars.DataFrame | None:
    """The points as a table; None if it cannot be read and there is a journal to read."""
    import polars

    try:
        check_size(path.name, path.stat().st_size, MOST_POINTS_BYTES)
        check_table(path.name, path)
        return typed(read_parquet(path, header), header)
    except (Exception, polars.exceptions.PanicException) as error:
        if else_from.is_file():
            return None
        raise ValueError(
            f"{printable(str(path))} cannot be read, and there is no {JOURNAL} beside it: {printable(str(error))}"
        ) from error


def typed(frame: polars.DataFrame, header: Mapping[str, Any]) -> polars.DataFrame:
    """A table of points whose columns hold what they must; those that are no numbers, as no metric is, are left out."""
    import polars

    own = dict(zip(OWN, (polars.Int64, polars.Int64, polars.Float64, polars.String), strict=True))
    if lacking := [name for name in own if name not in frame.columns]:
        raise ValueError(f"it has no column {lacking[0]!r}")
    costs = cost_columns(header)
    right = {**dict.fromkeys(frame.columns, polars.Float64), **own}
    if dict(frame.schema) == right:
        return frame
    kept = [n for n, kind in frame.schema.items() if n in own or n in costs or kind.is_numeric()]
    # Of whole columns, as `polars.col` takes a metric that is called '*' or '^a.*$' for a pattern.
    return polars.DataFrame({name: frame[name].cast(own.get(name, polars.Float64)) for name in kept})


def _as_it_is(header: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The header with what its writer could not write any more: that it was killed."""
    killed = header.get("status") == "running" and writer_status(folder) == "gone"
    return mark_killed(header) if killed else header


def mark_killed(header: dict[str, Any]) -> dict[str, Any]:
    """The header of a run whose writer died."""
    attempts = [dict(attempt) for attempt in header.get("attempts", ())]
    if attempts and "status" not in attempts[-1]:
        attempts[-1]["status"] = "killed"
    statics: Mapping[str, Amount] = header.get("statics") or {}
    unread = {
        name: "read when a training has finished; this one was killed"
        for name, declared in header["indicators"].items()
        if declared["kind"] == "static" and statics.get(name) is None
    }
    missing = {**unread, **header.get("missing", {})}
    return {**header, "status": "killed", "attempts": attempts, "missing": missing}


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierAttempts:
    """The attempts of a run so far, for one that continues with it: read without loading polars."""

    header: Mapping[str, Any]
    points: Sequence[CurvePoint]

    @property
    def final(self) -> dict[str, Amount]:
        """Totals and last gauges, and statics, by column, as `RunRecord.final` has them."""
        costs: dict[str, Amount] = {}
        if self.points:
            costs = dict(self.points[-1].costs)
            if "repriced" in self.header:
                priced = priced_amounts([costs], self.header, first=len(self.points) - 1)
                costs |= {name: amount for name, (amount,) in priced.items()}
        costs |= self.header["statics"]
        return {name: costs.get(name) for name in self.header["indicators"]}


def read_earlier(folder: Path) -> EarlierAttempts:
    """The attempts that a folder holds."""
    header = read_header(folder)
    alone = not (folder / JOURNAL).is_file() and (folder / PARQUET).is_file()
    return EarlierAttempts(header=header, points=points_apart(folder) if alone else read_journal(folder / JOURNAL))
