"""Trains what is not trained yet: a process for each run, one after the other, with a bar over all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_costs import load_run
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.run_folder.identity import OURS, SLURM, WANDB

from .child import last_lines, printed_to, process_context
from .study import Job, find_study

#: Loaded once, before processes are made: a run does not pay for imports, nor for what another one left in memory.
_PRELOADED = [
    *("lightning.pytorch", "sklearn.datasets", "lightning_costs.integrations.lightning.callback"),
    f"{__package__}.learning",
]


def run_jobs(jobs: Sequence[Job], study: str, least_share: float = 0.0) -> list[RunRecord]:
    """Train the jobs that have no finished run, one after the other; the runs of all of them, in the jobs' order.

    What a process prints goes to `logs/` in its folder. A run that was interrupted stays as it is, and is trained anew.

    Args:
        jobs: What to train.
        study: The module that the study is in, as `find_study` takes it.
        least_share: A run that had less than this share of the work that the machine's CPUs did meanwhile was
            disturbed, and is trained again, once.

    Raises:
        SystemExit: Where a training failed, with the end of what it printed.
    """
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    ) as bar:
        task = bar.add_task("", total=len(jobs))
        for at, job in enumerate(jobs):
            bar.update(task, description=f"{job.study}: {job.name}", completed=at)
            if done(job, least_share) is None:
                _run(job, study, lambda share, at=at: bar.update(task, completed=at + share))  # type: ignore[misc]
        bar.update(task, description=f"{study}: done", completed=len(jobs))
    found = [done(job) for job in jobs]
    if missing := [job.name for job, run in zip(jobs, found, strict=True) if run is None]:
        raise SystemExit(f"no finished run of {', '.join(missing)} under {jobs[0].folder}: was training cut short?")
    return [run for run in found if run is not None]


def done(job: Job, least_share: float = 0.0) -> RunRecord | None:
    """The finished run of a job, where there is one; of several the least disturbed.

    Args:
        job: What was trained.
        least_share: The smallest share of the machine's work that counts; a run that knows of none counts.
    """
    found: list[tuple[float, Path]] = []
    for header in sorted(job.folder.glob("*/header.json")):
        said = json.loads(header.read_text(encoding="utf-8"))
        if said.get("status") == "finished" and said.get("job") == job.facts:
            share = (said.get("energy") or {}).get("job_share_fraction")
            found.append((1.0 if share is None else share, header.parent))
    share, folder = max(found, key=lambda one: one[0], default=(0.0, None))
    return load_run(folder) if folder is not None and share >= least_share else None


def _run(job: Job, study: str, progress: Callable[[float], None]) -> None:
    log = job.folder / "logs" / f"{job.name}.txt"
    context = process_context()
    context.set_forkserver_preload([*_PRELOADED, *find_study(study).preload])
    share = context.Value("d", 0.0)
    process = context.Process(target=_trained, args=(job, study, share, log))
    process.start()
    try:
        while process.is_alive():
            process.join(0.5)
            progress(share.value)
    finally:
        if process.is_alive():  # interrupted here: the run ends as killed, and is trained anew next time
            process.terminate()
            process.join()
    if process.exitcode:
        raise SystemExit(
            f"training {job.name} of {job.study} failed (exit code {process.exitcode}), see {log}:\n"
            + last_lines(log, 15)
        )


def _trained(job: Job, study: str, share: Synchronized[float], log: Path) -> None:
    """What the process of a run does."""

    def tell(done: float) -> None:
        share.value = done

    with printed_to(log):
        for variable in (OURS, WANDB, SLURM):  # one identity for all of them would make them one run
            os.environ.pop(variable, None)
        from . import learning

        learning.report_progress = tell
        find_study(study).train(job)
