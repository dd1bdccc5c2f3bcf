"""The patches of a Lightning Trainer: put in `setup`, lifted in `teardown` or on an error. Seen on Lightning 2.6.6.

Other names of Lightning's that are not public are in `trainer_view` (what a Trainer says), `step_patches` (its steps)
and `row_patches` (the rows that it writes). Everything is a patch of an instance.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from itertools import takewhile
from typing import Any, Protocol, final

from lightning_costs.integrations.lightning.row_patches import RowListener, RowPatches
from lightning_costs.integrations.lightning.step_patches import StepListener, StepPatches
from lightning_costs.integrations.lightning.trainer_view import TrainerView
from lightning_costs.patching.fail_safe import never_harmful, raised_by_signal
from lightning_costs.patching.patches import ABSENT, Patches, instance_attribute
from lightning_costs.probes.clock import now_s
from lightning_costs.recording.step_hooks import StepHooks
from lightning_costs.records.time_buckets import TimeBuckets

_log = logging.getLogger("lightning_costs")

#: Train hooks of other callbacks: their time is not training.
_TRAIN_HOOKS = (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_train_end",
)
#: Hooks at every step.
HOOKS_OF_A_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
_CHECKPOINT_HOOKS = (*_TRAIN_HOOKS, "on_validation_end", "on_validation_epoch_end")
_FINDERS = {"LearningRateFinder", "BatchSizeFinder"}
_AVERAGING = {"WeightAveraging", "StochasticWeightAveraging"}
#: What costs something in its hooks books that for itself.
_OURS = {"CostBudget"}


class TrainerListener(Protocol):
    """Receives the events of a Trainer; `lightning_costs.integrations.lightning.session` implements it."""

    @property
    def view(self) -> TrainerView:
        """What the Trainer says."""

    @property
    def steps(self) -> StepListener:
        """Receives the events of its steps."""

    @property
    def points(self) -> RowListener:
        """Receives the events of its rows."""

    def on_train_start(self) -> None:
        """The fit loop begins."""

    def on_train_end(self) -> None:
        """The fit loop is over."""

    def disable(self) -> None:
        """Called when an exception of the package is handled: the Trainer is to be left alone."""


def _kinds(thing: object) -> set[str]:
    return {kind.__name__ for kind in type(thing).__mro__}


@final
class TrainerHooks:
    """Reports to a listener what happens in a Trainer."""

    def __init__(self, trainer: Any, owner: Any, listener: TrainerListener, steps: StepHooks) -> None:
        self._trainer = trainer
        self._owner = owner
        self._listener = listener
        self._accounts = steps.accounts
        self._view = listener.view
        self._steps = StepPatches(trainer, self._view, listener.steps, steps)
        self._rows = RowPatches(trainer, self._view, listener.points, steps.accounts)
        self._patches = Patches(listener.disable)

    def optimizers(self) -> list[Any]:
        """Those that update what is trained, also if the script steps them for itself."""
        return self._steps.optimizers()

    def install(self) -> None:
        """Put the patches."""
        trainer, put = self._trainer, self._patches.wrap
        put(trainer, "save_checkpoint", self._saving)
        put(trainer.strategy, "teardown", self._ending)
        put(trainer.fit_loop, "run", self._fitting)
        put(trainer.fit_loop.epoch_loop.val_loop, "run", self._evaluating)
        for name in ("_restore_modules_and_callbacks", "restore_training_state"):
            if hasattr(connector := getattr(trainer, "_checkpoint_connector", None), name):
                put(connector, name, self._restoring)
                self._accounts.restores_are_reported = True
        self._steps.install()
        # The property would make one, if there is none yet.
        writes = getattr(trainer.strategy, "_checkpoint_io", None)
        if "AsyncCheckpointIO" in _kinds(writes):
            put(trainer.strategy, "teardown", self._booked("checkpoint", writes))
        self._rows.install(self._patches)
        for callback in trainer.callbacks:
            self._watch_callback(callback)
        before_ours = takewhile(lambda callback: callback is not self._owner, list(trainer.callbacks))
        for callback in before_ours:
            if self._overridden(callback, "on_exception"):
                put(callback, "on_exception", self._failing)
        for hook in HOOKS_OF_A_STEP:  # an empty hook would still cost what Lightning does around it
            if not self._overridden(self._owner, hook):
                self._patches.mask(self._owner, hook)

    def open_next_row(self) -> None:
        """The next train row is one at an emission: costs belong into it."""
        self._rows.open_next_row()

    def _watch_callback(self, callback: object) -> None:
        kinds = _kinds(callback)
        if callback is self._owner or kinds & (_AVERAGING | _OURS):
            return
        if kinds & _FINDERS:
            self._patches.wrap(callback, "on_fit_start", self._booked("other", callback))
        checkpoint = "Checkpoint" in kinds
        for hook in _CHECKPOINT_HOOKS if checkpoint else _TRAIN_HOOKS:
            if self._overridden(callback, hook):
                booked = self._booked("checkpoint" if checkpoint else "other", callback)
                self._patches.wrap(
                    callback, hook, booked, hot=True
                )  # below another's shadow it would book on: harmless

    @staticmethod
    def _overridden(callback: object, hook: str) -> bool:
        """Whether a callback has a body of its own for the hook: Lightning's base ones are empty."""
        home = next((kind for kind in type(callback).__mro__ if hook in vars(kind)), None)
        return instance_attribute(callback, hook) is not ABSENT or (
            home is not None and home.__name__ not in ("Callback", "Checkpoint")
        )

    def uninstall(self) -> None:
        """Lift the patches; the listener receives nothing more."""
        self._view.in_training = False
        meant_for_the_script = None
        for lift in (self._rows.uninstall, self._steps.uninstall, self._patches.restore):
            try:
                lift()
            except Exception as error:  # noqa: BLE001 - the others came off, and nothing can be done about it
                if raised_by_signal(error):
                    meant_for_the_script = error
                else:
                    _log.warning("something of the measuring could not be taken off the trainer: %r", error)
        if meant_for_the_script is not None:
            raise meant_for_the_script

    def _booked(self, account: str, caller: object) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        accounts, name = self._accounts, type(caller).__name__
        return lambda original: accounts.wrap(original, account, name)

    def _restoring(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def restore(*args: Any, **kwargs: Any) -> Any:
            path = args[0] if args else kwargs.get("checkpoint_path")  # the Trainer knows it a little later
            if self._begun() or not (path or self._trainer.ckpt_path):
                return original(*args, **kwargs)
            with self._accounts.bucket("restore"):
                return original(*args, **kwargs)

        return restore

    def _saving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Saving before the fit loop is a finder's."""

        def save_checkpoint(*args: Any, **kwargs: Any) -> Any:
            with self._accounts.bucket("checkpoint" if self._begun() else "other"):
                return original(*args, **kwargs)

        return save_checkpoint

    def _is_away(self) -> bool:
        """Whether the monitor is not among the Trainer's callbacks; a user's may equal it, or refuse to be compared."""
        return all(callback is not self._owner for callback in self._trainer.callbacks)

    def _begun(self) -> bool:
        return self._accounts.root != "setup"

    def _fitting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._is_away():  # a finder swapped the list and trains for itself
                with self._accounts.bucket("other"), self._steps.unwatched():
                    return original(*args, **kwargs)
            self._steps.hook_optimizers()
            self._listener.on_train_start()
            self._view.in_training = True
            result = original(*args, **kwargs)
            self._view.in_training = False
            self._listener.on_train_end()
            return result

        return run

    def _ending(self, original: Callable[[], None]) -> Callable[[], None]:
        """The end of every fit, also of one that fails while a finder has replaced the Trainer's callbacks."""

        def teardown() -> None:
            trainer, owner = self._trainer, self._owner
            if self._is_away():
                error = sys.exc_info()[1] if str(trainer.state.status).lower().endswith("interrupted") else None
                if error is None:
                    owner.teardown(trainer, trainer.lightning_module, "fit")
                else:
                    owner.on_exception(trainer, trainer.lightning_module, error)
            original()

        return teardown

    def _failing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """What a callback before ours does at an error: if it raises in turn, Lightning calls no other one."""

        def on_exception(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            except BaseException:
                error = args[-1] if args else kwargs["exception"]
                self._owner.on_exception(self._trainer, self._trainer.lightning_module, error)
                raise

        return on_exception

    def _evaluating(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            account = "other" if self._trainer.sanity_checking or self._is_away() else "evaluate"
            with self._accounts.bucket(account):
                return original(*args, **kwargs)

        return run


@final
class FitEntered:
    """Times `strategy.setup_environment`, from the moment at which a Trainer gives its callbacks the module's `log`.

    No hook of a callback is called earlier. The one patch is lifted as soon as the method has run.
    """

    def __init__(self, trainer: Any) -> None:
        self._began_s = now_s()
        self._distributed_s: float | None = None
        self._patches = Patches(lambda: None)
        self._patches.wrap(trainer.strategy, "setup_environment", self._timed)

    def _timed(self, original: Callable[[], None]) -> Callable[[], None]:
        def setup_environment() -> None:
            began_s = now_s()
            try:
                original()
            finally:
                self._distributed_s = now_s() - began_s
                self.lift()

        return setup_environment

    @never_harmful
    def lift(self) -> None:
        """Lift the patch, if the method never ran."""
        self._patches.restore()

    def split(self, accounts: TimeBuckets) -> None:
        """Hand over what the run's start-up had up to now; the model's part begins here."""
        if self._distributed_s is None or self._began_s < accounts.begun_s:
            return
        parts = accounts.startup_s
        parts["script"] = self._began_s - accounts.begun_s - parts["imports"]
        parts["distributed"] = self._distributed_s
        parts["data"] = now_s() - self._began_s - self._distributed_s
        accounts.startup_rest = "model"
