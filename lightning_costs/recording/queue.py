"""How long a job waited for its machine, as far as the environment says."""

from __future__ import annotations

import os

from lightning_costs.probes.clock import first_run_here
from lightning_costs.run.attempts import seconds_of

#: When the job was submitted: Unix seconds or an ISO text. SLURM tells its jobs when they started, and not this.
SUBMITTED = "LIGHTNING_COSTS_SUBMIT_TIME"
STARTED = "SLURM_JOB_START_TIME"


def _moment_s(variable: str) -> float | None:
    text = os.environ.get(variable, "").strip()
    try:
        return float(text)
    except ValueError:
        return seconds_of(text)


def queued_s(started_s: float | None, before_ended_s: float | None) -> float | None:
    """Seconds from submission, or the end of the attempt before if that came later, to the job's start.

    Args:
        started_s: When this process started: the job's start if SLURM does not say.
        before_ended_s: When the attempt before ended.
    """
    if (submitted_s := _moment_s(SUBMITTED)) is None or started_s is None:
        return None
    if not first_run_here():  # the job waited before its first run
        return 0.0
    job_s = _moment_s(STARTED)
    since_s = submitted_s if before_ended_s is None else max(submitted_s, before_ended_s)
    return max(0.0, min(started_s, started_s if job_s is None else job_s) - since_s)
