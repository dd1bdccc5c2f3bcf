"""Steps of a fit: what a Trainer's step patches report, for the recorder's step hooks."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

from lightning_costs.integrations.deepspeed.engine import engine_setup
from lightning_costs.integrations.lightning.fit_points import FitPoints
from lightning_costs.integrations.lightning.trainer_view import TrainerView
from lightning_costs.integrations.session import Session, SessionPart
from lightning_costs.patching.fail_safe import fail_safe, reraise_from_signal
from lightning_costs.probes.pipeline.detect import find_pipelines
from lightning_costs.probes.repeat_steps import loss_elements, summarize_events

_log = logging.getLogger("lightning_costs")


@final
class FitSteps(SessionPart):
    """Listens to `StepPatches`."""

    def __init__(self, session: Session, trainer: Any, view: TrainerView, points: FitPoints) -> None:
        super().__init__(session)
        self._trainer, self._view, self._points = trainer, view, points
        self._steps = session.hooks.steps
        self._accounts, self._repeats = self._steps.accounts, self._steps.repeats
        self._begun = self._pipelined = self._epoch_done = False
        self.sampling_memory = self.timing_device = False

    @fail_safe
    def start(self) -> None:
        """Probes are open."""
        self.timing_device = self._steps.timing_device
        self._repeats.on_record = self.on_repeat_end if self.timing_device else None

    def stop(self) -> None:
        """Nothing is watched any more."""
        self.sampling_memory = self.timing_device = False

    @fail_safe
    def on_batch_start(self, batch: object, position: Hashable) -> AbstractContextManager[None] | None:
        if not self._begun or self._view.epoch_begins:
            self._epoch_begins()
        count = self._steps.on_batch_start(batch, position)
        self.sampling_memory = self._steps.sampling_memory
        return count

    def find_pipeline(self) -> None:
        """A pipeline that the module holds is watched: one is built in `configure_model`, or in the first step."""
        found = [] if self._pipelined else find_pipelines(self._trainer.lightning_module)
        if not found:
            return
        self._pipelined = True
        if len(found) > 1:
            _log.warning("%d pipelines are among the module's attributes; the first is watched", len(found))
        try:
            self._session.hooks.run.watch_pipeline(found[0])
        except Exception as error:  # noqa: BLE001 - an engine of an unknown version: the other costs are measured
            reraise_from_signal(error)
            _log.warning("the pipeline among the module's attributes is not watched: %r", error)

    def _epoch_begins(self) -> None:
        """The loaders are known from an epoch's first batch on; they may be other ones than the epoch before."""
        loaders = self._view.loaders
        if len(loaders) > 1:
            self._steps.set_batch_splitter(self._view.parts)
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
        view, steps = self._view, self._steps
        if self._repeats.same:  # it looked like the last batch, and was another step after all
            self._repeats.same = False
            steps.cancel_repeat()
        events = self._repeats.take_events()
        work, elements = summarize_events(events), loss_elements(events)
        if not self._begun:  # the loaders are known from the first batch on
            with self._accounts.bucket("other"):
                self._session.describe_data(view.loaders, _facts(self._trainer, view.loaders))
                self.find_pipeline()
            self._begun = True
        if view.epoch_complete:
            self._epoch_done = True
            steps.epoch_done()
        updates = len(work[0])
        steps.step(batch, optimizer_steps=updates, work=work, elements=elements, emit=False, events=events)
        step = view.row_step + 1
        self._points.on_step(step)
        steps.allow_repeats(0 if view.accumulates else view.batches_before_last, step)

    @fail_safe
    def on_epoch_end(self) -> None:
        self._repeats.disarm()  # the epoch may have been cut short: the next one's first batch is no repeat
        done, self._epoch_done = self._epoch_done, False
        if not done and self._view.exhausted and self._points.recorder.run_id:
            self._steps.epoch_done()

    @fail_safe
    def sample_memory(self) -> None:
        self._steps.sample_memory()


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
