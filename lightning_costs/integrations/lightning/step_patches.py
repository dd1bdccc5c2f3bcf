"""The steps of a Lightning Trainer: patches of what runs a batch, its backward passes and its optimizers.

Everything is a patch of an instance, in names that are not public. Seen on Lightning 2.6.6.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from operator import is_
from typing import Any, Protocol, final

from torch.nn.parameter import is_lazy

from lightning_costs.integrations.lightning.optimizer_patches import OptimizerPatches
from lightning_costs.integrations.lightning.trainer_view import TrainerView
from lightning_costs.patching.fail_safe import carefully, raised_by_signal
from lightning_costs.patching.optimizers import (
    between,
    hook_parts,
    hook_step,
    time_updates,
    unwrap,
)
from lightning_costs.patching.patches import ABSENT, Patches, Shadow, instance_attribute
from lightning_costs.probes.phases import Phases
from lightning_costs.probes.repeat_steps import backward_event
from lightning_costs.probes.side_effects import forward_state
from lightning_costs.recording.step_hooks import StepHooks

_FETCHED_WITHIN = object()
#: What a manual step calls besides passes and updates.
_MANUAL = ("optimizers", "toggle_optimizer", "untoggle_optimizer")


class StepListener(Protocol):
    """Receives the events of steps."""

    @property
    def sampling_memory(self) -> bool:
        """Whether the step in work is one that is looked inside."""

    @property
    def timing_device(self) -> bool:
        """Whether a device's own timeline is kept: only then `on_batch_queued` and the `on_h2d_` hooks are needed."""

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

    def disable(self) -> None:
        """Called when an exception of the package is handled: the trainer is to be left alone."""


@final
class StepPatches:
    """Patches what a Trainer works on a batch by."""

    def __init__(
        self,
        trainer: Any,
        view: TrainerView,
        listener: StepListener,
        steps: StepHooks,
    ) -> None:
        self._trainer, self._view, self._listener = trainer, view, listener
        self._accounts, self._repeats, self._own = steps.accounts, steps.repeats, steps.own
        self._hooks = steps
        self._phases: Phases | None = None
        self._patches = Patches(listener.disable)
        #: What reports the moments of a timed step, and what it was put on.
        self._moments = Patches(listener.disable)
        self._moments_of: tuple[Any, ...] = ()
        self._optimizers = OptimizerPatches(trainer, steps, self._patches, listener.disable)
        self._at: tuple[bool, int] = (False, 0)
        self._frozen: int = 0

    def install(self) -> None:
        """Put them, but for optimizers, which are made late."""
        trainer, put = self._trainer, self._patches.wrap
        epoch_loop = trainer.fit_loop.epoch_loop
        self._watch_fetching(epoch_loop)
        self._phases = self._hooks.phases
        put(epoch_loop.automatic_optimization, "run", self._automatic_step, hot=True)
        put(epoch_loop.manual_optimization, "run", self._manual_step, hot=True)
        put(trainer.strategy, "backward", self._backward, hot=True)
        if self._own.shared:
            self._own.lead_s = 0.0
        if self._listener.timing_device:
            put(trainer.strategy, "batch_to_device", self._batch_to_device, hot=True)
        put(trainer.strategy, "validation_step", self._validation_step)

    def uninstall(self) -> None:
        """Lift them."""
        self._moments_of = ()
        self._moments.restore()
        self._patches.restore()

    def optimizers(self) -> list[Any]:
        """Those that update what is trained."""
        return self._optimizers.all()

    def hook_optimizers(self) -> None:
        """They are made late."""
        self._optimizers.hook()

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Around steps that are none of the fit, perhaps in its midst: a finder's at a milestone."""
        view = self._view
        in_training, view.in_training = view.in_training, False
        try:
            with self._repeats.aside():
                yield
        finally:
            view.in_training = in_training

    @contextmanager
    def _looking_inside(self, count: AbstractContextManager[None] | None) -> Iterator[None]:
        """Around the work on one batch: memory is read before and after each update, too.

        Args:
            count: What counts the step's operators; None if nothing does.
        """
        looks, look = Patches(self._listener.disable), self._listener.sample_memory
        try:
            for optimizer in self.optimizers():
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
        listener, events = self._listener, self._repeats.events

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

    def _validation_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A batch in evaluation: the first argument, where Lightning fetched it."""
        tried = self._tried(original)

        def validation_step(*args: Any, **kwargs: Any) -> Any:
            if self._view.in_training and not self._trainer.sanity_checking:
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
        repeats = self._repeats

        def begins() -> None:
            repeats.recorded = False  # of a batch that nothing is done on, no step would say so
            before_fetch()

        own = self._own

        listener = self._listener

        def fetched() -> None:
            try:
                own.on_batch()
            except Exception:  # noqa: BLE001 - a clock of the package must not end the training
                listener.disable()
            ends()

        def give_back() -> None:  # a fetcher takes both methods, and after an error it stays
            fetcher = self._trainer.fit_loop._data_fetcher
            for name in ("_start_profiler", "_stop_profiler"):
                while isinstance(held := getattr(fetcher, name, None), Shadow) and not held.active:
                    setattr(fetcher, name, held.__wrapped__)

        self._patches.add_cleanup(give_back)
        enter, leave = self._accounts.start_stop_hooks("data_wait", begins, fetched if own.shared else ends)
        self._patches.wrap(epoch_loop, "_on_before_fetch", lambda _: enter, hot=True)
        self._patches.wrap(epoch_loop, "_on_after_fetch", lambda _: leave, hot=True)

    def _timed(self, *, fetched: bool = True) -> Patches | None:
        """What reports the moments of passes and updates, put for this batch's work alone; None if none are due.

        Patches that stay would cost every step what they cost these. A step that fetches its batches for itself waits
        for data in its forward pass.
        """
        phases, strategy = self._phases, self._trainer.strategy
        if phases is None or not phases.on:
            return None
        module, precision = self._trainer.lightning_module, strategy.precision_plugin
        compiled = getattr(module, "_compiler_ctx", None) is not None
        optimizers = strategy.optimizers
        own = self._optimizers.own if not module.automatic_optimization else ()
        fetcher = None if fetched else self._trainer.fit_loop._data_fetcher
        of = (strategy, precision, module, module.automatic_optimization, compiled, fetcher, *optimizers, *own)
        timed = self._moments
        if len(of) == len(self._moments_of) and all(map(is_, of, self._moments_of)) and timed.resume():
            return timed
        timed.restore()
        self._moments_of = of
        put = timed.wrap
        put(strategy, "training_step", between(phases, phases.forward_begins, phases.forward_ends), hot=True)
        put(precision, "backward", between(phases, phases.backward_begins, phases.backward_ends), hot=True)
        put(precision, "_wrap_closure", between(phases, phases.closure_begins, phases.closure_ends), hot=True)
        if fetcher is not None:
            put(fetcher, "_start_profiler", between(phases, phases.pause, _nothing), hot=True)
            put(fetcher, "_stop_profiler", between(phases, _nothing, phases.resume), hot=True)
        if not compiled:  # else its training_step is compiled, and this call in it
            for name in ("log",) if module.automatic_optimization else ("log", *_MANUAL):
                put(module, name, between(phases, phases.pause, phases.resume), hot=True)
        for place, optimizer in enumerate(optimizers):
            time_updates(optimizer, timed, phases)
            if not module.automatic_optimization:
                hook_parts(optimizer, timed, phases)
                # Lightning's wrapper, which a manual step calls, has the optimizer's methods as its own.
                for wrapper in getattr(strategy, "_lightning_optimizers", ())[place : place + 1]:
                    hook_parts(wrapper, timed, phases)
        for optimizer in own:
            hook_parts(optimizer, timed, phases)
        return timed

    def _automatic_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return self._step(original, manual=False)

    def _manual_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        return self._step(original, manual=True)

    def _step(self, original: Callable[..., Any], *, manual: bool) -> Callable[..., Any]:
        """The work on a batch: the last argument holds what `training_step` gets."""
        listener, repeats = self._listener, self._repeats

        def run(*args: Any) -> Any:
            around: AbstractContextManager[None] | None = None
            timed: Patches | None = None
            try:
                batch = args[-1].get("batch", _FETCHED_WITHIN) if self._view.in_training else _FETCHED_WITHIN
                fetched = batch is not _FETCHED_WITHIN  # a step may fetch its batches for itself
                if self._view.in_training and self._optimizers.stale:
                    self._optimizers.hook()
                if fetched:
                    around = listener.on_batch_start(batch, self._position(manual=manual))
                    if around is not None or listener.sampling_memory:
                        around = self._looking_inside(around)
                if self._view.in_training:
                    timed = self._timed(fetched=fetched)
            except Exception as error:
                if raised_by_signal(error):
                    raise
                listener.disable()  # a fault of the package, or a model that raises when it is inspected
                return original(*args)
            try:
                if around is None:
                    result = original(*args)
                else:
                    result = carefully(original, partial(_within, around), listener.disable, args, {})
            finally:
                if timed is not None:
                    timed.suspend()
            if fetched and listener.timing_device:
                listener.on_batch_queued()
            return result

        def run_alike(*args: Any) -> Any:
            listener.on_repeat_start()
            result = original(*args)
            listener.on_batch_queued()
            return result

        alike = run_alike if listener.timing_device else original
        phases = self._phases

        def run_timed(*args: Any) -> Any:
            timed: Patches | None = None
            try:
                if phases is not None:
                    phases.begin_repeat()
                timed = self._timed()
            except Exception:  # noqa: BLE001 - a fault of the package must not end the training
                listener.disable()
            try:
                return alike(*args)
            finally:
                if timed is not None:
                    timed.suspend()

        return repeats.dispatch(alike, run, listener.disable, run_timed)

    def _batch_to_device(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Training batches alone: evaluation, too, hands its own over by this method."""
        listener, accounts = self._listener, self._accounts

        def batch_to_device(*args: Any, **kwargs: Any) -> Any:
            if not self._view.in_training or accounts.current != "train":
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
        """What besides a batch decides a step's work: accumulation, and which parameters there are and are frozen.

        By name and shape: a network may grow, and a parameter that is pruned or parametrized from an epoch on goes by
        another name, and its mask is work, too.
        """
        trainer = self._trainer
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready == 1:  # the epoch's first batch
            named = trainer.lightning_module.named_parameters()
            self._frozen = hash(tuple((name, is_lazy(one) or one.shape, one.requires_grad) for name, one in named))
        accumulating = trainer.accumulate_grad_batches != 1 and not manual and self._view.accumulating
        if accumulating != self._at[0] or self._frozen != self._at[1]:
            self._at = (accumulating, self._frozen)
        return self._at

    def _backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A backward pass, automatic or manual: a callback hook would cost thrice as much, with what is around it."""
        listener, repeats = self._listener, self._repeats
        note, events, own = repeats.events.append, repeats.events, self._own
        strategy, optimizers = self._trainer.strategy, self._optimizers
        manual = self._phases if not self._trainer.lightning_module.automatic_optimization else None
        # A script may replace its class's method while it trains.
        kind, held = type(strategy), instance_attribute(strategy, "backward")
        of_class = kind.backward

        def backward(*args: Any, **kwargs: Any) -> Any:
            if manual is not None:
                try:
                    manual.pause()  # hooks come before the pass itself
                except Exception as error:  # noqa: BLE001 - a moment that is lost must not end the training
                    manual.lose(error)
            if strategy._optimizers is not optimizers.hooked:
                try:
                    self._optimizers.hook()
                except Exception:  # noqa: BLE001 - an internal error must not end the training
                    listener.disable()
            if own.shared and not events:
                try:
                    own.on_backward()
                except Exception:  # noqa: BLE001 - a clock of the package must not end the training
                    listener.disable()
            note(backward_event(args[0] if args else None))
            covered = original
            if kind.backward is not of_class and held is ABSENT:
                covered = kind.backward.__get__(strategy, kind)
            if not listener.sampling_memory:
                return covered(*args, **kwargs)
            listener.sample_memory()
            result = covered(*args, **kwargs)
            listener.sample_memory()  # ZeRO lets most gradients go before it updates
            return result

        return backward


def _nothing() -> None:
    pass


def _within(around: AbstractContextManager[None], function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with around:
            return function(*args)

    return call
