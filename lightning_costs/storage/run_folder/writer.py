"""The sink that writes a run's folder: the header whenever it changes, each point at once, and no error to training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.pricing.reprice import price_points
from lightning_costs.records.samples import CurvePoint
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.run_folder.files import JOURNAL, PARQUET, TRACE, RunFolder
from lightning_costs.storage.run_folder.frames import columns_of, read_parquet, to_frame
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
class RunFolderSink:
    """A run's folder: a sink (`lightning_costs.Sink`) of rank 0.

    If it cannot be written, that is logged once; points wait, and are written when it can be written again.
    """

    def __init__(
        self,
        path: Path,
        *,
        lock: FolderLock | Claim | None = None,
        metrics: Iterable[str] = (),
        rows: int = 0,
        warned: bool = False,
    ) -> None:
        self._folder = RunFolder(path)
        self._lock = lock
        self._metrics = dict.fromkeys(metrics)
        self._written: Mapping[str, Any] = {}
        self._failed_s: float | None = None
        self._warned = warned
        #: The header that is written next; its values are replaced, never changed in place.
        self.header: Mapping[str, Any] = {}
        #: Rows of the journal. Fewer than the points if some had to go while they waited.
        self.rows = rows
        #: The run as a reader of its folder has it, once it is closed; None if its end could not be written.
        self.run: RunRecord | None = None

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._folder.path

    def open(self, header: Mapping[str, Any]) -> None:
        """Make the folder."""
        self.header = header
        self._try(self._open)

    def _open(self) -> None:
        self._folder.open(self.header)
        self._written = dict(self.header)

    def point(self, point: CurvePoint, header: Mapping[str, Any]) -> None:
        """Write the header if it says anything new, and add the point to the journal."""
        self.header = header
        self._metrics |= dict.fromkeys(point.quality)
        is_new = point.trigger != "end" and header != self._written  # `close` writes the last, with how the run ended
        if is_new:
            self._try(self._write_header)
        self.rows += self._append(point)
        if is_new:
            self.flush()  # else the folder of a killed run has a header that is of points which it has not

    def _write_header(self) -> None:
        self._folder.write_header(self.header)
        self._written = dict(self.header)

    def _append(self, point: CurvePoint) -> int:
        """By how many rows the journal grows: less than one if earlier points had to go while they waited."""
        if self._failed_s is None:
            self._try(lambda: self._folder.append(point))
            return 1
        dropped = self._folder.keep(point)
        self.flush()
        return 1 - dropped

    def keep_trace(self, trace: bytes) -> None:
        """Put a trace beside the points, in place of the one before."""
        try:
            (self.path / TRACE).write_bytes(trace)
        except OSError as error:
            _log.info("a trace was not kept: %r", error)

    def flush(self) -> None:
        """Write the points that wait."""
        self._try(self._folder.flush)

    def abandon(self) -> None:
        """Release the folder as it is, as the death of the process would."""
        self._folder.abandon()
        if self._lock is not None:
            self._lock.abandon()

    def close(self, status: str) -> None:
        """Write `header`, which says how the run ended, and the points as Parquet; `run` has them then."""
        hurry = status != "finished"  # the user waits for an error
        table: list[bytes | None] = []
        self._try(lambda: table.append(self._folder.close(self.header, table=not hurry or self._short())), now=True)
        self._folder.abandon()
        if self._failed_s is not None:  # the lock's file stays: a reader then says that the run was killed
            self.abandon()
            return
        if self._lock is not None:
            self._lock.release()
        try:
            columns = columns_of(self._metrics, self.header["indicators"])
            header = {**read_header(self.path), "quality": list(columns.values())}
        except Exception as error:  # noqa: BLE001 - whatever a reader raises, the training has ended well
            reraise_from_signal(error)
            _log.warning("the run at %s could not be read back: %s", self.path, error)
            return
        if table and table[0] is not None:
            self.run = RunRecord.lazy(header=header, read=partial(_of_table, table[0], header), source=PARQUET)
            return
        journal = self.path / JOURNAL
        size = journal.stat().st_size if journal.is_file() else 0
        self.run = RunRecord.lazy(header=header, read=partial(_of_journal, journal, size, header), source=JOURNAL)

    def _short(self) -> bool:
        return (self.path / JOURNAL).stat().st_size <= SHORT_BYTES

    def _try(self, write: Callable[[], object], *, now: bool = False) -> None:
        """Write, or let it wait: a full disk must not kill a training."""
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
            reraise_from_signal(error)
            self._failed_s = time.monotonic()
            self._written = {}
            if not self._warned:
                self._warned = True
                written = "no longer" if self._folder.opened else "not"
                _log.warning(
                    "costs are %s written to %s: %s; they wait, and it is tried again", written, self.path, error
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
