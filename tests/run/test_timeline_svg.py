from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from stages import gpipe, lane_of

from lightning_costs.records.pipeline.timeline import merge_timelines
from lightning_costs.run.timeline_svg import timeline_svg

_SVG = "{http://www.w3.org/2000/svg}"


def pipeline(p: int = 2, m: int = 3, **told: Any) -> dict[str, Any]:
    truth = gpipe(p, m)
    facts = {"schedule": "ScheduleGPipe", "stages": p, "microbatches": m, "chunks": 1}
    return {**facts, "timeline": merge_timelines([lane_of(s, truth[s]) for s in range(p)]), **told}


def test_every_pass_of_every_stage_is_a_block_with_its_words() -> None:
    svg = timeline_svg(pipeline())
    assert svg is not None
    tips = [title.text for title in ElementTree.fromstring(svg).iter(f"{_SVG}title")]
    assert len(tips) == 2 * 3 * 2
    assert "stage 1: backward of micro-batch 2, 40 ms from 160 ms" in tips
    texts = [text.text for text in ElementTree.fromstring(svg).iter(f"{_SVG}text")]
    assert {"stage 0", "stage 1", "F0", "B2", "F forward", "B backward", "idle", "0 ms"} <= set(texts)


def test_a_block_is_as_wide_as_it_took() -> None:
    svg = timeline_svg(pipeline(p=2, m=1))
    assert svg is not None
    blocks = [rect for rect in ElementTree.fromstring(svg).iter(f"{_SVG}rect") if rect.find(f"{_SVG}title") is not None]
    widths = [float(rect.attrib["width"]) for rect in blocks]
    assert [round(width / min(widths), 2) for width in widths] == [1, 2, 1, 2]


def test_it_brings_its_own_paper_and_runs_nothing() -> None:
    svg = timeline_svg(pipeline(schedule='</svg><script>"Mine" & yours</script>'))
    assert svg is not None
    root = ElementTree.fromstring(svg)
    first = next(root.iter(f"{_SVG}rect"))
    paper = next(rect for rect in root.iter(f"{_SVG}rect") if rect.attrib["fill"] == "#ffffff")
    assert first is paper
    assert list(root.iter(f"{_SVG}script")) == []
    assert "<script" not in svg


def test_where_no_step_was_kept_there_is_no_picture() -> None:
    assert timeline_svg(pipeline(timeline=None)) is None
