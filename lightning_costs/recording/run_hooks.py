"""What integrations call around the steps of a run: its begin and end, and what they know of its setup."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

from lightning_costs.patching.fail_safe import never_harmful
from lightning_costs.probes.clock import mark_run_end
from lightning_costs.probes.environment import device_name
from lightning_costs.probes.memory.oom import MemoryHistory, out_of_memory_error, out_of_memory_facts
from lightning_costs.probes.pipeline.pipeline import Pipeline
from lightning_costs.recording.emission import Emission
from lightning_costs.recording.run_state import Status
from lightning_costs.recording.shared import Shared
from lightning_costs.recording.step_hooks import EngineSteps, StepHooks
from lightning_costs.records.samples import RankInfo
from lightning_costs.run.attempts import iso
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.sink import Sink

if TYPE_CHECKING:
    from torch import nn

#: The allocator's snapshot in the run folder, for https://docs.pytorch.org/memory_viz.
OOM_SNAPSHOT = "oom_memory.pickle"


@final
@dataclass(frozen=True, slots=True)
class Hooks:
    """What an integration calls, by when it does.

    Args:
        run: Around the steps: begin and end, and what is known of the setup.
        steps: In every step.
        points: At points: when one is due, and what is known of costs there and between.
    """

    run: RunHooks
    steps: StepHooks
    points: Emission


@final
class RunHooks:
    """The course of a run, and its setup as far as a framework reports it late."""

    def __init__(self, shared: Shared, points: Emission, steps: StepHooks, *, oom_snapshot: bool = False) -> None:
        #: Where and what is trained.
        self.context = shared.context
        self._run, self._points, self._step_hooks = shared.run, points, steps
        self._monitor, self._accounts, self._clock = shared.monitor, shared.accounts, shared.clock
        self._oom_snapshot = oom_snapshot and shared.context.on_cuda
        self._history: MemoryHistory | None = None

    # Setup --------------------------------------------------------------------------------------------------

    def add_setup(self, facts: Mapping[str, Any], *, dataset_why: str | None = None) -> None:
        """Add facts about the setup to the header. `dataset_samples` is also a column, `dataset_why` its reason."""
        self._run.setup |= facts
        if self.context.dataset_samples is None:
            self.context.dataset_samples = facts.get("dataset_samples")
            self.context.dataset_why = dataset_why or self.context.dataset_why

    def add_sink(self, sink: Sink) -> None:
        """One more sink, before the first batch; on other ranks than 0 it receives nothing."""
        self._run.add_sink(sink)

    def set_rank_info(self, place: RankInfo) -> None:
        """The place of this process, if that is known late (a pipeline's stage): before the first point."""
        own = replace(place, device=place.device or self.context.place.device)
        self.context.places = [own if other.rank == own.rank else other for other in self.context.places]
        self.context.place = own

    def set_wrapped_module(
        self, wrapper: nn.Module | None, optimizers: Callable[[], Sequence[Any]] | None = None
    ) -> None:
        """What a strategy made of module and optimizers, if that comes late: before the first point.

        Args:
            wrapper: The module in its wrapping: FSDP's outermost knows whole sizes.
            optimizers: Returns the optimizers in theirs: DeepSpeed's hold masters and gradients.
        """
        self.context.wrapper = wrapper
        if optimizers is not None:
            self.context.optimizers = optimizers

    def watch_pipeline(self, pipeline: object, *, steps: bool = False) -> None:
        """Time this rank's stage of a pipeline, for the bubble's columns; it says which stage and replica this is.

        Args:
            pipeline: A schedule of `torch.distributed.pipelining` or a DeepSpeed `PipelineEngine`.
            steps: Whether each `train_batch` of an engine is also recorded as a step of the run. The batch that
                `batch_size_fn` and `length_fn` get is then a tensor without elements of [samples, 0].

        Raises:
            ValueError: For anything else, or a second pipeline in one run.
        """
        self._run.check_not_ended()
        loop = EngineSteps(self._step_hooks) if steps else None
        self.set_rank_info(self.context.probe(Pipeline).watch(pipeline, loop))

    def note_logged(self, names: Iterable[str]) -> None:
        """These metrics were logged and make no point: a `monitor` that never is may be one of them, misspelt."""
        self._run.unlogged.logged(names)

    # Course -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Let the probes open: energy is measured from here on. `begin` does it if it was not done before."""
        if self._run.stage == "made":
            self._points.open()
            self._run.stage = "open"

    def begin(self) -> None:
        """Training begins: time goes to the account `train` from now on."""
        self._run.check_not_ended()
        if self.training:
            return
        self.open()
        self._run.stage = "training"
        context = self.context
        started_s = time.time() - (self._clock() - self._accounts.begun_s)
        facts = {"devices": context.devices, "nodes": context.nodes, "processes": len(context.places)}
        self._run.begin_attempt({**facts, "started": iso(started_s), "device": device_name(context)})
        self._history = MemoryHistory() if self._oom_snapshot else None
        self._points.start()
        attempt = self._run.header["attempts"][-1]
        attempt["startup_s"] = self._accounts.startup()
        if (unmetered_s := self._points.unmetered_s) is not None:
            attempt["unmetered_s"] = unmetered_s

    @never_harmful
    def note_error(self, error: BaseException | None) -> None:
        """An error ends the training: if memory ran out, here or on another rank, keep what was held."""
        ran_out = out_of_memory_error(error)
        if error is None or not self.training:
            return
        if ran_out is None:
            if facts := self._points.oom_elsewhere():
                self._run.header["oom"] = facts
            return
        rank, step = self.context.place.rank, self._points.steps_before + self._monitor.done
        facts = {**out_of_memory_facts(ran_out, self.context), "rank": rank, "step": step}
        self._run.header["oom"] = facts
        self._points.publish_oom(facts)
        if not self._run.opened:
            self._step_hooks.open_run(self._monitor.last_look)
        if self._history is not None and self._run.path is not None:
            self._history.write(self._run.path / OOM_SNAPSHOT)

    @property
    def training(self) -> bool:
        """Whether the run is between its begin and its end."""
        return self._run.stage == "training"

    @property
    def outcome(self) -> dict[str, float | bool]:
        """Best quality and cost-to-quality so far, for summaries; empty without a metric."""
        return self._run.outcome

    def training_ended(self) -> None:
        """What follows until `end` goes to the account `other`."""
        self._accounts.reset_to("other")
        self._points.finish()

    def benchmark_inference(
        self,
        *,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        budget_s: float | None = None,
    ) -> None:
        """Training is over: measure what one forward pass of the model costs: see `Recorder.benchmark_inference`."""
        if not self._run.opened:
            return
        with self._accounts.bucket("other"):
            began = self._clock()
            self._points.fold("epoch")
            if budget_s is None:
                budget_s = min(5.0, max(0.1, (self._run.totals.get("train_s") or 0.0) / 20))
            self.context.inference = self._monitor.infer(context, self._energy_meter(), budget_s)
            self._points.window.overhead_s += self._clock() - began

    def _energy_meter(self) -> Callable[[], float] | None:
        """Joules since the last call; the run's own totals are not affected."""
        if self._run.totals.get("energy_j") is None:
            return None
        read_j = 0.0

        def joules() -> float:
            nonlocal read_j
            self._points.fold("epoch")
            total_j = self._run.totals.get("energy_j")
            if total_j is None:
                raise ValueError("energy went missing")
            spent_j, read_j = total_j - read_j, total_j
            return spent_j

        return joules

    def end(self, status: Status) -> RunRecord | None:
        """The run is over, however it ended: its last point is made, and the sinks are closed.

        Returns:
            The run, as its folder now holds it; None if it never trained a batch, and on other ranks than 0.
        """
        if self._run.stage == "ended":
            return None
        if self._history is not None:
            self._history.stop()
        ended_s = self._points.close(status if status == "failed" or status == "interrupted" else None)
        self._run.stage = "ended"
        if self._run.opened:
            mark_run_end(self._accounts.begun_s + ended_s)
        ended_ago_s = self._clock() - self._accounts.begun_s - ended_s if self._run.opened else 0.0
        return self._run.close(status, ended=iso(time.time() - ended_ago_s))

    # Checkpoints --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain containers for a checkpoint: identity and totals up to now, or at the run's end."""
        if self._run.stage != "ended":
            self._monitor.interrupted()
            self._points.fold("train")
        return self._run.state_dict(step=self._points.steps_before + self._monitor.done)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the run of a checkpoint, before `begin`: its identity, its totals, its count of steps.

        Raises:
            ValueError: Training has begun.
        """
        if self._run.stage in ("training", "ended"):
            raise ValueError("load_state_dict() after begin(): an attempt resumes a checkpoint before it trains")
        self._points.steps_before = self._run.load_state_dict(state)
