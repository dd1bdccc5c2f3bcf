"""What predictions are made from, in the small: a card by hand, a counted step by hand, a short training."""

from __future__ import annotations

from typing import Any

from lightning_costs.prediction.cards import Card
from lightning_costs.prediction.workload import Workload
from lightning_costs.probes.device_peaks import DevicePeak
from lightning_costs.records.step_profile import OpClass, StepProfile

#: A card of round numbers: 100 TFLOP/s, 1 TB/s, 10 GB, 400 W, 100 GB/s to the next one.
CARD = Card(
    "round",
    DevicePeak(
        flop_per_s={"bf16": 1e14, "fp32": 1e13, "tf32": 5e13},
        bytes_per_s=1e12,
        source="a test",
        memory_bytes=1e10,
        board_w=400.0,
        link_bytes_per_s=1e11,
        link="a test",
    ),
)
#: One twice as fast in all.
FASTER = Card(
    "faster",
    DevicePeak(
        flop_per_s={"bf16": 2e14, "fp32": 2e13, "tf32": 1e14},
        bytes_per_s=2e12,
        source="a test",
        memory_bytes=2e10,
        board_w=800.0,
        link_bytes_per_s=2e11,
        link="a test",
    ),
)


def op(phase: str, kind: str, flop: float, nbytes: float, *, calls: float = 1, fixed: float = 0.0) -> OpClass:
    dtype = "bfloat16" if flop else "float32"
    return OpClass(phase=phase, kind=kind, dtype=dtype, calls=calls, flop=flop, access_bytes=nbytes, fixed_bytes=fixed)


def profile(**changes: Any) -> StepProfile:
    given: dict[str, Any] = {
        "classes": (
            op("forward", "product", 1e12, 1e9, fixed=4e8),
            op("forward", "other", 0.0, 2e9),
            op("backward", "product", 2e12, 2e9, fixed=8e8),
            op("optimizer", "other", 0.0, 3e9, fixed=3e9),
        ),
        "samples": 8,
        "memory": {
            "forward": {"param": 4e8, "opt_state": 8e8, "activation": 1e9, "other": 1e8},
            "backward": {"param": 4e8, "opt_state": 8e8, "grad": 2e8, "activation": 9e8, "other": 1.5e8},
            "optimizer": {"param": 4e8, "opt_state": 8e8, "grad": 4e8, "other": 1e8},
        },
        "resting_bytes": 1e8,
        "blocks": 10,
        "block_bytes": 3e7,
        "boundary_bytes": 2e7,
        "device": "cuda",
    }
    return StepProfile(**given | changes)


def workload(**changes: Any) -> Workload:
    given: dict[str, Any] = {
        "name": "made",
        "profile": profile(),
        "batch_size": 8,
        "params": 1e8,
        "precision": "bf16-mixed",
        "optimizer": "adam",
        "card": CARD,
    }
    return Workload(**given | changes)
