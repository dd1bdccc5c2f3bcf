"""What a training step does, by class of operator: FLOPs, bytes and launches by phase, and memory by kind and phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self, final

PHASES = ("forward", "backward", "optimizer")
#: Classes that are kept apart; of more, those that move least are added to a larger one of their kind.
MOST_CLASSES = 96
#: Phase, kind of operator, dtype, and the magnitude (power of two) of FLOPs and bytes of one call.
ClassKey = tuple[str, str, str, int, int]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OpClass:
    """Calls of operators that are alike, of one step or batch.

    Args:
        phase: forward, backward or optimizer.
        kind: product, conv, depthwise (convolutions of single channels), attention, causal (attention of which kernels
            skip half), recurrent, collective, or other, which memory bounds.
        dtype: Of the first floating-point argument, as torch calls it; tf32 for float32 products that may run in it.
        calls: Launches; a recurrent operator counts one a time step and layer.
        flop: Floating-point operations of all calls; `access_bytes` likewise.
        fixed_bytes: Those of `access_bytes` that do not grow with the batch: weights and their gradients.
    """

    phase: str
    kind: str
    dtype: str
    calls: float
    flop: float
    access_bytes: float
    fixed_bytes: float

    def scaled(self, calls: float = 1.0, flop: float = 1.0, access_bytes: float = 1.0) -> OpClass:
        """The class with its amounts multiplied."""
        return replace(
            self,
            calls=self.calls * calls,
            flop=self.flop * flop,
            access_bytes=self.access_bytes * access_bytes,
            fixed_bytes=self.fixed_bytes * access_bytes,
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepProfile:
    """One batch's work, the mean over a run or that of a counted step.

    Args:
        classes: What operators do, by class.
        samples: Samples of the batch.
        memory: Bytes by kind at the fullest moment of each phase; empty if unknown.
        resting_bytes: What the step found beside parameters, gradients and state: buffers, the batch, work space.
        batch_bytes: Of the batch among them.
        blocks: Repeated blocks of the model; `block_bytes` of parameters in the largest, `boundary_bytes` that it is
            given; 0 if unknown.
        host_s: Seconds in which the host queues the step while the device waits; None if that was not seen.
        compiled: Whether compiled kernels ran, whose bytes are not seen.
        device: The kind of device that it was counted on: cuda, cpu, meta.
    """

    classes: tuple[OpClass, ...]
    samples: float
    memory: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    resting_bytes: float = 0.0
    batch_bytes: float = 0.0
    blocks: int = 0
    block_bytes: float = 0.0
    boundary_bytes: float = 0.0
    host_s: float | None = None
    compiled: bool = False
    device: str = "cpu"

    def total(self, quantity: str, phase: str | None = None) -> float:
        """Sum of a quantity over all classes, or over those of a phase."""
        return float(sum(getattr(one, quantity) for one in self.classes if phase in (None, one.phase)))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a header: classes as rows."""
        plain = asdict(self)
        plain["classes"] = [list(asdict(one).values()) for one in self.classes]
        return plain

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """The profile of `as_dict`."""
        names = tuple(OpClass.__dataclass_fields__)
        classes = tuple(OpClass(**dict(zip(names, row, strict=True))) for row in data["classes"])
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**{**known, "classes": classes})


def classes_of(totals: Mapping[tuple[ClassKey, str], float], batches: float = 1.0) -> tuple[OpClass, ...]:
    """Classes from sums by key and quantity, divided by batches: at most `MOST_CLASSES`, the smallest merged."""
    sums: dict[ClassKey, Counter[str]] = {}
    for (key, quantity), amount in totals.items():
        sums.setdefault(key, Counter())[quantity] += amount  # type: ignore[assignment]
    ordered = sorted(sums, key=lambda key: (-sums[key]["flop"] - 100 * sums[key]["access_bytes"], key))
    kept: dict[ClassKey, Counter[str]] = {}
    for place, key in enumerate(ordered):
        like = next((other for other in kept if other[:3] == key[:3]), None) if place >= MOST_CLASSES else None
        kept.setdefault(like or key, Counter()).update(sums[key])
    return tuple(
        OpClass(phase=key[0], kind=key[1], dtype=key[2], **{name: found[name] / batches for name in QUANTITIES})
        for key, found in kept.items()
    )


#: The quantities of a class, in order.
QUANTITIES = ("calls", "flop", "access_bytes", "fixed_bytes")
