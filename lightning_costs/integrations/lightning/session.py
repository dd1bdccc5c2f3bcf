"""One fit of a Lightning Trainer: its steps (`fit_steps`) and points (`fit_points`), its begin and its end."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, final

from lightning_costs.integrations.lightning.final_table import AfterProgressBar, try_print_summary
from lightning_costs.integrations.lightning.fit_points import FitPoints
from lightning_costs.integrations.lightning.fit_steps import FitSteps
from lightning_costs.integrations.lightning.hooks import TrainerHooks
from lightning_costs.integrations.lightning.trainer_view import TrainerView
from lightning_costs.integrations.session import Session
from lightning_costs.patching.fail_safe import fail_safe
from lightning_costs.probes.repeat_steps import summarize_events
from lightning_costs.recording.recorder import Recorder
from lightning_costs.recording.run_state import Status
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.loggers import Log

#: One key in a checkpoint, with plain containers: `state_dict` would collide with a second monitor's.
CHECKPOINT_KEY = "lightning_costs"


@final
class TrainingSession(Session):
    """One fit: listens to the Trainer's hooks and reports to the recorder."""

    recorder: Recorder

    def __init__(
        self, trainer: Any, owner: object, recorder: Recorder, *, log: Log, hyperparameters: Mapping[str, Any]
    ) -> None:
        super().__init__(recorder)
        self._run = recorder.hooks.run
        self.trainer, self.view = trainer, TrainerView(trainer)
        self.points = FitPoints(self, recorder, trainer, self.view, self._open_next_row, log, hyperparameters)
        self.steps = FitSteps(self, trainer, self.view, self.points)
        self.repeats = recorder.hooks.steps.repeats
        self._trainer_hooks = TrainerHooks(trainer, owner, self, recorder.hooks.steps)
        self._owner = owner
        #: The summary, which may have to wait for the progress bar.
        self.printed: AfterProgressBar | None = None
        #: The recorder's state at the end.
        self.ended: dict[str, Any] | None = None
        recorder.hooks.steps.accounts.failed = self.disable

    def _open_next_row(self) -> None:
        self._trainer_hooks.open_next_row()

    def of(self, trainer: Any) -> bool:
        """Whether this is a fit of that Trainer."""
        return self.trainer is trainer

    @property
    def running(self) -> bool:
        """Whether its Trainer is still at it."""
        return str(getattr(self.trainer.state, "status", "")).rpartition(".")[2].lower() == "running"

    def take_off(self) -> None:
        """Lift the patches; nothing is watched any more."""
        self.steps.stop()
        self._trainer_hooks.uninstall()

    @fail_safe
    def start(self) -> None:
        """The fit is set up: probes open, and the Trainer is patched."""
        self._run.open()
        self.steps.start()
        self._trainer_hooks.install()

    # Calls of the Trainer's hooks --------------------------------------------------------------------------

    @fail_safe
    def on_train_start(self) -> None:
        self.repeats.take_events()
        self._run.set_wrapped_module(self.trainer.strategy.model, self._trainer_hooks.optimizers)
        self.steps.find_pipeline()
        self._run.begin()

    @fail_safe
    def on_train_end(self) -> None:
        if updates := summarize_events(self.repeats.take_events())[0]:  # in hooks after the last batch
            self.hooks.steps.updated_late(len(updates))
        self._run.training_ended()

    @fail_safe
    def measure_inference(self, infer: object) -> None:
        if self.view.in_training:
            self.benchmark_inference(infer, context=self.trainer.precision_plugin.forward_context)

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
        if not self.recorder.run_id or not self.trainer.is_global_zero:
            return
        if status == "interrupted":
            self.say_next()
        elif status == "finished":  # a user who waits for an error must not wait for a table
            printing = partial(try_print_summary, self.recorder, run)
            self.printed = AfterProgressBar(self.trainer, self._owner, printing)
