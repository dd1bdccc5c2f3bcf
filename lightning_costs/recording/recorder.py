"""The recorder: a run's costs without any framework. A training loop reports its events; the recorder measures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, final

from lightning_costs.indicators import default_indicators
from lightning_costs.indicators.base import Indicator
from lightning_costs.indicators.reader import IndicatorReader
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.batch_counter import BatchCounter
from lightning_costs.probes.clock import first_run_here, now_s, run_start_s
from lightning_costs.probes.context import Count, ProbeContext
from lightning_costs.probes.own_work import OwnWork
from lightning_costs.probes.provenance import Provenance
from lightning_costs.probes.repeat_steps import RepeatedStepFastPath
from lightning_costs.probes.step_monitor import WARMUP_STEPS, StepMonitor
from lightning_costs.ranks.topology import job_topology
from lightning_costs.recording.defaults import counting_of, device_of
from lightning_costs.recording.emission import Emission
from lightning_costs.recording.run_hooks import Hooks, RunHooks
from lightning_costs.recording.run_state import RunState, Status, status_from_exception
from lightning_costs.recording.shared import Shared
from lightning_costs.recording.step_hooks import StepHooks
from lightning_costs.records.limits import Budget, LimitExceeded, validate_limit_columns
from lightning_costs.records.monitor import targets_of, validate_monitor, validate_targets
from lightning_costs.records.samples import Amount, CurvePoint, RankInfo
from lightning_costs.records.time_buckets import TimeBuckets
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.loggers import WandbSink, columns, logger_row
from lightning_costs.storage.paths import run_root
from lightning_costs.storage.sink import Sink

if TYPE_CHECKING:
    import torch
    from torch import nn

_log = logging.getLogger("lightning_costs")

Optimizers = Sequence[Any] | Callable[[], Sequence[Any]]


@final
class Recorder:
    """Measures a run: `begin`, `step` by step, `bucket` for what is not training, `log_metrics`, `end`.

    Args:
        module: The model; without it parameters, memory by kind and FLOPs are missing.
        optimizers: The optimizers, or a function that returns them.
        monitor: Name of the quality metric that comparisons use.
        mode: Whether more of it is better ('max') or less ('min').
        targets: Quality targets declared before the run, one or several.
        save_dir: Folder for run folders, on this machine; a relative path starts at the working directory.
        name: Name of the run, for people.
        batch_size_fn: Number of samples in a batch, if its tensors do not show it.
        length_fn: Number of tokens in a batch. Compute it from shapes, so that it does not wait for the device.
        indicators: Costs to measure; `default_indicators()` and your own.
        tariff: Prices and place, as a Tariff, a mapping of its fields or the path of a TOML file; else from the
            environment or the user's file.
        device: The device that trains; the module's by default.
        devices: Accelerators allocated to the job, by default one a process; on a CPU, nodes.
        nodes: Machines allocated to the job; by default those that its processes are on.
        log_every_n_steps: Optimizer steps between two points; 0 for points at `log_metrics` and `end` only.
        setup: More facts about the setup (batch size, schedule) for the header.
        hyperparameters: Settings that identify the run, by name; secrets among them are left out.
        owner: Whose run it is; by default as LIGHTNING_COSTS_OWNER says.
        prediction: What the run is predicted to cost, as `predict` returns it or a JSON file of it.
        place: This process among others; by default from torch.distributed, each rank with a copy of the model.
        places: [ranks]: all processes.
        dataset_samples: Size of the training set.
        count: How operators are counted: "auto", "eager" (compiled code runs eagerly in counted steps) or "off"; by
            default from LIGHTNING_COSTS_COUNT.
        trace: Whether a few steps now and then run under torch's profiler.
        infer: Whether `benchmark_inference` will be called: the first counted batch is then kept on the host.
        oom_snapshot: Whether torch's memory snapshot is written to the run folder if a CUDA device's memory runs out.
        sinks: Further receivers of the header and the points (`lightning_costs.Sink`).
        wandb: A W&B run, as `wandb.init` returns it: config, panels and summary get the costs. Rows are logged
            by you: add `row()` to them.
        accounts: Running time buckets of a framework's adapter.
        clock: Seconds, monotonic; for tests.

    Raises:
        ValueError: For a monitor without mode, a mode or targets without monitor, an unknown place in the tariff. Also
            for two indicators of one name, and a `save_dir` that is not a folder of this machine.

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
        targets: float | Iterable[float] = (),
        save_dir: str | Path = "costs",
        name: str | None = None,
        batch_size_fn: Callable[[Any], int] | None = None,
        length_fn: Callable[[Any], int] | None = None,
        indicators: Sequence[Indicator] | None = None,
        tariff: Tariff | Mapping[str, Any] | str | Path | None = None,
        device: torch.device | str | None = None,
        devices: int | None = None,
        nodes: int | None = None,
        log_every_n_steps: int = 50,
        setup: Mapping[str, Any] | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        owner: str | None = None,
        prediction: object = None,
        place: RankInfo | None = None,
        places: Sequence[RankInfo] | None = None,
        dataset_samples: int | None = None,
        count: Count | None = None,
        infer: bool = False,
        oom_snapshot: bool = False,
        sinks: Sequence[Sink] = (),
        wandb: Any = None,
        trace: bool = False,
        accounts: TimeBuckets | None = None,
        clock: Callable[[], float] = now_s,
    ) -> None:
        validate_monitor(monitor, mode)
        targets = targets_of(targets)
        validate_targets(monitor, targets)
        self._clock = clock
        framework = accounts is not None  # it reports every batch of evaluation
        if accounts is None:
            accounts = TimeBuckets(clock, run_start_s() if clock is now_s else clock())
            if first_run_here():
                accounts.startup_s["imports"] = clock() - accounts.begun_s
        self._accounts = accounts
        if places is None and place is None:
            place, places = job_topology()
        place = place or RankInfo()
        context = ProbeContext(
            place=place,
            places=places or (place,),
            device=device_of(device, module),
            module=module,
            optimizers=optimizers if callable(optimizers) else lambda: optimizers,
            dataset_samples=dataset_samples,
            accounts=accounts,
            count=counting_of(count),
            trace=trace,
            evaluation_is_reported=framework,
        )
        context.nodes = nodes or len({each.node for each in context.places})
        context.devices = devices or (len(context.places) if context.on_cuda else context.nodes)
        reader = IndicatorReader(default_indicators() if indicators is None else indicators, context)
        priced_by = Tariff.resolve(tariff)
        self._run = RunState(
            declarations=reader.declarations,
            name=name,
            monitor=monitor,
            mode=mode,
            targets=targets,
            tariff=priced_by,
            priced=reader.priced,
            warmup=f"first {WARMUP_STEPS} steps of an attempt, census steps and the step after each census",
            save_dir=run_root(save_dir),
            writes=place.rank == 0,
            sinks=sinks,
            setup=setup or {},
        )
        provenance = Provenance(hyperparameters, owner, prediction)
        self._run.provenance = provenance if place.rank == 0 else None
        sizes = context.sizes = BatchCounter(batch_size_fn, length_fn, self._run.amounts.notes)
        self._monitor = StepMonitor(context, clock, log_every_n_steps, samples=sizes.samples, keep=infer)
        shared = Shared(
            context=context,
            run=self._run,
            monitor=self._monitor,
            sizes=sizes,
            repeats=RepeatedStepFastPath(accounts),
            own=OwnWork(accounts, self._monitor.on_backward, shared=len(context.places) > 1),
            accounts=accounts,
            clock=clock,
        )
        points = Emission(shared, reader, priced_by, every=log_every_n_steps)
        steps = StepHooks(shared, points)
        #: What integrations of frameworks call.
        self.hooks = Hooks(run=RunHooks(shared, points, steps, oom_snapshot=oom_snapshot), steps=steps, points=points)
        self._budget: Budget | None = None
        if wandb is not None:
            self._run.add_sink(WandbSink(wandb, reader.declarations, lambda: {**self.final, **self._run.outcome}))

    # What others may ask ------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The run's identity; empty before its first batch."""
        return self._run.run_id

    @property
    def path(self) -> Path | None:
        """The run's folder; None before the first batch, and on other ranks than 0."""
        return self._run.path

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """Where the run goes: its folder first, once it has one, and those given; without those that failed."""
        return self._run.sinks

    @property
    def header(self) -> Mapping[str, Any]:
        """The run's header as it stands."""
        return self._run.header

    @property
    def costs(self) -> dict[str, Amount]:
        """Totals and gauges at the last point."""
        return self._run.costs

    @property
    def totals(self) -> dict[str, Amount]:
        """Totals and gauges as they were read last, between points too; after a resume those of earlier attempts."""
        return self._run.totals

    @property
    def final(self) -> dict[str, Amount]:
        """Costs at the last point, and the statics."""
        return {**self.costs, **self.header["statics"]}

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
        return logger_row(self.costs, columns(self.hooks.points.declarations, headline_only=headline))

    # The course of a run ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Training begins: time goes to the account `train` from now on."""
        self.hooks.run.begin()

    def add_metadata(self, facts: Mapping[str, Any]) -> None:
        """More for the header, plain data by key: it is written with the next point."""
        self._run.header |= facts

    @contextmanager
    def bucket(self, account: Literal["evaluate", "checkpoint", "restore", "other"]) -> Iterator[None]:
        """What happens inside is not training: its seconds go to `account`; 'restore' is a part of `setup_s`."""
        if account not in ("evaluate", "checkpoint", "restore", "other"):
            raise ValueError(f"account must be 'evaluate', 'checkpoint', 'restore' or 'other', got {account!r}")
        self._accounts.restores_are_reported |= account == "restore"
        with self._accounts.bucket(account):
            yield

    def wrap_loader(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The loader's batches, with the waiting for each booked as `data_wait_s`; its batch size is compared."""
        self.hooks.steps.begins_epoch_of([loader])
        iterator = iter(loader)
        while True:
            with self._accounts.bucket("data_wait"):
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            yield batch

    def train_batch(self, batch: object, *, position: Hashable = None) -> AbstractContextManager[None]:
        """The work on a batch: forward, backward, update. Its operators are counted once per input signature.

        Args:
            batch: What the step trains on.
            position: Distinguishes steps of equal shapes with different work (accumulation, frozen layers).
        """
        return self.hooks.steps.train_batch(batch, position)

    def eval_batch(self, batch: object, *, loader: Hashable = None) -> AbstractContextManager[None]:
        """The evaluation of a batch: its operators are counted once per shape and loader.

        Args:
            batch: What is evaluated.
            loader: Tells loaders apart whose batches of equal shapes are worked on differently.
        """
        return self.hooks.steps.eval_batch(batch, loader)

    @contextmanager
    def h2d_transfer(self) -> Iterator[None]:
        """Handing a training batch to the device: booked as `h2d_s`, and told apart from idle on the device."""
        with self._accounts.bucket("h2d"):
            self.hooks.steps.on_h2d_start()
            yield
            self.hooks.steps.on_h2d_end()

    def step(
        self,
        batch: object = None,
        *,
        optimizer_steps: int = 1,
        work: Hashable = None,
        emit: bool | None = None,
    ) -> CurvePoint | None:
        """A batch is done.

        Args:
            batch: What was trained on, for its samples and tokens.
            optimizer_steps: How many times an optimizer stepped; 0 while gradients accumulate.
            work: Distinguishes batches of equal shapes by the work done on them (which optimizers stepped).
            emit: Whether to close the window into a point now; by default every `log_every_n_steps` steps.

        Returns:
            The point, if one was made.
        """
        return self.hooks.steps.step(batch, optimizer_steps=optimizer_steps, work=work, emit=emit)

    def epoch_done(self) -> None:
        """An epoch is complete."""
        self.hooks.steps.epoch_done()

    def log_metrics(self, values: Mapping[str, float], *, step: int | None = None) -> CurvePoint:
        """Quality was evaluated: close the window into a point that holds it.

        Args:
            values: Metrics by name.
            step: The step that it is stamped with; the last step by default.
        """
        if step is not None:
            self.hooks.points.set_step(step=step)
        return self.hooks.points.emit("evaluate", values)

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
        self._run.check_measured()
        points, budget = self.hooks.points, self._budget
        if budget is None or budget.limits != limits:
            budget = Budget(limits)
            validate_limit_columns(list(budget.limits), points.declarations)
            if words := points.unenforceable_limits(budget.limits):
                raise ValueError(words)
            self._budget = budget
            self.add_metadata({"budget": {"limits": budget.limits}})
        steps, now_s = self._monitor.done + len(self.hooks.steps.repeats.train_s), self._clock()
        if not budget.due(steps, now_s):
            return None
        totals = self.totals
        if steps and (not points.totals_are_current or budget.near_limit(totals)):  # a train point asks not every meter
            totals = points.read()
        if lost := budget.newly_unenforceable(totals):
            _log.error("%s; training continues", points.unenforceable_limits(lost))
        return budget.update(steps, now_s, totals)

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
        self.hooks.run.benchmark_inference(context=context, budget_s=budget_s)

    def end(self, status: Status = "finished") -> RunRecord | None:
        """The run is over, however it ended: write its last point with all that was spent, and close the folder.

        Returns:
            The run, as its folder now holds it; None if it trained no batch, and on ranks other than 0.
        """
        return self.hooks.run.end(status)

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hooks.run.note_error(error)
        self.hooks.run.training_ended()
        self.end(status_from_exception(kind))

    def state_dict(self) -> dict[str, Any]:
        """Plain containers for a checkpoint: identity and totals up to now, or at the run's end."""
        return self.hooks.run.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the run of a checkpoint, before `begin`: its identity, its totals, its count of steps.

        Raises:
            ValueError: Training has begun.
        """
        self.hooks.run.load_state_dict(state)
