"""Runs, made small enough to keep beside the code: their evaluations and their end, and all that their header says."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import polars

from lightning_costs import load_runs
from lightning_costs.core.run_record import RunRecord
from lightning_costs.stores.folder import HEADER, PARQUET

from .claims import Results
from .study import Study, find_study

#: Where the runs behind docs/paper/ are.
RESULTS = Path(__file__).parent / "results"


def keep(runs: list[RunRecord], source: Path, folder: Path) -> None:
    """Write small copies of run folders; what is in the folder of other runs goes.

    A copy has the points at which quality was evaluated and the last one. Columns that are missing at each of them are
    left out: the header declares them, and says why they are missing.

    Args:
        runs: Finished runs.
        source: Where their run folders are.
        folder: Where a folder for each is made.
    """
    for old in folder.glob("*"):
        for file in old.glob("*"):
            file.unlink()
        old.rmdir()
    for run in runs:
        small = folder / run.id
        small.mkdir(parents=True)
        header = json.loads((source / run.id / HEADER).read_text(encoding="utf-8"))
        (small / HEADER).write_text(json.dumps(header, separators=(",", ":")) + "\n", encoding="utf-8")
        last = polars.int_range(polars.len()) == polars.len() - 1
        points = run.points.filter(polars.col(header["monitor"]).is_not_null() | last)
        known = [name for name in points.columns if points[name].null_count() < points.height]
        points.select(known).write_parquet(small / PARQUET, compression="zstd", compression_level=19, statistics=False)


@cache
def kept_results(name: str, size: str) -> Results | None:
    """The kept runs of a study, compared, once; None where it was not trained at that size."""
    study = find_study(name)
    runs = kept(study, size)
    return Results.of(study, runs) if runs else None


def kept(study: Study, size: str) -> list[RunRecord]:
    """The runs of a study that are kept; none where it was not trained at that size."""
    folder = RESULTS / f"{study.name}-{size}"
    return load_runs(folder) if folder.is_dir() else []
