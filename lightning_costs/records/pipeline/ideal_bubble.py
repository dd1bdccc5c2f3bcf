"""The bubble that a pipeline's schedule leaves by its order alone: closed forms of the share of stage time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lightning_costs.records.formatting import format_amount
from lightning_costs.records.missing import Missing

#: What `bubble_s` and `bubble_fraction` are, in the words of a run's header.
CONVENTION = (
    "bubble = 1 - forward and backward compute over stages x step time; a step goes from its start to the next one's, "
    "without the warm-up; the optimizer step, loading and communication are not busy"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineShape:
    """What runs as a pipeline: stages (p), micro-batches of a step (m), chunks of the model on each rank (v)."""

    engine: str
    schedule: str
    stages: int
    microbatches: int
    chunks: int = 1


class _Form(NamedTuple):
    """A closed form: its words, source and assumptions; when it holds; its value by p, m, v."""

    words: str
    source: str
    holds: Callable[[int, int, int], bool]
    where: str
    of: Callable[[int, int, int], float]


_EQUAL = "equal stages, communication for nothing"
_SPLIT = f"{_EQUAL}; forward, input gradient and weight gradient take equally long"
_FLUSHED = _Form(
    "(p-1)/(m+p-1)",
    f"Huang et al. 2019 (arXiv 1811.06965), Narayanan et al. 2021 (arXiv 2104.04473); {_EQUAL}",
    lambda p, m, v: v == 1,
    "with one chunk a rank",
    lambda p, m, v: (p - 1) / (m + p - 1),
)
_INTERLEAVED = _Form(
    "(p-1)/(vm+p-1)",
    f"Narayanan et al. 2021 (arXiv 2104.04473), section 2.2, as a share of the step; {_EQUAL}",
    lambda p, m, v: v == 1 or m >= p,
    "from p micro-batches on",
    lambda p, m, v: (p - 1) / (v * m + p - 1),
)
_ZB1P = _Form(
    "(p-1)/(3vm+p-1)",
    f"Qi et al. 2023 (arXiv 2401.10241): ZB-H1 idles (p-1)(T_F+T_B-T_W) a step, here for each chunk's times; {_SPLIT}",
    lambda p, m, v: m >= p,
    "from p micro-batches on",
    lambda p, m, v: (p - 1) / (3 * v * m + p - 1),
)
_ZBV = _Form(
    "0",
    f"Qi et al. 2023 (arXiv 2401.10241), section 6; {_SPLIT}",
    lambda p, m, v: m >= 2 * p,
    "from 2p micro-batches on",
    lambda p, m, v: 0.0,
)
_DUALPIPEV = _Form(
    "(p-1)/(3m+p-1)",
    "DeepSeek-AI 2024 (arXiv 2412.19437): (PP/2-1)(F&B+B-3W) a step, with PP = 2p and a pair of passes as long as one "
    f"after the other, as torch runs it; {_SPLIT}",
    lambda p, m, v: m >= 2 * p,
    "from 2p micro-batches on",
    lambda p, m, v: (p - 1) / (3 * m + p - 1),
)

#: By class name of the schedule: torch's, then DeepSpeed's.
_FORMS = {
    "ScheduleGPipe": _FLUSHED,
    "Schedule1F1B": _FLUSHED,
    "ScheduleInterleaved1F1B": _INTERLEAVED,
    "ScheduleLoopedBFS": _INTERLEAVED,
    "ScheduleInterleavedZeroBubble": _ZB1P,
    "ScheduleZBVZeroBubble": _ZBV,
    "ScheduleDualPipeV": _DUALPIPEV,
    "TrainSchedule": _FLUSHED,
}
#: Schedules that have a closed form.
KNOWN = tuple(_FORMS)


def ideal_bubble_fraction(shape: PipelineShape) -> float:
    """The share of stage time that the schedule leaves idle if every stage takes equally long.

    A step goes from its start to the next one's, as it is measured; no barrier lies between them.

    Example:
        >>> ideal_bubble_fraction(PipelineShape(engine="torch", schedule="ScheduleGPipe", stages=4, microbatches=8))
        0.2727272727272727
        >>> (ideal_bubble_fraction(PipelineShape(engine="torch", schedule="ScheduleInterleaved1F1B", stages=4,
        ...  microbatches=8, chunks=2)))
        0.15789473684210525
    """
    form = _form(shape)
    return form.of(shape.stages, shape.microbatches, shape.chunks)


def ideal_bubble_formula(shape: PipelineShape) -> tuple[str, str]:
    """The closed form as a formula, and its source with what it assumes."""
    form = _form(shape)
    return form.words, form.source


def describe_bubble(pipeline: Mapping[str, Any] | None, final: Mapping[str, float | None]) -> list[str]:
    """A sentence on a run's bubble; none if nothing is a pipeline.

    Example:
        >>> run = {"schedule": "ScheduleGPipe", "stages": 2, "microbatches": 4, "chunks": 1, "theory": "(p-1)/(m+p-1)"}
        >>> (describe_bubble(run, {"bubble_s": 3.0, "stage_step_s": 12.0, "stage_outside_s": 0.6,
        ...                    "bubble_theory_fraction": 0.2}))
        ['pipeline bubble 25 % of stage time, 5 % outside the schedule; by its order alone ScheduleGPipe leaves 20 %
         ((p-1)/(m+p-1) with p = 2, m = 4)']
    """
    if not pipeline:
        return []
    bubble_s, step_s, outside_s = (final.get(name) for name in ("bubble_s", "stage_step_s", "stage_outside_s"))
    bubble = "pipeline bubble not measured"
    if bubble_s is not None and step_s:
        bubble = f"pipeline bubble {format_amount(bubble_s / step_s, 'fraction')} of stage time"
        if outside_s is not None and bubble_s > 0:
            bubble += f", {format_amount(outside_s / step_s, 'fraction')} outside the schedule"
    share = final.get("bubble_theory_fraction")
    if share is None or pipeline.get("theory") is None:
        return [f"{bubble}; no closed form for {pipeline['schedule']} as it ran"]
    chunks = f", v = {pipeline['chunks']}" if pipeline["chunks"] > 1 else ""
    return [
        f"{bubble}; by its order alone {pipeline['schedule']} leaves {format_amount(share, 'fraction')} "
        f"({pipeline['theory']} "
        f"with p = {pipeline['stages']}, m = {pipeline['microbatches']}{chunks})"
    ]


def _form(shape: PipelineShape) -> _Form:
    form = _FORMS.get(shape.schedule)
    if form is None:
        raise Missing(f"no closed form is known for the bubble of {shape.schedule}")
    if not form.holds(shape.stages, shape.microbatches, shape.chunks):
        raise Missing(
            f"the closed form of {shape.schedule}'s bubble holds {form.where}; here are {shape.stages} stages (p), "
            f"{shape.microbatches} micro-batches (m) and {shape.chunks} chunks a rank (v)"
        )
    return form
