"""What steps say beside their columns, for a run's header."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.device_peaks import find_peak
from lightning_costs.probes.opcount.counter import StepOpCounter
from lightning_costs.probes.pipeline.pipeline import Pipeline
from lightning_costs.probes.trace_windows import TraceWindows
from lightning_costs.records.inference import Inference
from lightning_costs.records.roofline import roofline


def step_facts(
    setting: ProbeContext,
    census: StepOpCounter | None,
    watched: Pipeline | None,
    trace: TraceWindows | None,
    *,
    final: bool,
) -> dict[str, Any]:
    """Pipeline, traced steps, memory at its peak, communication, roofline, inference."""
    facts: dict[str, Any] = {}
    if watched is not None and (pipeline := watched.about(final=final)):
        facts["pipeline"] = pipeline
    if trace is not None and (traced := trace.about()):
        facts["trace"] = traced
    if census is None or census.failed is not None:
        return facts
    facts |= {
        "census": {
            "counted_steps": census.censuses,
            "took_s": census.added_s,
            "batches": census.batches,
            "batches_not_counted": census.waiting + census.predicted,
            "uncounted_calls": dict(sorted(census.uncounted.items())),
        }
    }
    if communication := census.communication:
        facts["communication"] = communication
    if (memory := census.memory) is not None:
        kinds = {f"{kind}_bytes": nbytes for kind, nbytes in memory.at_peak_bytes.items()}
        facts["memory_at_peak"] = {"phase": memory.peak_phase, **kinds, "total_bytes": memory.most_bytes}
    if not census.compiled and census.total("flop") and (access_bytes := census.total("access_bytes")):
        peak = find_peak(setting.device)
        placed = roofline(
            flop=census.total("flop"),
            access_bytes=access_bytes,
            peak_flop_per_s=peak.mixed_precision_peak(census.flop_by_dtype) if peak is not None else None,
            peak_bytes_per_s=peak.bytes_per_s if peak is not None else None,
        )
        facts["roofline"] = {**asdict(placed), "words": placed.words()}
    if isinstance(found := setting.inference, Inference):
        names = ("batch_samples", "passes", "took_s", "detail")
        facts["inference"] = {name: getattr(found, name) for name in names}
    return facts
