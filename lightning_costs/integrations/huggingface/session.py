"""One training of a transformers Trainer: passes its hooks and callbacks to the recorder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

from lightning_costs.integrations.huggingface.hooks import (
    TrainerHooks,
    loop_facts,
    steps_between_logs,
    users_loader,
    wandb_callbacks,
)
from lightning_costs.integrations.session import Session, numbers_in
from lightning_costs.patching.fail_safe import fail_safe
from lightning_costs.probes.opcount.detached import DetachedOpCounter
from lightning_costs.recording.recorder import Recorder
from lightning_costs.storage.loggers import PREFIX, Log, WandbSink, columns, logger_row

#: What the Trainer's state holds of a run, and so each checkpoint's trainer_state.json.
CHECKPOINT_KEY = "lightning_costs"


@final
class TrainerSession(Session):
    """One call of `Trainer.train`.

    Args:
        trainer: The Trainer.
        recorder: The run's.
        log: Which costs trackers get.
    """

    recorder: Recorder

    def __init__(self, trainer: Any, recorder: Recorder, *, log: Log) -> None:
        super().__init__(recorder)
        self.trainer = trainer
        self._hooks_on = TrainerHooks(trainer, self)
        self._columns = columns(recorder.hooks.points.declarations, headline_only=log == "headline")
        self._rows = log != "none"
        self._evaluation = DetachedOpCounter()
        self._exhausted = False
        #: The step of the last point, and the logs that were asked for last with the costs that join them.
        self._point_at = -1
        self._logs: Mapping[str, Any] | None = None
        self._row: Mapping[str, float] = {}

    def take_off(self) -> None:
        """Lift the shadows."""
        self._hooks_on.unwatch()

    @fail_safe
    def start(self) -> None:
        """The Trainer is about to train: its model, optimizer and loader are prepared, a checkpoint is loaded."""
        state, run = self.trainer.state, self.hooks.run
        if (saved := (state.stateful_callbacks or {}).get(CHECKPOINT_KEY)) and state.global_step:
            self.recorder.load_state_dict(saved)
        run.set_wrapped_module(self.trainer.model_wrapped)
        run.begin()
        loader = users_loader(self.trainer.callback_handler.train_dataloader)
        with self.hooks.steps.accounts.bucket("other"):
            self.describe_data([loader], loop_facts(self.trainer))
        self.repeating = self.trainer.args.gradient_accumulation_steps == 1
        self.hooks.steps.repeats.on_record = self.hooks.steps.on_repeat_end if self.hooks.steps.timing_device else None
        rows = self._rows and self.trainer.is_world_process_zero()
        for tracker in wandb_callbacks(self.trainer) if rows else ():
            run.add_sink(
                WandbSink(
                    lambda module=tracker._wandb: module.run,
                    self.hooks.points.declarations,
                    lambda: {**self.recorder.final, **run.outcome},
                    prefix=f"train/{PREFIX}",  # transformers' own, before all names but an evaluation's
                    step_metric="train/global_step",
                )
            )
        self._hooks_on.watch(rows=rows)

    # Calls of the Trainer's methods -------------------------------------------------------------------------

    @fail_safe
    def batch_begins(self, batch: object) -> None:
        """A batch begins, and with it the one before has ended: a step that was skipped has no callback."""
        if self.batch is not None:
            self._work_ended(emit=False)
        self._work_begins(batch, None, bool(self.trainer.accelerator.sync_gradients))
        if self.alike is None:
            self.on_forward()

    @fail_safe
    def evaluated_batch_begins(self, batch: object) -> None:
        """Its operators are counted apart."""
        if self.hooks.steps.accounts.current == "evaluate" and self.batch is None:
            self._evaluation.begin(self.hooks.steps.on_eval_batch_start(batch))

    @fail_safe
    def evaluated_batch_ends(self, *, raised: bool = False) -> None:
        """Its count is over."""
        self._evaluation.end(discard=raised)

    @fail_safe
    def fetched(self, batches: int, wanted: int) -> None:
        """A loader without a length shows its end by what it did not give."""
        self._exhausted = batches < wanted

    @fail_safe
    def before_saving(self) -> None:
        """Identity and totals go into the Trainer's state, which the checkpoint holds as trainer_state.json."""
        self.trainer.state.stateful_callbacks[CHECKPOINT_KEY] = self.recorder.state_dict()

    # Calls of its callbacks ---------------------------------------------------------------------------------

    @fail_safe
    def epoch_begins(self) -> None:
        """Batches of the training loader follow."""
        self._exhausted = False
        self.hooks.steps.repeats.disarm()  # many trainings do in an epoch's first step what they do in no other
        self.hooks.steps.begins_epoch_of([users_loader(self.trainer.callback_handler.train_dataloader)])

    @fail_safe
    def epoch_ends(self) -> None:
        """It is complete if the Trainer counts a whole one, or the loader is exhausted."""
        loader = self.trainer.callback_handler.train_dataloader
        counted = float(self.trainer.state.epoch or 0.5).is_integer() if hasattr(loader, "__len__") else False
        if (counted or self._exhausted) and self.recorder.run_id:
            self.hooks.steps.epoch_done()
            self._place()  # the Trainer counted the epoch at its last step

    @fail_safe
    def substep_ends(self) -> None:
        """Gradients accumulate."""
        self.end_batch(emit=False)

    @fail_safe
    def step_ends(self) -> None:
        """The optimizer stepped, or its gradient scaler passed the step over."""
        if self.batch is not None and not self.trainer.accelerator.optimizer_step_was_skipped:
            self.batch.updates.append(0)
        if self._work_ended(emit=False):
            return
        step = self.trainer.state.global_step
        if self.hooks.points.should_emit(step):
            self._emit()
        if self.repeating:
            self.hooks.steps.allow_repeats(math.inf, step)

    def _place(self) -> None:
        state = self.trainer.state
        self.hooks.points.set_step(step=max(0, state.global_step - 1), epoch=int(state.epoch or 0))

    def _stamp(self) -> None:
        self._place()
        self._point_at = self.trainer.state.global_step

    def _emit(self) -> None:
        self._stamp()
        self.hooks.points.emit("train")

    def row(self, logs: Mapping[str, Any]) -> Mapping[str, float]:
        """Costs that join these logs; an evaluation's metrics make a point first."""
        if logs is not self._logs:
            self._logs, self._row = logs, {}
            self._row = self._made_row(logs) or {}
        return self._row

    @fail_safe
    def _made_row(self, logs: Mapping[str, Any]) -> Mapping[str, float]:
        state = self.trainer.state
        if not self.recorder.run_id:
            return {}
        if self.hooks.steps.accounts.current == "evaluate":
            self._stamp()
            self.log_metrics(numbers_in(logs))
        elif self._point_at != state.global_step and steps_between_logs(self.trainer) is None:  # a row an epoch
            self._emit()
        return logger_row(self.recorder.costs, self._columns) if self._point_at == state.global_step else {}
