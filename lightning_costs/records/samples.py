"""The records that travel from a training step to a comparison: plain, frozen data without behaviour of its own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal

SCHEMA_VERSION = 1

Amount = float | None
Trigger = Literal["train", "evaluate", "epoch", "end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankInfo:
    """Who read a value, and whom that reading speaks for.

    Args:
        rank: Global rank of the process.
        node: Which machine.
        replica: Which copy of the model (data-parallel coordinate).
        stage: Which pipeline stage.
        shard: Which member of a tensor-parallel group.
        device: Identity of this rank's device on its node; equal if ranks share one. None if unknown: it is then
            counted as a device of its own.
    """

    rank: int = 0
    node: int = 0
    replica: int = 0
    stage: int = 0
    shard: int = 0
    device: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTime:
    """What a device did in the steps outside warm-up that it completed in a window, by its own events.

    `timed_s` is the denominator of the others. Of a step whose begin is unknown only the duration is in here.

    Args:
        step_times_s: Durations of the optimizer steps, from the end of one's work to the end of the next one's.
        busy: Of each of these steps its signature, and its duration without the idle time that is known.
        timed_s: Device seconds over which the others were seen: the sum of those durations.
        idle_s: Nothing queued between the end of one batch's work and the begin of the next one's, transfers apart.
        idle_data_s: Upper bound of the part of `idle_s` due to data: in each gap the lesser of idle time and of the
            host's wait for data.
        idle_hooks_s: What others' hooks then explain of `idle_s`, likewise: it is in `hooks_idle_s`, too.
        h2d_s: Transfers of batches on the compute stream.
        hooks_idle_s: Host seconds in other callbacks' hooks and loggers (the part `hooks`) in which the device was
            idle, of all steps: the lesser of both in each gap, and all of them in a gap that was interrupted.
        steady_hooks_idle_s: Those of steps outside warm-up.
        own_times_s: Of each step what other ranks' devices wait for in a collective: idle with transfers, idle that
            waiting for data explains, transfers, and what comes before the first backward pass; NaN if unknown.
    """

    step_times_s: tuple[float, ...] = ()
    busy: tuple[tuple[Hashable, float], ...] = ()
    timed_s: float = 0.0
    idle_s: float = 0.0
    idle_data_s: float = 0.0
    idle_hooks_s: float = 0.0
    h2d_s: float = 0.0
    hooks_idle_s: float = 0.0
    steady_hooks_idle_s: float = 0.0
    own_times_s: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineTime:
    """What one rank's stage of a pipeline did in the steps outside warm-up that it completed in a window.

    A step goes from its begin to the next one's.

    Args:
        steps: How many.
        step_s: Their seconds: the denominator of the others.
        busy_s: In forward and backward passes.
        outside_s: In loading, reducing gradients, the optimizer step, and between two schedules, with what these
            wait for other stages.
    """

    steps: int = 0
    step_s: float = 0.0
    busy_s: float = 0.0
    outside_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSample:
    """A window of training on one rank, closed at an optimizer step, an evaluation or the end of the run.

    The window carries its own length: everything in it is an amount of this window alone.

    Args:
        step: The step that loggers stamp on the row written at this moment.
        epoch: Epoch index at this moment.
        trigger: What closed the window.
        begun_s: Start on the run's total clock, in seconds.
        ended_s: End on the run's total clock, in seconds.
        accounts_s: Seconds of the window by account; they add up to its length.
        data_wait_s: Seconds in which the host waited for the next batch, contained in the account `train`.
        h2d_s: Host seconds in which batches were handed to the device, contained in the account `train`; None if
            they were not separated.
        lead_s: Host seconds from having a batch to its first backward pass; None if not reported.
        steps: Batches in which an optimizer stepped.
        optimizer_steps: Calls of optimizers.
        batches: Batches trained on.
        epochs: Epochs completed.
        samples: Samples trained on; None if a batch did not show it.
        tokens: Tokens trained on; None if not counted.
        padding_tokens: Elements of `input_ids` beyond the tokens; None if unknown.
        steady_s: Training seconds outside warm-up: the denominator of every rate.
        steady_samples: Samples in `steady_s`.
        steady_tokens: Tokens in `steady_s`.
        step_times_s: Durations of the single steps outside warm-up; None if they cannot be determined.
        overhead_s: What measuring cost in this window, contained in the accounts.
        restore_s: Seconds of loading a checkpoint, contained in the account `setup`; None if it is not known.
        slow_s: Seconds of steps above the median of their signature, waiting for data apart; None if they cannot be
            determined.
        device: What the device did in the steps it completed since the last window; None if it has no events.
        pipeline: What this rank's stage of a pipeline did in the steps it completed since; None without one.
    """

    step: int
    epoch: int
    trigger: Trigger
    begun_s: float
    ended_s: float
    accounts_s: Mapping[str, float]
    data_wait_s: float = 0.0
    h2d_s: float | None = None
    lead_s: float | None = None
    steps: int = 0
    optimizer_steps: int = 0
    batches: int = 0
    epochs: int = 0
    samples: int | None = 0
    tokens: int | None = None
    padding_tokens: int | None = None
    steady_s: float = 0.0
    steady_samples: int | None = 0
    steady_tokens: int | None = None
    step_times_s: tuple[float, ...] | None = ()
    overhead_s: float = 0.0
    restore_s: float | None = 0.0
    slow_s: float | None = 0.0
    device: DeviceTime | None = None
    pipeline: PipelineTime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CostVector:
    """Amounts of one window by indicator name, as one rank read them (or, reduced, as the job's)."""

    place: RankInfo
    amounts: Mapping[str, Amount]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One point of the cost curves: totals so far, gauges of the window, quality logged at that moment.

    Args:
        step: The step that loggers stamp on the row written at this moment.
        epoch: Epoch index.
        time: Unix time in seconds.
        trigger: What closed the window.
        costs: Totals of counters and last readings of gauges, by column.
        quality: Metrics logged at this moment, by the names the user gave them.
    """

    step: int
    epoch: int
    time: float
    trigger: Trigger
    costs: Mapping[str, Amount]
    quality: Mapping[str, float] = field(default_factory=dict)
