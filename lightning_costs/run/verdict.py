"""The verdict: what bounds a training, with evidence, what to try, and what that would save, from its record alone.

Losses are training seconds in which the devices did not compute: waiting for data, stragglers, exposed communication,
late launches, throttled clocks. The largest one is the bottleneck, if it is worth the name. Without one, counters say
whether memory or arithmetic bounds the devices. Thresholds on counters are ours, as no two tools agree on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lightning_costs.records.formatting import format_amount
from lightning_costs.records.samples import Amount
from lightning_costs.run.input_stalls import LEAST_S

Kind = Literal[
    "input-bound",
    "straggler",
    "communication-bound",
    "launch-bound",
    "throttled",
    "memory-bound",
    "compute-bound",
    "none",
    "unknown",
]

#: Shares of the training from which a loss is its bottleneck. A straggler is proved by a test of its own.
LEAST: Mapping[Kind, float] = {
    "input-bound": 0.10,
    "straggler": 0.05,
    "communication-bound": 0.15,
    "launch-bound": 0.15,
    "throttled": 0.05,
}
#: Shares of memory bandwidth and of tensor cores' cycles (or of peak FLOP/s) from which they bound a device.
MEMORY, COMPUTE = 0.5, 0.4
#: SM activity below which a device without any other loss waits for launches, or its kernels are too small.
SM_ACTIVE = 0.5
#: Mean SM clock over the highest one below which a power limit throttles: full products under the default limit of an
#: H200 run at 0.75 (docs/truth.md), which is as the chip is meant to work.
POWER_CLOCK = 0.7
#: Share of the run with a thermal or other cause of low clocks from which it is one.
_THROTTLED = 0.1
_LOSSES: Mapping[Kind, str] = {
    "input-bound": "waiting for data",
    "straggler": "waiting for stragglers",
    "communication-bound": "exposed communication",
    "launch-bound": "late launches",
    "throttled": "throttled clocks",
}
_NEXT: Mapping[Kind, str] = {
    "input-bound": "more num_workers, persistent_workers=True, pin_memory=True, or less work for each sample "
    "(decode once, cache, smaller files)",
    "communication-bound": "larger batches or accumulate_grad_batches, gradients in bf16 (a DDP communication hook), "
    "larger buckets; check the interconnect",
    "launch-bound": 'torch.compile(mode="reduce-overhead") or CUDA graphs, larger batches, fused=True optimizers, '
    "no .item() or logging in each step",
    "throttled": "cooling, fewer jobs beside it, a higher power limit (nvidia-smi -q -d PERFORMANCE names the cause)",
    "memory-bound": "torch.compile to fuse elementwise operators, fused attention, bf16 activations, channels_last",
    "compute-bound": "lower precision (bf16, FP8) or fewer FLOPs a sample: the device is used well as it is",
}
#: Nothing is copied to a CPU, so pinned memory has no use there: torch warns of it.
_INPUT_NEXT_ON_CPU = (
    "more num_workers, persistent_workers=True, or less work for each sample (decode once, cache, smaller files)"
)
_STRAGGLER_NEXT = {
    "input": "the data path of that rank: its storage, its workers, its share of long samples",
    "transfer": "pinned memory and the PCIe link of that rank",
    "other": "callbacks and loggers that run on that rank alone",
    "between steps": "what the host of that rank does between steps: callbacks, logging, other processes on its cores",
    "training": "clocks, temperature and other processes of that rank's device (nvidia-smi, top), or another node",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a training was bound by.

    Args:
        kind: 'none' if no single bottleneck was found, 'unknown' if there is no evidence at all.
        share: Of the training's time, that of the loss; None without one.
        evidence: Figures, in words.
        next: What to try; '' if there is nothing.
        saves_s: Seconds of the run that would be saved at most; None if that cannot be known.
        saves_j: Joules; at most, as a device draws less while it waits.
        saves_usd: Dollars, at the cloud price if the run has one, else at that of electricity.
        missing: What could not be judged, with the reason.
    """

    kind: Kind
    share: Amount = None
    evidence: tuple[str, ...] = ()
    next: str = ""
    saves_s: Amount = None
    saves_j: Amount = None
    saves_usd: Amount = None
    missing: tuple[str, ...] = ()

    def words(self) -> str:
        """One line.

        Example:
            >>> verdict({"setup": {"device": "cpu"}}, {"train_s": 20.0, "total_s": 25.0, "data_wait_s": 8.0}).words()
            'verdict: input-bound: training waited 8 s of 20 s for batches (40 %); try more num_workers, \
persistent_workers=True, or less work for each sample (decode once, cache, smaller files); would save at most 8 s'
        """
        title = {"none": "no single bottleneck", "unknown": "unknown"}.get(self.kind, self.kind)
        parts = [f"verdict: {title}" + (f": {', '.join(self.evidence)}" if self.evidence else "")]
        if self.next:
            parts.append(f"try {self.next}")
        amounts = ((self.saves_s, "s"), (self.saves_j, "j"), (self.saves_usd, "usd"))
        if saved := [format_amount(amount, unit) for amount, unit in amounts if amount is not None]:
            parts.append(f"would save at most {', '.join(saved)}")
        if self.missing and self.kind in ("none", "unknown"):
            parts.append(f"not judged: {'; '.join(self.missing)}")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the line."""
        found = {name: list(each) if isinstance(each, tuple) else each for name, each in asdict(self).items()}
        return {**found, "words": self.words()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loss:
    """Training seconds lost to one cause, None if only their share is known, with the figures that show it."""

    kind: Kind
    s: Amount
    share: float
    evidence: str
    next: str = ""


class _NotJudged(Exception):  # noqa: N818 - what it is
    """A cause cannot be judged: its argument says why, '' if it cannot occur in this run."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What causes are judged by."""

    header: Mapping[str, Any]
    final: Mapping[str, Amount]
    train_s: float

    def needs(self, what: str, *names: str) -> tuple[float, ...]:
        """Totals of these columns; not judged if one is missing."""
        amounts = []
        for name in names:
            if (amount := self.final.get(name)) is None:
                why = (self.header.get("missing") or {}).get(name, "not recorded")
                raise _NotJudged(f"{what} ({name}: {why})")
            amounts.append(amount)
        return tuple(amounts)

    @property
    def setup(self) -> Mapping[str, Any]:
        return self.header.get("setup") or {}

    @property
    def several(self) -> bool:
        return self.setup.get("processes") not in (None, 1)

    @property
    def straggler(self) -> Mapping[str, Any] | None:
        """The one that the others waited for most."""
        found = (self.header.get("ranks") or {}).get("stragglers") or ()
        return max(found, key=lambda each: each["waited_s"], default=None)


def verdict(header: Mapping[str, Any], final: Mapping[str, Amount]) -> Verdict:
    """The verdict on a run, by its header and its totals.

    Example:
        >>> verdict({"setup": {"device": "cpu"}}, {"train_s": 20.0, "data_wait_s": 0.1}).kind
        'none'
        >>> verdict({}, {}).words()
        'verdict: unknown; not judged: training time is not recorded'
    """
    train_s = final.get("train_s")
    if train_s is None or train_s < LEAST_S:
        why = "is not recorded" if train_s is None else f"of {format_amount(train_s, 's')} is too short"
        return Verdict(kind="unknown", missing=(f"training time {why}",))
    run = _Run(header, final, train_s)
    losses: list[_Loss] = []
    missing: list[str] = []
    for judge in (_input, _straggler, _communication, _launch, _throttled):
        try:
            losses.append(judge(run))
        except _NotJudged as reason:
            missing += [str(reason)] if str(reason) else []
    losses.sort(key=lambda loss: -loss.share)
    named = [loss for loss in losses if loss.share >= LEAST[loss.kind]]
    if named:
        first, *others = named
        evidence = (first.evidence, *(f"then {_LOSSES[each.kind]} {_percent(each.share)}" for each in others))
        saves_s, saves_j, saves_usd = _saved(run, first.s)
        return Verdict(
            kind=first.kind,
            share=first.share,
            evidence=evidence,
            next=first.next or _NEXT[first.kind],
            saves_s=saves_s,
            saves_j=saves_j,
            saves_usd=saves_usd,
            missing=tuple(missing),
        )
    kind: Kind = "none"
    evidence = tuple(f"{_LOSSES[each.kind]} {_percent(each.share)}" for each in losses)
    try:
        kind, counters = _bound_by(run)
        evidence = (*evidence, counters) if kind == "none" else (counters, *evidence)
    except _NotJudged as reason:
        missing.append(str(reason))
    if not evidence:
        kind = "unknown"
    return Verdict(kind=kind, evidence=evidence, next=_NEXT.get(kind, ""), missing=tuple(missing))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _saved(run: _Run, lost_s: Amount) -> tuple[Amount, Amount, Amount]:
    """What the run would save without a loss: seconds, joules by the training's mean power, and dollars.

    A cloud's price is by time, electricity's by joules.
    """
    if lost_s is None:
        return None, None, None
    final = run.final
    train_j, energy_j, total_s = (final.get(name) for name in ("train_energy_j", "energy_j", "total_s"))
    cloud_usd, electricity_usd = final.get("cloud_usd"), final.get("electricity_usd")
    lost_j = None if train_j is None else train_j * lost_s / run.train_s
    if cloud_usd is not None and total_s:
        return lost_s, lost_j, cloud_usd * lost_s / total_s
    usd = None if electricity_usd is None or lost_j is None or not energy_j else electricity_usd * lost_j / energy_j
    return lost_s, lost_j, usd


def _input(run: _Run) -> _Loss:
    """Waiting for data: a CPU's host waits itself; a CUDA device was seen idle meanwhile."""
    what = "waiting for data"
    on_cpu = run.setup.get("device") == "cpu"
    if on_cpu:
        (waited_s,), of_s, who = run.needs(what, "data_wait_s"), run.train_s, "training"
    else:
        (waited_s, of_s), who = run.needs(what, "idle_data_s", "timed_s"), "the device"
        if of_s < LEAST_S:
            raise _NotJudged(f"{what} (only {format_amount(of_s, 's')} were seen)")
    share = waited_s / of_s
    evidence = (
        f"{who} waited {format_amount(waited_s, 's')} of {format_amount(of_s, 's')} for batches ({_percent(share)})"
    )
    slow = run.straggler
    if slow is not None and slow["phase"] == "input" and 0 in slow["ranks"]:
        share = max(0.0, share - slow["waited_s"] / run.train_s)  # that rank's input, not everybody's
    try_next = _INPUT_NEXT_ON_CPU if on_cpu else ""
    return _Loss(kind="input-bound", s=share * run.train_s, share=share, evidence=evidence, next=try_next)


def _straggler(run: _Run) -> _Loss:
    """What ranks waited for one of them."""
    if not run.several and run.final.get("straggler_s") is None:
        raise _NotJudged("")
    (waited_s,) = run.needs("stragglers", "straggler_s")
    slow, share = run.straggler, waited_s / run.train_s
    if slow is None:
        return _Loss(kind="straggler", s=waited_s, share=share, evidence=f"ranks waited for others ({_percent(share)})")
    who = f"rank{'s' if len(slow['ranks']) > 1 else ''} {', '.join(map(str, slow['ranks']))} on node {slow['node']}"
    evidence = (
        f"{who} kept the others waiting for {format_amount(waited_s, 's')} of {format_amount(run.train_s, 's')} "
        f"({_percent(share)}; {slow['phase']})"
    )
    return _Loss(
        kind="straggler", s=waited_s, share=share, evidence=evidence, next=_STRAGGLER_NEXT.get(slow["phase"], "")
    )


def _communication(run: _Run) -> _Loss:
    """Exposed communication, without what is waiting for a straggler in it."""
    if not run.several and not run.final.get("exposed_comm_s"):
        raise _NotJudged("")
    (exposed_s,) = run.needs("communication", "exposed_comm_s")
    lost_s = max(0.0, exposed_s - (run.final.get("straggler_s") or 0.0))
    evidence = f"{format_amount(exposed_s, 's')} of {format_amount(run.train_s, 's')} communicated without computing"
    share = lost_s / run.train_s
    return _Loss(kind="communication-bound", s=lost_s, share=share, evidence=f"{evidence} ({_percent(share)})")


def _launch(run: _Run) -> _Loss:
    """A device that waits for its host: between steps by events, inside of them by traces, or by SM activity."""
    if run.setup.get("device") == "cpu":
        raise _NotJudged("")
    idle_s, data_s, timed_s = run.needs("late launches", "idle_s", "idle_data_s", "timed_s")
    if timed_s < LEAST_S:
        raise _NotJudged(f"late launches (only {format_amount(timed_s, 's')} were seen)")
    between = (idle_s - data_s) / timed_s
    traced, active = run.final.get("launch_bound_fraction"), run.final.get("sm_active_fraction")
    evidence = f"the device idled {_percent(between)} between steps for its host"
    share = between
    if traced is not None:
        share += traced * max(0.0, 1 - idle_s / timed_s)
        evidence += f" and {_percent(traced)} of traced steps for launches"
    elif active is not None and active < SM_ACTIVE and not run.several:
        share = max(share, 1 - active - data_s / timed_s)
        evidence += (
            f", and its SMs were active {_percent(active)} of the time: late launches, or kernels too small for it"
        )
    return _Loss(kind="launch-bound", s=share * run.train_s, share=share, evidence=evidence)


def _throttled(run: _Run) -> _Loss:
    """Clocks that heat or another fault holds down, or a power limit far below what the chip needs."""
    if run.setup.get("device") == "cpu":
        raise _NotJudged("")
    throttled_s, power_s, thermal_s, device_s = run.needs(
        "throttling", "throttled_s", "power_throttled_s", "thermal_throttled_s", "device_s"
    )
    active_s, peak_s = run.final.get("tensor_active_s"), run.final.get("tensor_peak_s")
    clock = peak_s / active_s if active_s and peak_s is not None else None
    faulty = max(thermal_s, throttled_s - power_s) / device_s if device_s else 0.0
    limited = power_s / device_s if device_s and clock is not None and clock < POWER_CLOCK else 0.0
    held = min(1.0, max(faulty if faulty >= _THROTTLED else 0.0, limited))
    cause = "its power limit" if limited > faulty else "heat" if thermal_s >= throttled_s - power_s else "the board"
    evidence = f"clocks were held down by {cause} for {_percent(held)} of the run"
    if clock is not None:
        evidence += f", SMs at {_percent(clock)} of their highest clock"
    share = held if clock is None else min(held, max(0.0, 1 - clock))  # a mean of clocks may exceed the peak by a digit
    lost_s = None if clock is None else share * run.train_s
    return _Loss(kind="throttled", s=lost_s, share=share, evidence=evidence if held else "throttled")


def _bound_by(run: _Run) -> tuple[Kind, str]:
    """What bounds a device that loses no time: its memory or its arithmetic, by counters; 'none' if neither does."""
    if run.setup.get("device") == "cpu":
        raise _NotJudged("memory and compute (a CPU has no counters that this package reads)")
    final = run.final
    memory, tensor = final.get("dram_active_fraction"), final.get("tensor_active_fraction")
    flops = max((f for name in ("hfu_fraction", "mfu_fraction") if (f := final.get(name)) is not None), default=None)
    compute = max((f for f in (tensor, flops) if f is not None), default=None)
    if compute is not None and compute >= COMPUTE and compute >= (memory or 0.0):
        parts = {"tensor cores busy": tensor, "of peak FLOP/s": flops, "of memory bandwidth": memory}
        return "compute-bound", ", ".join(f"{_percent(f)} {name}" for name, f in parts.items() if f is not None)
    if memory is None or compute is None:
        run.needs("memory and compute", "dram_active_fraction" if memory is None else "hfu_fraction")
    assert memory is not None
    assert compute is not None
    evidence = f"{_percent(memory)} of memory bandwidth, {_percent(compute)} of arithmetic in use"
    return ("memory-bound" if memory >= MEMORY else "none"), evidence
