"""This process's attempt at a run: its identity, its time in a queue, and the trace that it leaves before a batch."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, final

from lightning_costs.probes.clock import first_run_here
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


#: When the job was submitted: Unix seconds or an ISO text. SLURM has a variable for the start of a job, none for this.
SUBMITTED = "LIGHTNING_COSTS_SUBMIT_TIME"
STARTED = "SLURM_JOB_START_TIME"
#: Seconds that training waits for `scontrol`; a controller that is busy answers later.
PATIENCE_S = 2.0


def _moment_s(variable: str) -> float | None:
    text = os.environ.get(variable, "").strip()
    try:
        return float(text)
    except ValueError:
        return seconds_of(text)


def _asked_slurm() -> dict[str, float]:
    """Moments of this job as `scontrol` reports them: `SubmitTime` (the last requeue counts) and `StartTime`."""
    job, program = os.environ.get("SLURM_JOB_ID", ""), shutil.which("scontrol")
    if program is None or not job.isdecimal():
        return {}
    command = [program, "--oneliner", "show", "job", job]
    with suppress(OSError, ValueError), TemporaryFile() as answer:  # a pipe may stay open after the program was killed
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "SLURM_TIME_FORMAT": "standard"},
        )
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return {}
        answer.seek(0)
        jobs = answer.read().decode("utf-8", "replace").splitlines()  # of an array, one line each of its jobs
        ours = next(line for line in [*jobs, ""] if re.match(rf"JobId={job}\b", line) or not line)
        moments = re.findall(r"\b(SubmitTime|StartTime)=(\d\S+)", ours)  # in the node's own time zone
        return {name: datetime.fromisoformat(moment).timestamp() for name, moment in moments}
    return {}


def queued_s(started_s: float | None, before_ended_s: float | None, *, asks: bool = True) -> float | None:
    """Seconds from submission, or the end of the attempt before if that came later, to the job's start.

    Args:
        started_s: When this process started: the job's start if SLURM does not say.
        before_ended_s: When the attempt before ended.
        asks: Whether this process asks SLURM if no variable says when: one process of a job does.
    """
    if not first_run_here() and (os.environ.get(SUBMITTED) or "SLURM_JOB_ID" in os.environ):
        return 0.0  # the job waited before its first run
    submitted_s, job_s = _moment_s(SUBMITTED), _moment_s(STARTED)
    if submitted_s is None and asks:
        asked = _asked_slurm()
        submitted_s, job_s = asked.get("SubmitTime"), asked.get("StartTime") if job_s is None else job_s
    if submitted_s is None or started_s is None:
        return None
    since_s = submitted_s if before_ended_s is None else max(submitted_s, before_ended_s)
    return max(0.0, min(started_s, started_s if job_s is None else job_s) - since_s)
