"""This process's attempt at a run: its identity, and the trace of its start that is left before the first batch."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from lightning_costs.probes.clock import first_run_here
from lightning_costs.recording.queue import queued_s
from lightning_costs.run.attempts import seconds_of
from lightning_costs.storage.run_folder.identity import slurm_restart_count
from lightning_costs.storage.run_folder.starts import LAUNCH, note_start, starts_without_batch
from lightning_costs.storage.run_folder.writer import utc_now


@final
class ThisAttempt:
    """Its identity, and the starts before it that trained no batch."""

    def __init__(self) -> None:
        self._id = secrets.token_hex(4)
        #: The trace of this attempt; that of `lightning-costs run` if it started the process for this run.
        self.trace = (first_run_here() and os.environ.get(LAUNCH)) or self._id
        self._unbegun: dict[str, str] = {}

    def leave_trace(self, folder: Path, attempts: Sequence[Mapping[str, Any]], started: str = "") -> None:
        """Note in the folder that an attempt begins, and see which ones before it trained no batch."""
        known = {str(attempt.get(name)) for attempt in attempts for name in ("id", "launch")}
        known |= {str(start) for attempt in attempts for start in attempt.get("unbegun") or ()}
        self._unbegun = starts_without_batch(folder, {*known, self.trace})
        note_start(folder, self.trace, started)

    def facts(self, facts: Mapping[str, Any], before: Sequence[Mapping[str, Any]], *, asks: bool) -> dict[str, Any]:
        """`facts` of the attempt with its identity, its time in a queue and the starts `before` it.

        `asks` says whether the scheduler may be asked for that time.
        """
        about: dict[str, Any] = {"id": self._id, "began": utc_now(), **facts}
        ended_s = seconds_of(before[-1].get("ended")) if before else None
        if (waited_s := queued_s(seconds_of(facts.get("started")), ended_s, asks=asks)) is not None:
            about["queue_s"] = waited_s
        if self.trace != self._id:
            about["launch"] = self.trace
        if self._unbegun:
            about["unbegun"] = list(self._unbegun)
            if not before and all(self._unbegun.values()):
                about["unbegun_since"] = min(self._unbegun.values())
        if (restarts := slurm_restart_count()) is not None:
            about["restart"] = restarts
        return about
