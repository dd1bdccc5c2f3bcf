"""What forward passes cost, once they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """What forward passes cost; None is missing, and `missing` says why.

    Latency is that of one sample; throughput, energy (of one sample) and memory are at a batch of `batch_samples`. The
    words of `method` are the same wherever it was got alike; `detail` says how many passes, in what time.
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
