"""A run folder priced again: header, journal and table, in an order that leaves no moment in which they contradict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lightning_costs.pricing.reprice import reprice
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.run_folder.files import HEADER, RunFolder
from lightning_costs.storage.run_folder.lock import LOCK, FolderLock, FolderLocked
from lightning_costs.storage.run_folder.reader import mark_killed, read_folder
from lightning_costs.storage.run_folder.writer import utc_now


class RepricedRun(NamedTuple):
    """A run before and after; equal if it was under that tariff already."""

    before: RunRecord
    after: RunRecord


def reprice_folder(path: str | Path, tariff: Tariff, *, force: bool = False) -> RepricedRun:
    """Price a run's folder under another tariff.

    The header is replaced first, atomically. From then on `load_run` returns the new prices: it computes them from
    physical totals if the header says that the run was repriced. The files of points are written next, for other
    readers. If that is interrupted, run the same command again.

    Args:
        path: The folder.
        tariff: The tariff; each attempt's device is looked up if it names a provider.
        force: Also if it is unknown whether the run still runs.

    Returns:
        The run before and after. Its earlier tariffs are in the header's `repriced`.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: For a run that is still running, or may be.
    """
    folder = Path(path)
    status = read_folder(folder).header.get("status")
    had_lock = (folder / LOCK).is_file()
    try:
        lock = FolderLock.acquire(folder)
    except FolderLocked:
        raise ValueError(f"{folder} is still being written: price it again when the run is over") from None
    try:
        if status == "running" and not force:
            raise ValueError(
                f"{folder} is recorded as running, by a process on another machine; if it has ended, give --force"
            )
        before = read_folder(folder)
        if status == "killed":  # while we hold the lock, its writer seems to live
            before = replace(before, header=mark_killed(dict(before.header)))
        return _reprice(folder, before, tariff)
    finally:
        if lock is not None:
            # The lock file of a killed run is the sign that it was killed.
            lock.abandon() if had_lock else lock.release()


def _reprice(folder: Path, before: RunRecord, tariff: Tariff) -> RepricedRun:
    # What the file says, not what a reader makes of it: a killed run's header says 'running'.
    header: dict[str, Any] = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    after = reprice(before, tariff)
    repriced = {name: after.header[name] for name in ("indicators", "tariff", "priced", "missing", "methods")}
    by_number = zip(header.get("attempts", ()), after.header.get("attempts", ()), strict=True)
    repriced["attempts"] = [{**was, **{k: now[k] for k in ("tariff", "lost") if k in now}} for was, now in by_number]
    changed = {name: value for name, value in repriced.items() if header.get(name) != value}
    if changed and _tariffs(header) != _tariffs(repriced):
        earlier = {"until": utc_now(), "tariff": header.get("tariff", {}), "attempts": _tariffs(header)[1:]}
        repriced["repriced"] = [*header.get("repriced", ()), earlier]
    elif "repriced" in header:
        repriced["repriced"] = header["repriced"]
    run_fields = {name: value for name, value in repriced.items() if name != "attempts"}
    after = replace(after, header={**after.header, **run_fields})
    written = RunFolder(folder)
    if changed:
        written.write_header({**header, **repriced})
    if "repriced" in repriced:
        written.rewrite(after.points, after.header)
    return RepricedRun(before, after)


def _tariffs(header: Mapping[str, Any]) -> list[Any]:
    return [header.get("tariff"), *(attempt.get("tariff") for attempt in header.get("attempts", ()))]
