"""How long a job waited for its machine, as far as the environment or SLURM says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from datetime import datetime
from tempfile import TemporaryFile

from lightning_costs.probes.clock import first_run_here
from lightning_costs.run.attempts import seconds_of

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
