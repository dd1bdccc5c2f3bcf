"""Runs back from run folders, in any of their states: finished, running, or killed in the middle of a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_costs.core.records import SCHEMA_VERSION, RunRecord
from lightning_costs.core.reprice import price_points
from lightning_costs.stores.folder import HEADER, JOURNAL, PARQUET
from lightning_costs.stores.journal import from_json, read_journal
from lightning_costs.stores.lock import writer_of
from lightning_costs.stores.table import OWN, quality_columns, read_parquet, to_frame

if TYPE_CHECKING:
    import polars


def read_folder(folder: Path) -> RunRecord:
    """A run from its folder.

    Args:
        folder: The one that holds `header.json`.

    Returns:
        The run; `source` says whether its points came from Parquet (finished) or from the journal. Its status is
        'killed' where the header says 'running' and its writer is gone; the file stays as it is.

    Raises:
        FileNotFoundError: Where there is no run.
        ValueError: For a header that is broken or from a newer version.
    """
    header = read_header(folder)
    journal, parquet = folder / JOURNAL, folder / PARQUET
    anew = "repriced" in header  # what the header says counts, though the files of points were not reached
    finished = parquet.is_file() and (not journal.is_file() or parquet.stat().st_mtime_ns >= journal.stat().st_mtime_ns)
    if finished and (frame := _parquet(parquet, header, else_from=journal)) is not None:
        metrics = [name for name in frame.columns if name not in OWN and name not in header["indicators"]]
        frame = price_points(frame, header) if anew else frame
        return RunRecord(header={**header, "quality": metrics}, points=frame, source=PARQUET)
    points = read_journal(journal)
    metrics = list(quality_columns(points, header["indicators"]).values())
    frame = to_frame(points, header)
    frame = price_points(frame, header) if anew else frame
    return RunRecord(header={**header, "quality": metrics}, points=frame, source=JOURNAL)


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a folder's run, with what its writer could not write any more: that it was killed.

    Raises:
        FileNotFoundError: Where there is no run.
        ValueError: For a header that is broken or from a newer version.
    """
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
    return _as_it_is(header, folder)


def _parquet(path: Path, header: Mapping[str, Any], *, else_from: Path) -> polars.DataFrame | None:
    """The points as a table; None where it cannot be read and there is a journal to read."""
    try:
        return read_parquet(path, header)
    except Exception as error:
        if else_from.is_file():
            return None
        raise ValueError(f"{path} cannot be read, and there is no {JOURNAL} beside it: {error}") from error


def _as_it_is(header: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The header with what its writer could not write any more: that it was killed."""
    gone = header.get("status") == "running" and writer_of(folder) == "gone"
    return killed(header) if gone else header


def killed(header: dict[str, Any]) -> dict[str, Any]:
    """The header of a run whose writer died."""
    attempts = [dict(attempt) for attempt in header.get("attempts", ())]
    if attempts and "status" not in attempts[-1]:
        attempts[-1]["status"] = "killed"
    return {**header, "status": "killed", "attempts": attempts}
