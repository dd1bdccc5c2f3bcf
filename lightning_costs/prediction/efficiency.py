"""Step time from what a step does: the roofline by class of operator, with efficiencies that a measured run calibrates.

A call takes the larger of FLOPs over the attainable rate and bytes over the attainable bandwidth, and a kernel's start
(Williams et al. 2009). The host queues calls one after the other meanwhile, and the slower of the two sets the pace.
Efficiencies are log-normal with the prior centres and widths below. A measured step updates them (Gauss-Newton,
Laplace's approximation), so that the interval of a prediction comes from what the measurement left open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import final

import numpy as np
from numpy.typing import NDArray

from lightning_costs.prediction.cards import Card
from lightning_costs.probes.device_peaks import format_of
from lightning_costs.records.step_profile import PHASES, StepProfile

Floats = NDArray[np.float64]

#: Share of the peak that a kind of operator attains by number format, before anything was measured. Large products
#: attain 60 to 80 % on data-centre cards; convolutions and attention less (the project's assumptions; docs/predict.md).
ATTAINED = {"product": 0.65, "conv": 0.18, "attention": 0.35, "causal": 0.7, "recurrent": 0.4, "depthwise": 0.02}
ATTAINED_OF_MEMORY = 0.7
#: Device seconds that a kernel takes to start and drain, and host seconds to queue a call, by phase.
KERNEL_S = 2.5e-6
HOST_S = {"forward": 27e-6, "backward": 27e-6, "optimizer": 40e-6}
#: Widths (standard deviations of the logarithm) of what is not measured yet.
WIDTHS = {
    **{
        "product": 0.15,
        "conv": 0.4,
        "attention": 0.3,
        "causal": 0.3,
        "recurrent": 0.5,
        "depthwise": 0.7,
        "memory": 0.15,
        "kernel": 0.2,
        "host": 0.25,
    },
    "card": 0.03,
}
#: Width by which a format's efficiency differs from the kind's.
FORMAT_WIDTH = 0.15
#: Width of what a card whose peaks are unknown attains, and a processor: only what was measured on it says anything.
UNKNOWN_CARD_WIDTH, PROCESSOR_WIDTH = 3.0, 1.0
#: Widths that are added to each of a device's efficiencies on another card, and to the host's.
OTHER_CARD_WIDTH, OTHER_HOST_WIDTH = 0.1, 0.15
#: How far a measured mean step is from that of the next run alike: on a card with known peaks, and on others (a host's
#: processors, which others use too); and the host's seconds in it.
STEP_WIDTH, STEP_WIDTH_ELSEWHERE, HOST_WIDTH = 0.015, 0.1, 0.25
#: How far the host's seconds of one run are from those of the next one alike: of a step that it bounds, so is the step.
HOST_RUN_WIDTH = 0.07
#: How far the model is from parts of a step: the device's seconds, and those of a phase.
PART_WIDTH = 0.1
#: How far the model is from another training's step, whose own peculiarities no efficiency of a kind can follow.
OTHER_STEP_WIDTH = 0.12
#: FLOP/s and bytes/s that stand for those of an unknown card, and of one core of a processor: their ratio decides which
#: roof an operator is under.
_STAND_IN, _STAND_IN_OF_CORE = (1e12, 1e11), (5e10, 1e10)
#: How sharply the slower of host and device sets the pace: the p of a p-norm.
_SHARPNESS = 16.0


@final
@dataclass(frozen=True, slots=True)
class Table:
    """A step's classes as arrays, with the rates of a card: [classes]."""

    names: tuple[tuple[str, ...], ...]
    compute_s: Floats
    memory_s: Floats
    calls: Floats
    host_s: Floats
    phase: NDArray[np.int64]
    unknown: tuple[str, ...]
    #: Seconds of all products and of all bytes at the peaks themselves.
    peak_s: tuple[float, float]
    #: Whether operators run as they are called, as on a processor: then the host's seconds add to them.
    synchronous: bool = False


def table_of(profile: StepProfile, card: Card) -> Table:
    """Seconds of every class at the card's peaks; a card without TF32 runs such products in fp32."""
    classes = [one for one in profile.classes if one.kind != "collective" and one.calls > 0]
    rates: Mapping[str, float] = card.peak.flop_per_s if card.known and card.peak is not None else {}
    stand_in_flop_per_s, bytes_per_s = _STAND_IN_OF_CORE if card.name == "cpu" else _STAND_IN
    if card.known and card.peak is not None and card.peak.bytes_per_s is not None:
        bytes_per_s = card.peak.bytes_per_s
    names, compute, unknown, peak_s = [], [], set(), 0.0
    for one in classes:
        number = format_of(one.dtype, tf32=False)
        number = _roof(one.kind, number, rates)
        rate = rates.get(number, stand_in_flop_per_s if not card.known else None)
        if one.flop and rate is None:
            unknown.add(number)
        peak_s += one.flop / rate if rate else 0.0
        compute.append(one.flop / (rate * ATTAINED.get(one.kind, 0.5)) if rate and one.flop else 0.0)
        names.append((one.kind, f"{one.kind}:{number}") if one.flop else ())
    calls, moved = (np.array([getattr(one, name) for one in classes]) for name in ("calls", "access_bytes"))
    return Table(
        names=tuple(names),
        compute_s=np.array(compute),
        memory_s=moved / (bytes_per_s * ATTAINED_OF_MEMORY),
        calls=calls,
        host_s=calls * np.array([HOST_S[one.phase] for one in classes]),
        phase=np.array([PHASES.index(one.phase) for one in classes], dtype=np.int64),
        unknown=tuple(sorted(unknown)),
        peak_s=(peak_s, float(moved.sum()) / bytes_per_s),
        synchronous=card.name == "cpu",
    )


def _roof(kind: str, number: str, rates: Mapping[str, float]) -> str:
    """The format whose peak bounds a kind of operator in a format, on a card with these peaks.

    Convolutions are hardly faster in a half format than in TF32, and fused attention in TF32 than in fp32.
    """
    if kind == "conv" and number in ("bf16", "fp16") and "tf32" in rates:
        return "tf32"
    if kind == "depthwise" or (number == "tf32" and ("tf32" not in rates or kind in ("attention", "causal"))):
        return "fp32"
    return number


@final
@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step by phase, and of the device and of the host in all."""

    by_phase: Mapping[str, float]
    device_s: float
    host_s: float

    @property
    def total_s(self) -> float:
        """The step."""
        return float(sum(self.by_phase.values()))

    @property
    def host_width(self) -> float:
        """Width of the step's time by what the host takes from run to run."""
        host, device = self.host_s**_SHARPNESS, self.device_s**_SHARPNESS
        return HOST_RUN_WIDTH * host / (host + device) if host + device else 0.0


@final
@dataclass(frozen=True, slots=True)
class Efficiencies:
    """What is known of efficiencies: logarithms against the prior's centres, and their covariance.

    Args:
        names: Of the parameters: a kind, a kind in a format, memory, kernel, host, card.
        mean: [parameters]; a device's are times, so that above 0 is slower.
        covariance: [parameters, parameters].
        residual: What a measured step takes over the model's: applied to every step, so that a run reproduces itself.
    """

    names: tuple[str, ...]
    mean: Floats
    covariance: Floats
    residual: float = 1.0

    def time(self, table: Table, at: Floats | None = None) -> StepTime:
        """The seconds of a step."""
        mean = self.mean if at is None else at
        known = dict(zip(self.names, mean, strict=True))

        def slower(name: str) -> float:
            return math.exp(known.get(name, 0.0))

        card = slower("card")
        kind = np.exp(_design(table.names, self.names) @ mean) * card
        compute, memory = table.compute_s * kind, table.memory_s * kind * slower("memory")
        device = np.maximum(compute, memory) + table.calls * KERNEL_S * slower("kernel") * card
        host = table.host_s * slower("host")
        device_s, host_s = float(device.sum()), float(host.sum())
        pace = _both if table.synchronous else _slower
        by_phase = np.array([pace(device[table.phase == n].sum(), host[table.phase == n].sum()) for n in range(3)])
        whole = pace(device_s, host_s) * self.residual
        share = by_phase / by_phase.sum() if by_phase.sum() else by_phase
        return StepTime(
            by_phase={phase: float(whole * part) for phase, part in zip(PHASES, share, strict=True)},
            device_s=device_s * self.residual,
            host_s=host_s * self.residual,
        )

    def width(self, table: Table, *, other_card: bool) -> float:
        """Standard deviation of the logarithm of a step's time: what the measurement left open, and another card's."""
        covariance = self.covariance
        if other_card:
            own = np.array([_transfer(name) for name in self.names])
            covariance = covariance + np.diag(own**2)
        slope = _gradient(lambda at: math.log(self.time(table, at).total_s), self.mean)
        return math.sqrt(max(0.0, float(slope @ covariance @ slope)))


@final
@dataclass(frozen=True, slots=True)
class Measured:
    """A measured step: its table, its seconds without waiting for data, and what else of it was seen.

    Args:
        table: What it does.
        card: On which card.
        step_s: Its seconds.
        host_s: In which the host queued it.
        device_s: In which the device ran something.
        phases: By phase.
    """

    table: Table
    card: Card
    step_s: float
    host_s: float | None = None
    device_s: float | None = None
    phases: Mapping[str, float] = field(default_factory=dict)

    def misses(self, time: StepTime, width: float) -> list[float]:
        """By how many widths a model's step differs from each of them."""
        pairs: list[tuple[float, float | None, float]] = [
            (time.total_s, self.step_s, math.hypot(width, time.host_width))
        ]
        pairs += [(time.host_s, self.host_s, HOST_WIDTH), (time.device_s, self.device_s, PART_WIDTH)]
        pairs += [(time.by_phase[phase], seconds, PART_WIDTH) for phase, seconds in self.phases.items()]
        return [math.log(got / want) / wide for got, want, wide in pairs if want and got > 0]


def calibrate(tables: Sequence[Table], measured: Sequence[Measured], *, own: bool = True) -> Efficiencies:
    """Efficiencies given measured steps.

    Args:
        tables: All that will be predicted: what they do names the parameters.
        measured: What was measured; none leaves the prior.
        own: Whether the first one is of the training that is predicted: then it is reproduced exactly.
    """
    seen = {name for table in (*tables, *(one.table for one in measured)) for names in table.names for name in names}
    names = (*sorted(seen), "memory", "kernel", "host", "card")
    widths = np.array([WIDTHS.get(name, FORMAT_WIDTH) for name in names])
    if any(not one.card.known for one in measured):
        processor = any(one.card.name == "cpu" for one in measured)
        widths[names.index("card")] = PROCESSOR_WIDTH if processor else UNKNOWN_CARD_WIDTH
    prior = Efficiencies(names, np.zeros(len(names)), np.diag(widths**2))
    if not measured:
        return prior
    first = STEP_WIDTH if measured[0].card.known else STEP_WIDTH_ELSEWHERE
    widths_of = [first if own and not n else OTHER_STEP_WIDTH for n in range(len(measured))]

    def misses(at: Floats) -> Floats:
        found: list[float] = []
        for n, (one, width) in enumerate(zip(measured, widths_of, strict=True)):
            missed = one.misses(prior.time(one.table, at), width)
            found += missed if own and not n else map(_robust, missed)
        return np.array(found)

    # A step that is much slower than expected may be the device's or the host's: both are tried.
    slow = math.log(max(1.0, measured[0].step_s / prior.time(measured[0].table).total_s))
    starts = [slow * np.array([float(name in side) for name in names]) for side in ((), ("card",), ("host",))]
    mean, covariance = min((_updated(misses, widths, start) for start in starts), key=lambda found: found[2])[:2]
    found = Efficiencies(names, mean, covariance)
    residual = measured[0].step_s / found.time(measured[0].table).total_s if own else 1.0
    return replace(found, residual=residual)


def _robust(miss: float) -> float:
    """A miss whose square grows no faster than it does itself when it is large: an outlier does not bend the rest."""
    return math.copysign(math.sqrt(2 * (math.sqrt(1 + miss * miss) - 1)), miss)


def _updated(misses: Callable[[Floats], Floats], widths: Floats, at: Floats) -> tuple[Floats, Floats, float]:
    """Most probable parameters under a centred normal prior, their covariance there, and the loss.

    Levenberg and Marquardt's iteration from a start.
    """
    damping = 1.0
    precision = np.diag(1 / widths**2)

    def loss(at: Floats) -> float:
        return float(misses(at) @ misses(at) + at @ precision @ at)

    for _ in range(60):
        slope = _jacobian(misses, at)
        curvature = slope.T @ slope + precision
        move = np.linalg.solve(curvature + damping * precision, slope.T @ misses(at) + precision @ at)
        if loss(at - move) < loss(at):
            at, damping = at - move, damping / 4
            if float(np.abs(move).max()) < 1e-6:
                break
        else:
            damping *= 4
    slope = _jacobian(misses, at)
    covariance: Floats = np.asarray(np.linalg.inv(slope.T @ slope + precision), dtype=np.float64)
    return at, covariance, loss(at)


@lru_cache(maxsize=512)
def _design(classes: tuple[tuple[str, ...], ...], names: tuple[str, ...]) -> Floats:
    """[classes, parameters]: 1 where a class's products are as slow as a parameter says."""
    return np.array([[float(name in of) for name in names] for of in classes]).reshape(len(classes), len(names))


def _jacobian(of: Callable[[Floats], Floats], at: Floats, step: float = 1e-4) -> Floats:
    """[values, parameters]: central differences."""
    moves = np.eye(len(at)) * step
    return np.stack([(of(at + move) - of(at - move)) / (2 * step) for move in moves], axis=1)


def _gradient(of: Callable[[Floats], float], at: Floats) -> Floats:
    slope: Floats = _jacobian(lambda where: np.array([of(where)]), at)[0]
    return slope


def _both(device_s: float, host_s: float) -> float:
    return device_s + host_s


def _slower(device_s: float, host_s: float) -> float:
    """The pace of two that work at once: about the slower one's."""
    most = max(device_s, host_s)
    if most <= 0:
        return 0.0
    return float(most * ((device_s / most) ** _SHARPNESS + (host_s / most) ** _SHARPNESS) ** (1 / _SHARPNESS))


def _transfer(name: str) -> float:
    if name == "host":
        return OTHER_HOST_WIDTH
    return 0.0 if name == "card" else OTHER_CARD_WIDTH
