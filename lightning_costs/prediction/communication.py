"""What devices send each other in a step, by how they share the work: volumes, seconds, and what computing may hide.

Volumes are those of rings. To all-reduce S bytes, each of n devices sends 2(n-1)/n S; to gather or scatter them, half
of that (Patarasuk and Yuan 2009, 'Bandwidth optimal all-reduce algorithms'; Thakur et al. 2005). What
a strategy sends is in the text of each function, with its source. Links are data sheets' (`probes.device_peaks`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from lightning_costs.prediction.cards import DEVICES_PER_NODE, Card
from lightning_costs.records.missing import Missing
from lightning_costs.records.pipeline.ideal_bubble import PipelineShape, ideal_bubble_fraction

#: Share of a link's rate that large messages attain, and seconds of one message. Assumptions: NCCL's own tests attain
#: 75 to 85 % of the link, and tens of microseconds for a small all-reduce within a node.
LINK_ATTAINED, MESSAGE_S = 0.8, 15e-6
#: Bytes of gradients that DDP sends at once (`bucket_cap_mb` of torch.nn.parallel.DistributedDataParallel).
BUCKET_BYTES = 25 * 2**20
#: Calls that sharing adds for the host, for each of the update's: DDP's hooks and buckets in the backward pass, updates
#: of torch's DTensors (FSDP2 and tensor parallelism), DeepSpeed's hooks for each parameter. Measured once: a GPT of
#: 406 M parameters on two and four H200 (docs/predict.md).
ADDED_CALLS = {"ddp": 1.0, "dtensor": 2.8, "zero": 4.2, "zero3": 20.0}
#: Width (standard deviation of the logarithm) of a predicted communication.
LINK_WIDTH = 0.25


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How devices share a training.

    Args:
        data: Copies of the model, or groups that hold one in shards.
        tensor: Devices that share every layer.
        pipeline: Stages.
        stage: What the copies share, as ZeRO's stages: 0 nothing, 1 the optimizer's state, 2 gradients too, 3
            parameters too (FSDP).
        microbatches: Of a step, in a pipeline.
        ddp_buckets: Whether gradients are copied into buckets, as torch's DDP does.
        fsdp: Whether parameters are torch's DTensors, as FSDP2's are.
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    stage: int = 0
    microbatches: int = 1
    ddp_buckets: bool = False
    fsdp: bool = False

    @property
    def adds(self) -> str:
        """What adds calls for the host, by `ADDED_CALLS`; empty for nothing."""
        if self.fsdp or self.tensor > 1:
            return "dtensor"
        if self.stage:
            return "zero3" if self.stage == 3 else "zero"
        return "ddp" if self.ddp_buckets else ""

    @property
    def devices(self) -> int:
        """All of them."""
        return self.data * self.tensor * self.pipeline

    @property
    def bubble_fraction(self) -> float:
        """The share of a stage's time that 1F1B leaves idle."""
        shape = PipelineShape(
            engine="torch", schedule="Schedule1F1B", stages=self.pipeline, microbatches=self.microbatches
        )
        return ideal_bubble_fraction(shape) if self.pipeline > 1 else 0.0

    def words(self) -> str:
        """The layout for people."""
        shared = {0: "", 1: " ZeRO-1", 2: " ZeRO-2", 3: " ZeRO-3 or FSDP"}[self.stage]
        parts = [f"{self.data} replicas{shared}" if self.data > 1 else ""]
        parts += [f"tensor parallel over {self.tensor}" if self.tensor > 1 else ""]
        bubble = f"{self.pipeline} stages, {self.microbatches} micro-batches"
        return ", ".join(filter(None, [*parts, bubble if self.pipeline > 1 else ""])) or "1 device"


def parse_layout(text: str, devices: int, microbatches: int | None = None) -> Layout:
    """A layout from a strategy's name, ours or Lightning's; parts are joined by '+', as 'tp4+pp2+zero1'.

    Example:
        >>> parse_layout("zero3", 8).stage, parse_layout("DDPStrategy", 2).data, parse_layout("tp4+pp2+ddp", 16).data
        (3, 2, 2)
        >>> parse_layout("magic", 8)
        Traceback (most recent call last):
        ValueError: strategy must be ddp, fsdp, zero1, zero2, zero3, tp, pp or several joined by '+', got 'magic'
    """
    sizes, stage, ddp, fsdp = {"tp": 1, "pp": 1}, 0, False, False
    for part in text.lower().replace("deepspeed_stage_", "zero").split("+"):
        word = re.fullmatch(r"(tp|pp|tensor|pipeline)(\d*)", part.strip())
        if word is not None:
            name = "tp" if word[1].startswith("t") else "pp"
            sizes[name] = int(word[2] or 0) or devices
        elif zero := re.search(r"zero-?([0-3])", part):
            stage, ddp = int(zero[1]), zero[1] == "0"
        elif "fsdp" in part or "fullyshard" in part:
            stage, fsdp = 3, True
        elif "deepspeed" in part:
            stage = 2
        elif part.strip() in ("ddp", "none", "auto") or "ddp" in part or "single" in part:
            ddp = True
        else:
            raise ValueError(
                "strategy must be ddp, fsdp, zero1, zero2, zero3, tp, pp or several joined by '+', "
                f"got {part.strip()!r}"
            )
    each = sizes["tp"] * sizes["pp"]
    if devices % each:
        raise ValueError(f"{text!r} needs a multiple of {each} devices, got {devices}")
    data = devices // each
    m = microbatches or (4 * sizes["pp"] if sizes["pp"] > 1 else 1)
    return Layout(
        data=data,
        tensor=sizes["tp"],
        pipeline=sizes["pp"],
        stage=stage if data > 1 else 0,
        microbatches=m,
        ddp_buckets=ddp and data > 1,
        fsdp=fsdp and data > 1,
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """One kind of communication of a step: bytes that each device sends, messages, and which phases may hide it."""

    what: str
    sent_bytes: float
    messages: float
    devices: int
    hides_in: tuple[str, ...] = ()


def ring_bytes(nbytes: float, devices: int, *, reduce: bool) -> float:
    """Bytes that each of `devices` sends in a ring: to all-reduce `nbytes`, or else to gather or scatter them.

    Example:
        >>> ring_bytes(100.0, 4, reduce=True), ring_bytes(100.0, 4, reduce=False), ring_bytes(100.0, 1, reduce=True)
        (150.0, 75.0, 0.0)
    """
    return (2 if reduce else 1) * (devices - 1) / devices * nbytes


def step_traffic(
    layout: Layout, *, param_bytes: float, grad_bytes: float, boundary_bytes: float, blocks: int
) -> tuple[Traffic, ...]:
    """What a step of a layout sends.

    - DDP all-reduces gradients (Li et al. 2020, VLDB). ZeRO-1 and 2 reduce-scatter them and gather parameters, which is
      as much; ZeRO-3 and FSDP gather parameters twice and reduce-scatter gradients, half as much again (Rajbhandari et
      al. 2020, ZeRO, section 7).
    - Tensor parallelism all-reduces what goes into a block four times a block (Shoeybi et al. 2019, Megatron-LM,
      section 3).
    - A pipeline sends what goes into a stage forward, and its gradient back, for each micro-batch.

    Args:
        layout: Who shares what.
        param_bytes: Of a device's part of the model, whole.
        grad_bytes: Of its gradients.
        boundary_bytes: What a block is given in a step.
        blocks: Repeated blocks.
    """
    found = []
    n = layout.data
    if n > 1:
        buckets = max(1.0, grad_bytes / BUCKET_BYTES)
        if layout.stage < 3:
            sent = ring_bytes(grad_bytes, n, reduce=layout.stage == 0)
            found.append(
                Traffic(what="gradients", sent_bytes=sent, messages=buckets, devices=n, hides_in=("backward",))
            )
        if layout.stage in (1, 2):
            gathered = ring_bytes(param_bytes, n, reduce=False)
            found.append(Traffic(what="parameters", sent_bytes=gathered, messages=buckets, devices=n))
        if layout.stage == 3:
            sent = 2 * ring_bytes(param_bytes, n, reduce=False) + ring_bytes(grad_bytes, n, reduce=False)
            units = 3.0 * max(1, blocks)
            hides = ("forward", "backward")
            found.append(
                Traffic(what="parameters and gradients", sent_bytes=sent, messages=units, devices=n, hides_in=hides)
            )
    if layout.tensor > 1:
        per_stage = max(1, blocks // layout.pipeline)
        sent = 4 * per_stage * ring_bytes(boundary_bytes, layout.tensor, reduce=True)
        messages = 4.0 * per_stage * layout.microbatches
        found.append(Traffic(what="activations", sent_bytes=sent, messages=messages, devices=layout.tensor))
    if layout.pipeline > 1:
        first = 2 * (layout.pipeline - 1) / layout.microbatches
        found.append(
            Traffic(
                what="stages' inputs, of the micro-batches that fill the pipeline",
                sent_bytes=first * boundary_bytes,
                messages=2.0 * (layout.pipeline - 1),
                devices=layout.pipeline,
            )
        )
    return tuple(found)


def link_rate(card: Card, layout: Layout, link: float | None, network: float | None) -> float:
    """Bytes a second from a device to the others: the node's link, or the network's if the job is larger than a node.

    Raises:
        Missing: If that link is unknown.
    """
    if layout.devices > DEVICES_PER_NODE:
        if network is None:
            raise Missing(
                f"{layout.devices} devices are more than a node of {DEVICES_PER_NODE}: give network_bytes_per_s=, what "
                "one device sends to another node"
            )
        return network
    found = link if link is not None else card.peak.link_bytes_per_s if card.peak is not None else None
    if found is None:
        raise Missing(
            f"the link between devices of {card.name} is unknown: give link_bytes_per_s=, what one sends to the others"
        )
    return found


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Exposed:
    """Seconds of a step's communication, and of it those that computing does not hide: at least, likely, at most."""

    sent_bytes: float = 0.0
    total_s: float = 0.0
    least_s: float = 0.0
    likely_s: float = 0.0
    most_s: float = 0.0


def exposed(traffic: tuple[Traffic, ...], rate: float, phases: Mapping[str, float]) -> Exposed:
    """How long a step's communication takes at a link's rate, and how much of it computing leaves to be waited for.

    What may be hidden is hidden at most up to its last message, and up to the seconds of the phases that hide it; at
    least, nothing is. A quarter of what may be hidden is taken for exposed: an assumption, which a run on several
    devices replaces.
    """
    total = least = likely = most = sent = 0.0
    for one in traffic:
        took = one.sent_bytes / (rate * LINK_ATTAINED) + one.messages * MESSAGE_S
        hidden = min(took * (1 - 1 / max(1.0, one.messages)), sum(phases.get(phase, 0.0) for phase in one.hides_in))
        sent, total, most = sent + one.sent_bytes, total + took, most + took
        least += took - hidden
        likely += took - 0.75 * hidden
    return Exposed(sent_bytes=sent, total_s=total, least_s=least, likely_s=likely, most_s=most)
