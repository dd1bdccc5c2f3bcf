"""The recorder: a run's costs without any framework. A training loop reports its events; the recorder measures."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast, final

from lightning_costs.indicators import default_indicators
from lightning_costs.indicators.base import Indicator
from lightning_costs.indicators.reader import MIN_READ_INTERVAL_S, IndicatorReader
from lightning_costs.patching.fail_safe import raised_on_purpose
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes import batch as batches
from lightning_costs.probes.batch_counter import BatchCounter
from lightning_costs.probes.clock import mark_run_end, now_s, run_start_s
from lightning_costs.probes.context import Count, ProbeContext
from lightning_costs.probes.energy.meters import EnergyMeters
from lightning_costs.probes.environment import collect_environment, device_name
from lightning_costs.probes.pipeline.pipeline import Pipeline
from lightning_costs.probes.repeat_steps import RepeatedStepFastPath
from lightning_costs.probes.step_monitor import WARMUP_STEPS, StepMonitor
from lightning_costs.ranks.topology import job_topology
from lightning_costs.recording.job import JobAggregator
from lightning_costs.recording.run_state import RunState, Status, status_from_exception
from lightning_costs.records.declaration import Declaration
from lightning_costs.records.forecast import Forecast, Forecaster
from lightning_costs.records.limits import Budget, LimitExceeded, unenforceable_limits, validate_limit_columns
from lightning_costs.records.monitor import validate_monitor
from lightning_costs.records.samples import Amount, CurvePoint, RankInfo, Trigger
from lightning_costs.records.time_buckets import TimeBuckets
from lightning_costs.records.window import Window
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.loggers import WandbRunAdapter, columns, init_wandb_runs, logger_row, write_wandb_summaries
from lightning_costs.storage.paths import run_root
from lightning_costs.storage.sink import Sink

if TYPE_CHECKING:
    import torch
    from torch import nn

_log = logging.getLogger("lightning_costs")

#: How operators are counted, by default.
COUNT = "LIGHTNING_COSTS_COUNT"
#: Train points after which emissions become half as frequent, again and again: a bound for long runs.
POINTS_BEFORE_THINNING = 1000
#: Train points after which the next ones keep apart, if one process trains (several need the same steps). A point that
#: took some seconds is followed by the next one after that many over a share of the time, so that measuring stays a
#: small part of a training whose steps take a millisecond. A short training keeps every point. One slow point must not
#: hide what follows it.
POINTS_AT_ANY_PACE = 100
#: The share of the time for points up to this one, and for those after it.
FIRST_POINTS = 200
SHARE_OF_FIRST_POINTS = 0.01
SHARE_OF_POINTS = 0.0025
MOST_APART_S = 1.0

Optimizers = Sequence[Any] | Callable[[], Sequence[Any]]


@final
class Recorder:
    """Measures a run: `begin`, `step` by step, `bucket` for what is not training, `log_metrics`, `end`.

    Args:
        module: The model; without it parameters, memory by kind and FLOPs are missing.
        optimizers: The optimizers, or a function that returns them.
        monitor: Name of the quality metric that comparisons use.
        mode: Whether more of it is better ('max') or less ('min').
        targets: Quality targets declared before the run.
        save_dir: Folder for run folders, on this machine; a relative path starts at the working directory.
        name: Name of the run, for people.
        batch_size_fn: Number of samples in a batch, if its tensors do not show it.
        length_fn: Number of tokens in a batch. Compute it from shapes, so that it does not wait for the device.
        indicators: Costs to measure; `default_indicators()` and your own.
        tariff: Prices and place; by default from the environment or the user's file.
        device: The device that trains; the module's by default.
        devices: Accelerators allocated to the job, by default one a process; on a CPU, nodes.
        nodes: Machines allocated to the job; by default those that its processes are on.
        log_every_n_steps: Optimizer steps between two points; 0 for points at `log_metrics` and `end` only.
        setup: More facts about the setup (batch size, schedule) for the header.
        place: This process among others; by default from torch.distributed, each rank with a copy of the model.
        places: [ranks]: all processes.
        dataset_samples: Size of the training set.
        count: How operators are counted: "auto", "eager" (compiled code runs eagerly in counted steps) or "off"; by
            default from LIGHTNING_COSTS_COUNT.
        infer: Whether `benchmark_inference` will be called: the first counted batch is then kept on the host.
        sinks: Further receivers of the header and the points (`lightning_costs.Sink`).
        wandb: A W&B run, as `wandb.init` returns it: config, panels and summary get the costs. Rows are logged
            by you: add `row()` to them.
        accounts: Running time buckets of a framework's adapter.
        clock: Seconds, monotonic; for tests.

    Raises:
        ValueError: For a monitor without mode, an unknown place in the tariff, two indicators of one name, a
            `save_dir` that is not a folder of this machine.

    Examples:
        A loop without Lightning:

        ```python
        with Recorder(module=model, optimizers=[optimizer], monitor="val/acc", mode="max") as recorder:
            for epoch in range(epochs):
                for batch in recorder.wrap_loader(loader):
                    with recorder.train_batch(batch):
                        train(batch)
                    recorder.step(batch)
                with recorder.bucket("evaluate"):
                    accuracy = evaluate(model)
                recorder.log_metrics({"val/acc": accuracy})
        ```
    """

    def __init__(
        self,
        *,
        module: nn.Module | None = None,
        optimizers: Optimizers = (),
        monitor: str | None = None,
        mode: Literal["max", "min"] | None = None,
        targets: Iterable[float] = (),
        save_dir: str | Path = "costs",
        name: str | None = None,
        batch_size_fn: Callable[[Any], int] | None = None,
        length_fn: Callable[[Any], int] | None = None,
        indicators: Sequence[Indicator] | None = None,
        tariff: Tariff | None = None,
        device: torch.device | str | None = None,
        devices: int | None = None,
        nodes: int | None = None,
        log_every_n_steps: int = 50,
        setup: Mapping[str, Any] | None = None,
        place: RankInfo | None = None,
        places: Sequence[RankInfo] | None = None,
        dataset_samples: int | None = None,
        count: Count | None = None,
        infer: bool = False,
        sinks: Sequence[Sink] = (),
        wandb: Any = None,
        accounts: TimeBuckets | None = None,
        clock: Callable[[], float] = now_s,
    ) -> None:
        validate_monitor(monitor, mode)
        self._clock = clock
        self.accounts = accounts or TimeBuckets(clock, run_start_s() if clock is now_s else clock())
        if places is None and place is None:
            place, places = job_topology()
        place = place or RankInfo()
        self._setting = ProbeContext(
            place=place,
            places=places or (place,),
            device=_device(device, module),
            module=module,
            optimizers=optimizers if callable(optimizers) else lambda: optimizers,
            dataset_samples=dataset_samples,
            accounts=self.accounts,
            count=counting_of(count),
            evaluation_is_told=accounts is not None,
        )
        self._setting.nodes = nodes or len({each.node for each in self._setting.places})
        of_processes = len(self._setting.places) if self._setting.on_cuda else self._setting.nodes
        self._setting.devices = devices or of_processes
        self._panel = IndicatorReader(default_indicators() if indicators is None else indicators, self._setting)
        self._job = JobAggregator(self._panel, self._setting)
        self._tariff = Tariff.resolve(tariff)
        self._window = Window(self.accounts)
        self._book = RunState(
            declarations=self._panel.declarations,
            name=name,
            monitor=monitor,
            mode=mode,
            targets=targets,
            tariff=self._tariff,
            priced=self._panel.priced,
            warmup=f"first {WARMUP_STEPS} steps of an attempt, census steps and the step after each census",
            save_dir=run_root(save_dir),
            writes=place.rank == 0,
            sinks=sinks,
        )
        self._batch_size = self._setting.sizes = BatchCounter(batch_size_fn, length_fn, self._book.notes)
        self._forecast = Forecaster(n for n, d in self._panel.declarations.items() if d.kind == "counter")
        self._marked_s = 0.0
        #: Steps like the one before, for those who see each step's parts (`CostMonitor`): see `step`.
        self.stride = RepeatedStepFastPath(self.accounts)
        self._alike = self._said_how = False
        self._next_point_s = -math.inf
        self._budget: Budget | None = None
        self._every, self._infer = log_every_n_steps, infer
        self._facts = dict(setup or {})
        self._wandb = [WandbRunAdapter(wandb)] if wandb is not None and place.rank == 0 else []
        self._state: Literal["made", "open", "training", "ended"] = "made"
        self._steps: StepMonitor | None = None
        self._meters: EnergyMeters | None = None
        self._step = self._epoch = self._steps_before = self._batches = 0
        self._train_points = 0
        self._ended_s = 0.0
        #: The status of a run that did not finish: an error must not be delayed by optional work.
        self._hurry: Literal["failed", "interrupted"] | None = None

    # What others may ask ------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The run's identity; empty before its first batch."""
        return self._book.run_id

    @property
    def path(self) -> Path | None:
        """The run's folder; None before the first batch, and on other ranks than 0."""
        return self._book.path

    @property
    def header(self) -> Mapping[str, Any]:
        """The run's header as it stands."""
        return self._book.header

    @property
    def declarations(self) -> Mapping[str, Declaration]:
        """Declarations by column name."""
        return self._panel.declarations

    @property
    def costs(self) -> dict[str, Amount]:
        """Totals and gauges at the last point."""
        return self._book.costs

    @property
    def final(self) -> dict[str, Amount]:
        """Costs at the last point, and the statics."""
        return {**self.costs, **self.header["statics"]}

    @property
    def outcome(self) -> dict[str, float | bool]:
        """Best quality and cost-to-quality so far, for summaries; empty without a metric."""
        return self._book.outcome

    def row(self, *, headline: bool = False) -> dict[str, float]:
        """Costs at the last point by the names that loggers give them, for a row that holds its quality.

        Args:
            headline: The main ones alone.

        Examples:
            With W&B and no Lightning:

            ```python
            recorder.log_metrics({"val/acc": accuracy})
            run.log({"val/acc": accuracy, **recorder.row()})
            ```
        """
        return logger_row(self.costs, columns(self.declarations, headline_only=headline))

    @property
    def totals(self) -> dict[str, Amount]:
        """Totals and gauges as they were read last, between points too; after a resume those of earlier attempts."""
        return self._book.totals

    @property
    def totals_are_current(self) -> bool:
        """Whether no batch was done since the totals were read."""
        return self._window.empty and not self.stride.train_s

    def missing_counters(self, columns: Iterable[str]) -> dict[str, str]:
        """Counters among these that are missing, with the reason, as far as known; also before any step."""
        columns = list(columns)
        why = self._book.notes | self.header["missing"]
        gone = {name: why.get(name, "it was not read") for name in columns if self.totals.get(name) is None}
        return gone | self._panel.missing_counters(columns, self._tariff, hears_all=self._job.all_ranks_reporting)

    @property
    def training(self) -> bool:
        """Whether the run is between `begin` and the end of training."""
        return self._state == "training"

    # The course of a run ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the probes: energy is measured from here on. `begin` opens them if you did not."""
        if self._state == "made":
            began = self._clock()
            self._tariff = self._tariff.for_device(device_name(self._setting), warn=self._setting.place.rank == 0)
            self._book.set_tariff(self._tariff)
            self._panel.open()
            self._steps = StepMonitor(
                self._setting, self._clock, self._every, samples=self._batch_size.samples, keep=self._infer
            )
            self.stride.gradients = self._steps.gradients.count if self._steps.gradients is not None else None
            self._state = "open"
            self._meters = self._setting.attached(EnergyMeters)
            self.accounts.before_switch = self._meter_switch
            self._window.overhead_s += self._clock() - began

    def begin(self) -> None:
        """Training begins: time goes to the account `train` from now on."""
        self._check_not_ended()
        if self._state == "training":
            return
        self.open()
        self._state = "training"
        setting = self._setting
        facts = {"devices": setting.devices, "nodes": setting.nodes, "processes": len(setting.places)}
        self._book.begin_attempt({**facts, "device": device_name(setting)})
        self._job.start_exchange()
        self.accounts.reset_to("train")
        self._window.start_clock()

    def _meter_switch(self) -> None:
        """Read the meters where a long account begins or ends, so that each gets what it spent."""
        if self._meters is not None:
            began = self._clock()
            self._meters.on_bucket_change()
            self._window.overhead_s += self._clock() - began

    def _check_not_ended(self) -> None:
        if self._state == "ended":
            raise ValueError("this recorder's run has ended; make a new Recorder for another run")

    def add_setup(self, facts: Mapping[str, Any], *, dataset_why: str | None = None) -> None:
        """Add facts about the setup to the header. `dataset_samples` is also a column, `dataset_why` its reason."""
        self._facts |= facts
        if self._setting.dataset_samples is None:
            self._setting.dataset_samples = facts.get("dataset_samples")
            self._setting.dataset_why = dataset_why or self._setting.dataset_why

    def watch_pipeline(self, pipeline: object, *, steps: bool = False) -> None:
        """Time this rank's stage of a pipeline, for the bubble's columns; it says which stage and replica this is.

        Args:
            pipeline: A schedule of `torch.distributed.pipelining` or a DeepSpeed `PipelineEngine`.
            steps: Whether each `train_batch` of an engine is also recorded as a step of the run. The batch that
                `batch_size_fn` and `length_fn` get is then a tensor without elements of [samples, 0].

        Raises:
            ValueError: For anything else, or a second pipeline in one run.
        """
        self._check_not_ended()
        self.set_rank_info(self._setting.probe(Pipeline).watch(pipeline, self if steps else None))

    @contextmanager
    def engine_step(self, samples: int) -> Iterator[None]:
        """A step of an engine that fetches its own batches, with the number of samples (`watch_pipeline`)."""
        import torch

        batch = torch.empty((samples, 0), device="meta")
        with self.train_batch(batch):
            yield
        self.step(batch)

    def engine_data_wait(self) -> AbstractContextManager[None]:
        """Such an engine fetches a batch: booked as `data_wait_s`."""
        return self.accounts.bucket("data_wait")

    def add_metadata(self, facts: Mapping[str, Any]) -> None:
        """More for the header, plain data by key: it is written with the next point."""
        self._book.header |= facts

    def set_rank_info(self, place: RankInfo) -> None:
        """Set the position of this process if it is known late (a pipeline's stage), before the first point."""
        own = replace(place, device=place.device or self._setting.place.device)
        self._setting.places = [own if each.rank == own.rank else each for each in self._setting.places]
        self._setting.place = own

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
        self._window.overhead_s += self._clock() - began
        return numbers

    def set_wrapped_module(
        self, wrapper: nn.Module | None, optimizers: Callable[[], Sequence[Any]] | None = None
    ) -> None:
        """Set a strategy's wrapped module and optimizers if they are known late, before the first point.

        Args:
            wrapper: The module in its wrapping: FSDP's outermost knows whole sizes.
            optimizers: Returns the optimizers in theirs: DeepSpeed's hold masters and gradients.
        """
        self._setting.wrapper = wrapper
        if optimizers is not None:
            self._setting.optimizers = optimizers

    def training_ended(self) -> None:
        """What follows until `end` goes to the account `other`."""
        self.accounts.reset_to("other")

    @contextmanager
    def bucket(self, account: Literal["evaluate", "checkpoint", "other"]) -> Iterator[None]:
        """What happens inside is not training: its seconds go to `account`."""
        if account not in ("evaluate", "checkpoint", "other"):
            raise ValueError(f"account must be 'evaluate', 'checkpoint' or 'other', got {account!r}")
        with self.accounts.bucket(account):
            yield

    def wrap_loader(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The loader's batches, with the waiting for each booked as `data_wait_s`; its batch size is compared."""
        self.begins_epoch_of([loader])
        iterator = iter(loader)
        while True:
            with self.accounts.bucket("data_wait"):
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            yield batch

    @contextmanager
    def train_batch(self, batch: object, *, position: Hashable = None) -> Iterator[None]:
        """The work on a batch: forward, backward, update. Its operators are counted once per input signature.

        Args:
            batch: What the step trains on.
            position: Distinguishes steps of equal shapes with different work (accumulation, frozen layers).
        """
        with self.on_batch_start(batch, position) or nullcontext(), self._told_how():
            yield
        self.on_batch_queued()

    @contextmanager
    def _told_how(self) -> Iterator[None]:
        """What a counted step raises is the loop's; if counting may be the cause, the log says how to train without."""
        try:
            yield
        except Exception as error:
            self.say_how(error)
            raise

    def on_batch_start(self, batch: object, position: Hashable = None) -> AbstractContextManager[None] | None:
        """The work on a batch is about to begin: `train_batch` for hot paths.

        Returns:
            The context to enter around the work if its operators are to be counted; None for nearly all batches.
        """
        steps = self._steps
        if steps is None:
            return None
        self._book_stride()  # which batch this is decides whether it is counted
        return steps.before(batch, position, self.accounts.data_wait_s() if steps.timing_device else 0.0)

    def give_up(self, error: Exception) -> bool:
        """A step or an evaluation raised while it was counted: no more is counted in this run.

        Returns:
            Whether counting may be the cause: then the work can be tried again without.
        """
        return self._steps is not None and self._steps.give_up(error)

    def say_how(self, error: BaseException) -> None:
        """Work that cannot be tried again raised: if counting may be the cause, say once how to do without."""
        if not self._said_how and self._steps is not None and self._steps.is_counting and not raised_on_purpose(error):
            self._said_how = True
            _log.warning(
                "a step raised %s while its operators were counted. If it does not without, set count='off' or "
                "LIGHTNING_COSTS_COUNT=0",
                type(error).__name__,
            )

    def on_batch_queued(self) -> None:
        """The work on a batch was queued: `train_batch` says it."""
        if self._steps is not None:
            self._steps.on_batch_queued()

    @property
    def timing_device(self) -> bool:
        """Whether a device's own timeline is kept, which needs `on_batch_queued` and `on_h2d_start`, `on_h2d_end`."""
        return self._steps is not None and self._steps.timing_device

    @contextmanager
    def h2d_transfer(self) -> Iterator[None]:
        """Handing a training batch to the device: booked as `h2d_s`, and told apart from idle on the device."""
        with self.accounts.bucket("h2d"):
            self.on_h2d_start()
            yield
            self.on_h2d_end()

    def on_h2d_start(self) -> None:
        """A training batch is about to be handed to the device: `h2d_transfer` says it."""
        if self._steps is not None:
            self._steps.on_h2d_start()

    def on_h2d_end(self) -> None:
        """It was handed over."""
        if self._steps is not None:
            self._steps.on_h2d_end()

    @contextmanager
    def eval_batch(self, batch: object, *, loader: Hashable = None) -> Iterator[None]:
        """The evaluation of a batch: its operators are counted once per shape and loader.

        Args:
            batch: What is evaluated.
            loader: Tells loaders apart whose batches of equal shapes are worked on differently.
        """
        with self.on_eval_batch_start(batch, loader) or nullcontext(), self._told_how():
            yield

    def on_eval_batch_start(self, batch: object, loader: Hashable = None) -> AbstractContextManager[None] | None:
        """A batch is about to be evaluated: `eval_batch` for hot paths."""
        return self._steps.before_evaluation(batch, loader) if self._steps is not None else None

    def left_evaluation(self) -> None:
        """Discard the last batch of `on_eval_batch_start`: it was fetched and not used."""
        if self._steps is not None:
            self._steps.left_evaluation()

    @property
    def sampling_memory(self) -> bool:
        """Whether `sample_memory` matters in the current step."""
        return self._steps is not None and self._steps.looking

    def set_batch_splitter(self, parts: Callable[[Any], Sequence[Any]]) -> None:
        """Set a function that splits a batch into the batches of several loaders: their samples and tokens add up.

        Args:
            parts: The parts of a batch, in the order of the loaders; None from a loader that is at its end.
        """
        self._batch_size.parts = parts

    def begins_epoch_of(self, loaders: Sequence[Any]) -> None:
        """The batches that follow are these loaders', from the first one on: what they say of them is compared."""
        self._batch_size.begin(loaders)

    def forecast(self, planned_steps: float) -> dict[str, Forecast]:
        """Forecast totals after `planned_steps` steps, by column; empty while too few steps were recorded.

        Evaluations to come are in once one was seen. What ends training sooner (early stopping) is not foreseen.
        """
        return self._forecast.predict(planned_steps)

    def read(self) -> dict[str, Amount]:
        """Totals up to now, every meter asked: what a point costs, without one."""
        with self.accounts.bucket("other", "lightning-costs"):
            began = self._clock()
            self._fold("epoch")
            self._window.overhead_s += self._clock() - began
        return self._book.totals

    def exceeded(self, limits: Mapping[str, float]) -> LimitExceeded | None:
        """The limit that the totals have reached, by the largest excess; None if they are within all limits.

        Call it after every step. Totals are read only if a limit may be near, so a call is cheap. With several
        processes, call it on rank 0 and broadcast the result. If a limit's total becomes missing later, an error is
        logged once and the limit is no longer enforced.

        Args:
            limits: Amount by counter column, in the column's unit.

        Raises:
            ValueError: At the first call, for a limit that cannot be enforced: an unknown or missing column, or one
                that is not a counter.

        Examples:
            In a training loop:

            ```python
            if passed := recorder.exceeded({"energy_j": 3.6e6}):
                break
            ```
        """
        if self._steps is None:
            raise ValueError("nothing is measured before begin(): call begin(), or use the recorder in a `with`")
        budget = self._budget
        if budget is None or budget.limits != limits:
            budget = Budget(limits)
            validate_limit_columns(list(budget.limits), self.declarations)
            if words := self.unenforceable_limits(budget.limits):
                raise ValueError(words)
            self._budget = budget
            self.add_metadata({"budget": {"limits": budget.limits}})
        steps, now_s = self._steps.done + len(self.stride.train_s), self._clock()
        if not budget.due(steps, now_s):
            return None
        totals = self.totals
        if steps and (not self.totals_are_current or budget.near_limit(totals)):  # a train point asks not every meter
            totals = self.read()
        if lost := budget.newly_unenforceable(totals):
            _log.error("%s; training goes on", self.unenforceable_limits(lost))
        return budget.update(steps, now_s, totals)

    def unenforceable_limits(self, limits: Mapping[str, float]) -> str | None:
        """The limits that cannot be enforced because their columns are missing, in words; None if there are none."""
        return unenforceable_limits(limits, self.declarations, self.missing_counters(limits))

    def sample_memory(self) -> None:
        """Inside a step, where memory may peak: before a backward pass, around an update."""
        if self._steps is not None:
            self._steps.sample_memory()

    def step(
        self,
        batch: object = None,
        *,
        optimizer_steps: int = 1,
        work: Hashable = None,
        emit: bool | None = None,
        events: list[int] | None = None,
    ) -> CurvePoint | None:
        """A batch is done.

        Args:
            batch: What was trained on, for its samples and tokens.
            optimizer_steps: How many times an optimizer stepped; 0 while gradients accumulate.
            work: Distinguishes batches of equal shapes by the work done on them (which optimizers stepped).
            emit: Whether to close the window into a point now; by default every `log_every_n_steps` steps.
            events: What happened in it, by `RepeatedStepFastPath.events`: steps like this one may then follow by
                `stride` alone, as many as `allow_repeats` allows.

        Returns:
            The point, if one was made.
        """
        self._book_stride()
        steps = self._steps
        if self._state != "training" or steps is None:
            self._check_not_ended()
            raise ValueError("step() before begin(): call begin(), or use the recorder in a `with`")
        if not self._book.opened:  # at the first training batch: finders and sanity checks leave no folder
            with self.accounts.bucket("other"):
                shapes = [list(shape) for shape, _ in batches.inspect_batch(batch).signature]
                self._book.open({**collect_environment(self._setting), "batch_shapes": shapes, **self._facts})
                init_wandb_runs(self._wandb, self.declarations, self.header, step_metric=None)
        look, warm = steps.on_batch_end(batch, work, self.stride.nodes if events is not None else None)
        samples, tokens, padding = self._batch_size.of(batch, look)
        steady = self._window.add_batch(
            samples=samples, tokens=tokens, padding=padding, optimizer_steps=optimizer_steps, warm=warm
        )
        self.stride.disarm()
        self._alike = False
        if steady is None:
            return None
        shaped = self._batch_size.plain and (look.signature or samples is None)
        if steady and shaped and events is not None:
            self._alike = True
            self.stride.arm(look, samples=samples, tokens=tokens, events=events)
        steps.stepped(steady=steady)
        self._step = self._steps_before + steps.done - 1
        if emit is None:
            emit = self.should_emit(steps.done)
        return self.emit("train") if emit else None

    def allow_repeats(self, batches: float, step: int) -> None:
        """After a step: the most batches before one that must be reported by `step` (an epoch's last one).

        Args:
            batches: Such batches; those before the next train point are taken from them.
            step: Optimizer steps so far, as `should_emit` counts them.
        """
        stride, steps = self.stride, self._steps
        if not self._alike or steps is None:
            return
        left = min(batches, steps.repeats)
        stride.until_s = math.inf
        if self._every:
            if self.accounts.since_s < self._next_point_s:  # no point until then, whatever the step
                stride.until_s = self._next_point_s
            else:
                left = min(left, self._period - step % self._period - 1)
        stride.left = left

    def _book_stride(self) -> None:
        steps, stride = self._steps, self.stride
        if steps is None or not (n := len(stride.train_s)):
            return
        self._batch_size.repeated(n, stride.samples)
        self._window.add_repeated(
            stride.take(), samples=stride.samples, tokens=stride.tokens, padding=None, calls=stride.calls
        )
        steps.record_repeats(n)
        self._step = self._steps_before + steps.done - 1

    @property
    def _period(self) -> int:
        return self._every << (self._train_points // POINTS_BEFORE_THINNING)

    def should_emit(self, step: int) -> bool:
        """Whether a train point is due after `step` optimizer steps: every `log_every_n_steps`, later fewer."""
        return bool(self._every) and step % self._period == 0 and self.accounts.since_s >= self._next_point_s

    def steps_to_point(self, step: int) -> float:
        """Steps from `step`, as `should_emit` counts them, to the next train point."""
        return self._period - step % self._period if self._every else float("inf")

    def set_step(self, *, step: int, epoch: int) -> None:
        """Set the step and epoch of the next point, if a framework counts its own."""
        self._step, self._epoch = step, epoch

    def epoch_done(self) -> None:
        """An epoch is complete."""
        self._window.add_epoch()
        self._epoch += 1
        if self._steps is not None:
            self._steps.epoch_begins()

    def log_metrics(self, values: Mapping[str, float], *, step: int | None = None) -> CurvePoint:
        """Quality was evaluated: close the window into a point that holds it.

        Args:
            values: Metrics by name.
            step: The step that it is stamped with; the last step by default.
        """
        if step is not None:
            self._step = step
        return self.emit("evaluate", values)

    def on_repeat_start(self) -> None:
        """The work on a batch that `stride` takes for one like the last is about to begin, where `timing_device`."""
        if self._steps is not None:
            self._steps.on_repeat_start(self.accounts.data_wait_s())

    def on_repeat_end(self) -> None:
        """It was a step like the last one."""
        if self._steps is not None:
            self._steps.on_repeat_end()

    def cancel_repeat(self) -> None:
        """It was another step after all: `step` comes next."""
        if self._steps is not None:
            self._steps.cancel_repeat()

    def benchmark_inference(
        self,
        *,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        budget_s: float | None = None,
    ) -> None:
        """Training is over: measure what one forward pass of the model costs, for the `infer_` columns.

        The first counted forward pass is repeated in eval mode, for one sample and for its batch, on a copy of the
        model. Random number generators are restored. Its time is booked as `other`.

        Args:
            context: Entered around each pass (autocast).
            budget_s: Seconds that it may take; by default a twentieth of the training's, 0.1 at least and 5 at most.
        """
        if self._steps is None or not self._book.opened:
            return
        with self.accounts.bucket("other"):
            began = self._clock()
            self._fold("epoch")
            if budget_s is None:
                budget_s = min(5.0, max(0.1, (self._book.totals.get("train_s") or 0.0) / 20))
            self._setting.inference = self._steps.infer(context, self._energy_meter(), budget_s)
            self._window.overhead_s += self._clock() - began

    def _energy_meter(self) -> Callable[[], float] | None:
        """Joules since the last call; the run's own totals are not affected."""
        if self._book.totals.get("energy_j") is None:
            return None
        read_j = 0.0

        def joules() -> float:
            nonlocal read_j
            self._fold("epoch")
            total_j = self._book.totals.get("energy_j")
            if total_j is None:
                raise ValueError("energy went missing")
            spent_j, read_j = total_j - read_j, total_j
            return spent_j

        return joules

    def end(self, status: Status = "finished") -> RunRecord | None:
        """The run is over, however it ended: write its last point with all that was spent, and close the folder.

        Returns:
            The run, as its folder now holds it; None if it trained no batch, and on ranks other than 0.
        """
        if self._state == "ended":
            return None
        self._hurry = status if status == "failed" or status == "interrupted" else None
        if self._book.opened:
            self.emit("end")
        self.accounts.before_switch = self._meters = None
        self._panel.close()
        self._state = "ended"
        if self._book.opened:
            mark_run_end(self.accounts.begun_s + self._ended_s)
        run = self._book.close(status)
        if self._wandb and self._book.opened:
            write_wandb_summaries(self._wandb, {**self.final, **self.outcome})
        return run

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.training_ended()
        self.end(status_from_exception(kind))

    # Points -------------------------------------------------------------------------------------------------

    def emit(self, trigger: Trigger, quality: Mapping[str, float] | None = None) -> CurvePoint:
        """Close the window into a point, fold it into the totals and append it to the run folder."""
        with self.accounts.bucket("other", "lightning-costs"):
            began = self._clock()
            self._job.next_point()
            self._fold(trigger, at_point=True)
            self._mark(trigger)
            if trigger == "train":
                self._train_points += 1
            if trigger != "train" and self._steps is not None:
                self._steps.interrupted()
            point = self._book.append(step=self._step, epoch=self._epoch, trigger=trigger, quality=quality or {})
            took_s = self._clock() - began
            self._window.overhead_s += took_s
            if self._train_points >= POINTS_AT_ANY_PACE and len(self._setting.places) == 1:
                share = SHARE_OF_FIRST_POINTS if self._train_points < FIRST_POINTS else SHARE_OF_POINTS
                self._next_point_s = began + took_s + min(took_s / share, MOST_APART_S)
        return point

    def _fold(self, trigger: Trigger, *, at_point: bool = False) -> None:
        if self._steps is None:
            raise ValueError("nothing is measured before begin(): call begin(), or use the recorder in a `with`")
        self._book_stride()
        self._window.overhead_s += self._steps.take_census_s(self._window.steady_step_s)
        sample = self._window.close(step=self._step, epoch=self._epoch, trigger=trigger)
        self._ended_s = sample.ended_s
        if (lead_s := self.stride.take_lead_s()) is not None:
            sample = replace(sample, lead_s=lead_s)
        if (device := self._steps.device_time()) is not None:
            sample = replace(sample, device=device, step_times_s=device.step_times_s)
        if (pipeline := self._steps.pipeline_time()) is not None:
            sample = replace(sample, pipeline=pipeline)
        vector = self._panel.read(sample)
        self._batches += sample.batches
        ending = trigger == "end"
        known = bool(self._book.header["statics"])
        statics = None if known and (not ending or self._hurry) else self._panel.statics(sample)
        if ending and statics is not None:
            self._job.leave_statics(statics)
        job, even = self._job.reduce_window(
            vector, trigger=trigger, batches=self._batches, exact=not at_point, hurry=self._hurry
        )
        window = self._panel.derive(job, self._tariff, None if even is job else even or {})
        if statics is not None:
            self._book.header["statics"] = self._job.statics(statics, final=ending)
            self._book.header |= self._steps.about(final=ending)
        if trigger != "train":
            by_whom = sorted(self.accounts.seconds_by_source.items(), key=lambda item: -item[1])
            self._book.header["by_whom_s"] = [[*names, seconds] for names, seconds in by_whom]
            if ranks := self._job.report():
                self._book.header["ranks"] = ranks
        if self._meters is not None and (trigger != "train" or "energy" not in self._book.header):
            self._book.header["energy"] = self._meters.metadata(final=ending and not self._hurry)
        self._book.add(window, missing=self._panel.missing, methods=self._panel.methods)
        if self._panel.read_all:  # else rate-limited counters lag behind the others
            gauges = self._panel.derive_from_totals(self._book.totals, self._tariff)
            self._book.set_gauges(gauges, missing=self._panel.missing, methods=self._panel.methods)
        if trigger != "train":
            self._book.estimated(self._panel.errors)

    def _mark(self, trigger: Trigger) -> None:
        """Note the totals for the forecast, once the first steps are over; not more often than meters move."""
        if trigger == "train" and self._ended_s - self._marked_s < MIN_READ_INTERVAL_S:
            return
        self._marked_s = self._ended_s
        totals = self._book.totals
        if (totals.get("steps") or 0) >= WARMUP_STEPS:
            self._forecast.observe(totals["steps"] or 0, totals, cycle=trigger == "evaluate")

    def state_dict(self) -> dict[str, Any]:
        """Plain containers for a checkpoint: identity and totals up to now, or at the run's end."""
        if self._state != "ended":
            if self._steps is not None:
                self._steps.interrupted()
            self._fold("train")
        return self._book.state_dict(step=self._steps_before + (self._steps.done if self._steps is not None else 0))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the run of a checkpoint, before `begin`: its identity, its totals, its count of steps.

        Raises:
            ValueError: Training has begun.
        """
        if self._state in ("training", "ended"):
            raise ValueError("resume() after begin(): an attempt resumes a checkpoint before it trains")
        self._steps_before = self._book.load_state_dict(state)


def counting_of(given: Count | None) -> Count:
    """How operators are counted: as given, else as LIGHTNING_COSTS_COUNT says.

    Raises:
        ValueError: For what is none of 'auto', 'eager', 'off'.

    Examples:
        >>> counting_of(None), counting_of("off")
        ('auto', 'off')
    """
    said = {"": "auto", "1": "auto", "0": "off"}
    value = os.environ.get(COUNT, "") if given is None else given
    value = said.get(value, value) if given is None else value
    if value not in ("auto", "eager", "off"):
        raise ValueError(f"{'count' if given is not None else COUNT} must be 'auto', 'eager' or 'off', got {value!r}")
    return cast("Count", value)


def _device(device: torch.device | str | None, module: nn.Module | None) -> torch.device | None:
    import torch

    if device is not None:
        return torch.device(device)
    if module is not None and (first := next(module.parameters(), None)) is not None:
        return first.device
    return torch.device("cpu") if not torch.cuda.is_available() else None
