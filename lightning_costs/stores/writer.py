"""Writes a run as it happens: the header whenever it changes, each point at once, and never an error to training."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from lightning_costs.core.records import CurvePoint, RunRecord
from lightning_costs.stores.folder import RunFolder
from lightning_costs.stores.loader import load_run

_log = logging.getLogger("lightning_costs")


#: Variables that give a run its identity, the first that is set: it outlives a preemption.
_IDENTITIES = ("LIGHTNING_COSTS_RUN_ID", "WANDB_RUN_ID", "SLURM_JOB_ID")


def utc() -> str:
    """Now, as ISO 8601 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def new_id(name: str | None, save_dir: Path) -> str:
    """An identity that no folder has: from the environment, else from name, time and chance."""
    wanted = next(filter(None, map(os.environ.get, _IDENTITIES)), None)
    if not wanted:
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name or "run").strip("-.")[:60] or "run"
        wanted = f"{slug}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    wanted = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip(".")[:100] or "run"
    free, n = wanted, 1
    while _taken(save_dir / free):
        n += 1
        free = f"{wanted}-{n}"
    return free


def _taken(path: Path) -> bool:
    """Whether there is such a folder; where nobody may look, writing will say so."""
    try:
        return path.exists()
    except OSError:
        return False


@final
class RunWriter:
    """A run's folder, written by rank 0 alone. Where it cannot be written, that is said once.

    Args:
        path: The run's folder.
        writes: Whether this process is the one that writes.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        self._folder = RunFolder(path)
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
        if not self._writes:
            return None
        try:
            return load_run(self.path)
        except (OSError, ValueError) as error:
            _log.warning("the run at %s could not be read back: %s", self.path, error)
            return None

    def _try(self, write: Callable[[], None]) -> None:
        """Write, or stop writing: a full disk must not kill a training."""
        if not self._writes:
            return
        try:
            write()
        except OSError as error:
            self._writes = False
            self._folder.let_go()
            _log.warning("costs are no longer written to %s: %s", self.path, error)
