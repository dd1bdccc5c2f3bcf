from __future__ import annotations

import logging

import pytest
from fakes import sample

from lightning_costs.indicators import pipeline
from lightning_costs.indicators.base import Indicator
from lightning_costs.indicators.reader import IndicatorReader
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.pipeline.pipeline import Pipeline
from lightning_costs.probes.pipeline.protocols import InstrumentedPipeline
from lightning_costs.ranks.reduce import reduce_ranks
from lightning_costs.records.pipeline.ideal_bubble import PipelineShape
from lightning_costs.records.samples import Amount, PipelineTime, RankInfo


def indicators() -> list[Indicator]:
    return [
        pipeline.BubbleS(),
        pipeline.BubbleFraction(),
        pipeline.BubbleTheoryFraction(),
        pipeline.StageStepS(),
        pipeline.StageBusyS(),
        pipeline.StageOutsideS(),
    ]


def panel(place: RankInfo, schedule: str = "ScheduleGPipe") -> IndicatorReader:
    """A rank of four micro-batches over two stages, as if it were watched."""
    setting = ProbeContext(place=place)
    shape = PipelineShape(engine="torch", schedule=schedule, stages=2, microbatches=4)
    setting.probe(Pipeline)._watched = InstrumentedPipeline(
        shape=lambda: shape, at=place, chunks=[place.stage], ranks=[place.rank]
    )
    opened = IndicatorReader(indicators(), setting)
    opened.open()
    return opened


def job(panels: list[IndicatorReader], read: list[PipelineTime]) -> dict[str, Amount]:
    vectors = [p.read(sample(pipeline=time)) for p, time in zip(panels, read, strict=True)]
    joined = reduce_ranks(vectors, panels[0].measured, [v.place for v in vectors])
    return panels[0].derive(joined, Tariff())


def test_stages_of_all_replicas_are_added_before_they_are_divided() -> None:
    places = [
        RankInfo(rank=0),
        RankInfo(rank=1, stage=1),
        RankInfo(rank=2, replica=1),
        RankInfo(rank=3, replica=1, stage=1),
    ]
    read = [PipelineTime(steps=2, step_s=4.0, busy_s=3.0, outside_s=0.25)] * 3
    slower = PipelineTime(steps=2, step_s=8.0, busy_s=3.0, outside_s=0.5)
    found = job([panel(place) for place in places], [*read, slower])
    assert found == {
        "stage_step_s": 20.0,
        "stage_busy_s": 12.0,
        "stage_outside_s": 1.25,
        "bubble_s": 8.0,
        "bubble_fraction": 8 / 20,
        "bubble_theory_fraction": 1 / 5,
    }


def test_a_window_without_a_complete_step_adds_nothing_and_has_no_share() -> None:
    opened = panel(RankInfo())
    found = job([opened], [PipelineTime()])
    assert found["bubble_s"] == found["stage_step_s"] == 0.0
    assert found["bubble_fraction"] is None
    assert opened.missing == {}


def test_where_nothing_is_a_pipeline_all_is_missing_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    opened = IndicatorReader(indicators(), ProbeContext())
    opened.open()
    with caplog.at_level(logging.WARNING):
        vector = opened.read(sample())
        assert opened.derive(vector.amounts, Tariff()).get("bubble_s") is None
    assert caplog.records == []
    assert set(opened.missing) == {i.name for i in indicators()}
    assert opened.missing["bubble_theory_fraction"].startswith("no pipeline: neither a schedule of torch")
    assert opened.missing["bubble_fraction"].startswith("needs bubble_s: needs stage_step_s: no pipeline")


def test_without_a_closed_form_the_bubble_is_measured_all_the_same() -> None:
    opened = panel(RankInfo(), schedule="Mine")
    found = job([opened], [PipelineTime(steps=1, step_s=2.0, busy_s=1.0)])
    assert found["bubble_fraction"] == 0.5
    assert opened.missing == {"bubble_theory_fraction": "no closed form is known for the bubble of Mine"}
