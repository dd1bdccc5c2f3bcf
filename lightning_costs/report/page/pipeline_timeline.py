"""The page's section on pipelines: a sentence on each run's bubble, and one step of it as a picture."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.records.pipeline.ideal_bubble import describe_bubble
from lightning_costs.run.timeline_svg import timeline_svg


class PipelineSection(NamedTuple):
    """A run that was a pipeline.

    Args:
        label: The run's.
        sentence: What is in its bubble, beside the closed form.
        svg: One step; None if none was kept.
        clock: What the picture was read from.
    """

    label: str
    sentence: str
    svg: Markup | None
    clock: str


def pipeline_sections(cmp: ComparisonData) -> list[PipelineSection]:
    """The runs that were pipelines, in the order of the comparison."""
    found = []
    for number, run in enumerate(cmp.runs):
        pipeline = run["about"].get("pipeline")
        if pipeline is None:
            continue
        svg = timeline_svg(pipeline, number)
        found.append(
            PipelineSection(
                label=run["label"],
                sentence="; ".join(describe_bubble(pipeline, run["final"])),
                # Made of numbers and of text that is escaped there.
                svg=None if svg is None else Markup(svg),
                clock=pipeline["timeline"]["clock"] if svg is not None else "",
            )
        )
    return found
