"""What integrations call in every step: begin and end of batches, evaluation, moments at which memory may peak."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, final

from lightning_costs.patching.fail_safe import raised_on_purpose
from lightning_costs.probes import batch as batches
from lightning_costs.probes.environment import collect_environment, describe_optimizers
from lightning_costs.probes.own_work import cpu_s
from lightning_costs.probes.phases import Phases
from lightning_costs.recording.emission import Emission
from lightning_costs.recording.shared import Shared
from lightning_costs.records.samples import CurvePoint

_log = logging.getLogger("lightning_costs")


@final
class StepHooks:
    """Reports batches and steps to the run's instruments.

    A batch is `on_batch_start`, its work, `on_batch_queued`, `step`. A step like the one before is none of these, but
    noted by `repeats` (`lightning_costs.probes.repeat_steps` has its invariants).
    """

    def __init__(self, shared: Shared, points: Emission) -> None:
        self._context, self._run, self._points = shared.context, shared.run, points
        self._steps, self._sizes = shared.monitor, shared.sizes
        self.accounts, self.repeats, self.own = shared.accounts, shared.repeats, shared.own
        self._repeatable = self._warned_of_counting = False
        #: Seconds of training before the work on the first batch: loaders, their workers, its fetch.
        self._first_wait_s: float | None = None

    # A batch ------------------------------------------------------------------------------------------------

    def begins_epoch_of(self, loaders: Sequence[Any]) -> None:
        """The batches that follow are these loaders', from the first one on: what they say of them is compared."""
        self._points.book_repeats()  # they were of the epoch before
        self._sizes.begin(loaders)

    def set_batch_splitter(self, parts: Callable[[Any], Sequence[Any]]) -> None:
        """Set a function that splits a batch into the batches of several loaders: their samples and tokens add up.

        Args:
            parts: The parts of a batch, in the order of the loaders; None from a loader that is at its end.
        """
        self._sizes.parts = parts

    @property
    def timing_device(self) -> bool:
        """Whether a device's own timeline is kept, which needs `on_batch_queued` and `on_h2d_start`, `on_h2d_end`."""
        return self._steps.timing_device

    @property
    def phases(self) -> Phases | None:
        """Receives the moments of a step's passes and updates; None if no indicator asked for them."""
        return self._steps.phases

    def on_h2d_start(self) -> None:
        """A training batch is about to be handed to the device."""
        self._steps.on_h2d_start()

    def on_h2d_end(self) -> None:
        """It was handed over."""
        self._steps.on_h2d_end()

    def on_batch_start(self, batch: object, position: Hashable = None) -> AbstractContextManager[None] | None:
        """The work on a batch is about to begin.

        Args:
            batch: What the step trains on.
            position: Distinguishes steps of equal shapes that do different work (accumulation, frozen layers).

        Returns:
            What to enter around the work if its operators are to be counted; None for nearly all batches.
        """
        self._points.book_repeats()  # which batch this is decides whether it is counted
        if self._first_wait_s is None:
            self._first_wait_s = self.accounts.train_s()
        steps, accounts = self._steps, self.accounts
        if not steps.timing_device:
            return steps.before(batch, position)
        accounts.asynchronous = True  # from here on the device's timeline says when it was idle
        return steps.before(batch, position, accounts.data_wait_s(), accounts.hooks_s())

    def on_batch_queued(self) -> None:
        """The work on a batch was queued."""
        self._steps.on_batch_queued()

    @property
    def sampling_memory(self) -> bool:
        """Whether `sample_memory` matters in the current step."""
        return self._steps.looking

    def sample_memory(self) -> None:
        """Inside a step, where memory may peak: before a backward pass, around an update."""
        self._steps.sample_memory()

    @contextmanager
    def train_batch(self, batch: object, position: Hashable = None) -> Iterator[None]:
        """The work on a batch, as a context."""
        with self.on_batch_start(batch, position) or nullcontext(), self._saying_how():
            if self.own.shared and not self.timing_device:
                begun_s = cpu_s()
                yield
                self.own.on_work(cpu_s() - begun_s)
            else:
                yield
        self.on_batch_queued()

    def step(
        self,
        batch: object = None,
        *,
        optimizer_steps: int = 1,
        work: Hashable = None,
        elements: int = 0,
        emit: bool | None = None,
        events: list[int] | None = None,
    ) -> CurvePoint | None:
        """A batch is done.

        Args:
            batch: What was trained on, for its samples and tokens.
            optimizer_steps: How many times an optimizer stepped; 0 while gradients accumulate.
            work: Distinguishes batches of equal shapes by what was done with them (which optimizers stepped).
            elements: What its losses are made of, by magnitude; 0 if that is unknown.
            emit: Whether to close the window into a point now; by default every `log_every_n_steps` steps.
            events: What happened in it, by `RepeatedStepFastPath.events`: steps like this one may then follow by
                `repeats` alone, as many as `allow_repeats` allows.

        Returns:
            The point, if one was made.
        """
        points, steps = self._points, self._steps
        points.book_repeats()
        self._run.check_training()
        if not self._run.opened:  # at the first training batch: finders and sanity checks leave no folder
            self.open_run(batches.inspect_batch(batch))
        nodes = self.repeats.nodes if events is not None else None
        look, warm = steps.on_batch_end(batch, work, nodes, elements)
        samples, tokens, padding = self._sizes.of(batch, look)
        signature = look.signature, optimizer_steps
        steady = points.window.add_batch(
            samples=samples,
            tokens=tokens,
            optimizer_steps=optimizer_steps,
            warm=warm,
            padding=padding,
            signature=signature,
        )
        self.repeats.disarm()
        self._repeatable = False
        if steady is None:
            return None
        shaped = self._sizes.plain and (look.signature or samples is None)
        if steady and shaped and events is not None:
            self._repeatable = True
            self.repeats.arm(look, samples=samples, tokens=tokens, events=events)
        steps.stepped(steady=steady, signature=signature)
        points.step_done()
        if emit is None:
            emit = points.should_emit(steps.done)
        return points.emit("train") if emit else None

    def optimizer_came(self, optimizer: object) -> None:
        """An optimizer is about to make its first step, perhaps after the header was made."""
        if self._run.opened:
            setup = self._run.header["setup"]
            described = [*setup.get("optimizers", ()), *describe_optimizers([optimizer])]
            self._run.header["setup"] = {**setup, "optimizers": described}

    def updated_late(self, calls: int) -> None:
        """Optimizers stepped after the last batch, this many times."""
        self._points.book_repeats()
        self._points.window.add_late_updates(calls)

    def open_run(self, look: batches.BatchInfo | None) -> None:
        """Make the run's folder: the first batch is done, or memory ran out in it."""
        with self.accounts.bucket("other"):
            shapes = [list(shape) for shape, _ in look.signature] if look is not None else []
            first_s = self.accounts.train_s()
            facts = {**collect_environment(self._context), "batch_shapes": shapes}
            self._run.open(facts, first_batch_s=first_s, first_wait_s=self._first_wait_s)

    def epoch_done(self) -> None:
        """An epoch is complete."""
        self._points.epoch_done()
        self._steps.epoch_begins()

    # Steps like the one before ------------------------------------------------------------------------------

    def allow_repeats(self, batches: float, step: int | None = None) -> None:
        """After a step: the most batches before one that must be reported by `step` (an epoch's last one).

        Args:
            batches: Such batches; those before the next train point are taken from them.
            step: Optimizer steps so far, as `Emission.should_emit` counts them; by default this attempt's.
        """
        if self._repeatable:
            step = self._steps.done if step is None else step
            quiet, self.repeats.until_s = self._points.quiet_after(step)
            self.repeats.allow(min(batches, self._steps.repeats, quiet), self._steps.phases)

    def on_repeat_start(self) -> None:
        """The work on a batch that `repeats` takes for one like the last is about to begin, if `timing_device`."""
        self._steps.on_repeat_start(self.accounts.data_wait_s(), self.accounts.hooks_s())

    def on_repeat_end(self) -> None:
        """It was a step like the last one."""
        self._steps.on_repeat_end()

    def cancel_repeat(self) -> None:
        """It was another step after all: `step` comes next."""
        self._steps.cancel_repeat()

    # Evaluation ---------------------------------------------------------------------------------------------

    def on_eval_batch_start(self, batch: object, loader: Hashable = None) -> AbstractContextManager[None] | None:
        """A batch is about to be evaluated; what is returned is entered around it.

        Args:
            batch: What is evaluated.
            loader: Tells loaders apart whose batches of equal shapes are worked on differently.
        """
        return self._steps.before_evaluation(batch, loader)

    def left_evaluation(self) -> None:
        """Discard the last batch of `on_eval_batch_start`: it was fetched and not used."""
        self._steps.left_evaluation()

    @contextmanager
    def eval_batch(self, batch: object, loader: Hashable = None) -> Iterator[None]:
        """The evaluation of a batch, as a context."""
        with self.on_eval_batch_start(batch, loader) or nullcontext(), self._saying_how():
            yield

    # Counting that fails ------------------------------------------------------------------------------------

    def give_up(self, error: Exception) -> bool:
        """A step or an evaluation raised while it was counted: no more is counted in this run.

        Returns:
            Whether counting may be the cause: then the work can be tried again without.
        """
        return self._steps.give_up(error)

    def say_how(self, error: BaseException) -> None:
        """Work that cannot be tried again raised: if counting may be the cause, say once how to do without."""
        if not self._warned_of_counting and self._steps.is_counting and not raised_on_purpose(error):
            self._warned_of_counting = True
            _log.warning(
                "a step raised %s while its operators were counted. If it does not without, set count='off' or "
                "LIGHTNING_COSTS_COUNT=0",
                type(error).__name__,
            )

    @contextmanager
    def _saying_how(self) -> Iterator[None]:
        """What a counted step raises is the loop's; if counting may be the cause, the log says how to train without."""
        try:
            yield
        except Exception as error:
            self.say_how(error)
            raise


@final
class EngineSteps:
    """Steps of an engine that fetches its batches for itself (`lightning_costs.probes.pipeline.protocols`)."""

    def __init__(self, steps: StepHooks) -> None:
        self._steps = steps

    @contextmanager
    def engine_step(self, samples: int) -> Iterator[None]:
        """A step of the engine, of this number of samples."""
        import torch

        batch = torch.empty((samples, 0), device="meta")
        with self._steps.train_batch(batch):
            yield
        self._steps.step(batch)

    def engine_data_wait(self) -> AbstractContextManager[None]:
        """The engine fetches a batch: booked as `data_wait_s`."""
        return self._steps.accounts.bucket("data_wait")

    @property
    def sampling_memory(self) -> bool:
        """Whether `sample_memory` matters in the current step."""
        return self._steps.sampling_memory

    def sample_memory(self) -> None:
        """Memory may peak here."""
        self._steps.sample_memory()
