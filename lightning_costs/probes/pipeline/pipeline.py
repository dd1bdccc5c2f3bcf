"""The run's pipeline: its stage on this rank is watched, and other ranks' lanes of one step are read."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import Any, Self, final

from lightning_costs.patching.patches import Patches
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.device_timeline import CudaEvents
from lightning_costs.probes.opcount.counter import StepOpCounter
from lightning_costs.probes.pipeline.detect import device_of, instrument_pipeline
from lightning_costs.probes.pipeline.protocols import InstrumentedPipeline, StepListener
from lightning_costs.probes.pipeline.stage_timer import HostEvents, StageTimer
from lightning_costs.probes.pipeline.timeline_exchange import MOST_S, TimelineExchange, global_rank
from lightning_costs.records.missing import Missing
from lightning_costs.records.pipeline.ideal_bubble import (
    CONVENTION,
    PipelineShape,
    ideal_bubble_formula,
    ideal_bubble_fraction,
)
from lightning_costs.records.pipeline.timeline import KINDS, Lane, merge_timelines, stage_timeline
from lightning_costs.records.samples import PipelineTime, RankInfo

NO_PIPELINE = (
    "no pipeline: neither a schedule of torch.distributed.pipelining nor a DeepSpeed PipelineEngine was found among "
    "the module's attributes; lightning_costs.integrations.deepspeed.watch_pipeline(schedule, recorder) names one"
)


@final
class Pipeline:
    """The run's pipeline, if there is one: its stage on this rank is watched, and other ranks' lanes are read.

    A run has one. It is known late (Lightning builds it in `configure_model`), so the probe opens without it.
    """

    def __init__(self, setting: ProbeContext) -> None:
        self._setting = setting
        self._shadows = Patches(self._stop)
        self._watched: InstrumentedPipeline | None = None
        self._object: object = None
        self._tape: StageTimer[Any] | None = None
        self._shared: TimelineExchange | None = None
        self._clock = "host"
        self._lacks = NO_PIPELINE

    @classmethod
    def attach(cls, setting: ProbeContext) -> Self:
        """Ready for a pipeline."""
        return cls(setting)

    def _stop(self) -> None:
        if self._tape is not None:
            self._tape.disable()

    def detach(self) -> None:
        """Lift the shadows."""
        self._shadows.restore()

    def watch(self, pipeline: object, loop: StepListener | None = None) -> RankInfo:
        """Time the stages of a schedule or an engine on this rank from its next step on: this rank's place in it."""
        if self._object is not None and self._object is not pipeline:
            raise ValueError("one pipeline is watched in a run, and this run has another one already")
        if self._watched is None:
            device = device_of(pipeline)
            on_cuda = device is not None and device.type == "cuda"
            self._clock = "device" if on_cuda else "host"
            tape: StageTimer[Any] = StageTimer(CudaEvents(device, follow=True) if on_cuda else HostEvents())
            try:
                watched = instrument_pipeline(pipeline, tape, self._shadows, loop, self._aside)
                watched.shape()
            except Exception as error:
                self._shadows.restore()
                self._lacks = f"the pipeline ({type(pipeline).__name__}) could not be watched: {type(error).__name__}"
                raise
            self._watched, self._object, self._tape = watched, pipeline, tape
            if len(self._watched.ranks) > 1:
                self._shared = TimelineExchange(self._watched.ranks)
        at = self._watched.at
        return replace(self._setting.place, replica=at.replica, stage=at.stage, shard=at.shard)

    def _aside(self) -> AbstractContextManager[None]:
        census = self._setting.attached(StepOpCounter)
        return census.paused() if census is not None else nullcontext()

    @property
    def unavailable_reason(self) -> str:
        """Why nothing is known of a stage's time."""
        return self._lacks if self._tape is None else "timing the stages failed; the log has the error"

    @property
    def shape(self) -> PipelineShape:
        """The pipeline's shape at this moment."""
        if self._watched is None:
            raise Missing(self._lacks)
        return self._watched.shape()

    def theory(self) -> float:
        """The bubble that the schedule leaves by its order alone."""
        return ideal_bubble_fraction(self.shape)

    def theory_words(self) -> str:
        """That closed form, its source, and what it assumes."""
        return ": ".join(ideal_bubble_formula(self.shape))

    def mark_steady(self, *, steady: bool) -> None:
        """See `StageTimer.mark_steady`."""
        if self._tape is not None:
            self._tape.mark_steady(steady=steady)

    def interrupted(self) -> None:
        """See `StageTimer.interrupted`."""
        if self._tape is not None:
            self._tape.interrupted()

    def collect(self) -> PipelineTime | None:
        """What this rank's stage did since the last call; None if that is not known (`unavailable_reason`)."""
        if self._tape is None:
            return None
        found = self._tape.collect()
        drawn = self._tape.example_step
        if self._shared is not None and drawn is not None and self._shared.left < drawn[0]:
            own = self.timeline()
            assert own is not None
            self._shared.leave(own)
        return found

    def timeline(self) -> dict[str, Any] | None:
        """One steady step of this rank's stage, by `stage_timeline`; None before there is one."""
        if self._tape is None or self._watched is None:
            return None
        self._tape.read()
        if self._tape.example_step is None:
            return None
        number, began, length_s, intervals = self._tape.example_step
        place = self._setting.place
        return stage_timeline(
            sorted(intervals, key=lambda i: i.begun_s),
            step=number,
            rank=place.rank if (rank := global_rank()) is None else rank,
            node=place.node,
            replica=self._watched.at.replica,
            stage=self._watched.at.stage,
            chunks=self._watched.chunks,
            began=began,
            clock=self._clock,
            length_s=length_s,
        )

    def about(self, *, final: bool) -> Mapping[str, Any]:
        """For the header: what runs as a pipeline, its closed form, the convention, and one step's timeline."""
        if self._watched is None:
            return {}
        shape = self.shape
        facts: dict[str, Any] = {
            **asdict(shape),
            "convention": CONVENTION,
            "clock": "device events, read late" if self._clock == "device" else "the host's clock",
        }
        try:
            facts["theory"], facts["theory_source"] = ideal_bubble_formula(shape)
        except Missing as why:
            facts["theory"], facts["theory_source"] = None, str(why)
        facts["timeline"] = merge_timelines(self._all_lanes(MOST_S if final else 0.0))
        facts["kinds"] = KINDS
        return facts

    def _all_lanes(self, most_s: float) -> list[Lane]:
        """The lanes of all ranks on the run's first one, which writes the header; elsewhere this rank's own."""
        own = self.timeline()
        if own is None:
            return []
        return [own] if self._shared is None or self._setting.place.rank != 0 else self._shared.read(own, most_s)
