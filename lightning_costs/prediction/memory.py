"""Peak memory of one device by kind, from a counted step: other batches, formats, optimizers, and sharing with others.

What a step holds at the fullest moment of each phase is known from the storages' lifetimes. Activations and what is
made and dropped on the way grow with the batch; parameters, gradients and state do not, and are shared as ZeRO's
stages say (Rajbhandari et al. 2020, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import final

from lightning_costs.prediction.cards import Card
from lightning_costs.prediction.communication import Layout, parse_layout
from lightning_costs.prediction.workload import PRECISIONS, STATE_BYTES, Workload
from lightning_costs.records.missing import Missing
from lightning_costs.records.step_profile import StepProfile

#: What a CUDA process needs beside its tensors: its context, and libraries' work space (an assumption; 0.4 to 0.7 GB).
CONTEXT_BYTES = 6e8
#: What an allocator cannot use of the rest: fragments (an assumption).
FRAGMENTS = 0.04
#: Widths (standard deviations of logarithms) of a peak: in the setting that was measured, in another one, of a count on
#: another kind of device; of activations in another format; and shared otherwise.
WIDTHS, FORMAT_WIDTH, SHARING_WIDTH = (0.01, 0.03, 0.05), 0.1, 0.05
#: What tensor parallelism leaves whole of a transformer block's activations: 10 of 34 bytes an element (Korthikanti et
#: al. 2022, 'Reducing activation recomputation', equation 2).
WHOLE_ACTIVATIONS = 10 / 34
_STATE = ("param", "grad", "opt_state", "master")
#: cuBLAS's work space of one thread on Hopper and later, and on earlier cards (torch's notes on CUDA,
#: CUBLAS_WORKSPACE_CONFIG); the backward pass has a thread of its own.
_WORK_SPACE_BYTES, _WORK_SPACE_BEFORE_HOPPER_BYTES = 32 * 2**20, 8519680


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PeakMemory:
    """Most memory of one device, by kind at that moment, and the phase of it."""

    by_kind: Mapping[str, float]
    phase: str

    @property
    def total_bytes(self) -> float:
        """All kinds."""
        return float(sum(self.by_kind.values()))


def zero_state_bytes(
    params: float, stage: int, ranks: int, *, weight: float = 2, grad: float = 2, k: float = 12
) -> float:
    """Bytes of parameters, gradients and optimizer state on one rank under ZeRO.

    Rajbhandari et al. 2020, section 3, figure 1: 2+2+K bytes a parameter in mixed precision, with K = 12 for Adam.

    Example:
        >>> [round(zero_state_bytes(7.5e9, stage, 64) / 1e9, 1) for stage in range(4)]
        [120.0, 31.4, 16.6, 1.9]
    """
    share = [1 / ranks if stage >= least else 1.0 for least in (3, 2, 1)]
    return params * (weight * share[0] + grad * share[1] + k * share[2])


def peak_memory(
    load: Workload,
    layout: Layout,
    *,
    batch_size: float,
    precision: str,
    optimizer: str | None,
    checkpointing: bool = False,
) -> PeakMemory:
    """The fullest moment of a step in another setting.

    Raises:
        Missing: If memory was not followed, or a setting needs the model's blocks and they are unknown.
    """
    profile = load.profile
    if not profile.memory or not any(sum(kinds.values()) for kinds in profile.memory.values()):
        raise Missing("memory inside a step was not followed: compiled code ran, or the run is an older one")
    factor = batch_size / load.batch_size
    found = {}
    for phase, kinds in profile.memory.items():
        held = {kind: float(kinds.get(kind, 0)) for kind in (*_STATE, "activation", "other")}
        batch = min(profile.batch_bytes, profile.resting_bytes, held["other"])
        grown = held["other"] if phase == "optimizer" else min(held["other"], profile.resting_bytes)
        made = max(0.0, held["other"] - grown)
        if phase != "optimizer":
            casts = min(_cast_bytes(load.precision, load.params), held["activation"])
            held["activation"] = (held["activation"] - casts) * factor
        held["other"] = grown + batch * (factor - 1) + made * factor
        held = _whole(held, parse_layout(load.layout, load.devices), layout)
        held = _in_format(held, load.precision, precision, _convolving(profile))
        if phase != "optimizer":
            held["casts"] = _cast_bytes(precision, load.params)
        held = _with_state(held, load, optimizer, precision)
        if phase == "optimizer" and optimizer == "adam" and profile.device == "meta":
            held["update"] = held["param"]  # a foreach update makes one tensor of each parameter's size
        if checkpointing and phase != "optimizer":
            held["activation"] = _kept(load, held["activation"], factor)
        own = load.devices > 1 and layout == parse_layout(load.layout, load.devices)
        found[phase] = held if own else _shared(held, load, layout, phase)
    phase = max(found, key=lambda name: sum(found[name].values()))
    return PeakMemory(by_kind=found[phase], phase=phase)


def _cast_bytes(precision: str, params: float) -> float:
    """Weights in a half format, which autocast holds from the forward to the backward pass; no batch grows them."""
    return 2.0 * params if precision.endswith("-mixed") else 0.0


def _whole(held: dict[str, float], measured: Layout, layout: Layout) -> dict[str, float]:
    """What one device alone would hold of what the measured ones shared; as it is for the layout that was measured."""
    if measured == layout or measured.devices == 1:
        return held
    least = {"opt_state": 1, "master": 1, "grad": 2, "param": 3}
    sharers = {kind: measured.data if measured.stage >= stage else 1 for kind, stage in least.items()}
    return {kind: nbytes * sharers.get(kind, 1) for kind, nbytes in held.items()}


def _convolving(profile: StepProfile) -> float:
    """The share of the forward pass's products that are convolutions."""
    forward = [one for one in profile.classes if one.phase == "forward"]
    convolutions = sum(one.calls for one in forward if one.kind in ("conv", "depthwise"))
    whole = convolutions + sum(one.calls for one in forward if one.kind == "product")
    return convolutions / whole if whole else 0.0


def _in_format(held: dict[str, float], was: str, now: str, convolving: float) -> dict[str, float]:
    """Bytes in another format: autocast leaves layer norms in fp32, what follows convolutions in the half format."""
    (_, was_weight, _, was_share), (_, weight, _, share) = PRECISIONS[was], PRECISIONS[now]
    was_share, share = (one if one == 1.0 else one + convolving * (0.5 - one) for one in (was_share, share))
    scales = dict.fromkeys((*_STATE, "master"), weight / was_weight) | {"activation": share / was_share}
    return {kind: nbytes * scales.get(kind, 1.0) for kind, nbytes in held.items()}


def _with_state(held: dict[str, float], load: Workload, optimizer: str | None, precision: str) -> dict[str, float]:
    if optimizer is None or (optimizer == load.optimizer and held["opt_state"]):
        return held
    each = STATE_BYTES[optimizer] / 4 * PRECISIONS[precision][1]
    held["opt_state"] = each * load.params
    if optimizer == "sam":  # a second copy of the weights while they are perturbed
        held["opt_state"] += held["param"]
    return held


def _kept(load: Workload, activation: float, factor: float) -> float:
    """Activations with checkpointing: what goes into every block, and all that one block makes."""
    profile = load.profile
    if not profile.blocks or not profile.boundary_bytes:
        raise Missing("activation checkpointing needs the model's repeated blocks, and none were seen in the count")
    return min(activation, profile.blocks * profile.boundary_bytes * factor + activation / profile.blocks)


def _shared(held: dict[str, float], load: Workload, layout: Layout, phase: str) -> dict[str, float]:
    """What one device holds."""
    profile, whole = load.profile, layout.tensor * layout.pipeline
    in_format = held["param"] / (profile.memory[phase].get("param") or held["param"] or 1.0)
    grads = in_format * max(kinds.get("grad", 0.0) for kinds in profile.memory.values())
    if layout.microbatches > 1:  # gradients of earlier micro-batches are there in every phase
        held = {**held, "grad": grads}
    kept = {kind: nbytes / whole if kind in (*_STATE, "casts", "update") else nbytes for kind, nbytes in held.items()}
    if layout.tensor > 1:
        kept["activation"] *= WHOLE_ACTIVATIONS + (1 - WHOLE_ACTIVATIONS) / layout.tensor
    if layout.pipeline > 1:  # 1F1B: the first stage holds as many micro-batches as there are stages
        in_flight = min(layout.pipeline, layout.microbatches) / layout.microbatches
        kept["activation"] *= in_flight / layout.pipeline
        kept["other"] = profile.resting_bytes + (kept["other"] - profile.resting_bytes) / layout.microbatches
    n, unsharded = layout.data, kept["param"]
    if n > 1 and layout.stage >= 1:
        kept |= {kind: kept[kind] / n for kind in ("opt_state", "master", "update") if kind in kept}
    if n > 1 and layout.stage >= 2:
        kept["grad"] /= n
    if n > 1 and layout.stage >= 3:
        kept["param"] /= n
        kept.pop("casts", None)  # what is gathered is in the format of the products
        if phase != "optimizer":  # what is gathered: all that is in no block, the block in use and the next one
            block = profile.block_bytes * in_format / layout.tensor
            rest = max(0.0, unsharded - profile.blocks / layout.pipeline * block)
            kept["gathered"] = min(unsharded, rest + 2 * block) if profile.blocks else unsharded
            if phase == "backward":  # and gradients, before they are scattered
                kept["gathered"] += min(unsharded, rest + block) if profile.blocks else unsharded
    if layout.ddp_buckets:
        kept["buckets"] = grads / whole
    return kept


def fits(peak_bytes: float, card: Card) -> bool | None:
    """Whether a peak fits on a card beside a process's context and fragments; None if its memory is unknown."""
    memory = card.peak.memory_bytes if card.peak is not None else None
    return None if memory is None else peak_bytes * (1 + FRAGMENTS) + CONTEXT_BYTES <= memory


def largest_batch(load: Workload, layout: Layout, card: Card, **setting: object) -> int:
    """Most samples of a step whose memory fits on a card, one device's.

    Raises:
        Missing: If not even one fits, or the card's memory or the step's is unknown.
    """

    def fit(samples: int) -> bool:
        fitting = fits(peak_memory(load, layout, batch_size=samples, **setting).total_bytes, card)  # type: ignore[arg-type]
        if fitting is None:
            raise Missing(f"how much memory {card.name} has is not in the table")
        return fitting

    if not fit(1):
        raise Missing(f"not even one sample fits on {card.name}")
    low, high = 1, 2
    while fit(high) and high < 2**30:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fit(middle) else (low, middle)
    return low


def with_work_space(load: Workload, peak: PeakMemory, card: Card) -> PeakMemory:
    """The peak with what the device's libraries hold: as the run's allocator counted it, else cuBLAS's."""
    counted, allocated = _most(load.profile.memory.values()), load.final.get("peak_mem_bytes")
    over = 0.0
    if allocated and counted and 0.8 < allocated / counted < 1.5:
        over = max(0.0, allocated - counted)
    elif card.known and load.profile.device != "cuda":
        modern = card.name.startswith(("H", "B", "GB", "GH"))
        over = 2.0 * (_WORK_SPACE_BYTES if modern else _WORK_SPACE_BEFORE_HOPPER_BYTES)
    return replace(peak, by_kind={**peak.by_kind, "other": peak.by_kind.get("other", 0.0) + over})


def peak_width(load: Workload, card: Card, layout: Layout, *, batch_size: float, precision: str) -> float:
    """Width of a predicted peak."""
    same = batch_size == load.batch_size and precision == load.precision
    widths = [WIDTHS[2 if card.known and load.profile.device != "cuda" else 0 if same else 1]]
    widths += [FORMAT_WIDTH] if PRECISIONS[precision][3] != PRECISIONS[load.precision][3] else []
    widths += [SHARING_WIDTH] if layout != parse_layout(load.layout, load.devices) else []
    return math.hypot(*widths)


def _most(phases: Iterable[Mapping[str, float]]) -> float:
    return max((sum(kinds.values()) for kinds in phases), default=0.0)
