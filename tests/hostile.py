"""Run folders as somebody who means harm would write them, and everything that is told of runs."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_costs import Tariff, compare
from lightning_costs.analysis.regression_check import check_regression
from lightning_costs.indicators import default_indicators
from lightning_costs.records.pipeline.ideal_bubble import describe_bubble
from lightning_costs.records.samples import SCHEMA_VERSION, CurvePoint
from lightning_costs.report.statement import build_statement, latex, markdown, model_card
from lightning_costs.report.terminal.comparison import comparison_text
from lightning_costs.report.terminal.costliest import costliest_runs, differs_text
from lightning_costs.report.terminal.project_total import project_csv, project_rows, project_total
from lightning_costs.run.record import RunRecord
from lightning_costs.run.summary import describe_attempts, describe_run, summary_rows
from lightning_costs.storage.run_folder.files import HEADER, JOURNAL, PARQUET
from lightning_costs.storage.run_folder.frames import to_frame
from lightning_costs.storage.run_folder.journal import PointEncoder

#: What no output may hold as it is: a terminal obeys it, it turns what follows, no XML or UTF-8 holds it.
PAYLOADS = {
    "colour": "a\x1b[31mred\x1b[0m",
    "title": "a\x1b]0;owned\x07",
    "link": "a\x1b]8;;http://evil\x1b\\x",
    "c1": "a\x9b31m\x85b",
    "bell": "a\x07\x08\x00\x7f",
    "return": "good\rbad",
    "override": "a\u202egnp.exe\u2066b\u200f\u061c",
    "no xml": "a\ufffe\uffff\x0c\x0b",
    "surrogate": "a\ud800b",
    "markup": "[red]a[/red] [link=http://evil]b[/link] [/] :smile:",
}
#: Characters of theirs.
HIDDEN = frozenset(
    [*map(chr, [*range(9), 11, 12, *range(14, 32), *range(127, 160)]), *"\u061c\u200e\u200f\u2028\u2029\ufffe\uffff"]
    + [chr(code) for low, high in ((0x202A, 0x202F), (0x2066, 0x206A), (0xD800, 0xE000)) for code in range(low, high)]
)


def rich_header(name: str = "rich") -> dict[str, Any]:
    """A header with every field that anything reads."""
    tariff = {
        "country": "DEU",
        "pue": 1.2,
        "usd_per_kwh": 0.3,
        "provider": "lambda",
        "tier": "on_demand",
        "intensity": {"gco2e_per_kwh": 380.0, "source": "location-based, 2024"},
        "price_row": {
            "gpu": "H100 SXM",
            "provider": "lambda",
            "usd_per_device_h": 2.5,
            "source": "a page",
            "date": "2026-01-01",
            "tier": "on_demand",
            "region": "us",
            "includes": "a host",
        },
    }
    lanes = [
        {
            "stage": stage,
            "begun_us": 10 * stage,
            "chunks": [0, 1],
            "cut": True,
            "intervals": [["F", 0, 0, 0, 5000], ["B", 1, 0, 6000, 9000], ["U", 0, -1, 9000, 9500]],
        }
        for stage in range(2)
    ]
    began = ["2026-01-02T03:04:05.678+00:00", "2026-01-02T04:04:05.678+00:00"]
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": f"{name}-1",
        "name": name,
        "group": "g",
        "tags": ["t", "u"],
        "status": "finished",
        "created": began[0],
        "monitor": "val/acc",
        "mode": "max",
        "targets": [0.5],
        "indicators": {i.name: i.declaration().as_dict() for i in default_indicators()},
        "missing": {"cpu_energy_j": "no meter"},
        "methods": {"gpu_energy_j": "counter: NVML", "flop": "executed operators"},
        "statics": {"params": 10.0, "forward_flop": 5.0, "infer_energy_j": 2.0},
        "setup": {
            "device": "cuda",
            "devices": 2,
            "nodes": 1,
            "processes": 2,
            "strategy": "DDPStrategy",
            "software": {"lightning": "2.6.0"},
            "hardware": {"device": "NVIDIA H100 80GB HBM3", "cpu": "a CPU", "devices": 2, "nodes": 1},
            "optimizers": [{"name": "SGD", "lr": 0.1, "weight_decay": 0.01}],
            "schedulers": [{"name": "StepLR"}],
            "max_epochs": 3,
            "max_steps": -1,
            "batch_size": 8,
            "module": "Net",
        },
        "tariff": tariff,
        "priced": ["co2e_g", "cloud_usd", "electricity_usd"],
        "repriced": [{"until": began[1], "tariff": tariff, "attempts": [tariff]}],
        "attempts": [
            {"id": "aa", "began": began[0], "ended": began[1], "status": "killed", "devices": 2, "nodes": 1,
             "device": "NVIDIA H100 80GB HBM3", "from_step": 0, "row": 0, "lost": {}, "tariff": tariff},
            {"id": "bb", "began": began[1], "ended": began[1], "status": "finished", "devices": 4, "nodes": 1,
             "device": "NVIDIA H100 80GB HBM3", "from_step": 2, "row": 2, "lost": {"total_s": 1.0, "energy_j": 1.0},
             "used": {"energy_j": 4.0, "device_s": 4.0, "node_s": 2.0}, "resumed": 0, "restart": 1,
             "tariff": {**tariff, "pue": 1.5}},
        ],
        "lineage": [[0, 2], [2, None]],
        "warmup": "the first 3 steps",
        "written_by": "lightning-costs 0",
        "census": {"counted_steps": 2, "batches": 9, "batches_not_counted": 1, "uncounted_calls": {"aten::x": 2}},
        "energy": {
            "gpu": {"method": "counter", "instrument": "NVML", "error_j": 1.0, "counter_over_power": 1.1},
            "cpu": {"method": "model", "instrument": "codecarbon", "error_j": None, "detail": "d"},
            "job_share_fraction": 0.5,
        },
        "by_whom_s": [["other", "logger", 2.0]],
        "ranks": {
            "heard": 1, "of": 4, "late": [1], "gone": {"2": "killed"}, "failed": "a timeout",
            "spread": {"train_s": {"min": 1.0, "min_rank": 0, "median": 1.0, "max": 2.0, "max_rank": 1}},
            "stragglers": [
                {"ranks": [3], "node": 1, "phase": "input", "batch": 96, "excess_s": 0.02, "waited_s": 2.0}
            ],
            "slowest": {"rank": 3, "node": 1, "ahead_s": 2.0, "data_wait_s": 1.0, "lead_s": 1.0},
        },
        "roofline": {"words": "bound by memory"},
        "memory_at_peak": {"phase": "backward", "param_bytes": 10, "grad_bytes": 10, "total_bytes": 20},
        "inference": {"batch_samples": [1, 8][1], "passes": 3, "took_s": 1.0, "detail": "d"},
        "pipeline": {
            "schedule": "ScheduleGPipe", "stages": 2, "microbatches": 4, "chunks": 2, "theory": "(p-1)/(m+p-1)",
            "timeline": {"lanes": lanes, "length_us": 10000, "step": 1, "clock": "CUDA events"},
        },
        "budget": {"limits": {"energy_j": 100.0}},
        "stopped": {"by": "CostBudget", "step": 4, "column": "energy_j", "limit": 100.0, "amount": 101.0},
        "search": {"trials": 3, "under": "energy_j"},
    }  # fmt: skip


def points(metric: str = "val/acc") -> list[CurvePoint]:
    """Four points, each an evaluation."""
    names = [i.name for i in default_indicators() if i.kind != "static" and not i.name.startswith("cpu_energy")]
    return [
        CurvePoint(
            step=step,
            epoch=0,
            time=1e9 + step,
            trigger="evaluate" if step < 4 else "end",
            costs=dict.fromkeys(names, 2.0 * step),
            quality={metric: 0.2 * step},
        )
        for step in range(1, 5)
    ]


def write_run(folder: Path, header: dict[str, Any], *, metric: str = "val/acc", parquet: bool = False) -> Path:
    """A run folder with this header, whatever is in it."""
    folder.mkdir(parents=True)
    (folder / HEADER).write_text(json.dumps(header))
    encoder = PointEncoder()
    (folder / JOURNAL).write_text("".join(encoder.line(point) + "\n" for point in points(metric)))
    if parquet:
        to_frame(points(metric), rich_header()).write_parquet(folder / PARQUET)
    return folder


def hostile_header(payload: str) -> dict[str, Any]:
    """A header that holds a payload in every text that anybody may choose, and in keys."""
    header = rich_header()
    kept = {"schema_version", "mode", "priced", "stopped", "budget", "lineage", "search"}

    def laced(data: Any, path: tuple[str | int, ...]) -> Any:
        last = path[-1] if path else None
        if isinstance(data, dict):
            free = last in ("setup", "uncounted_calls", "software", "hardware")
            found = {key: laced(value, (*path, key)) for key, value in data.items()}
            return {**found, f"key {payload}": payload if last != "uncounted_calls" else 1} if free else found
        if isinstance(data, list):
            return [laced(item, (*path, at)) for at, item in enumerate(data)]
        if (
            not isinstance(data, str)
            or (path[0], last) == ("indicators", "name")
            or last in ("kind", "better", "role", "fold", "scope", "across", 0)
        ):
            return data
        return f"{data}{payload}"

    return {key: value if key in kept else laced(value, (key,)) for key, value in header.items()}


def paths_of(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where every value of nested data stands."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from paths_of(value, (*path, key))


def with_value(data: Any, path: Sequence[str | int], value: Any) -> Any:
    """A copy of nested data with another value in one place."""
    data = copy.deepcopy(data)
    inside = data
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return data


def everything_told(runs: Sequence[RunRecord], *, page: Path | None = None) -> str:
    """All that is told of runs, by every command and in every format that needs no drawing."""
    told: list[object] = []
    for run in runs:
        told += [summary_rows(run.header, run.final, everything=True), run._repr_html_(), str(run)]
        told += [describe_attempts(run.header, run.final), describe_run(run.header, run.final)]
        told += [describe_bubble(run.header.get("pipeline"), run.final)]
    for by in ("status", "group", "tag"):
        total = project_total(runs, by=by)
        told += [project_rows(total), project_csv(total), total.notes]
    told += [f"{each.label} {each.text} {differs_text(each.differs)}" for each in costliest_runs(runs)]
    with suppress(ValueError):  # a metric that no run logged
        told.append(check_regression(runs[0], runs[-1], targets=[0.5]).as_dict())
    for curve in ("spent", "to_reach"):
        found = compare(runs, monitor="val/acc", mode="max", curve=curve, queries=[10.0])
        told += [comparison_text(found), str(found), found._repr_html_(), json.dumps(found.as_dict(), allow_nan=False)]
        if page is not None:
            told.append(found.to_html(page).read_text(encoding="utf-8"))
    compare(runs, monitor="val/acc", mode="max", tariff=Tariff(gco2e_per_kwh=50.0, usd_per_kwh=0.2))
    said = build_statement(runs, monitor="val/acc", mode="max")
    told += [markdown(said), latex(said)]
    if said.totals["co2e_g"].amount is not None:
        told.append(model_card(said))
    return "\n".join(map(str, told))
