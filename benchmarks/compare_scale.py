"""How long it takes to load, compare and report many runs, and how much memory: linear in runs x points, or not.

python benchmarks/compare_scale.py                          1,000 runs x 1,000 points x 20 indicators
python benchmarks/compare_scale.py --runs 250 500 1000      growth, each size in a process of its own
python benchmarks/compare_scale.py --source parquet         one long Parquet file in place of run folders
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

#: What the project promises for the full size on two cores.
MOST_S, MOST_BYTES, MOST_PAGE_BYTES = 10.0, 1.5e9, 8e6
COSTS = (
    ("train_s", "s", "counter", "time"),
    ("run_s", "s", "counter", "time"),
    ("total_s", "s", "counter", "time"),
    ("device_s", "s", "counter", "time"),
    ("samples", "samples", "counter", "data"),
    ("tokens", "tokens", "counter", "data"),
    ("steps", "steps", "counter", "data"),
    ("flop", "flop", "counter", "compute"),
    ("mac", "mac", "counter", "compute"),
    ("mem_access_bytes", "bytes", "counter", "compute"),
    ("energy_j", "j", "counter", "energy"),
    ("gpu_energy_j", "j", "counter", "energy"),
    ("co2e_g", "g", "counter", "energy"),
    ("cloud_usd", "usd", "counter", "money"),
    ("samples_per_s", "samples_per_s", "gauge", "time"),
    ("flop_per_s", "flop_per_s", "gauge", "compute"),
    ("peak_mem_bytes", "bytes", "gauge", "memory"),
    ("opt_state_bytes", "bytes", "gauge", "memory"),
    ("params", "params", "static", "size"),
    ("forward_flop", "flop", "static", "compute"),
)


def declared() -> dict[str, dict[str, object]]:
    return {
        name: {
            "name": name,
            "unit": unit,
            "kind": kind,
            "fold": "sum" if kind == "counter" else "last",
            "scope": "job",
            "across": "sum",
            "better": "higher" if unit.endswith("_per_s") else "lower",
            "family": family,
            "role": "indicator",
            "label": name,
            "headline": True,
        }
        for name, unit, kind, family in COSTS
    }


def points(run: int, count: int) -> pl.DataFrame:
    """The curve of a run: quality that saturates with noise, costs that grow at rates of the run's own."""
    random = np.random.default_rng(run)
    done = np.arange(1, count + 1)
    columns = {"step": done * 50, "epoch": done // 10, "time": 1.7e9 + done, "trigger": ["evaluate"] * count}
    for name, _, kind, _ in COSTS:
        rate = random.lognormal(3, 1)
        if kind == "counter":
            columns[name] = np.cumsum(random.uniform(0.9, 1.1, count)) * rate
        elif kind == "gauge":
            columns[name] = random.uniform(0.95, 1.05, count) * rate
    quality = 1 - np.exp(-done / count * random.uniform(2, 4))
    columns["val/acc"] = quality + random.normal(0, 0.003, count)
    return pl.DataFrame(columns)


def write(root: Path, runs: int, count: int, source: str) -> None:
    if source == "parquet":
        frames = [
            points(run, count).with_columns(pl.lit(f"run {run}").alias("run"), params=pl.lit(1e6 * (run + 1)))
            for run in range(runs)
        ]
        pl.concat(frames).write_parquet(root / "curves.parquet")
        return
    for run in range(runs):
        folder = root / f"run-{run:04d}"
        folder.mkdir()
        header = {
            "schema_version": 1,
            "run_id": folder.name,
            "name": f"run {run}",
            "status": "finished",
            "created": f"2026-01-01T00:00:{run:06d}",
            "monitor": "val/acc",
            "mode": "max",
            "targets": [0.8, 0.9],
            "indicators": declared(),
            "missing": {},
            "methods": {"energy_j": "counter"},
            "statics": {"params": 1e6 * (run + 1), "forward_flop": 1e9 * (1000 - run)},
            "setup": {"precision": "bf16", "optimizers": {"0": {"name": "AdamW", "lr": 1e-3 * (run % 7)}}},
            "tariff": {"gco2e_per_kwh": 50.0, "usd_per_device_h": 2.5},
            "attempts": [{"id": folder.name, "status": "finished", "row": 0, "devices": 1}],
            "lineage": [[0, None]],
        }
        (folder / "header.json").write_text(json.dumps(header))
        points(run, count).write_parquet(folder / "points.parquet")


def measured(root: Path) -> dict[str, float]:
    """Load, compare and report what is there; in a process of its own, so that its memory is its own."""
    began = time.perf_counter()
    from lightning_costs import compare, load_runs

    imported = time.perf_counter()
    runs = load_runs(
        root / "curves.parquet" if (root / "curves.parquet").is_file() else root, monitor="val/acc", mode="max"
    )
    loaded = time.perf_counter()
    found = compare(runs, monitor="val/acc", mode="max")
    compared = time.perf_counter()
    page = found.to_html(root / "page.html")
    reported = time.perf_counter()
    return {
        "import_s": imported - began,
        "load_s": loaded - imported,
        "compare_s": compared - loaded,
        "report_s": reported - compared,
        "all_s": reported - began,
        "cpu_s": time.process_time(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
        "page_bytes": float(page.stat().st_size),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1000])
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--source", choices=("folders", "parquet"), default="folders")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure is not None:
        print(json.dumps(measured(asked.measure)))
        return 0
    print(f"{asked.source}, {asked.points} points, {len(COSTS)} indicators")
    print("  runs   load  compare  report     all     cpu    memory      page")
    over = False
    for runs in asked.runs:
        with tempfile.TemporaryDirectory() as scratch:
            write(Path(scratch), runs, asked.points, asked.source)
            called = [sys.executable, __file__, "--measure", scratch]
            done = subprocess.run(called, capture_output=True, text=True, check=True, timeout=600)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{runs:6d} {found['load_s']:5.1f} s {found['compare_s']:6.1f} s {found['report_s']:5.1f} s "
            f"{found['all_s']:5.1f} s {found['cpu_s']:5.1f} s {found['peak_bytes'] / 1e9:6.2f} GB "
            f"{found['page_bytes'] / 1e6:6.2f} MB"
        )
        over |= runs * asked.points == 1_000_000 and (
            found["all_s"] > MOST_S or found["peak_bytes"] > MOST_BYTES or found["page_bytes"] > MOST_PAGE_BYTES
        )
    return int(over)


if __name__ == "__main__":
    raise SystemExit(main())
