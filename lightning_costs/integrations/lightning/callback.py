"""CostMonitor: a Lightning callback that passes the Trainer's events to a Recorder. It computes nothing itself."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import update_wrapper
from pathlib import Path
from types import MethodType
from typing import Any, Literal, final

import numpy
import torch

from lightning_costs.indicators.base import Indicator
from lightning_costs.integrations import deepspeed_hooks
from lightning_costs.integrations.lightning.budget import CostBudget
from lightning_costs.integrations.lightning.compat import Callback
from lightning_costs.integrations.lightning.hooks import HOOKS_OF_A_STEP, TrainerHooks
from lightning_costs.patching.fail_safe import fail_safe, never_harmful
from lightning_costs.patching.patches import Shadow
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.clock import RunBegin, now_s
from lightning_costs.probes.context import Count
from lightning_costs.probes.loaders import TrainingSet, training_set
from lightning_costs.probes.pipeline.detect import find_pipelines
from lightning_costs.probes.repeat_steps import summarize_events
from lightning_costs.ranks.topology import trainer_topology
from lightning_costs.recording.recorder import Recorder, counting_of
from lightning_costs.recording.run_state import Status, status_from_exception
from lightning_costs.records.forecast import Forecast
from lightning_costs.records.formatting import MISSING, format_amount
from lightning_costs.records.limits import budget_fraction_used, describe_budget
from lightning_costs.records.monitor import validate_monitor
from lightning_costs.records.printable import printable, printable_data
from lightning_costs.records.samples import CurvePoint
from lightning_costs.records.time_buckets import TimeBuckets
from lightning_costs.run.record import RunRecord
from lightning_costs.run.summary import describe_lost_work, summary_rows
from lightning_costs.storage.loggers import Log, check_log, columns, init_wandb_runs, logger_row, write_wandb_summaries
from lightning_costs.storage.paths import run_root, shown
from lightning_costs.storage.sink import Sink, Sinks

__all__ = ["CostBudget", "CostMonitor"]

_log = logging.getLogger("lightning_costs")
#: One key in a checkpoint, with plain containers: `state_dict` would collide with a second monitor's.
_CHECKPOINT_KEY = "lightning_costs"
#: What the progress bar shows, so far and at the end of training.
_BAR = ("total_s", "energy_j", "cloud_usd")


@final
class _HookUnlessRecorded:
    """A hook that is not there (None) for a step that is noted already: Lightning calls only what can be called.

    What Lightning does around a callback's hook costs as much as all that we do at such a step.
    """

    def __init__(self, hook: Callable[..., None]) -> None:
        self._hook = hook
        update_wrapper(self, hook)  # type: ignore[arg-type]

    def __get__(self, monitor: CostMonitor | None, kind: type[CostMonitor]) -> Callable[..., None] | None:
        if monitor is None:
            return self._hook
        session = monitor._session
        if session is not None and session.stride.recorded and kind.on_train_batch_end is self._hook:
            return None
        return MethodType(self._hook, monitor)


class CostMonitor(Callback):
    """Measures what a training costs and writes it next to its quality. Add it to a Trainer's callbacks.

    Args:
        monitor: Name of the quality metric, for comparisons; by default that of the trainer's
            ModelCheckpoint or EarlyStopping.
        mode: Whether more of it is better ('max') or less ('min').
        targets: Quality targets declared before the run.
        save_dir: Folder for run folders, on this machine; a relative path starts at the working directory.
        name: Name of the run, for people.
        batch_size_fn: Number of samples in a batch, if its tensors do not show it.
        length_fn: Number of tokens in a batch. Compute it from shapes, so that it does not wait for the device.
        indicators: Costs to measure: `[*default_indicators(), Mine()]`.
        tariff: Prices and place; by default from LIGHTNING_COSTS_* variables or the user's file.
        log: Costs for the loggers: 'complete', 'headline', or 'none'. Headline costs are also in
            `trainer.callback_metrics`, and some in the progress bar. With 'none', all three stay unchanged.
        log_every_n_steps: Optimizer steps between two points; the trainer's by default.
        count: How operators are counted, for FLOPs and columns derived from them. "auto": in a few steps, without
            changing their results. "eager": compiled code runs eagerly in those, which changes last digits. "off":
            not at all. The default is LIGHTNING_COSTS_COUNT (0 is "off"), otherwise "auto".
        infer: Whether the cost of a forward pass is measured after training. "auto": on a single device, for at most
            a twentieth of the training's time and 5 s. True: for up to 5 s. False: never.
        sinks: Further receivers of the header and the points, on rank 0 (`lightning_costs.Sink`).

    Raises:
        ValueError: For a monitor without mode, an unknown `log`, `count` or `infer`, an object that is not a sink, or
            a `save_dir` that is not a folder of this machine.

    Examples:
        ```python
        trainer = Trainer(callbacks=[CostMonitor(monitor="val/acc", mode="max")])
        trainer.fit(model, data)
        ```
    """

    #: Made by `lightning-costs run`, not by the script: it yields to a monitor that the script has.
    is_fallback = False

    def __init__(
        self,
        *,
        monitor: str | None = None,
        mode: Literal["max", "min"] | None = None,
        targets: Sequence[float] = (),
        save_dir: str | Path = "costs",
        name: str | None = None,
        batch_size_fn: Callable[[Any], int] | None = None,
        length_fn: Callable[[Any], int] | None = None,
        indicators: Sequence[Indicator] | None = None,
        tariff: Tariff | None = None,
        log: Log = "complete",
        log_every_n_steps: int | None = None,
        count: Count | None = None,
        infer: Literal["auto"] | bool = "auto",
        sinks: Sequence[Sink] = (),
    ) -> None:
        super().__init__()
        validate_monitor(monitor, mode)
        check_log(log)
        if infer not in ("auto", True, False):
            raise ValueError(f"infer must be 'auto', True or False, got {infer!r}")
        self._monitor, self._mode, self._targets = monitor, mode, tuple(targets)
        self._save_dir, self._name, self._log = run_root(save_dir), name, log
        self._batch_size_fn, self._length_fn = batch_size_fn, length_fn
        self._indicators, self._sinks = indicators, Sinks(sinks).all
        self._tariff = Tariff.resolve(tariff)
        self._every, self._count, self._infer = log_every_n_steps, counting_of(count), infer
        self._begin_of_run = RunBegin()
        self._accounts: TimeBuckets | None = None
        self._session: TrainingSession | None = None
        #: What a checkpoint that is saved after the fit holds of it.
        self._ended: dict[str, Any] | None = None
        self.run: RunRecord | None = None

    @property
    def recorder(self) -> Recorder | None:
        """The recorder of the fit in progress."""
        return self._session.recorder if self._session is not None else None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy, a pickle or a spawned process gets: the arguments, and nothing of a fit in progress."""
        state = {name: value for name, value in vars(self).items() if not isinstance(value, Shadow)}
        for hook in HOOKS_OF_A_STEP:
            state.pop(hook, None)
        return {**state, "_session": None, "_accounts": None}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Make the recorder and put the shadows; probes open here, so energy is measured from here on."""
        if stage != "fit" or trainer.fast_dev_run or not self._is_free(trainer):
            return
        try:
            self._begin(trainer, pl_module)
        except Exception as error:
            if isinstance(error, ValueError) and not self.is_fallback:  # an argument, which is the author's to mend
                raise
            _log.exception("this fit is not measured; it goes on. Please report this")
            for callback in trainer.callbacks:
                if isinstance(callback, CostBudget):
                    callback.let_down()

    def _is_free(self, trainer: Any) -> bool:
        """Whether this monitor measures the fit that begins; if another one does, log that once."""
        session = self._session
        if session is not None and session.of(trainer):
            return False
        if session is not None and session.running:
            _log.warning(
                "this fit is not measured: its CostMonitor measures another Trainer's fit, which has not ended. Give "
                "each Trainer a monitor of its own"
            )
            return False
        if session is not None:  # a fit that ended without a word to its callbacks
            self._close(session, "failed")
        monitors = [callback for callback in trainer.callbacks if isinstance(callback, CostMonitor)]
        first = next((monitor for monitor in monitors if not monitor.is_fallback), monitors[0] if monitors else self)
        if first is not self and not self.is_fallback:
            _log.warning("one CostMonitor measures a fit, the first of the Trainer's callbacks; the others do nothing")
        return first is self

    def _session_of(self, trainer: Any) -> TrainingSession | None:
        """The fit in progress, if it is this Trainer's."""
        session = self._session
        return session if session is not None and session.of(trainer) else None

    def _begin(self, trainer: Any, pl_module: Any) -> None:
        self._ended = None
        if trainer.callbacks.count(self) > 1:  # each hook would come twice
            first = trainer.callbacks.index(self)
            trainer.callbacks = [c for n, c in enumerate(trainer.callbacks) if c is not self or n == first]
        self._accounts = self._accounts_of_this_run()
        monitor, mode = self._goal(trainer)
        every = trainer.log_every_n_steps if self._every is None else self._every
        cuda = trainer.strategy.root_device.type == "cuda"
        place, everyone = trainer_topology(trainer)
        recorder = Recorder(
            module=pl_module,
            optimizers=lambda: trainer.strategy.optimizers,
            monitor=monitor,
            mode=mode,
            targets=self._targets,
            save_dir=self._save_dir,
            name=self._name,
            batch_size_fn=self._batch_size_fn,
            length_fn=self._length_fn,
            indicators=self._indicators,
            tariff=self._tariff,
            device=trainer.strategy.root_device,
            devices=trainer.num_devices * trainer.num_nodes if cuda else trainer.num_nodes,
            nodes=trainer.num_nodes,
            log_every_n_steps=every,
            place=place,
            places=everyone,
            count=self._count,
            infer=self._infer is not False and trainer.world_size == 1,
            accounts=self._accounts,
            sinks=self._sinks,
        )
        self._session = TrainingSession(trainer, self, recorder, log=self._log)
        self._session.start()
        for callback in trainer.callbacks:
            if isinstance(callback, CostBudget):
                callback.watch(self._session)

    def _accounts_of_this_run(self) -> TimeBuckets:
        """The run's clock began with the process, or where the run before ended: seconds of finders are in it."""
        began_s = self._begin_of_run.seconds()
        if self._accounts is not None and self._accounts.begun_s >= began_s - 0.5:
            return self._accounts
        return TimeBuckets(now_s, began_s)

    def _goal(self, trainer: Any) -> tuple[str | None, Literal["max", "min"] | None]:
        if self._monitor is not None:
            return self._monitor, self._mode
        for callback in [*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks]:
            monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
            if monitor and mode in ("max", "min"):
                return monitor, mode
        return None, None

    @_HookUnlessRecorded
    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch is done."""
        session = self._session
        if session is not None and session.trainer is trainer and not session.stride.recorded:
            session.on_batch_end(batch)

    @never_harmful
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """An epoch ended; one whose last batch did not look like the last is complete if nothing was left to fetch."""
        if (session := self._session_of(trainer)) is not None:
            session.on_epoch_end()

    @never_harmful
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Training is over and the model still on its device: what a forward pass costs is measured here."""
        session = self._session_of(trainer)
        if session is not None and self._infer is not False and trainer.world_size == 1:
            session.infer(budget_s=5.0 if self._infer is True else None)

    @never_harmful
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Identity and totals go into the checkpoint."""
        session = self._session_of(trainer)
        if session is not None and session.view.in_training:
            session.save(checkpoint)
        elif self._session is None and self._ended is not None:
            checkpoint[_CHECKPOINT_KEY] = self._ended

    @never_harmful
    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """A resumed run continues its totals."""
        session = self._session_of(trainer)
        if session is not None and _CHECKPOINT_KEY in checkpoint and not session.recorder.training:
            session.load(checkpoint)

    @never_harmful
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """The fit is over."""
        if stage == "fit" and (session := self._session_of(trainer)) is not None:
            self._close(session, "finished")

    @never_harmful
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The fit ended by an error or by Ctrl-C: everything spent is written. Lightning calls no teardown then."""
        if (session := self._session_of(trainer)) is not None:
            self._close(session, status_from_exception(type(exception)))

    def _close(self, session: TrainingSession, status: Status) -> None:
        self._session = None
        session.view.uninstall()
        trained = session.recorder.run_id != ""
        self.run = session.close(status)
        if trained:
            self._accounts = None
            self._ended = session.ended
            self._begin_of_run.ended()
        elif self._accounts is not None:  # a finder's fit: its seconds stay for the run that follows
            self._accounts.reset_to("setup")


@final
class TrainingSession:
    """One fit: receives the hooks' events and passes them to the recorder."""

    def __init__(self, trainer: Any, owner: CostMonitor, recorder: Recorder, *, log: Log) -> None:
        self.recorder = recorder
        self.accounts, self.stride = recorder.accounts, recorder.stride
        self.trainer = self._trainer = trainer
        self.view = TrainerHooks(trainer, owner, self)
        self._logs = log != "none"
        self._columns = columns(recorder.declarations, headline_only=log == "headline")
        self._headline = columns(recorder.declarations, headline_only=True)
        self._row_step: int | None = None
        self._costs: Mapping[str, float | None] = {}
        self._bar: str | None = ""
        self._announced = self._pipelined = self._epoch_done = False
        self.broken = self._said = False
        self.sampling_memory = False
        self.timing_device = False
        #: The recorder's state at the end.
        self.ended: dict[str, Any] | None = None
        self.accounts.failed = self.disable

    def of(self, trainer: Any) -> bool:
        """Whether this is a fit of that Trainer."""
        return self.trainer is trainer

    @property
    def running(self) -> bool:
        """Whether its Trainer is still at it."""
        return str(getattr(self.trainer.state, "status", "")).rpartition(".")[2].lower() == "running"

    def disable(self) -> None:
        """Something went wrong in here: say so once, and leave the training alone from now on."""
        self.broken = True
        self.sampling_memory = self.timing_device = False
        self.view.uninstall()
        if not self._said:
            self._said = True
            _log.exception("measuring costs failed and stops here; training goes on. Please report this")

    @fail_safe
    def start(self) -> None:
        self.recorder.open()
        self.timing_device = self.recorder.timing_device
        self.stride.on_record = self.on_repeat_end if self.timing_device else None
        self.view.install()

    # Events of the hooks ------------------------------------------------------------------------------

    @fail_safe
    def on_train_start(self) -> None:
        self.stride.take_events()
        self.recorder.set_wrapped_module(self._trainer.strategy.model)
        self._find_pipeline()
        self.recorder.begin()

    def _find_pipeline(self) -> None:
        """A pipeline that the module holds is watched: one is built in `configure_model`, or in the first step."""
        found = [] if self._pipelined else find_pipelines(self._trainer.lightning_module)
        if not found:
            return
        self._pipelined = True
        if len(found) > 1:
            _log.warning("%d pipelines are among the module's attributes; the first is watched", len(found))
        try:
            self.recorder.watch_pipeline(found[0])
        except Exception as error:  # noqa: BLE001 - an engine of an unknown version: the other costs are measured
            _log.warning("the pipeline among the module's attributes is not watched: %r", error)

    @fail_safe
    def on_train_end(self) -> None:
        self.recorder.training_ended()

    @fail_safe
    def on_batch_start(self, batch: object, position: Hashable) -> AbstractContextManager[None] | None:
        if not self._announced or self.view.epoch_begins:
            self._epoch_begins()
        count = self.recorder.on_batch_start(batch, position)
        self.sampling_memory = self.recorder.sampling_memory
        return count

    def _epoch_begins(self) -> None:
        """The loaders are known from an epoch's first batch on; they may be other ones than the epoch before."""
        loaders = self.view.loaders
        if len(loaders) > 1:
            self.recorder.set_batch_splitter(self.view.parts)
        self.recorder.begins_epoch_of(loaders)

    @fail_safe
    def on_repeat_start(self) -> None:
        self.recorder.on_repeat_start()

    @fail_safe
    def on_repeat_end(self) -> None:
        self.recorder.on_repeat_end()

    @fail_safe
    def on_batch_queued(self) -> None:
        self.recorder.on_batch_queued()

    @fail_safe
    def on_h2d_start(self) -> None:
        self.recorder.on_h2d_start()

    @fail_safe
    def on_h2d_end(self) -> None:
        self.recorder.on_h2d_end()

    @fail_safe
    def on_eval_batch_start(self, batch: object, loader: int) -> AbstractContextManager[None] | None:
        return self.recorder.on_eval_batch_start(batch, loader)

    @fail_safe
    def give_up(self, error: Exception) -> bool | None:
        return self.recorder.give_up(error)

    @fail_safe
    def sample_memory(self) -> None:
        self.recorder.sample_memory()

    @fail_safe
    def on_batch_end(self, batch: object) -> None:
        view, recorder = self.view, self.recorder
        if self.stride.same:  # it looked like the last batch, and was another step after all
            self.stride.same = False
            recorder.cancel_repeat()
        events = self.stride.take_events()
        work = summarize_events(events)
        first = not self._announced
        if first:  # the loaders are known from the first batch on
            with self.accounts.bucket("other"):
                found = training_set(view.loaders)
                recorder.add_setup(_facts(self._trainer, view.loaders, found), dataset_why=found.why)
                self._find_pipeline()
        if view.epoch_complete:
            self._epoch_done = True
            recorder.epoch_done()
        recorder.step(batch, optimizer_steps=len(work[0]), work=work, emit=False, events=events)
        if first:
            with self.accounts.bucket("other"):
                self._announce()
        step = view.row_step + 1
        if recorder.should_emit(step) and not view.accumulating:
            self._stamp()
            self._point(recorder.emit("train"))
        recorder.allow_repeats(0 if view.accumulates else view.batches_before_last, step)

    @fail_safe
    def on_epoch_end(self) -> None:
        done, self._epoch_done = self._epoch_done, False
        if not done and self.view.exhausted and self.recorder.run_id:
            self.recorder.epoch_done()

    @fail_safe
    def on_eval_end(self, metrics: Mapping[str, float]) -> None:
        self._stamp()
        self._point(self.recorder.log_metrics(metrics))

    @fail_safe
    def on_epoch_logged(self, metrics: Callable[[], Mapping[str, float]]) -> None:
        """A metric of the training itself is the quality: its epochs' ends are points too."""
        monitor = self.recorder.header["monitor"]
        if monitor is not None and monitor in (logged := metrics()):
            self._stamp()
            self._point(self.recorder.emit("epoch", logged))

    @fail_safe
    def infer(self, budget_s: float | None) -> None:
        if self.view.in_training:
            self.recorder.benchmark_inference(context=self._trainer.precision_plugin.forward_context, budget_s=budget_s)

    @fail_safe
    def save(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[_CHECKPOINT_KEY] = self.recorder.state_dict()

    @fail_safe
    def load(self, checkpoint: Mapping[str, Any]) -> None:
        self.recorder.load_state_dict(checkpoint[_CHECKPOINT_KEY])

    def close(self, status: Status) -> RunRecord | None:
        """The fit is over: write the run's end; one whose measuring broke off did not finish as a run."""
        was_broken, self.broken = self.broken, False
        return self._finish("failed" if was_broken else status)

    @fail_safe
    def _finish(self, status: Status) -> RunRecord | None:
        self.recorder.training_ended()
        run = self.recorder.end(status)
        self.ended = self.recorder.state_dict()
        if self.recorder.run_id and self._trainer.is_global_zero:
            finished = status == "finished"  # an error must not be delayed by a picture
            if self._logs:
                final = {**self.recorder.final, **self.recorder.outcome}
                write_wandb_summaries(
                    self._trainer.loggers, final, self.recorder.header.get("pipeline") if finished else None
                )
            if not finished:
                if status == "interrupted" and self.recorder.path is not None:
                    print(f"next: lightning-costs show {shown(self.recorder.path)}", file=sys.stderr)
                return run
            try:
                _print_summary(self.recorder, run)
            except Exception as error:  # noqa: BLE001 - a closed terminal, or one with ASCII only
                _log.warning("the summary of costs could not be printed: %r", error)
        return run

    def row(self) -> Mapping[str, float]:
        return logger_row(self._costs, self._columns) if self._logs and self._row_step == self.view.row_step else {}

    def bar(self) -> str:
        if self._bar is None and self._logs:
            self._bar = self._in_words()
        return self._bar or ""

    def _in_words(self) -> str:
        """Cost so far, and at the end of training with its interval; what of a budget is used."""
        declared = self.recorder.declarations
        units = {name: declared[name].unit for name in _BAR if name in declared}
        amounts = [(self._costs.get(name), unit) for name, unit in units.items()]
        said = " · ".join(format_amount(amount, unit) for amount, unit in amounts if amount is not None)
        ahead = self.ahead()
        ends = [ahead[name].words(unit) for name, unit in units.items() if name in ahead]
        used = budget_fraction_used(self.recorder.header, self._costs)
        of_budget = f" ({format_amount(used, 'fraction')} of the budget)" if used is not None else ""
        return f"{said}{of_budget} → {' · '.join(ends)}" if ends else f"{said}{of_budget}"

    # A budget asks ------------------------------------------------------------------------------------------

    def ahead(self) -> Mapping[str, Forecast]:
        """Totals at the end of training as planned."""
        costs = self.recorder.totals
        steps, calls = costs.get("steps"), costs.get("optimizer_steps")
        return self.recorder.forecast(self.view.planned_steps(calls_a_step=calls / steps if calls and steps else 1.0))

    @property
    def step(self) -> int:
        """The step that points of this moment are stamped with."""
        return self.view.row_step

    def _announce(self) -> None:
        """Write the header into the configs of the loggers, now that the run has its folder."""
        self._announced = True
        if self._logs and self._trainer.is_global_zero:
            init_wandb_runs(self._trainer.loggers, self.recorder.declarations, self.recorder.header)

    # Points -------------------------------------------------------------------------------------------------

    def _stamp(self) -> None:
        self.recorder.set_step(step=self.view.row_step, epoch=self._trainer.current_epoch)

    def _point(self, point: CurvePoint) -> None:
        self._costs, self._bar = point.costs, None
        self._row_step = self.view.row_step
        if not self._logs:
            return
        if point.trigger == "train":
            self.view.open_next_row()
        if self._trainer.world_size == 1:
            headline = logger_row(point.costs, self._headline)
        elif point.trigger == "evaluate" or point.trigger == "epoch":
            # Every rank has to see the same, or their decisions part.
            headline = self.recorder.broadcast_headline(logger_row(point.costs, self._headline), point.trigger)
        else:
            return
        if headline:
            # Tensors, in float64: EarlyStopping asks for tensors, and float32 rounds 67128463. One is made for all;
            # new ones, because a callback may keep the last.
            values = torch.from_numpy(numpy.array(list(headline.values()), dtype=numpy.float64)).unbind()
            self.view.publish(dict(zip(headline, values, strict=True)))


def _facts(trainer: Any, loaders: Sequence[Any], found: TrainingSet) -> dict[str, Any]:
    """The trainer's part of the setup."""
    return {
        "precision": str(trainer.precision),
        "strategy": type(trainer.strategy).__name__,
        **deepspeed_hooks.engine_setup(trainer.strategy.model),
        "accelerator": type(trainer.accelerator).__name__,
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "planned_batches_per_epoch": _finite(trainer.num_training_batches),
        "batch_size": getattr(loaders[0], "batch_size", None) if len(loaders) == 1 else None,
        "dataset": found.name,
        "dataset_samples": found.samples,
        "schedulers": [type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs],
    }


def _finite(value: float) -> int | None:
    return int(value) if value != float("inf") else None


def _print_summary(recorder: Recorder, run: RunRecord | None) -> None:
    """About ten rows in human units, and what to try next; on stderr, since stdout is the script's."""
    from rich.console import Console
    from rich.table import Table

    header: Mapping[str, Any] = printable_data(recorder.header)
    rows = summary_rows(header, recorder.final)
    table = Table(title=f"What {header['name']} cost", title_justify="left", box=None, show_header=False)
    for line in rows:
        if line.text != MISSING:
            table.add_row(line.label, line.text)
    console = Console(stderr=True, markup=False, emoji=False)  # a run's name is no markup
    console.print(table)
    if lost := describe_lost_work(header, recorder.final):
        console.print(lost, highlight=False, soft_wrap=True)
    for told in describe_budget(header, recorder.final):
        console.print(told, highlight=False, soft_wrap=True)
    if lacking := [line.label for line in rows if line.text == MISSING]:
        console.print(f"missing: {', '.join(lacking)}; the command below says why", highlight=False, soft_wrap=True)
    if run is not None and recorder.path is not None:
        path = printable(shown(recorder.path))
        console.print(f"next: lightning-costs show {path}", highlight=False, soft_wrap=True)
