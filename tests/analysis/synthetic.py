"""Run records made from closed forms, for tests of comparisons and reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from lightning_costs.run.record import RunRecord

Declared = tuple[str, str, str, str, str, bool]
#: name, unit, kind, family, better, headline
COLUMNS: tuple[Declared, ...] = (
    ("train_s", "s", "counter", "time", "lower", True),
    ("total_s", "s", "counter", "time", "lower", True),
    ("device_s", "s", "counter", "time", "lower", True),
    ("flop", "flop", "counter", "compute", "lower", True),
    ("energy_j", "j", "counter", "energy", "lower", True),
    ("co2e_g", "g", "counter", "energy", "lower", True),
    ("cloud_usd", "usd", "counter", "money", "lower", True),
    ("samples", "samples", "counter", "data", "lower", True),
    ("tokens", "tokens", "counter", "data", "lower", True),
    ("samples_per_s", "samples_per_s", "gauge", "time", "higher", True),
    ("peak_mem_bytes", "bytes", "gauge", "memory", "lower", True),
    ("opt_state_bytes", "bytes", "gauge", "memory", "lower", True),
    ("params", "params", "static", "size", "lower", True),
    ("forward_flop", "flop", "static", "compute", "lower", False),
    ("nodes", "nodes", "gauge", "size", "lower", False),
)
DIAGNOSTIC = {"nodes"}


def declaration(
    name: str, unit: str, kind: str, family: str, better: str = "lower", headline: bool = False
) -> dict[str, Any]:
    return {
        "name": name,
        "unit": unit,
        "kind": kind,
        "fold": "sum" if kind == "counter" else "last",
        "scope": "rank",
        "across": "sum",
        "better": better,
        "family": family,
        "role": "diagnostic" if name in DIAGNOSTIC else "indicator",
        "label": name.replace("_", " "),
        "headline": headline,
    }


def make_run(
    name: str = "run",
    *,
    quality: Sequence[float | None] = (0.5, 0.8),
    costs: Mapping[str, Sequence[float | None]] | None = None,
    statics: Mapping[str, float | None] | None = None,
    declared: Mapping[str, dict[str, Any]] | None = None,
    monitor: str | None = "val/acc",
    mode: str | None = "max",
    metric: str | None = None,
    **header: Any,
) -> RunRecord:
    """A record with one point per entry of `quality` and the counters `costs` (seconds and joules by default)."""
    metric = metric or monitor or "val/acc"
    height = len(quality)
    if costs is None:
        costs = {
            "train_s": [10.0 * (i + 1) for i in range(height)],
            "energy_j": [100.0 * (i + 1) for i in range(height)],
        }
    statics = dict(statics or {})
    known = {row[0]: declaration(*row) for row in COLUMNS}
    indicators = {column: known[column] for column in (*costs, *statics) if column in known} | dict(declared or {})
    points = pl.DataFrame(
        {
            "step": list(range(height)),
            "epoch": list(range(height)),
            "time": [1.7e9 + i for i in range(height)],
            "trigger": ["evaluate"] * height,
            **{column: list(values) for column, values in costs.items()},
            metric: list(quality),
        },
        schema_overrides={
            "step": pl.Int64,
            "epoch": pl.Int64,
            "time": pl.Float64,
            "trigger": pl.String,
            **dict.fromkeys([*costs, metric], pl.Float64),
        },
        strict=False,
    )
    return RunRecord(
        header={
            "schema_version": 1,
            "run_id": f"id-{name[:20]}",
            "name": name,
            "status": "finished",
            "monitor": monitor,
            "mode": mode,
            "targets": [],
            "indicators": indicators,
            "missing": {},
            "methods": {},
            "statics": statics,
            "setup": {},
            "tariff": {},
            "quality": [metric],
            "attempts": [],
        }
        | header,
        points=points,
    )


#: name, peak accuracy, learning speed, watts, samples per second, FLOP per sample, parameters, memory in bytes
ZOO = (
    ("resnet50", 0.871, 3.2, 310.0, 2850.0, 2.46e10, 25.6e6, 11.2e9),
    ("resnet50 + SAM", 0.894, 2.9, 322.0, 1480.0, 4.92e10, 25.6e6, 13.9e9),
    ("vit-s/16", 0.882, 2.1, 287.0, 2310.0, 2.76e10, 22.1e6, 9.4e9),
    ("mixer-b/16", 0.853, 2.4, 268.0, 2620.0, 7.56e10, 59.9e6, 12.7e9),
    ("efficientnet-b3", 0.886, 2.7, 214.0, 1190.0, 1.11e10, 12.2e6, 17.5e9),
    ("mobilenet-v3", 0.812, 4.0, 149.0, 4100.0, 1.3e9, 5.5e6, 4.1e9),
    ("convnext-t", 0.897, 2.3, 335.0, 1760.0, 2.68e10, 28.6e6, 12.1e9),
    ("switch-s (8 experts)", 0.878, 2.6, 301.0, 1930.0, 2.9e10, 98.0e6, 21.8e9),
)


def zoo(count: int = 8, points: int = 24, budget_samples: float = 2.4e7) -> list[RunRecord]:
    """Runs like those of a small benchmark, of closed forms with a fixed ripple."""
    return [_trained(index, points, budget_samples) for index in range(count)]


def _trained(index: int, points: int, budget_samples: float) -> RunRecord:
    name, peak, speed, watts, rate, flop, params, memory = ZOO[index % len(ZOO)]
    name = name if index < len(ZOO) else f"{name} #{index // len(ZOO) + 1}"
    done = [(i + 1) / points for i in range(points)]
    quality = [
        peak * (1 - math.exp(-speed * 2.2 * x**0.8)) + 0.004 * math.sin(9 * i + index) * (1 - x)
        for i, x in enumerate(done)
    ]
    samples = [x * budget_samples for x in done]
    train_s = [n / rate for n in samples]
    total_s = [s * 1.08 + 41.0 for s in train_s]
    energy_j = [s * watts for s in total_s]
    costs: dict[str, Sequence[float | None]] = {
        "train_s": train_s,
        "total_s": total_s,
        "device_s": total_s,
        "flop": [n * flop for n in samples],
        "energy_j": energy_j,
        "co2e_g": [e / 3.6e6 * 56.0 for e in energy_j],
        "cloud_usd": [s / 3600 * 2.5 for s in total_s],
        "samples": samples,
        "tokens": [None] * points,
        "samples_per_s": [rate * (1 + 0.02 * math.sin(3 * i)) for i in range(points)],
        "peak_mem_bytes": [memory * min(1.0, 0.97 + 0.01 * i) for i in range(points)],
        "opt_state_bytes": [8.0 * params] * points,
        "nodes": [1.0] * points,
    }
    return make_run(
        name,
        quality=quality,
        costs=costs,
        statics={"params": params, "forward_flop": flop / 3},
        setup={
            "hardware": {"accelerator": "NVIDIA H100 80GB HBM3", "devices": 1},
            "precision": "bf16-mixed" if index != 4 else "32-true",
            "software": {"torch": "2.8.0", "cuda": "12.8"},
            "optimizer": "SAM(SGD)" if "SAM" in name else "AdamW",
            "batch_size": 256,
            "dataset": "ImageNet-100",
        },
        methods={"energy_j": "power" if index == 5 else "counter"},
        missing={"tokens": "no token count: batches have no 'input_ids'; give length_fn=lambda batch: ..."},
        status="interrupted" if index == 3 else "finished",
        tariff={"gco2e_per_kwh": 56.0, "usd_per_device_h": 2.5},
    )


INFER = {
    "infer_energy_j": declaration("infer_energy_j", "j", "static", "energy"),
    "electricity_usd": declaration("electricity_usd", "usd", "counter", "money"),
}


def life_run(name, train_j, query_j, quality=0.9, **header):
    return make_run(
        name,
        quality=[quality],
        costs={"energy_j": [train_j]},
        statics={"infer_energy_j": query_j},
        declared=INFER,
        inference={"batch_samples": 32},
        **header,
    )
