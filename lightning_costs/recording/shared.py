"""What the parts of a recorder share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from lightning_costs.probes.batch_counter import BatchCounter
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.own_work import OwnWork
from lightning_costs.probes.repeat_steps import RepeatedStepFastPath
from lightning_costs.probes.step_monitor import StepMonitor
from lightning_costs.recording.run_state import RunState
from lightning_costs.records.time_buckets import TimeBuckets


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """One run's, in this process.

    Args:
        context: Where and what is trained.
        run: Its header, totals and sinks.
        monitor: What is done around a step.
        sizes: Samples and tokens of batches.
        repeats: Steps like the one before.
        own: What this rank does by itself in each batch.
        accounts: Where the run's time goes.
        clock: Seconds, monotonic.
    """

    context: ProbeContext
    run: RunState
    monitor: StepMonitor
    sizes: BatchCounter
    repeats: RepeatedStepFastPath
    own: OwnWork
    accounts: TimeBuckets
    clock: Callable[[], float]
