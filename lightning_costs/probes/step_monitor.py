"""What is done around a step: operators of new kinds counted, memory watched in some, warm-up kept apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from typing import Any, NamedTuple, final

from lightning_costs.probes import batch as batches
from lightning_costs.probes.compile_time import compiled_if_known_s
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.device_timeline import DeviceTimeline
from lightning_costs.probes.inference import benchmark_inference
from lightning_costs.probes.memory.tensors import TensorMemory, tensors_in
from lightning_costs.probes.opcount.counter import StepOpCounter
from lightning_costs.probes.opcount.eval_counter import EvalOpCounter
from lightning_costs.probes.opcount.step_kinds import Moment, StepKind
from lightning_costs.probes.phases import Phases
from lightning_costs.probes.pipeline.pipeline import Pipeline
from lightning_costs.probes.repeat_steps import Gradients, compiled_graphs, nodes_made
from lightning_costs.probes.step_facts import StepFacts
from lightning_costs.probes.trace_windows import STEPS, TraceWindows
from lightning_costs.records.inference import Inference
from lightning_costs.records.samples import DeviceTime, PipelineTime

#: Steps at the start of an attempt that count as warm-up.
WARMUP_STEPS = 3
#: Steps between two in which optimizer memory is watched, or as many as lie between two points.
WATCH_EVERY_N_STEPS = 50
#: And no more than two in a second: each look takes some 50 microseconds.
LEAST_WATCHED_APART_S = 0.5


class BatchVerdict(NamedTuple):
    """What a batch was."""

    look: batches.BatchInfo
    warm: bool


@final
class StepMonitor:
    """Touches steps for the probes that an indicator asked for; the others cost nothing. Before `open` none is there.

    Args:
        setting: Where and what is trained.
        clock: Seconds, monotonic.
        every: Optimizer steps between two points.
        samples: Samples of a batch, given what its tensors show; called for the batches that are counted.
        keep: Whether the first counted forward pass is kept, to be repeated by `infer`.
    """

    def __init__(
        self,
        setting: ProbeContext,
        clock: Callable[[], float],
        every: int,
        samples: Callable[[object, int | None], int | None] = lambda _, seen: seen,
        *,
        keep: bool = False,
    ) -> None:
        self._setting, self._clock, self._every, self._samples = setting, clock, every, samples
        self._keep = keep
        self._census: StepOpCounter | None = None
        self._evaluation: EvalOpCounter | None = None
        self._memory: TensorMemory | None = None
        self._device_steps: DeviceTimeline[Any] | None = None
        self._pipeline: Pipeline | None = None
        #: Receives the moments of a step's passes and updates, if an indicator asked for them.
        self.phases: Phases | None = None
        self._trace: TraceWindows | None = None
        #: Whether a device's own timeline is kept.
        self.timing_device = False
        self._look: batches.BatchInfo | None = None
        self._last: batches.BatchInfo | None = None
        self._signature: batches.Signature = ()
        self._position: tuple[Hashable, Moment] = (None, "")
        self._key: Hashable = None
        self._moment: Moment = "first"
        self._kind: StepKind | None = None
        self._new_signature = True
        self._made: int | None = None
        #: How many parameters have a gradient; None if nothing is counted.
        self.gradients: Gradients | None = None
        self._nodes = self._watch_at = self._watched = 0
        self._watched_s = clock()
        #: Whether the step in work is watched: `sample_memory` is useful.
        self.looking = False
        self._warm_left = WARMUP_STEPS
        self._census_s: list[float] = []
        self._waited_s = self._hooks_s = 0.0
        #: Signature of the last step, for those that repeat it.
        self._step_signature: Hashable = None
        self._graphs = compiled_graphs()
        self.done = 0
        self._facts = StepFacts(setting)

    def open(self) -> None:
        """Take the probes that indicators asked for when they opened."""
        setting = self._setting
        self._census = setting.attached(StepOpCounter)
        self._evaluation = setting.attached(EvalOpCounter)
        self._memory = setting.attached(TensorMemory)
        self._device_steps = setting.attached(DeviceTimeline)
        self._pipeline = setting.attached(Pipeline)
        self.phases = setting.attached(Phases)
        self._trace = setting.attached(TraceWindows)
        self.timing_device = self._device_steps is not None
        if self._census is not None:
            self._census.keep_example = self._keep
            self.gradients = Gradients(setting.module) if setting.module is not None else None
        self._graphs, self._watched_s = compiled_graphs(), self._clock()

    def on_h2d_start(self) -> None:
        """A training batch is about to be handed to the device."""
        if self._device_steps is not None:
            self._device_steps.mark_h2d_start()

    def on_h2d_end(self) -> None:
        """It was handed over."""
        if self._device_steps is not None:
            self._device_steps.mark_h2d_end()

    def on_backward(self) -> None:
        """A batch's first backward pass is about to be queued; reported only if several ranks train."""
        if self._device_steps is not None:
            self._device_steps.mark_backward()

    @property
    def waits_in_forward(self) -> bool | None:
        """Whether ranks wait for each other in forward passes; None if no step was counted."""
        return self._census.forward_communicates if self._census is not None else None

    def before(
        self, batch: object, position: Hashable, waited_s: float = 0.0, hooks_s: float = 0.0
    ) -> AbstractContextManager[None] | None:
        """The work on a batch is about to begin.

        Returns:
            The context to enter around the work if its operators are to be counted; None for nearly all batches.
        """
        self._settle()
        self._look = self._last = look = batches.inspect_batch(batch)
        signature = look.signature
        here, self._moment = (position, self._moment), ""
        same = signature == self._signature and here == self._position
        if not same:
            # The same objects stand for the same step: what follows compares them by identity.
            self._signature, self._position = signature, here
            self._key = (signature, here)
            self._kind = None
            if here[1] and self.gradients is not None:
                self.gradients.look()
        if self.looking or self.done >= self._watch_at:
            self._watch_memory()
        trace = self._trace
        if trace is not None and self._new_signature and trace.due(self.done):
            trace.begin()
            self._warm_left = max(self._warm_left, STEPS)
            self.interrupted()
        self.on_repeat_start(waited_s, hooks_s)
        self._nodes, self._made = nodes_made(), None
        census = self._census
        tracing = trace is not None and trace.on
        counts = census is not None and census.should_count(self._key)
        if census is None or not counts or (tracing and census.knows(self._key)):  # one drawn again can wait
            if trace is not None and tracing:
                trace.batch_begins()
            return None
        if trace is not None:
            trace.drop()
        self.looking = True
        return self._counted(census, self._key, self._samples(batch, look.samples))

    def before_evaluation(self, batch: object, loader: Hashable) -> AbstractContextManager[None] | None:
        """What to enter around a batch of evaluation that is to be counted; `loader` tells loaders apart."""
        if self._trace is not None:
            self._trace.drop()
        if self._evaluation is None:
            return None
        return self._evaluation.before(batches.inspect_batch(batch).signature, loader)

    def left_evaluation(self) -> None:
        """The batch of evaluation that was reported last was fetched and left."""
        if self._evaluation is not None:
            self._evaluation.left()

    def _watch_memory(self) -> None:
        """Watch early steps (optimizer state is complete after the first update), and then one at a fixed interval."""
        if self.done > self._watch_at:
            self._watch_at = self.done if self.done < WARMUP_STEPS else self._next_watched()
        self.looking = self.done == self._watch_at
        if self.looking:
            self._watched, self._watched_s = self.done, self._clock()
        if self._memory is not None:
            self._memory.watch(self.looking)

    def _next_watched(self) -> int:
        """The step to be watched next: the last one before a point, apart from the last one watched in time, too."""
        apart = max(self._every, WATCH_EVERY_N_STEPS)
        step_s = (self._clock() - self._watched_s) / max(1, self.done - self._watched)
        if step_s > 0:
            apart *= max(1, math.ceil(LEAST_WATCHED_APART_S / step_s / apart))
        return self.done // apart * apart + apart - 1

    @contextmanager
    def _counted(self, census: StepOpCounter, key: Hashable, samples: int | None) -> Iterator[None]:
        again, compiled_s = census.knows(key), compiled_if_known_s()
        opening = self._position[1] == "opening"  # its shapes were there before
        # This step, and if its shapes are new the next: a compiled module compiles there.
        self._warm_left = max(self._warm_left, 1 if again or opening else 2)
        census.count_begins()
        with census.counting(key, samples, follow=not opening):
            yield
        census.count_ends(again=again, compiled_s=compiled_if_known_s() - compiled_s)

    def _settle(self) -> None:
        """What a counted step took is known."""
        if self._census is not None and (took_s := self._census.settle()) is not None:
            self._census_s.append(took_s)

    def give_up(self, error: Exception) -> bool:
        """A step or an evaluation raised while it was counted: whether it may be tried again without."""
        gave_up = [each.give_up(error) for each in (self._census, self._evaluation) if each is not None]
        return any(gave_up)

    @property
    def is_counting(self) -> bool:
        """Whether operators are being counted."""
        return any(each is not None and each.is_counting for each in (self._census, self._evaluation))

    def sample_memory(self) -> None:
        """Inside a step, where memory may peak."""
        if self._memory is not None:
            self._memory.sample()
        if self._census is not None:
            self._census.refresh_kinds()

    def on_batch_queued(self) -> None:
        """The work on a batch was queued."""
        self._made = nodes_made() - self._nodes
        if self._trace is not None:
            self._trace.batch_ends()
        if self._device_steps is not None:
            self._device_steps.end()

    @property
    def repeats(self) -> int:
        """How many steps like the last one `record_repeats` alone may record; 0 if each has to be seen in full."""
        if self._warm_left or self._kind is None or self._kind.moment:
            return 0
        quiet = self._watch_at - self.done - 1  # below 0 after a watched step: the next one ends the watching
        if self._trace is not None:
            quiet = min(quiet, max(0, self._trace.watched_from - self.done))
        if self._census is None or self._census.failed is not None:
            return quiet
        return min(quiet, self._census.quiet) if self._census.repeatable else 0

    def on_repeat_start(self, waited_s: float, hooks_s: float) -> None:
        """The work on a batch that looks like the last one is about to begin; only a device's timeline is notified."""
        if self._device_steps is not None:
            self._device_steps.begin(waited_s - self._waited_s, hooks_s - self._hooks_s)
            self._waited_s, self._hooks_s = waited_s, hooks_s

    def on_repeat_end(self) -> None:
        """It was a step like the last one; `record_repeats` books it, later."""
        if self._device_steps is not None:
            self._device_steps.stepped(steady=True, signature=self._step_signature)

    def finish(self, waited_s: float, hooks_s: float) -> None:
        """Training is over; as `on_repeat_start`, and no batch follows."""
        if self._device_steps is not None:
            with suppress(Exception):  # a device that failed records nothing, and the run must end as it did
                self._device_steps.finish(waited_s - self._waited_s, hooks_s - self._hooks_s)
            self._waited_s, self._hooks_s = waited_s, hooks_s

    @property
    def last_look(self) -> batches.BatchInfo | None:
        """What the last batch looked like that was worked on in full."""
        return self._last

    def cancel_repeat(self) -> None:
        """It looked like the last batch and was another step after all: as if `before` had been called for it."""
        self._look = self._last

    def record_repeats(self, n: int) -> None:
        """Book `n` steps like the last one."""
        if self._census is not None:
            self._census.repeat(n)
        if self.phases is not None:
            self.phases.skipped(n)
        self.done += n

    def epoch_begins(self) -> None:
        """The next batch is an epoch's first one: many trainings do in it what they do in no other."""
        self._moment = self._moment or "opening"

    def on_batch_end(self, batch: object, work: Hashable, nodes: int | None = None, elements: int = 0) -> BatchVerdict:
        """The work on a batch is done."""
        entered, self._look = self._look, None
        if self._trace is not None:
            self._trace.batch_ends()
        warm = self._warm_left > 0
        made = nodes if nodes is not None else self._made
        if made is None:  # the end of its work was not reported
            made = nodes_made() - self._nodes
        if (graphs := compiled_graphs()) != self._graphs:
            self._graphs, warm = graphs, True
            made = self._kind.nodes if self._kind is not None else 0  # a compiler made nodes, too
        if entered is None:  # `before` was not called
            self._watch_memory()
            if self._census is not None:
                self._census.record_batch(None)
            return BatchVerdict(batches.inspect_batch(batch), warm)
        position, moment = self._position
        gradients = self.gradients.count() if self.gradients is not None else 0
        kind = StepKind(self._signature, position, moment, work, self._new_signature, made, gradients, elements)
        self._new_signature = False
        if kind != self._kind:
            self._kind = kind
        if self._census is not None:
            self._census.record_batch(self._kind)
        return BatchVerdict(entered, warm)

    def stepped(self, *, steady: bool, signature: Hashable = None) -> None:
        """A step is complete; `steady` says whether it counts for the rates, `signature` which steps are alike."""
        self._new_signature = True
        if self._census is not None:
            self._census.commit(steady=steady)
        if self._device_steps is not None:
            self._step_signature = signature
            self._device_steps.stepped(steady=steady, signature=signature)
        if self.phases is not None:
            self.phases.stepped(steady=steady, certain=self._warm_left > 1)
        if self._pipeline is not None:
            self._pipeline.mark_steady(steady=steady)
        self.done += 1
        if self._warm_left:
            self._warm_left -= 1
        if self._trace is not None and self._trace.step_ends(self.done):
            self.interrupted()

    def interrupted(self) -> None:
        """Something else ran between two steps: the period between their ends is no step's."""
        if self._device_steps is not None:
            self._device_steps.interrupted()
        if self._pipeline is not None:
            self._pipeline.interrupted()

    def device_time(self) -> DeviceTime | None:
        """What the device's own events show, as far as they have happened; None if the host's clock is used."""
        return self._device_steps.collect() if self._device_steps is not None else None

    def pipeline_time(self) -> PipelineTime | None:
        """What this rank's stage of a pipeline did, as far as its moments have happened; None without a pipeline."""
        return self._pipeline.collect() if self._pipeline is not None else None

    def take_census_s(self, step_s: float | None) -> float:
        """Seconds that counting took beyond steps of `step_s`, since the last call; later if that is unknown.

        What trace windows took beside their steps is among them.
        """
        owed_s = self._trace.take_owed_s() if self._trace is not None else 0.0
        self._settle()
        if self._census is not None and self._census.step_s is not None:
            step_s = self._census.step_s
        if step_s is None:
            return owed_s
        excess_s = sum(max(0.0, took_s - step_s) for took_s in self._census_s)
        self._census_s.clear()
        return owed_s + excess_s

    def take_trace(self) -> bytes | None:
        """The last trace window's trace, if there is a new one."""
        return self._trace.take_trace() if self._trace is not None else None

    def about(self, *, final: bool = False) -> dict[str, Any]:
        """What steps say beside their columns, for the header."""
        return self._facts.read(self._census, self._pipeline, self._trace, self._profile, final=final)

    def _profile(self) -> dict[str, Any] | None:
        profile = self._census.profile() if self._census is not None else None
        if profile is None:
            return None
        host_s = self._device_steps.host_s if self._device_steps is not None else None
        return replace(profile, host_s=host_s, batch_bytes=batches.signature_bytes(self._signature)).as_dict()

    def infer(
        self,
        context: Callable[[], AbstractContextManager[Any]],
        meter: Callable[[], float] | None,
        budget_s: float,
    ) -> Inference | str:
        """Repeat the first counted forward pass; return the reason if it cannot be."""
        calls = self._census.calls if self._census is not None else None
        if calls is None:
            if self._census is not None and self._census.compiled:
                return "in compiled code no forward pass is seen that could be repeated: count='eager' shows one"
            return "no forward pass was counted that could be repeated"
        if calls.example is None:
            return calls.why_no_example
        sizes = self._setting.sizes
        if sizes is not None and sizes.contradicted:
            return f"how many samples a batch holds is not known: {sizes.why}"
        example, device = calls.example, self._setting.device
        assert device is not None
        samples = calls.samples
        if samples is None:
            arguments = [*example.args, *example.kwargs.values()]
            if (sign := batches.alone(arguments)) is None and next(tensors_in(arguments), None) is not None:
                return "how many samples its first forward pass had is not known: give batch_size_fn=lambda batch: ..."
            samples = sign.size if sign is not None else None
        return benchmark_inference(
            example.module,
            example.args,
            example.kwargs,
            device=device,
            samples=samples,
            context=context,
            meter=meter,
            budget_s=budget_s,
        )
