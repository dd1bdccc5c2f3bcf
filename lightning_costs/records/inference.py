"""What forward passes cost, once they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """What forward passes cost. None is missing, and `missing` says why.

    Args:
        batch_samples: Samples in the batch of throughput and energy.
        latency_p50_s: Median time of a pass of one sample; `latency_p95_s` its 95th percentile.
        samples_per_s: Throughput at the batch.
        energy_j: Energy of one sample, at the batch.
        peak_mem_bytes: Most memory that a pass needs at the batch.
        passes: Forward passes that were run in all.
        took_s: Time of all of it.
        method: How all this was got; the same words wherever it was got alike.
        detail: How many passes, in what time.
        missing: Field to reason.
    """

    batch_samples: int
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    samples_per_s: float | None = None
    energy_j: float | None = None
    peak_mem_bytes: float | None = None
    passes: int = 0
    took_s: float = 0.0
    method: str = ""
    detail: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)
