"""Runs, made small enough to keep beside the code: their evaluations and their end, and all that their header says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import polars

from lightning_costs import load_runs, save_runs
from lightning_costs.run.record import RunRecord

from .claims import Results
from .study import Study, find_study

#: Where the runs behind docs/paper/ are.
RESULTS = Path(__file__).parent / "results"


def keep(runs: Sequence[RunRecord], study: Study, size: str) -> None:
    """Keep small copies of a study's runs, beside those of other methods and seeds that are kept already.

    A copy has the points at which quality was evaluated and the last one. What was kept of other settings than the
    study's of today goes.

    Args:
        runs: Finished runs.
        study: The study.
        size: Their size.
    """
    new = [run.header["job"] for run in runs]
    now = [_method(job.facts) for job in study.jobs(size, RESULTS, seeds=1)]
    others = [run for run in kept(study, size) if run.header["job"] not in new and _method(run.header["job"]) in now]
    save_runs([*others, *map(_small, runs)], _file(study, size))


def _method(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != "seed"}


def _small(run: RunRecord) -> RunRecord:
    """The run at its evaluations and its end. Metrics of other points, such as a training loss, are left out."""
    last = polars.int_range(polars.len()) == polars.len() - 1
    points = run.points.filter(polars.col(run.header["monitor"]).is_not_null() | last)
    gone = [name for name in run.quality_columns if points[name].null_count() == points.height]
    return replace(run, points=points.drop(gone))


@cache
def kept_results(name: str, size: str) -> Results | None:
    """The kept runs of a study, compared, once; None where it was not trained at that size."""
    study = find_study(name)
    runs = kept(study, size)
    return Results.of(study, runs) if runs else None


def kept(study: Study, size: str) -> list[RunRecord]:
    """The runs of a study that are kept; none where it was not trained at that size."""
    file = _file(study, size)
    return load_runs(file) if file.is_file() else []


def _file(study: Study, size: str) -> Path:
    return RESULTS / f"{study.name}-{size}.json"
