"""Steps of pipelines whose truth is known, and what the ranks tell of them."""

from __future__ import annotations

from typing import Any

from lightning_costs.records.pipeline.timeline import Span, stage_timeline


def gpipe(p: int, m: int, forward_s: float = 0.02, backward_s: float = 0.04) -> list[list[Span]]:
    """The truth of a GPipe step, by stage, on one clock that begins with the first stage."""
    turn_s = (m + p - 1) * forward_s
    return [
        [
            *(Span("F", 0, i, (i + s) * forward_s, (i + s + 1) * forward_s) for i in range(m)),
            *(
                Span("B", 0, i, turn_s + (i + p - 1 - s) * backward_s, turn_s + (i + p - s) * backward_s)
                for i in range(m)
            ),
        ]
        for s in range(p)
    ]


def lane_of(stage: int, intervals: list[Span], late_s: float = 0.0, **told: Any) -> dict[str, Any]:
    """A stage's lane as its rank tells it, whose step began so many seconds after the first one's."""
    own = [i._replace(begun_s=i.begun_s - late_s, ended_s=i.ended_s - late_s) for i in intervals]
    facts: dict[str, Any] = {
        "step": 5, "rank": stage, "node": 0, "replica": 0, "stage": stage, "chunks": [stage], "began": 100.0 + late_s,
        "clock": "host", "length_s": own[-1].ended_s,
    }  # fmt: skip
    return stage_timeline(own, **facts | told)
