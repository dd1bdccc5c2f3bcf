"""The emission: a window becomes a point. Indicators are read, ranks joined, totals updated, and sinks called."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from lightning_costs.indicators.reader import MIN_READ_INTERVAL_S, IndicatorReader
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.compile_time import CompileTime
from lightning_costs.probes.energy.meters import EnergyMeters
from lightning_costs.probes.environment import device_name
from lightning_costs.probes.gpu_activity import GpuActivity
from lightning_costs.probes.step_monitor import WARMUP_STEPS
from lightning_costs.ranks.exchange import Hurry
from lightning_costs.ranks.snapshot import NO_BLOCKS
from lightning_costs.ranks.stragglers import own_blocks
from lightning_costs.recording.job import JobAggregator
from lightning_costs.recording.shared import Shared
from lightning_costs.records.declaration import Declaration
from lightning_costs.records.forecast import Forecast, Forecaster
from lightning_costs.records.limits import unenforceable_limits
from lightning_costs.records.samples import Amount, CurvePoint, DeviceTime, StepSample, Trigger
from lightning_costs.records.window import Window

#: Train points after which emissions become half as frequent, again and again: a bound for long runs.
POINTS_BEFORE_THINNING = 1000
#: Train points after which the next ones keep apart, if one process trains (several need the same steps). A point that
#: took some seconds is followed by the next one after that many over a share of the time, so that measuring stays a
#: small part of a training whose steps take a millisecond. A short training keeps every point. One slow point must not
#: hide what follows it.
POINTS_AT_ANY_PACE = 64
#: The share of the time for points up to this one, and for those after it.
FIRST_POINTS = 200
SHARE_OF_FIRST_POINTS = 0.005
SHARE_OF_POINTS = 0.00125
MOST_APART_S = 1.0


@final
class Emission:
    """Closes windows into points, and says when the next one is due.

    Args:
        shared: What the parts of a recorder share.
        reader: The run's indicators.
        tariff: Prices and place.
        every: Optimizer steps between two train points; 0 for none.
    """

    def __init__(self, shared: Shared, reader: IndicatorReader, tariff: Tariff, *, every: int) -> None:
        self._context, self._run, self._steps = shared.context, shared.run, shared.monitor
        self._sizes, self._repeats, self._accounts = shared.sizes, shared.repeats, shared.accounts
        self._own = shared.own
        #: Batches or, of a device, steps since the last point, and its own work in them.
        self._own_steps = 0
        self._own_device_s: list[tuple[float, float, float, float]] = []
        self._clock, self._reader, self._tariff, self._every = shared.clock, reader, tariff, every
        self._job = JobAggregator(reader, shared.context)
        self._meters: EnergyMeters | None = None
        self._activity: GpuActivity | None = None
        self._compiling: CompileTime | None = None
        #: Seconds, and of them those outside warm-up, that earlier windows booked as training and the device idled.
        self._hooks_owed_s = (0.0, 0.0)
        self._forecast = Forecaster(n for n, d in reader.declarations.items() if d.kind == "counter")
        #: Of steps that were folded since the last point, which are the next one's.
        self._folded_times_s: tuple[float, ...] = ()
        self._marked_s = 0.0
        self._next_point_s = -math.inf
        self._batches = self._train_points = 0
        self._step = self._epoch = 0
        self._ended_s = 0.0
        #: The status of a run that did not finish: an error must not be delayed by optional work.
        self._hurry: Hurry = None
        #: What the loop did since the last point.
        self.window = Window(shared.accounts)
        #: Steps of earlier attempts that led here.
        self.steps_before = 0

    # The course of a run ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Let the probes open: energy is measured from here on."""
        began = self._clock()
        self._tariff = self._tariff.for_device(device_name(self._context), warn=self._context.place.rank == 0)
        self._run.amounts.set_tariff(self._tariff)
        if self._run.provenance is not None:
            self._run.provenance.ask()
        self._reader.open()
        self._steps.open()
        self._repeats.gradients = self._steps.gradients.count if self._steps.gradients is not None else None
        self._meters = self._context.attached(EnergyMeters)
        self._activity = self._context.attached(GpuActivity)
        self._compiling = self._context.attached(CompileTime)
        self._accounts.before_switch = self._meter_switch
        self.window.overhead_s += self._clock() - began

    def start(self) -> None:
        """Training begins: ranks exchange their windows, and the first step's time runs."""
        self._job.start_exchange()
        self._accounts.reset_to("train")
        self.window.start_clock()
        if self._steps.phases is not None:
            self._steps.phases.start()

    def _meter_switch(self) -> None:
        """Read the meters when a long account begins or ends, so that each gets what it spent; it is in no step."""
        began = self._clock()
        self._steps.interrupted()
        for meter in (self._meters, self._activity, self._compiling):
            if meter is not None:
                meter.on_bucket_change()
        self.window.overhead_s += self._clock() - began

    @property
    def unmetered_s(self) -> float | None:
        """Seconds of this attempt before energy was metered; None if it is not."""
        return self._meters.unmetered_s if self._meters is not None and self._meters.any_metered else None

    def finish(self) -> None:
        """No batch follows: what the device idled since the last one is known."""
        self._steps.finish(self._accounts.data_wait_s(), self._accounts.hooks_s())

    def close(self, hurry: Hurry) -> float:
        """Make the last point, if the run trained, and let the probes go.

        Args:
            hurry: How the run ended, if it did not finish.

        Returns:
            When its last window ended, in seconds of the accounts.
        """
        self._hurry = hurry
        if self._steps.phases is not None:
            self._steps.phases.stop()
        if self._run.opened:
            self.finish()
            self.emit("end")
        self._accounts.before_switch = self._meters = self._activity = self._compiling = None
        self._reader.close()
        return self._ended_s

    # Points -------------------------------------------------------------------------------------------------

    def emit(self, trigger: Trigger, quality: Mapping[str, float] | None = None) -> CurvePoint:
        """Close the window into a point, fold it into the totals and hand it to the sinks."""
        with self._accounts.bucket("other", "lightning-costs"):
            began = self._clock()
            self._job.next_point()
            self.fold(trigger, at_point=True)
            self._mark(trigger)
            if trigger == "train":
                self._train_points += 1
            else:
                self._steps.interrupted()
            point = self._run.append(step=self._step, epoch=self._epoch, trigger=trigger, quality=quality or {})
            took_s = self._clock() - began
            self.window.overhead_s += took_s
            if self._train_points >= POINTS_AT_ANY_PACE and len(self._context.places) == 1:
                share = SHARE_OF_FIRST_POINTS if self._train_points < FIRST_POINTS else SHARE_OF_POINTS
                self._next_point_s = began + took_s + min(took_s / share, MOST_APART_S)
        return point

    def epoch_logged(self, metrics: Iterable[str]) -> None:
        """An epoch ended that logged these metrics: whether the run's is among them is known now."""
        self._run.warn(self._run.unlogged.epoch_ended(metrics))

    def read(self) -> dict[str, Amount]:
        """Totals up to now, every meter asked: what a point costs, without one."""
        with self._accounts.bucket("other", "lightning-costs"):
            began = self._clock()
            self.fold("epoch")
            self.window.overhead_s += self._clock() - began
        return self._run.totals

    def fold(self, trigger: Trigger, *, at_point: bool = False) -> None:
        """Close the window and add it to the totals.

        Args:
            trigger: What closes it.
            at_point: Whether a point follows: all ranks close a window there.
        """
        self._run.check_measured()
        sample = self._close_window(trigger, at_point=at_point)
        vector = self._reader.read(sample)
        self._batches += sample.batches
        ending = trigger == "end"
        # Before the first batch, which a checkpoint may come before, they are not known, and would go missing for good.
        known = bool(self._run.header["statics"]) or not self._run.opened
        statics = None if known and (not ending or self._hurry) else self._reader.statics(sample)
        if ending and statics is not None:
            self._job.leave_statics(statics)
        blocks = self._own_blocks(sample, at_point=at_point)
        job, even = self._job.reduce_window(
            vector, trigger=trigger, batches=self._batches, exact=not at_point, hurry=self._hurry, blocks=blocks
        )
        window = self._reader.derive(job, self._tariff, None if even is job else even or {})
        if statics is not None:
            self._run.header["statics"] = self._job.statics(statics, final=ending)
            self._run.header |= self._steps.about(final=ending)
        elif ending:  # what else steps say belongs to the statics that are there
            self._run.header |= {name: fact for name, fact in self._steps.about().items() if name == "census"}
        if ending:
            how = {"failed": "failed", "interrupted": "was interrupted"}.get(str(self._hurry), "did not show it")
            self._reader.mark_unread(self._run.header["statics"], f"read when a training has finished; this one {how}")
        if (trace := self._steps.take_trace()) is not None:
            self._run.keep_trace(trace)
            self._run.header |= self._steps.about()
        self._tell_header(trigger)
        self._run.amounts.add(window, missing=self._reader.missing, methods=self._reader.methods)
        if self._reader.read_all:  # else rate-limited counters lag behind the others
            gauges = self._reader.derive_from_totals(self._run.totals, self._tariff)
            self._run.amounts.set_gauges(gauges, missing=self._reader.missing, methods=self._reader.methods)
        if trigger != "train":
            self._run.amounts.estimated(self._reader.errors)

    def _close_window(self, trigger: Trigger, *, at_point: bool) -> StepSample:
        self.book_repeats()
        self.window.overhead_s += self._steps.take_census_s(self.window.steady_step_s)
        sample = self.window.close(step=self._step, epoch=self._epoch, trigger=trigger)
        self._ended_s = sample.ended_s
        if (lead_s := self._own.take_lead_s()) is not None:
            sample = replace(sample, lead_s=lead_s)
        if (device := self._steps.device_time()) is not None:
            slow_s = self.window.device_slow_s(device)
            sample = replace(sample, device=device, step_times_s=device.step_times_s, slow_s=slow_s)
            sample = self._settle_hooks(sample, device)
        if self._folded_times_s or not at_point:
            times_s = (*self._folded_times_s, *(sample.step_times_s or ()))
            self._folded_times_s = () if at_point else times_s
            sample = replace(sample, step_times_s=times_s)
        if (pipeline := self._steps.pipeline_time()) is not None:
            sample = replace(sample, pipeline=pipeline)
        return sample

    def _own_blocks(self, sample: StepSample, *, at_point: bool) -> NDArray[np.float32]:
        """What this rank did by itself since the last point; nothing between points, and if one process trains."""
        if not self._own.shared:
            return NO_BLOCKS
        device = sample.device
        self._own_steps += sample.batches if device is None else sample.steps
        self._own_device_s.extend(device.own_times_s if device is not None else ())
        if not at_point:
            return NO_BLOCKS
        host_s, device_s, steps = self._own.take(), self._own_device_s, self._own_steps
        self._own_steps, self._own_device_s = 0, []
        if device is None:
            return own_blocks(host_s, steps)
        own_s, data_s, h2d_s, led_s = zip(*device_s, strict=True) if device_s else ((),) * 4
        # Who waits for others in its forward pass is slow there because of them.
        return own_blocks((own_s, data_s, h2d_s), steps, led_s if self._steps.waits_in_forward is False else ())

    def _settle_hooks(self, sample: StepSample, device: DeviceTime) -> StepSample:
        """Others' hooks are training's while the device trains on; what it idled in them goes to `other`.

        Its events are read late: what a window cannot give back is the next one's.
        """
        owed_s, steady_owed_s = self._hooks_owed_s
        owed_s, steady_owed_s = owed_s + device.hooks_idle_s, steady_owed_s + device.steady_hooks_idle_s
        spent_s = sample.accounts_s
        moved_s, steady_moved_s = min(owed_s, spent_s["train"]), min(steady_owed_s, sample.steady_s)
        self._hooks_owed_s = owed_s - moved_s, steady_owed_s - steady_moved_s
        if not moved_s and not steady_moved_s:
            return sample
        moved = {"train": spent_s["train"] - moved_s, "other": spent_s["other"] + moved_s}
        return replace(sample, accounts_s={**spent_s, **moved}, steady_s=sample.steady_s - steady_moved_s)

    def _tell_header(self, trigger: Trigger) -> None:
        """What the header says of seconds, ranks and energy."""
        header = self._run.header
        if (provenance := self._run.provenance) is not None:
            header |= provenance.late(ending=trigger == "end", hurry=self._hurry is not None)
        if trigger != "train":
            by_whom = sorted(self._accounts.seconds_by_source.items(), key=lambda item: -item[1])
            header["by_whom_s"] = [[*names, seconds] for names, seconds in by_whom]
            if ranks := self._job.report():
                header["ranks"] = ranks
        if self._meters is not None and (trigger != "train" or "energy" not in header):
            header["energy"] = self._meters.metadata(final=trigger == "end" and not self._hurry)

    def publish_oom(self, facts: Mapping[str, Any]) -> None:
        """Memory ran out on this rank: rank 0 writes it."""
        self._job.publish_oom(facts)

    def oom_elsewhere(self) -> dict[str, Any]:
        """On rank 0: what another rank published of memory that ran out there; empty if none did."""
        return self._job.oom_elsewhere()

    def book_repeats(self) -> None:
        """Add the steps that the fast path noted to the window."""
        if n := len(self._repeats.train_s):
            repeats = self._repeats
            self._sizes.repeated(n, repeats.samples)
            self.window.add_repeated(
                repeats.take(), samples=repeats.samples, tokens=repeats.tokens, padding=None, calls=repeats.calls
            )
            self._steps.record_repeats(n)
            self.step_done()

    # Steps and epochs that points are stamped with --------------------------------------------------------------

    def step_done(self) -> None:
        """The next point is stamped with the last step that is done."""
        self._step = self.steps_before + self._steps.done - 1

    def epoch_done(self) -> None:
        """An epoch is complete."""
        self.window.add_epoch()
        self._epoch += 1

    def set_step(self, *, step: int, epoch: int | None = None) -> None:
        """Set the step and epoch that the next point is stamped with, if a framework counts its own."""
        self._step = step
        if epoch is not None:
            self._epoch = epoch

    # When the next point is due -----------------------------------------------------------------------------

    @property
    def _period(self) -> int:
        return self._every << (self._train_points // POINTS_BEFORE_THINNING)

    def should_emit(self, step: int) -> bool:
        """Whether a train point is due after `step` optimizer steps: every `log_every_n_steps`, later fewer."""
        return bool(self._every) and step % self._period == 0 and self._accounts.since_s >= self._next_point_s

    def steps_to_point(self, step: int) -> float:
        """Steps from `step`, as `should_emit` counts them, to the next train point; infinite if time keeps it off."""
        if not self._every or self._accounts.since_s < self._next_point_s:
            return math.inf
        return self._period - step % self._period

    def quiet_after(self, step: int) -> tuple[float, float]:
        """How many steps follow `step` before one at whose end a point may be due, and until when none is due."""
        left = self.steps_to_point(step) - 1
        return left, self._next_point_s if self._every and math.isinf(left) else math.inf

    # What is known between points ---------------------------------------------------------------------------

    @property
    def declarations(self) -> Mapping[str, Declaration]:
        """Declarations by column name."""
        return self._reader.declarations

    @property
    def totals_are_current(self) -> bool:
        """Whether no batch was done since the totals were read."""
        return self.window.empty and not self._repeats.train_s

    def _mark(self, trigger: Trigger) -> None:
        """Note the totals for the forecast, once the first steps are over; not more often than meters move."""
        if trigger == "train" and self._ended_s - self._marked_s < MIN_READ_INTERVAL_S:
            return
        self._marked_s = self._ended_s
        totals = self._run.totals
        if (totals.get("steps") or 0) >= WARMUP_STEPS:
            self._forecast.observe(totals["steps"] or 0, totals, cycle=trigger == "evaluate")

    def forecast(self, planned_steps: float) -> dict[str, Forecast]:
        """Forecast totals after `planned_steps` steps, by column; empty while too few steps were recorded.

        Evaluations to come are in once one was seen. What ends training sooner (early stopping) is not foreseen.
        """
        return self._forecast.predict(planned_steps)

    def missing_counters(self, columns: Iterable[str]) -> dict[str, str]:
        """Counters among these that are missing, with the reason, as far as known; also before any step."""
        columns = list(columns)
        why = self._run.amounts.notes | self._run.header["missing"]
        unread = {name: why.get(name, "it was not read") for name in columns if self._run.totals.get(name) is None}
        hears_all = self._job.all_ranks_reporting
        return unread | self._reader.missing_counters(columns, self._tariff, hears_all=hears_all)

    def unenforceable_limits(self, limits: Mapping[str, float]) -> str | None:
        """The limits that cannot be enforced, as their columns are missing, in words; None if all can."""
        return unenforceable_limits(limits, self.declarations, self.missing_counters(limits))

    def broadcast_headline(
        self, headline: Mapping[str, float], trigger: Literal["evaluate", "epoch"]
    ) -> dict[str, float]:
        """Rank 0's numbers after a point, the same on every rank; empty if they do not arrive in time.

        Args:
            headline: On rank 0, the numbers; ignored on other ranks.
            trigger: What closed the point's window.
        """
        began = self._clock()
        numbers = self._job.broadcast_headline(headline, trigger)
        self.window.overhead_s += self._clock() - began
        return numbers
