"""Writes a run as it happens: the header whenever it changes, each point at once, and never an error to training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from lightning_costs.pricing.reprice import price_points
from lightning_costs.records.samples import CurvePoint
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.run_folder.files import JOURNAL, PARQUET, RunFolder
from lightning_costs.storage.run_folder.frames import read_parquet, to_frame
from lightning_costs.storage.run_folder.journal import read_journal
from lightning_costs.storage.run_folder.lock import Claim, FolderLock
from lightning_costs.storage.run_folder.reader import read_header

if TYPE_CHECKING:
    import polars

_log = logging.getLogger("lightning_costs")

#: After an error of the disk, what waits is tried again no sooner than after that many seconds.
RETRY_S = 1.0
#: A run that did not finish gets its table if its journal is no longer than this, which takes some milliseconds:
#: an error must not be delayed by a table.
SHORT_BYTES: Final = 1 << 18


def utc_now() -> str:
    """Now, as ISO 8601 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@final
class RunWriter:
    """A run's folder, written by rank 0 alone.

    If it cannot be written, one warning is logged; points wait and are written as soon as that is possible.

    Args:
        path: The run's folder.
        writes: Whether this process is the one that writes.
        lock: The folder, held: while it is, a reader sees that its writer lives.
    """

    def __init__(self, path: Path, *, writes: bool, lock: FolderLock | Claim | None = None) -> None:
        self._folder = RunFolder(path)
        self._lock = lock
        self._writes = writes
        self._header: Mapping[str, Any] = {}
        self._written: Mapping[str, Any] = {}
        self._failed_s: float | None = None
        self._said = False

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._folder.path

    def open(self, header: Mapping[str, Any]) -> None:
        """Make the folder."""
        self._header = header
        self._try(self._open)

    def _open(self) -> None:
        self._folder.open(self._header)
        self._written = dict(self._header)

    def header(self, header: Mapping[str, Any]) -> None:
        """Write the header if it says anything new; its values are replaced, never changed in place."""
        self._header = header
        if header != self._written:
            self._try(self._write_header)

    def _write_header(self) -> None:
        self._folder.write_header(self._header)
        self._written = dict(self._header)

    def append(self, point: CurvePoint) -> int:
        """Add a point to the journal.

        Returns:
            By how many rows the journal grows: less than one where earlier points had to go while they waited.
        """
        if not self._writes:
            return 1
        if self._failed_s is None:
            self._try(lambda: self._folder.append(point))
            return 1
        gone = self._folder.keep(point)
        self.flush()
        return 1 - gone

    def flush(self) -> None:
        """Write the points that wait."""
        self._try(self._folder.flush)

    def close(self, header: Mapping[str, Any], *, metrics: list[str], hurry: bool = False) -> RunRecord | None:
        """Write the end of the run.

        Args:
            header: The run's.
            metrics: Columns of its metrics.
            hurry: Whether an error is waiting to be raised.

        Returns:
            The run, as a reader of its folder has it; None if it could not be written, or not by this process.
        """
        self._header = header
        table: list[bytes | None] = []
        self._try(lambda: table.append(self._folder.close(header, table=not hurry or self._short())), now=True)
        self._folder.abandon()
        ended = self._writes and self._failed_s is None
        if self._lock is not None:
            # A run whose end is not on disk leaves the lock's file: a reader then says that it was killed.
            if ended:
                self._lock.release()
            else:
                self._lock.abandon()
        if not ended:
            return None
        try:
            header = {**read_header(self.path), "quality": metrics}
        except Exception as error:  # noqa: BLE001 - whatever a reader raises, the training has ended well
            _log.warning("the run at %s could not be read back: %s", self.path, error)
            return None
        if table and table[0] is not None:
            return RunRecord.lazy(header=header, read=partial(_of_table, table[0], header), source=PARQUET)
        journal = self.path / JOURNAL
        size = journal.stat().st_size if journal.is_file() else 0
        return RunRecord.lazy(header=header, read=partial(_of_journal, journal, size, header), source=JOURNAL)

    def _short(self) -> bool:
        return (self.path / JOURNAL).stat().st_size <= SHORT_BYTES

    def _try(self, write: Callable[[], object], *, now: bool = False) -> None:
        """Write, or let it wait: a full disk must not kill a training.

        Args:
            write: Writes.
            now: Whether it is the last time, so that nothing waits for another.
        """
        if not self._writes:
            return
        if self._failed_s is not None and not now and time.monotonic() - self._failed_s < RETRY_S:
            return
        try:
            if self._failed_s is not None:
                if self._folder.opened:
                    self._write_header()
                else:
                    self._open()
                self._folder.flush()
            write()
        except Exception as error:  # noqa: BLE001 - whatever a disk that fails makes a library raise
            self._failed_s = time.monotonic()
            self._written = {}
            if not self._said:
                self._said = True
                _log.warning(
                    "costs are no longer written to %s: %s; they wait, and it is tried again", self.path, error
                )
        else:
            if self._failed_s is not None:
                self._failed_s = None
                _log.info("costs are written to %s again", self.path)


def _of_table(table: bytes, header: Mapping[str, Any]) -> polars.DataFrame:
    return _priced(read_parquet(BytesIO(table), header), header)


def _of_journal(journal: Path, size: int, header: Mapping[str, Any]) -> polars.DataFrame:
    return _priced(to_frame(read_journal(journal, size), header), header)


def _priced(points: polars.DataFrame, header: Mapping[str, Any]) -> polars.DataFrame:
    return price_points(points, header) if "repriced" in header else points
