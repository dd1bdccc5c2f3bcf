"""What is trained, and what was measured of it: from a run's folder or from the cost of a model; and other settings."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

from lightning_costs.model_cost.cost import ModelCost
from lightning_costs.prediction.cards import Card, find_card
from lightning_costs.prediction.communication import parse_layout
from lightning_costs.records.missing import Missing
from lightning_costs.records.step_profile import PHASES, StepProfile
from lightning_costs.run.input_stalls import HIGHLY, MODERATELY
from lightning_costs.run.plan import steady_step_s
from lightning_costs.run.record import RunRecord

#: Bytes that an update reads and writes for a parameter in fp32, as torch's foreach implementations do it, and bytes
#: of state that it keeps: counted with this package's census on torch 2.13.
UPDATE_BYTES = {"sgd": 12.0, "momentum": 32.0, "adam": 84.0, "sam": 60.0}
STATE_BYTES = {"sgd": 0.0, "momentum": 4.0, "adam": 8.0, "sam": 8.0}
#: Formats: of products, bytes of a weight, and the bytes that other operators move and activations hold over those in
#: fp32. Autocast leaves norms, softmax and losses in fp32: 0.5 to 1 and 0.51 to 0.79 in what was counted on a GPU.
PRECISIONS = {
    "fp32": ("float32", 4.0, 1.0, 1.0),
    "tf32": ("tf32", 4.0, 1.0, 1.0),
    "bf16-mixed": ("bfloat16", 4.0, 0.8, 0.6),
    "fp16-mixed": ("float16", 4.0, 0.8, 0.6),
    "bf16-true": ("bfloat16", 2.0, 0.5, 0.5),
    "fp16-true": ("float16", 2.0, 0.5, 0.5),
}
#: Share of the multiprocessors that work while a device-bound step runs: 0.83 to 0.9 on an H200 (docs/predict.md).
ACTIVE_SHARE = 0.87


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One optimizer step on one device of a training, and what a run says of the rest of it.

    Args:
        name: Of the run or model.
        profile: What the step does.
        batch_size: Samples of a step on one device.
        params: Unique parameters.
        precision: A key of `PRECISIONS`.
        optimizer: A key of `UPDATE_BYTES`; None if there is none.
        card: The one that it was measured on; None for a count alone.
        devices: As many as trained.
        layout: How they shared the work, as `communication.parse_layout` reads it.
        step_s: A measured step without waiting for data and without gaps; None if nothing was measured.
        phases: Seconds of a measured step by phase, as far as the run has them.
        device_s: Seconds of it in which the device ran something; None if no trace saw that.
        exposed_s: Seconds of it that waited for other devices; None if no trace saw that.
        input_s: Seconds of a step in which the device waited for its batch.
        gap_s: Other seconds between two steps: transfers, logging, hooks.
        final: The run's totals by column; empty for a model.
        planned_steps: Steps of the whole schedule, as far as the run's setup has it.
        device_w: Mean power of one device while training; `host_w` of a node's processors and memory.
        notes: What must be known of it.
    """

    name: str
    profile: StepProfile
    batch_size: float
    params: float
    precision: str = "fp32"
    optimizer: str | None = None
    card: Card | None = None
    devices: int = 1
    layout: str = "ddp"
    step_s: float | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    device_s: float | None = None
    exposed_s: float | None = None
    input_s: float = 0.0
    gap_s: float = 0.0
    final: Mapping[str, float | None] = field(default_factory=dict)
    planned_steps: float | None = None
    device_w: float | None = None
    host_w: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def whole_step_s(self) -> float | None:
        """A measured step, waiting and gaps included."""
        return None if self.step_s is None else self.step_s + self.input_s + self.gap_s


def workload_of_run(run: RunRecord) -> Workload:
    """What a run says of its training.

    Raises:
        Missing: If the run has no counted step, or no optimizer step.
    """
    header, final, setup = run.header, run.final, run.header.get("setup", {})
    if not header.get("step_profile"):
        raise Missing(
            f"the run {run.name} holds no counted step by class of operator: it was recorded with count='off', or by "
            "an older version; record some steps of it again"
        )
    steps, batches = final.get("steps"), final.get("batches")
    if not steps or not batches:
        raise Missing(f"the run {run.name} has no optimizer step to predict from")
    batch = StepProfile.of(header["step_profile"])
    if not batch.memory and (peak := final.get("peak_mem_bytes")):
        batch = replace(batch, memory=_by_the_allocator(final, peak))
    classes = tuple(one.scaled(*[batches / steps] * 3) for one in batch.classes)
    host_s = None if batch.host_s is None else batch.host_s * batches / steps
    device = str((setup.get("hardware") or {}).get("device") or setup.get("device") or "cpu")
    # Of processors, a run's devices are nodes: each process trains with its copy.
    devices = int((setup.get("processes") if device == "cpu" else final.get("devices")) or 1)
    layout, samples = _layout(setup, devices), final.get("samples")
    replicas = parse_layout(layout, devices).data
    batch_size = samples / steps / replicas if samples else batch.samples * batches / steps
    step_s, input_s, gap_s = _measured(final)
    exposed_s = final.get("exposed_comm_s")
    card = find_card(device)
    watts = _watts(final, devices, card)
    batches_planned = setup.get("planned_batches_per_epoch")
    planned = setup.get("max_steps") if (setup.get("max_steps") or -1) > 0 else None
    if planned is None and batches_planned and setup.get("max_epochs"):
        planned = setup["max_epochs"] * batches_planned * steps / batches
    if planned is None and header.get("status") == "finished":  # a loop of the user's own: its steps were its schedule
        planned = steps
    names = [str(each.get("name")) for each in setup.get("optimizers", ()) if isinstance(each, Mapping)]
    return Workload(
        name=run.name,
        profile=replace(batch, classes=classes, samples=batch_size, host_s=host_s),
        batch_size=batch_size,
        params=final.get("params") or 0.0,
        precision=precision_of(str(setup.get("precision") or "32-true"), str(setup.get("matmul_precision"))),
        optimizer=optimizer_of(names[0] if names else "adamw", setup.get("optimizers", ())),
        card=card,
        devices=devices,
        layout=layout,
        step_s=step_s,
        phases={phase: found / steps for phase in PHASES if (found := final.get(f"{phase}_s"))},
        device_s=_device_s(final, step_s, steps, alone=devices == 1),
        exposed_s=None if exposed_s is None else exposed_s / steps,
        input_s=input_s,
        gap_s=gap_s,
        final=final,
        planned_steps=planned,
        device_w=watts[0],
        host_w=watts[1],
        notes=_notes(batch, header),
    )


def workload_of_model(cost: ModelCost, name: str = "model") -> Workload:
    """What `measure` found: a count, and on a device the step's seconds.

    Raises:
        Missing: If the model has no training step.
    """
    if cost.profile is None:
        raise Missing("the model's training step was not counted: nothing takes gradients")
    phases = {one.phase for one in cost.profile.classes}
    return Workload(
        name=name,
        profile=cost.profile,
        batch_size=cost.samples,
        params=cost.params or 0.0,
        precision=_counted_precision(cost.profile),
        optimizer=_kind_of_state(cost) if "optimizer" in phases else None,
        card=find_card(cost.device) if cost.device != "meta" else None,
        step_s=cost.step_s,
        notes=tuple(f"FLOPs are a lower bound: no formula for {name}" for name in cost.uncounted),
    )


def loader_wait(load: Workload, batch_size: float, work_s: float) -> tuple[float, float, list[str]]:
    """Seconds of a step in which the device waits for its batch, their standard deviation, and what must be known.

    At least, what is waited for is loaded between two steps, whatever the card. At most, the loader gave batches as
    fast as it can, and a faster card waits for the rest.
    """
    whole, grown = load.whole_step_s, batch_size / load.batch_size
    least_s = load.input_s * grown
    if not whole or load.input_s < MODERATELY * whole:
        kept_up = ["the loader is taken to keep up: its wait a sample stays as measured"]
        return least_s, 0.0, kept_up if load.input_s else []
    most_s = max(least_s, (whole - load.gap_s) * grown - work_s)
    share = load.input_s / whole
    bound = (
        f"the run is input-bound ({100 * share:.0f} % of a step): its loader gave a batch every {whole:.3g} s, and a "
        "faster card does not shrink that"
    )
    return most_s if share >= HIGHLY else (least_s + most_s) / 2, (most_s - least_s) / math.sqrt(12), [bound]


def optimizer_of(name: str, groups: Any = ()) -> str:
    """The kind of an optimizer by its class's name.

    Example:
        >>> optimizer_of("AdamW"), optimizer_of("SGD", [{"momentum": 0.9}]), optimizer_of("SAM")
        ('adam', 'momentum', 'sam')
    """
    word = name.lower()
    if "sam" in word:
        return "sam"
    if word == "momentum":
        return word
    if "sgd" in word:
        return "momentum" if any(each.get("momentum") for each in groups if isinstance(each, Mapping)) else "sgd"
    return "adam"


def precision_of(lightning: str, matmul: str = "highest") -> str:
    """A precision as Lightning calls it, by this module's names.

    Example:
        >>> precision_of("bf16-mixed"), precision_of("32-true", "high"), precision_of("16-true")
        ('bf16-mixed', 'tf32', 'fp16-true')
    """
    if lightning in PRECISIONS:
        return lightning
    if not re.fullmatch(r"(bf16|16|32|64|transformer-engine.*)(-true|-mixed)?", lightning):
        raise ValueError(
            f"precision must be one of {', '.join(PRECISIONS)}, or as Lightning calls it, got {lightning!r}"
        )
    kind = "true" if lightning.endswith("true") else "mixed"
    if lightning.startswith("bf16"):
        return f"bf16-{kind}"
    if lightning.startswith("16"):
        return f"fp16-{kind}"
    return "fp32" if matmul in ("highest", "None") else "tf32"


def _counted_precision(profile: StepProfile) -> str:
    """The precision of a count by the format of most of its products."""
    flop: Counter[str] = Counter()
    updated: Counter[str] = Counter()
    for one in profile.classes:
        flop[one.dtype] += int(one.flop)
        if one.phase == "optimizer":
            updated[one.dtype] += int(one.access_bytes)
    most = max(flop, key=lambda dtype: flop[dtype], default="float32")
    weights = max(updated, key=lambda dtype: updated[dtype], default=most)
    kind = "mixed" if weights == "float32" else "true"
    return {"bfloat16": f"bf16-{kind}", "float16": f"fp16-{kind}", "tf32": "tf32"}.get(most, "fp32")


def _kind_of_state(cost: ModelCost) -> str:
    state = cost.opt_state_bytes or 0.0
    each = state / max(1.0, cost.trainable_params or cost.params or 1.0)
    return "sgd" if each < 1 else "momentum" if each < 6 else "adam"


def _measured(final: Mapping[str, float | None]) -> tuple[float | None, float, float]:
    """Seconds of a steady step, split into work, waiting for data, and gaps."""
    whole, train_s = steady_step_s(final), final.get("train_s")
    if whole is None:
        return None, 0.0, 0.0
    if timed_s := final.get("timed_s"):
        data = (final.get("idle_data_s") or 0.0) / timed_s
        gaps = ((final.get("idle_s") or 0.0) + (final.get("h2d_device_s") or 0.0)) / timed_s - data
    else:
        data, gaps = (final.get("data_wait_s") or 0.0) / train_s if train_s else 0.0, 0.0
    data, gaps = min(0.95, max(0.0, data)), max(0.0, gaps)
    return whole * max(0.04, 1 - data - gaps), whole * data, whole * gaps


def _device_s(final: Mapping[str, float | None], step_s: float | None, steps: float, *, alone: bool) -> float | None:
    """Seconds of a step in which the device computed: as a trace saw it, else by its multiprocessors' work.

    A collective's kernel occupies multiprocessors while it waits for other devices, so their work shows that of a
    device alone.
    """
    idle_s, active_s = final.get("step_idle_s"), final.get("sm_active_s")
    if step_s is None:
        return None
    if idle_s is not None:
        waited_s = final.get("exposed_comm_s") or 0.0
        return max(0.02 * step_s, step_s - (idle_s + waited_s) / steps)
    return active_s / steps / ACTIVE_SHARE if active_s and alone else None


def _watts(final: Mapping[str, float | None], devices: int, card: Card) -> tuple[float | None, float | None]:
    """Power of a device in steady steps, and mean power of a node's processors and memory while training.

    A device is taken to wait in the seconds of training that are no steady step: compilers, autotuning, counted steps.
    """
    energy, gpu, train_j = (final.get(name) for name in ("energy_j", "gpu_energy_j", "train_energy_j"))
    train_s, total_s = final.get("train_s"), final.get("total_s")
    if energy is None or gpu is None or not train_s or not total_s:
        return None, None
    share = train_j / energy if train_j and energy else train_s / total_s
    host_w = (energy - gpu) * share / train_s / (final.get("nodes") or 1)
    mean_w = gpu * share / train_s / devices
    steady_s = min(train_s, (steady_step_s(final) or 0.0) * (final.get("steps") or 0.0)) or train_s
    idle_w = min(mean_w, card.idle_w if card.idle_w is not None else mean_w)
    return idle_w + (mean_w - idle_w) * train_s / steady_s or None, host_w


def _by_the_allocator(final: Mapping[str, float | None], peak_bytes: float) -> dict[str, dict[str, float]]:
    """Memory by kind where storages were not followed, as in compiled code: what is no state is taken for activations.

    The peak is taken to be that of the backward pass, before gradients are made.
    """
    state = {kind: final.get(f"{kind}_bytes") or 0.0 for kind in ("param", "master", "opt_state")}
    return {"backward": {**state, "activation": max(0.0, peak_bytes - sum(state.values()))}}


def _layout(setup: Mapping[str, Any], devices: int) -> str:
    """How a run's devices shared the work; a strategy that is not known is taken for data-parallel."""
    strategy = str(setup.get("strategy") or "ddp")
    try:
        parse_layout(strategy, devices)
    except ValueError:
        return "ddp"
    return strategy


def _notes(batch: StepProfile, header: Mapping[str, Any]) -> tuple[str, ...]:
    setup, notes = header.get("setup") or {}, []
    if setup.get("strategy") and _layout(setup, 1) != setup["strategy"]:
        notes.append(f"the run's strategy {setup['strategy']} is not known: it is taken for data-parallel")
    if batch.compiled:
        notes.append(
            "compiled kernels ran: the bytes of what they fused are not counted, and are in the efficiencies; memory "
            "that is no parameter or state is taken for activations"
        )
    if calls := (header.get("census") or {}).get("uncounted_calls"):
        notes.append(f"no formula for {', '.join(calls)}: their time is in the efficiencies of the others")
    return tuple(notes)
