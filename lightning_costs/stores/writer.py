"""Writes a run as it happens: the header whenever it changes, each point at once, and never an error to training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from lightning_costs.core.records import CurvePoint, RunRecord
from lightning_costs.stores.folder import RunFolder
from lightning_costs.stores.loader import load_run
from lightning_costs.stores.lock import FolderLock

_log = logging.getLogger("lightning_costs")


def utc() -> str:
    """Now, as ISO 8601 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@final
class RunWriter:
    """A run's folder, written by rank 0 alone. Where it cannot be written, that is said once.

    Args:
        path: The run's folder.
        writes: Whether this process is the one that writes.
        lock: The folder, held: while it is, a reader sees that its writer lives.
    """

    def __init__(self, path: Path, *, writes: bool, lock: FolderLock | None = None) -> None:
        self._folder = RunFolder(path)
        self._lock = lock
        self._writes = writes
        self._written: Mapping[str, Any] = {}

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._folder.path

    def open(self, header: Mapping[str, Any]) -> None:
        """Make the folder."""
        self._try(lambda: self._folder.open(header))
        self._written = dict(header)

    def header(self, header: Mapping[str, Any]) -> None:
        """Write the header if it says anything new; its values are replaced, never changed in place."""
        if header != self._written:
            self._try(lambda: self._folder.write_header(header))
            self._written = dict(header)

    def append(self, point: CurvePoint) -> None:
        """Add a point to the journal."""
        self._try(lambda: self._folder.append(point))

    def flush(self) -> None:
        """Write the points that wait."""
        self._try(self._folder.flush)

    def close(self, header: Mapping[str, Any]) -> RunRecord | None:
        """Write the end of the run and read it back; None where it could not be written."""
        self._try(lambda: self._folder.close(header))
        if self._lock is not None:
            # A run whose end is not on disk leaves the lock's file: a reader then says that it was killed.
            if self._writes:
                self._lock.release()
            else:
                self._lock.drop()
        if not self._writes:
            return None
        try:
            return load_run(self.path)
        except Exception as error:  # noqa: BLE001 - whatever a reader raises, the training has ended well
            _log.warning("the run at %s could not be read back: %s", self.path, error)
            return None

    def _try(self, write: Callable[[], None]) -> None:
        """Write, or stop writing: a full disk must not kill a training."""
        if not self._writes:
            return
        try:
            write()
        except Exception as error:  # noqa: BLE001 - polars has errors of its own for a disk that fails
            self._writes = False
            self._folder.let_go()
            _log.warning("costs are no longer written to %s: %s", self.path, error)
