"""A Lightning Trainer seen from outside: the one file that uses names of its that are not public.

Seen on Lightning 2.6.6. Everything is an instance shadow, put in `setup` and lifted in `teardown` or on an error.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol, final
from weakref import WeakSet

from lightning_costs.patching.fail_safe import carefully
from lightning_costs.patching.optimizers import hook_optimizer_step, hook_step, unwrap
from lightning_costs.patching.patches import ABSENT, Patches, instance_attribute
from lightning_costs.probes.forward_state import forward_state
from lightning_costs.probes.repeat_steps import BACKWARD, RepeatedStepFastPath
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
_FETCHED_WITHIN = object()
_FINDERS = {"LearningRateFinder", "BatchSizeFinder"}
_AVERAGING = {"WeightAveraging", "StochasticWeightAveraging"}
#: What costs something in its hooks books that for itself.
_OURS = {"CostBudget"}


class TrainerListener(Protocol):
    """What the view tells; `lightning_costs.integrations.lightning.callback` listens."""

    accounts: TimeBuckets
    stride: RepeatedStepFastPath

    @property
    def sampling_memory(self) -> bool:
        """Whether the step in work is one that is looked inside."""

    @property
    def timing_device(self) -> bool:
        """Whether a device's own timeline is kept: only then `on_batch_queued` and the `on_h2d_` hooks are needed."""

    def on_train_start(self) -> None:
        """The fit loop begins."""

    def on_train_end(self) -> None:
        """The fit loop is over."""

    def on_batch_start(self, batch: object, position: Hashable) -> AbstractContextManager[None] | None:
        """The work on a batch is about to begin; what is returned is entered around it."""

    def on_repeat_start(self) -> None:
        """The work on a batch that the stride takes for one like the last is about to begin, where `timing_device`."""

    def on_batch_queued(self) -> None:
        """The work on a batch was queued."""

    def on_h2d_start(self) -> None:
        """A training batch is about to be handed to the device."""

    def on_h2d_end(self) -> None:
        """It was handed over."""

    def give_up(self, error: Exception) -> bool | None:
        """A step raised while it was counted: count no more; whether it may be tried again without."""

    def on_eval_batch_start(self, batch: object, loader: int) -> AbstractContextManager[None] | None:
        """A batch of the loader of this number is about to be validated; what is returned is entered around it."""

    def sample_memory(self) -> None:
        """A moment inside a step at which memory may peak."""

    def on_eval_end(self, metrics: Mapping[str, float]) -> None:
        """An evaluation is complete; its row is about to be written."""

    def on_epoch_logged(self, metrics: Callable[[], Mapping[str, float]]) -> None:
        """A training epoch's metrics are about to be written; asking for them costs something."""

    def row(self) -> Mapping[str, float]:
        """Costs that belong into the row being written."""

    def bar(self) -> str:
        """Cost so far, for the progress bar."""

    def disable(self) -> None:
        """Called where an exception of ours is handled: the view is to be left, and the training alone."""


def _kinds(thing: object) -> set[str]:
    return {kind.__name__ for kind in type(thing).__mro__}


@final
class TrainerHooks:
    """Reads a Trainer and tells a listener what happens in it.

    Args:
        trainer: A Trainer of `lightning.pytorch` or `pytorch_lightning`.
        owner: The callback; where it is not among the trainer's callbacks, a finder is running.
        listener: Who is told.
    """

    def __init__(self, trainer: Any, owner: object, listener: TrainerListener) -> None:
        self._trainer = trainer
        self._owner = owner
        self._listener = listener
        self._shadows = Patches(listener.disable)
        #: The strategy's list of optimizers as it was when they were hooked, and all that ever were.
        self._optimizers: Any = None
        self._hooked: WeakSet[Any] = WeakSet()
        #: A number for each kind of optimizer at a place in the list.
        self._numbers: dict[Hashable, int] = {}
        self._train_row = Patches(listener.disable)
        self._row_open = False
        self._at: tuple[bool, int] = (False, 0)
        self._frozen: int = 0
        self.in_training = False

    # What the trainer says ----------------------------------------------------------------------------------

    @property
    def row_step(self) -> int:
        """The step that Lightning stamps on the row of this moment."""
        return int(self._trainer.fit_loop.epoch_loop._batches_that_stepped)

    @property
    def accumulates(self) -> bool:
        """Whether Lightning accumulates gradients over batches."""
        return self._trainer.accumulate_grad_batches != 1  # type: ignore[no-any-return]

    @property
    def accumulating(self) -> bool:
        """Whether the batch in work ends without an optimizer step."""
        return self.accumulates and bool(self._trainer.fit_loop._should_accumulate())

    @property
    def epoch_complete(self) -> bool:
        """Whether the batch in work is the epoch's last."""
        progress = self._trainer.fit_loop.epoch_loop.batch_progress
        return bool(progress.is_last_batch) or progress.current.ready == self._trainer.fit_loop.max_batches

    @property
    def exhausted(self) -> bool:
        """Whether the loaders had nothing left when they were asked for the next batch, and all was trained on."""
        loop = self._trainer.fit_loop
        fetcher, progress = loop._data_fetcher, loop.epoch_loop.batch_progress
        return fetcher is not None and bool(fetcher.done) and progress.current.completed >= fetcher.fetched

    @property
    def epoch_begins(self) -> bool:
        """Whether the batch in work is the epoch's first."""
        return int(self._trainer.fit_loop.epoch_loop.batch_progress.current.ready) == 1

    @property
    def batches_before_last(self) -> float:
        """Batches that follow in this epoch before its last one; 0 where nobody knows which that is."""
        batches = self._trainer.fit_loop.max_batches
        if batches == math.inf:
            return 0
        return float(batches - self._trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1)

    @property
    def loaders(self) -> list[Any]:
        """The training data loaders, known from the first batch on."""
        combined = self._trainer.fit_loop._combined_loader
        return list(combined.flattened) if combined is not None else []

    def parts(self, batch: Any) -> list[Any]:
        """What each training loader gave, None from one at its end: a batch of several loaders has their structure."""
        combined = self._trainer.fit_loop._combined_loader
        return [batch] if combined is None else _parts(combined.iterables, batch)

    def planned_steps(self, *, calls_a_step: float) -> float:
        """Steps (batches in which an optimizer stepped) that the whole training will have; inf where it has no end.

        EarlyStopping, `max_time` and `should_stop` may end it sooner.

        Args:
            calls_a_step: Calls of optimizers in a step: `max_steps` counts them.
        """
        trainer, loop = self._trainer, self._trainer.fit_loop
        steps = math.inf
        if loop.max_epochs not in (-1, None) and loop.max_batches != math.inf:
            steps = math.ceil(loop.max_batches / trainer.accumulate_grad_batches) * loop.max_epochs
        if trainer.max_steps != -1:
            steps = min(steps, trainer.max_steps / calls_a_step)
        return steps

    def publish(self, metrics: Mapping[str, Any]) -> None:
        """Put metrics where EarlyStopping, ModelCheckpoint and search libraries look."""
        self._trainer._logger_connector._callback_metrics.update(metrics)

    # Shadows ------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Put the shadows."""
        trainer, put = self._trainer, self._shadows.wrap
        epoch_loop = trainer.fit_loop.epoch_loop
        connector = trainer._logger_connector
        put(trainer, "save_checkpoint", self._saving)
        put(trainer.fit_loop, "run", self._fitting)
        put(epoch_loop.val_loop, "run", self._evaluating)
        self._watch_fetching(epoch_loop)
        put(epoch_loop.automatic_optimization, "run", self._automatic_step, hot=True)
        put(epoch_loop.manual_optimization, "run", self._manual_step, hot=True)
        put(trainer.strategy, "backward", self._backward, hot=True)
        if trainer.world_size > 1:
            self._listener.stride.lead_s = 0.0
        if self._listener.timing_device:
            put(trainer.strategy, "batch_to_device", self._batch_to_device, hot=True)
        put(trainer.strategy, "validation_step", self._validation_step)
        if "AsyncCheckpointIO" in _kinds(getattr(trainer.strategy, "checkpoint_io", None)):
            put(trainer.strategy, "teardown", self._booked("checkpoint", trainer.strategy.checkpoint_io))
        put(connector, "log_eval_end_metrics", self._eval_end)
        put(connector, "update_train_epoch_metrics", self._train_epoch)
        for logger in trainer.loggers:
            put(logger, "log_metrics", self._logging(type(logger).__name__))
            put(logger, "save", self._booked("other", logger))
        bar = getattr(trainer, "progress_bar_callback", None)
        if bar is not None:
            put(bar, "get_metrics", self._bar)
        for callback in trainer.callbacks:
            self._watch_callback(callback)
        for hook in HOOKS_OF_A_STEP:  # an empty hook of ours would still cost what Lightning does around it
            if not self._overridden(self._owner, hook):
                self._shadows.mask(self._owner, hook)

    def _watch_callback(self, callback: object) -> None:
        kinds = _kinds(callback)
        if callback is self._owner or kinds & (_AVERAGING | _OURS):
            return
        if kinds & _FINDERS:
            self._shadows.wrap(callback, "on_fit_start", self._booked("other", callback))
        checkpoint = "Checkpoint" in kinds
        for hook in _CHECKPOINT_HOOKS if checkpoint else _TRAIN_HOOKS:
            if self._overridden(callback, hook):
                booked = self._booked("checkpoint" if checkpoint else "other", callback)
                self._shadows.wrap(
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
        """Lift the shadows; the listener is told nothing more."""
        self.in_training = False
        for shadows in (self._train_row, self._shadows):
            try:
                shadows.restore()
            except Exception as error:  # noqa: BLE001 - the others came off, and nothing can be done about it
                _log.warning("something of the measuring could not be taken off the trainer: %r", error)

    def _booked(self, account: str, whose: object) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        accounts, name = self._listener.accounts, type(whose).__name__
        return lambda original: accounts.wrap(original, account, name)

    def _saving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Saving before the fit loop is a finder's."""

        def save_checkpoint(*args: Any, **kwargs: Any) -> Any:
            with self._listener.accounts.bucket("checkpoint" if self._begun() else "other"):
                return original(*args, **kwargs)

        return save_checkpoint

    def _begun(self) -> bool:
        return self._listener.accounts.root != "setup"

    def _fitting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._owner not in self._trainer.callbacks:  # a finder swapped the list and trains for itself
                with self._listener.accounts.bucket("other"):
                    return original(*args, **kwargs)
            self._hook_optimizers()
            self._listener.on_train_start()
            self.in_training = True
            result = original(*args, **kwargs)
            self.in_training = False
            self._listener.on_train_end()
            return result

        return run

    def _hook_optimizers(self) -> None:
        """Count the updates of the torch optimizers themselves: Lightning's `global_step` counts calls.

        A script may replace them in the midst of training: those in place of others of the same kind do the same
        work. One that was replaced stays hooked, as its step may be under way.
        """
        note = self._listener.stride.events.append
        self._optimizers = self._trainer.strategy._optimizers
        for place, optimizer in enumerate(self._trainer.strategy.optimizers):
            if optimizer not in self._hooked:
                self._hooked.add(optimizer)
                number = self._numbers.setdefault((place, type(unwrap(optimizer))), len(self._numbers))
                hook_optimizer_step(optimizer, partial(note, number), self._shadows)

    @contextmanager
    def _looking_inside(self, count: AbstractContextManager[None] | None) -> Iterator[None]:
        """Around the work on one batch: memory is looked at before and after each update, too.

        Args:
            count: What counts the step's operators; None if nothing does.
        """
        looks, look = Patches(self._listener.disable), self._listener.sample_memory
        try:
            for optimizer in self._trainer.strategy.optimizers:
                hook_step(unwrap(optimizer), looks, before=look, after=look)
            if count is not None:
                looks.wrap(self._trainer.strategy, "training_step", self._tried)
            with count or nullcontext():
                yield
        finally:
            looks.restore()

    def _tried(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A counted `training_step` or `validation_step`: what counting makes fail is run again without.

        That is safe if no backward pass and no update happened within; random numbers and buffers are put back.
        """
        listener, events = self._listener, self._listener.stride.events

        def step(*args: Any, **kwargs: Any) -> Any:
            begun = len(events)
            restore = forward_state(self._trainer.lightning_module)
            try:
                return original(*args, **kwargs)
            except Exception as error:
                gave_up = listener.give_up(error)
                if not gave_up or restore is None or len(events) != begun:
                    raise
            restore()
            return original(*args, **kwargs)

        return step

    def _evaluating(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            finder = self._owner not in self._trainer.callbacks
            account = "other" if self._trainer.sanity_checking or finder else "evaluate"
            with self._listener.accounts.bucket(account):
                return original(*args, **kwargs)

        return run

    def _validation_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A batch in evaluation: the first argument, where Lightning fetched it."""
        tried = self._tried(original)

        def validation_step(*args: Any, **kwargs: Any) -> Any:
            if self.in_training and not self._trainer.sanity_checking:
                loader = args[2] if len(args) > 2 else kwargs.get("dataloader_idx", 0)
                count = self._listener.on_eval_batch_start(args[0] if args else kwargs.get("batch"), loader)
                if count is not None:
                    with count:
                        return tried(*args, **kwargs)
            return original(*args, **kwargs)

        return validation_step

    def _watch_fetching(self, epoch_loop: Any) -> None:
        """Between these two the host waits for the next batch."""
        before_fetch, ends = epoch_loop._on_before_fetch, epoch_loop._on_after_fetch
        stride = self._listener.stride

        def begins() -> None:
            stride.recorded = False  # of a batch that nothing is done on, no step would say so
            before_fetch()

        enter, leave = self._listener.accounts.start_stop_hooks("data_wait", begins, ends)
        self._shadows.wrap(epoch_loop, "_on_before_fetch", lambda _: enter, hot=True)
        self._shadows.wrap(epoch_loop, "_on_after_fetch", lambda _: leave, hot=True)

    def _automatic_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return self._step(original, manual=False)

    def _manual_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return self._step(original, manual=True)

    def _step(self, original: Callable[..., Any], *, manual: bool) -> Callable[..., Any]:
        """The work on a batch: the last argument holds what `training_step` gets."""
        listener, stride = self._listener, self._listener.stride

        def run(*args: Any) -> Any:
            around: AbstractContextManager[None] | None = None
            try:
                batch = args[-1].get("batch", _FETCHED_WITHIN) if self.in_training else _FETCHED_WITHIN
                fetched = batch is not _FETCHED_WITHIN  # a step may fetch its batches for itself
                if self.in_training and self._trainer.strategy._optimizers is not self._optimizers:
                    self._hook_optimizers()
                if fetched:
                    around = listener.on_batch_start(batch, self._position(manual=manual))
                    if around is not None or listener.sampling_memory:
                        around = self._looking_inside(around)
            except Exception:  # noqa: BLE001 - a fault of ours, or a model that raises when it is looked at
                listener.disable()
                return original(*args)
            if around is None:
                result = original(*args)
            else:
                result = carefully(original, partial(_within, around), listener.disable, args, {})
            if fetched and listener.timing_device:
                listener.on_batch_queued()
            return result

        def run_alike(*args: Any) -> Any:
            listener.on_repeat_start()
            result = original(*args)
            listener.on_batch_queued()
            return result

        return stride.dispatch(run_alike if listener.timing_device else original, run, listener.disable)

    def _batch_to_device(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Training batches alone: evaluation, too, hands its own over by this method."""
        listener, accounts = self._listener, self._listener.accounts

        def batch_to_device(*args: Any, **kwargs: Any) -> Any:
            if not self.in_training or accounts.current != "train":
                return original(*args, **kwargs)
            depth = accounts.try_enter("h2d")
            listener.on_h2d_start()
            try:
                return original(*args, **kwargs)
            finally:
                listener.on_h2d_end()
                accounts.try_exit(depth)

        return batch_to_device

    def _position(self, *, manual: bool) -> Hashable:
        """What besides shapes decides a step's work: accumulation, and which parameters there are and are frozen.

        By name: one that is pruned or parametrized from an epoch on goes by another, and its mask is work, too.
        """
        trainer = self._trainer
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready == 1:  # the epoch's first batch
            named = trainer.lightning_module.named_parameters()
            self._frozen = hash(tuple((name, parameter.requires_grad) for name, parameter in named))
        accumulating = trainer.accumulate_grad_batches != 1 and not manual and self.accumulating
        if accumulating != self._at[0] or self._frozen != self._at[1]:
            self._at = (accumulating, self._frozen)
        return self._at

    def _backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A backward pass, automatic or manual: a hook of ours would cost thrice as much, with what is around it."""
        listener, stride = self._listener, self._listener.stride
        note, events, several = stride.events.append, stride.events, self._trainer.world_size > 1
        strategy = self._trainer.strategy

        def backward(*args: Any, **kwargs: Any) -> Any:
            if strategy._optimizers is not self._optimizers:
                try:
                    self._hook_optimizers()
                except Exception:  # noqa: BLE001 - a fault of ours must not end the training
                    listener.disable()
            if several and not events:
                try:
                    stride.mark_backward_start()
                except Exception:  # noqa: BLE001 - a clock of ours must not end the training
                    listener.disable()
            note(BACKWARD)
            if not listener.sampling_memory:
                return original(*args, **kwargs)
            listener.sample_memory()
            result = original(*args, **kwargs)
            listener.sample_memory()  # ZeRO lets most gradients go before it updates
            return result

        return backward

    # Rows ---------------------------------------------------------------------------------------------------

    def _logging(self, whose: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Costs join rows of evaluation results and train rows at emissions, and no other."""

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            booked = self._listener.accounts.wrap(original, "other", whose)

            def log_metrics(*args: Any, **kwargs: Any) -> Any:
                if self._row_open and (costs := self._listener.row()):
                    if "metrics" in kwargs:
                        kwargs["metrics"] = {**kwargs["metrics"], **costs}
                    elif args:
                        args = ({**args[0], **costs}, *args[1:])
                return booked(*args, **kwargs)

            return log_metrics

        return wrap

    def _within_row(self, write: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._row_open = True
        try:
            return write(*args, **kwargs)
        finally:
            self._row_open = False

    def open_next_row(self) -> None:
        """The next train row is one at an emission: costs belong into it."""
        if not self._train_row:
            self._train_row.wrap(self._trainer._logger_connector, "update_train_step_metrics", self._open_row)

    def _open_row(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def update(*args: Any, **kwargs: Any) -> Any:
            self._train_row.restore()
            return self._within_row(original, *args, **kwargs)

        return update

    def _eval_end(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def log_eval_end_metrics(metrics: Mapping[str, Any]) -> Any:
            if self._trainer.sanity_checking or not self.in_training:
                return original(metrics)
            seen = {**self._trainer._logger_connector.metrics["callback"], **metrics}
            self._listener.on_eval_end(_numbers(seen))
            return self._within_row(original, metrics)

        return log_eval_end_metrics

    def _train_epoch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def update_train_epoch_metrics() -> Any:
            if not self.in_training:
                return original()
            self._listener.on_epoch_logged(lambda: _numbers(self._trainer._logger_connector.metrics["callback"]))
            return self._within_row(original)

        return update_train_epoch_metrics

    def _bar(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_metrics(*args: Any, **kwargs: Any) -> Any:
            items = original(*args, **kwargs)
            text = self._listener.bar() if self.in_training else ""
            # First, since a narrow bar cuts off what comes last.
            return {"cost": text, **items} if text else items

        return get_metrics


def _within(around: AbstractContextManager[None], function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with around:
            return function(*args)

    return call


def _parts(iterables: Any, batch: Any) -> list[Any]:
    """The batch along the structure of the loaders, in their order; an exhausted loader gives None."""
    if isinstance(iterables, Mapping):
        return [part for key, each in iterables.items() for part in _parts(each, batch[key])]
    if isinstance(iterables, list | tuple):
        return [part for each, own in zip(iterables, batch, strict=True) for part in _parts(each, own)]
    return [batch]


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as numbers; what is none (a tensor of many) is left out."""
    numbers = {}
    for name, value in metrics.items():
        try:
            numbers[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError):
            continue
    return numbers
