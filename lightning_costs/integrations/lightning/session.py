"""One fit of a Lightning Trainer: what its hooks tell becomes the recorder's, and costs go where Lightning looks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

import numpy
import torch

from lightning_costs.integrations.deepspeed.hooks import engine_setup
from lightning_costs.integrations.lightning.final_table import print_summary
from lightning_costs.integrations.lightning.hooks import TrainerHooks
from lightning_costs.integrations.session import Session
from lightning_costs.patching.fail_safe import fail_safe
from lightning_costs.probes.pipeline.detect import find_pipelines
from lightning_costs.probes.repeat_steps import summarize_events
from lightning_costs.recording.recorder import Recorder
from lightning_costs.recording.run_state import Status
from lightning_costs.records.forecast import Forecast
from lightning_costs.records.formatting import format_amount
from lightning_costs.records.limits import budget_fraction_used
from lightning_costs.records.samples import CurvePoint
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.loggers import Log, LoggerSink, columns, logger_row

_log = logging.getLogger("lightning_costs")

#: One key in a checkpoint, with plain containers: `state_dict` would collide with a second monitor's.
CHECKPOINT_KEY = "lightning_costs"
#: What the progress bar shows, so far and at the end of training.
_BAR = ("total_s", "energy_j", "cloud_usd")


@final
class TrainingSession(Session):
    """One fit: listens to the Trainer's hooks and tells the recorder.

    Args:
        trainer: The Trainer.
        owner: The monitor, one of its callbacks.
        recorder: The run's.
        log: Which costs loggers get.
    """

    recorder: Recorder

    def __init__(self, trainer: Any, owner: object, recorder: Recorder, *, log: Log) -> None:
        super().__init__(recorder)
        self._run, self._steps, self._points = recorder.hooks.run, recorder.hooks.steps, recorder.hooks.points
        self._accounts, self.repeats = self._steps.accounts, self._steps.repeats
        self.trainer = self._trainer = trainer
        self._trainer_hooks = TrainerHooks(trainer, owner, self, self._steps)
        self.view = self._trainer_hooks.view
        self._loggers: LoggerSink | None = None
        if log != "none":
            self._loggers = LoggerSink(
                lambda: trainer.loggers,
                self._points.declarations,
                lambda: {**recorder.final, **self._run.outcome},
                headline_only=log == "headline",
            )
            self._run.add_sink(self._loggers)
        self._headline = columns(self._points.declarations, headline_only=True)
        self._costs: Mapping[str, float | None] = {}
        self._bar: str | None = ""
        self._begun = self._pipelined = self._epoch_done = False
        self.sampling_memory = False
        self.timing_device = False
        #: The recorder's state at the end.
        self.ended: dict[str, Any] | None = None
        self._accounts.failed = self.disable

    def of(self, trainer: Any) -> bool:
        """Whether this is a fit of that Trainer."""
        return self.trainer is trainer

    @property
    def running(self) -> bool:
        """Whether its Trainer is still at it."""
        return str(getattr(self.trainer.state, "status", "")).rpartition(".")[2].lower() == "running"

    def take_off(self) -> None:
        """Lift the patches; nothing is looked at any more."""
        self.sampling_memory = self.timing_device = False
        self._trainer_hooks.uninstall()

    @fail_safe
    def start(self) -> None:
        """The fit is set up: probes open, and the Trainer is patched."""
        self._run.open()
        self.timing_device = self._steps.timing_device
        self.repeats.on_record = self.on_repeat_end if self.timing_device else None
        self._trainer_hooks.install()

    # The Trainer's hooks tell ------------------------------------------------------------------------------

    @fail_safe
    def on_train_start(self) -> None:
        self.repeats.take_events()
        self._run.set_wrapped_module(self._trainer.strategy.model)
        self._find_pipeline()
        self._run.begin()

    def _find_pipeline(self) -> None:
        """A pipeline that the module holds is watched: one is built in `configure_model`, or in the first step."""
        found = [] if self._pipelined else find_pipelines(self._trainer.lightning_module)
        if not found:
            return
        self._pipelined = True
        if len(found) > 1:
            _log.warning("%d pipelines are among the module's attributes; the first is watched", len(found))
        try:
            self._run.watch_pipeline(found[0])
        except Exception as error:  # noqa: BLE001 - an engine of an unknown version: the other costs are measured
            _log.warning("the pipeline among the module's attributes is not watched: %r", error)

    @fail_safe
    def on_train_end(self) -> None:
        self._run.training_ended()

    @fail_safe
    def on_batch_start(self, batch: object, position: Hashable) -> AbstractContextManager[None] | None:
        if not self._begun or self.view.epoch_begins:
            self._epoch_begins()
        count = self._steps.on_batch_start(batch, position)
        self.sampling_memory = self._steps.sampling_memory
        return count

    def _epoch_begins(self) -> None:
        """The loaders are known from an epoch's first batch on; they may be other ones than the epoch before."""
        loaders = self.view.loaders
        if len(loaders) > 1:
            self._steps.set_batch_splitter(self.view.parts)
        self._steps.begins_epoch_of(loaders)

    @fail_safe
    def on_repeat_start(self) -> None:
        self._steps.on_repeat_start()

    @fail_safe
    def on_repeat_end(self) -> None:
        self._steps.on_repeat_end()

    @fail_safe
    def on_batch_queued(self) -> None:
        self._steps.on_batch_queued()

    @fail_safe
    def on_h2d_start(self) -> None:
        self._steps.on_h2d_start()

    @fail_safe
    def on_h2d_end(self) -> None:
        self._steps.on_h2d_end()

    @fail_safe
    def on_eval_batch_start(self, batch: object, loader: int) -> AbstractContextManager[None] | None:
        return self._steps.on_eval_batch_start(batch, loader)

    @fail_safe
    def give_up(self, error: Exception) -> bool | None:
        return self._steps.give_up(error)

    @fail_safe
    def on_batch_end(self, batch: object) -> None:
        view, steps, points = self.view, self._steps, self._points
        if self.repeats.same:  # it looked like the last batch, and was another step after all
            self.repeats.same = False
            steps.cancel_repeat()
        events = self.repeats.take_events()
        work = summarize_events(events)
        if not self._begun:  # the loaders are known from the first batch on
            with self._accounts.bucket("other"):
                self.describe_data(view.loaders, _facts(self._trainer, view.loaders))
                self._find_pipeline()
            self._begun = True
        if view.epoch_complete:
            self._epoch_done = True
            steps.epoch_done()
        steps.step(batch, optimizer_steps=len(work[0]), work=work, emit=False, events=events)
        step = view.row_step + 1
        if points.should_emit(step) and not view.accumulating:
            self._stamp()
            self._on_point(points.emit("train"))
        steps.allow_repeats(0 if view.accumulates else view.batches_before_last, step)

    @fail_safe
    def on_epoch_end(self) -> None:
        done, self._epoch_done = self._epoch_done, False
        if not done and self.view.exhausted and self.recorder.run_id:
            self._steps.epoch_done()

    @fail_safe
    def on_eval_end(self, metrics: Mapping[str, float]) -> None:
        self._stamp()
        self._on_point(self._points.emit("evaluate", metrics))

    @fail_safe
    def on_epoch_logged(self, metrics: Callable[[], Mapping[str, float]]) -> None:
        """A metric of the training itself is the quality: its epochs' ends are points too."""
        monitor = self.recorder.header["monitor"]
        if monitor is not None and monitor in (logged := metrics()):
            self._stamp()
            self._on_point(self._points.emit("epoch", logged))

    @fail_safe
    def measure_inference(self, infer: object) -> None:
        if self.view.in_training:
            self.benchmark_inference(infer, context=self._trainer.precision_plugin.forward_context)

    @fail_safe
    def save(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = self.recorder.state_dict()

    @fail_safe
    def load(self, checkpoint: Mapping[str, Any]) -> None:
        self.recorder.load_state_dict(checkpoint[CHECKPOINT_KEY])

    def close(self, status: Status) -> RunRecord | None:
        """The fit is over: write the run's end, and print what it cost."""
        run = self.finish(status)
        if not self.broken:
            self._after(run, str(self.recorder.header["status"]))
        return run

    @fail_safe
    def _after(self, run: RunRecord | None, status: str) -> None:
        self.ended = self.recorder.state_dict()
        if not self.recorder.run_id or not self._trainer.is_global_zero:
            return
        if status == "interrupted":
            self.say_next()
        elif status == "finished":  # whoever waits for an error must not wait for a table
            try:
                print_summary(self.recorder, run)
            except Exception as error:  # noqa: BLE001 - a terminal that is gone or speaks ASCII only
                _log.warning("the summary of costs could not be printed: %r", error)

    def row(self) -> Mapping[str, float]:
        return self._loggers.row(self.view.row_step) if self._loggers is not None else {}

    def bar(self) -> str:
        if self._bar is None and self._loggers is not None:
            self._bar = self._in_words()
        return self._bar or ""

    def _in_words(self) -> str:
        """Cost so far, and at the end of training with its interval; what of a budget is used."""
        declared = self._points.declarations
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
        return self._points.forecast(self.view.planned_steps(calls_a_step=calls / steps if calls and steps else 1.0))

    @property
    def step(self) -> int:
        """The step that points of this moment are stamped with."""
        return self.view.row_step

    # Points -------------------------------------------------------------------------------------------------

    def _stamp(self) -> None:
        self._points.set_step(step=self.view.row_step, epoch=self._trainer.current_epoch)

    def _on_point(self, point: CurvePoint) -> None:
        """A point was made at the Trainer's step of this moment: its costs are for the row, the bar and callbacks."""
        self._costs, self._bar = point.costs, None
        if self._loggers is None:
            return
        if not self._trainer.is_global_zero:  # sinks are told on rank 0; another rank's logger may write for itself
            self._loggers.point(point, {})
        if point.trigger == "train":
            self._trainer_hooks.open_next_row()
        if self._trainer.world_size == 1:
            headline = logger_row(point.costs, self._headline)
        elif point.trigger == "evaluate" or point.trigger == "epoch":
            # Every rank has to see the same, or their decisions part.
            headline = self._points.broadcast_headline(logger_row(point.costs, self._headline), point.trigger)
        else:
            return
        if headline:
            # Tensors, in float64: EarlyStopping asks for tensors, and float32 rounds 67128463. One is made for all;
            # fresh ones, as somebody may keep the last.
            values = torch.from_numpy(numpy.array(list(headline.values()), dtype=numpy.float64)).unbind()
            self.view.publish(dict(zip(headline, values, strict=True)))


def _facts(trainer: Any, loaders: Sequence[Any]) -> dict[str, Any]:
    """The trainer's part of the setup."""
    return {
        "precision": str(trainer.precision),
        "strategy": type(trainer.strategy).__name__,
        **engine_setup(trainer.strategy.model),
        "accelerator": type(trainer.accelerator).__name__,
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "planned_batches_per_epoch": _finite(trainer.num_training_batches),
        "batch_size": getattr(loaders[0], "batch_size", None) if len(loaders) == 1 else None,
        "schedulers": [type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs],
    }


def _finite(value: float) -> int | None:
    return int(value) if value != float("inf") else None
