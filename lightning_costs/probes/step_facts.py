"""What steps say beside their columns, for a run's header."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, final

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.device_peaks import find_peak
from lightning_costs.probes.opcount.counter import StepOpCounter
from lightning_costs.probes.pipeline.pipeline import Pipeline
from lightning_costs.probes.trace_windows import TraceWindows
from lightning_costs.records.inference import Inference
from lightning_costs.records.roofline import roofline

_log = logging.getLogger("lightning_costs")


@final
class StepFacts:
    """Reads them. One that cannot be read is left out, warned of once, and does not cost the others."""

    def __init__(self, setting: ProbeContext) -> None:
        self._setting = setting
        self._lacking: set[str] = set()

    def read(
        self,
        census: StepOpCounter | None,
        watched: Pipeline | None,
        trace: TraceWindows | None,
        profile: Callable[[], dict[str, Any] | None],
        *,
        final: bool,
    ) -> dict[str, Any]:
        """Pipeline, traced steps, counted steps, memory at its peak, communication, roofline, inference, profile."""
        setting, facts = self._setting, dict[str, Any]()

        def add(name: str, read: Callable[[], Any]) -> None:
            try:
                if fact := read():
                    facts[name] = fact
            except Exception as error:  # noqa: BLE001 - a model may have any form
                reraise_from_signal(error)
                self._lacks(name, error)

        if watched is not None:
            add("pipeline", lambda: watched.about(final=final))
        if trace is not None:
            add("trace", trace.about)
        if census is not None and census.failed is None:
            add("census", lambda: _counted(census))
            add("communication", lambda: census.communication)
            add("memory_at_peak", lambda: _at_peak(census))
            add("roofline", lambda: _placed(setting, census))
            add("inference", lambda: _inference(setting))
            add("step_profile", profile)
        return facts

    def _lacks(self, fact: str, error: Exception) -> None:
        if fact not in self._lacking:
            self._lacking.add(fact)
            _log.warning("the run's header has no %s: reading it raised %s", fact, type(error).__name__)
            _log.debug("%s could not be read", fact, exc_info=error)


def _counted(census: StepOpCounter) -> dict[str, Any]:
    return {
        "counted_steps": census.counted,
        "took_s": census.added_s,
        "batches": census.batches,
        "batches_not_counted": census.waiting + census.predicted if census.counted else census.batches,
        "uncounted_calls": dict(sorted(census.uncounted.items())),
    }


def _at_peak(census: StepOpCounter) -> dict[str, Any] | None:
    if (memory := census.memory) is None:
        return None
    kinds = {f"{kind}_bytes": nbytes for kind, nbytes in memory.at_peak_bytes.items()}
    return {"phase": memory.peak_phase, **kinds, "total_bytes": memory.most_bytes}


def _placed(setting: ProbeContext, census: StepOpCounter) -> dict[str, Any] | None:
    if census.compiled or not census.total("flop") or not (access_bytes := census.total("access_bytes")):
        return None
    peak = find_peak(setting.device)
    placed = roofline(
        flop=census.total("flop"),
        access_bytes=access_bytes,
        peak_flop_per_s=peak.mixed_precision_peak(census.flop_by_dtype) if peak is not None else None,
        peak_bytes_per_s=peak.bytes_per_s if peak is not None else None,
    )
    return {**asdict(placed), "words": placed.words()}


def _inference(setting: ProbeContext) -> dict[str, Any] | None:
    found = setting.inference
    if not isinstance(found, Inference):
        return None
    return {name: getattr(found, name) for name in ("batch_samples", "passes", "took_s", "detail")}
