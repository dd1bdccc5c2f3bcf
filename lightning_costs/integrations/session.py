"""What integrations of all frameworks share: a training as it is seen from outside, passed to a recorder.

A framework's own part reports when something happens; a session maps that to the run. None of its methods
raises: if one would, measuring stops, which is logged once, and the training continues.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

from lightning_costs.patching.fail_safe import fail_safe, never_harmful, reraise_from_signal
from lightning_costs.probes.loaders import training_set
from lightning_costs.probes.opcount.detached import DetachedOpCounter
from lightning_costs.probes.phases import Phases
from lightning_costs.probes.repeat_steps import FORWARD, backward_event, loss_elements
from lightning_costs.recording.recorder import Recorder
from lightning_costs.recording.run_hooks import Hooks
from lightning_costs.recording.run_state import Status
from lightning_costs.records.time_buckets import METERED_BUCKETS
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.paths import show_command

_log = logging.getLogger("lightning_costs")


class BatchInWork:
    """A batch that is trained on, and what has happened in it so far."""

    def __init__(self, content: object, loader: Any = None) -> None:
        self.content, self.loader = content, loader
        #: Indices of the optimizers that stepped, in order.
        self.updates: list[int] = []
        #: Passes of modules whose calls are seen, and of autograd, by `backward_event`.
        self.forwards = 0
        self.backwards: list[int] = []


class Session:
    """A run whose batches a framework's loop reports one by one.

    `begin_batch`, `on_backward`, `on_update` and `end_batch` make a step; what is around them is counted if it has to
    be. A loop that does not say where a batch begins can call `on_update` alone. A framework that sees more of a step
    calls `hooks` itself.
    """

    def __init__(self, recorder: Recorder | None = None, *, goes_on: str = "training") -> None:
        self.recorder = recorder
        self.batch: BatchInWork | None = None
        #: The batch in work if it looks like the last one: until it is done, only what happens in it is noted.
        self.alike: BatchInWork | None = None
        self.broken = self._disabled = False
        #: Whether steps like the one before are only noted; the framework then calls `StepHooks.allow_repeats`.
        self.repeating = False
        #: The count of operators that is under way.
        self.count = DetachedOpCounter()
        self._goes_on = goes_on

    @property
    def hooks(self) -> Hooks:
        """The recorder's hooks; they exist once the framework has attached it."""
        assert self.recorder is not None, "a recorder is attached before batches are reported"
        return self.recorder.hooks

    def disable(self) -> None:
        """Something went wrong in here: say so once, and leave the training alone from now on."""
        if isinstance(error := sys.exception(), Exception):
            reraise_from_signal(error)
        self.broken, self.alike = True, None
        with suppress(Exception):
            self.take_off()
        with suppress(Exception):
            self.count.end(discard=True)
        if not self._disabled:
            self._disabled = True
            _log.exception("measuring costs failed and stops here; %s continues. Please report this", self._goes_on)

    def take_off(self) -> None:
        """Take off what was put on the framework's objects; nothing by default."""

    # A batch ------------------------------------------------------------------------------------------------

    @fail_safe
    def begin_batch(self, content: object, *, loader: Any = None, position: Any = None) -> None:
        """The work on a batch begins.

        Args:
            content: The batch.
            loader: The loader that gave it, if that is known.
            position: Distinguishes steps of equal shapes that do different work.
        """
        self._work_begins(content, loader, position)

    def _work_begins(self, content: object, loader: Any, position: Any = None) -> None:
        steps = self.hooks.steps
        self.batch, self.alike = BatchInWork(content, loader), None
        shared, phases = steps.own.shared, steps.phases
        if shared:
            steps.accounts.train_s()
            steps.own.on_batch()
        if not (self.repeating and steps.repeats.begin(content)):
            self.count.begin(steps.on_batch_start(content, position))
        else:
            if not (shared or steps.sampling_memory or (phases is not None and phases.on)):
                self.alike = self.batch
            if steps.timing_device:
                steps.on_repeat_start()
        if self.alike is None and phases is not None:
            phases.work_begins()

    @property
    def phases(self) -> Phases | None:
        """Receives the moments of passes and updates; None before the run, or if no indicator asked for them."""
        return self.recorder.hooks.steps.phases if self.recorder is not None else None

    @fail_safe
    def on_forward(self) -> None:
        """A forward pass begins; it is over where something else begins."""
        if (phases := self.phases) is not None:
            phases.forward_begins()

    def on_backward(self, loss: object = None) -> None:
        """A backward pass begins, from this loss if it is known."""
        if (alike := self.alike) is not None:
            alike.backwards.append(backward_event(loss))
        else:
            self._backward_begins(loss)

    @fail_safe
    def _backward_begins(self, loss: object) -> None:
        if self.batch is not None:
            if not self.batch.backwards and self.hooks.steps.own.shared:
                self.hooks.steps.own.on_backward()
            self.batch.backwards.append(backward_event(loss))
        phases = self.phases
        if phases is not None:
            phases.pause()
        self.sample_memory()
        if phases is not None:
            phases.backward_begins()

    def on_backward_end(self) -> None:
        """It is over."""
        if self.alike is None:
            self._backward_ends()

    @fail_safe
    def _backward_ends(self) -> None:
        if (phases := self.phases) is not None:
            phases.backward_ends()
        self.sample_memory()  # ZeRO releases most gradients before it updates

    @property
    def on(self) -> bool:
        """Whether the work in progress may be timed, and memory in it read."""
        return self.alike is None and not self.broken

    def lose(self, error: Exception) -> None:
        """Something could not be noted."""
        self.disable()

    @fail_safe
    def update_begins(self) -> None:
        """An optimizer's step begins."""
        self.sample_memory()
        if (phases := self.phases) is not None:
            phases.update_begins()

    @fail_safe
    def update_ends(self) -> None:
        """It is over."""
        if (phases := self.phases) is not None:
            phases.update_ends()
        self.sample_memory()

    @fail_safe
    def sample_memory(self) -> None:
        """A moment at which memory may peak, in a step that is looked into."""
        if self.recorder is not None and self.hooks.steps.sampling_memory:
            self.hooks.steps.sample_memory()

    @fail_safe
    def on_update(self, index: int = 0) -> None:
        """An optimizer stepped, the one of this number."""
        if self.batch is not None:
            self.batch.updates.append(index)
        else:  # the batch came from elsewhere: steps are known, what is in them is not
            self.hooks.steps.step(None, work=(index,))

    @fail_safe
    def end_batch(self, *, emit: bool | None = None) -> bool:
        """The work on the batch is done, whether or not an optimizer stepped.

        Args:
            emit: As `Recorder.step`'s: False if the framework says when points are due.

        Returns:
            Whether it was a step like the one before, which is noted and at which nothing is due.
        """
        return self._work_ended(emit)

    def _work_ended(self, emit: bool | None) -> bool:
        batch, alike = self.batch, self.alike
        self.batch = self.alike = None
        if alike is None:
            if (phases := self.phases) is not None:
                phases.work_ends()
            self.count.end()
        if batch is None or self.recorder is None:
            return False
        steps, events = self.hooks.steps, None
        if self.repeating:
            events, repeats = [FORWARD] * batch.forwards + batch.backwards + batch.updates, steps.repeats
            if steps.timing_device:
                steps.on_batch_queued()
            if repeats.end(events):
                return True
            if repeats.same:  # it looked like the last batch, and was another step after all
                repeats.same = False
                steps.cancel_repeat()
        else:
            steps.on_batch_queued()
        self.on_batch_done(batch)
        work, elements = (tuple(batch.updates), len(batch.backwards), batch.forwards), loss_elements(batch.backwards)
        updates = len(batch.updates)
        steps.step(batch.content, optimizer_steps=updates, work=work, elements=elements, emit=emit, events=events)
        return False

    def on_batch_done(self, batch: BatchInWork) -> None:
        """A batch is about to be recorded as a step: what a framework adds; nothing by default."""

    @fail_safe
    def drop_batch(self) -> None:
        """The batch in work never was one: it was passed over, or something raised."""
        self.count.end(discard=True)
        self.batch = self.alike = None
        if (phases := self.phases) is not None:
            phases.work_ends()

    # Beside the batches -------------------------------------------------------------------------------------

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around writing a checkpoint: it is not training."""
        depth = self.enter("checkpoint")
        try:
            yield
        finally:
            self.leave(depth)

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Around loading a checkpoint: it is a part of setting up."""
        depth = self.enter("restore")
        try:
            yield
        finally:
            self.leave(depth)

    @fail_safe
    def enter(self, account: str) -> int | None:
        """Time goes to an account from now on; what is returned is for `leave`."""
        if self.recorder is None:
            return None
        accounts = self.hooks.steps.accounts
        if account in METERED_BUCKETS:
            accounts.notify_transition()
        if account == "restore":
            accounts.restores_are_reported = True
        return accounts.enter(account)

    @fail_safe
    def leave(self, depth: int | None) -> None:
        """Time goes to the account again that it went to before `enter`."""
        if self.recorder is None or depth is None:
            return
        accounts = self.hooks.steps.accounts
        if accounts.current in METERED_BUCKETS:
            accounts.notify_transition()
        accounts.exit(depth)

    @fail_safe
    def log_metrics(self, metrics: Mapping[Any, Any]) -> None:
        """Quality was evaluated: what of the metrics is a number makes a point."""
        if self.recorder is not None:
            self.recorder.log_metrics(numbers_in(metrics))

    @fail_safe
    def describe_data(self, loaders: Sequence[Any], facts: Mapping[str, Any]) -> None:
        """The training data's part of the setup, before the first step."""
        found = training_set(loaders)
        data = {"dataset": found.name, "dataset_samples": found.samples}
        self.hooks.run.add_setup({**facts, **data}, dataset_why=found.why)

    # The end ------------------------------------------------------------------------------------------------

    @fail_safe
    def benchmark_inference(
        self, infer: object, context: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> None:
        """Measure what a forward pass costs, for 5 s if `infer` is True, else for a twentieth of the training."""
        self.hooks.run.benchmark_inference(budget_s=5.0 if infer is True else None, context=context)

    @fail_safe
    def note_error(self, error: BaseException | None) -> None:
        """An error ends the training: see `RunHooks.note_error`."""
        if self.recorder is not None:
            self.hooks.run.note_error(error)

    def finish(self, status: Status) -> RunRecord | None:
        """End the run; one whose measuring broke off did not finish as a run."""
        was_broken, self.broken = self.broken, False
        return self._end("failed" if was_broken else status)

    @fail_safe
    def _end(self, status: Status) -> RunRecord | None:
        assert self.recorder is not None, "a run that ends has begun"
        self.hooks.run.training_ended()
        return self.recorder.end(status)

    def say_next(self) -> None:
        """Name the command that shows the run, on stderr: stdout is the script's."""
        if self.recorder is not None and self.recorder.path is not None:
            print(f"next: {show_command(self.recorder.path)}", file=sys.stderr, flush=True)


class SessionPart:
    """A part of a session that something else calls: if it fails, the whole session stops measuring."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def broken(self) -> bool:
        """Whether measuring has stopped."""
        return self._session.broken

    def disable(self) -> None:
        """Called when an exception of the package is handled: see `Session.disable`."""
        self._session.disable()


def numbers_in(metrics: Mapping[Any, Any]) -> dict[str, float]:
    """Metrics as numbers; what is none (a text, a tensor of many) is left out.

    Example:
        >>> numbers_in({"val/acc": 0.5, "note": "none"})
        {'val/acc': 0.5}
    """
    numbers = {}
    for name, value in metrics.items():
        with suppress(TypeError, ValueError, RuntimeError):
            numbers[str(name)] = float(value)
    return numbers


@never_harmful
def error_that_ended_the_script() -> BaseException | None:
    """What Python printed as the script's end, if an error ended it."""
    return getattr(sys, "last_value", None)
