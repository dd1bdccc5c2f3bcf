"""What is told of a pipeline by the shadows on it, and to whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from lightning_costs.records.pipeline.ideal_bubble import KNOWN, PipelineShape
from lightning_costs.records.samples import RankInfo


class StageListener(Protocol):
    """Who is told: `lightning_costs.probes.pipeline.stage_timer.StageTimer`."""

    @property
    def mark(self) -> Callable[[], Any]:
        """Mark a moment."""

    @property
    def detailed(self) -> bool:
        """Whether sends and receives are wanted."""

    @property
    def in_step(self) -> bool:
        """Whether a training step's schedule is being gone through."""

    def begin(self) -> None:
        """A training step begins."""

    def end(self) -> None:
        """Its schedule was gone through."""

    def disable(self) -> None:
        """Called where an exception of ours is handled: nothing more is noted."""

    def add_span(self, kind: str, chunk: int, microbatch: int, begun: Any) -> None:
        """Something is over."""

    def on_gap(self, kind: str, chunk: int = 0, microbatch: int = -1) -> None:
        """In a detailed step: something between two passes begins."""

    def on_recv_start(self, way: str, chunk: int, microbatch: int) -> None:
        """In a detailed step: the input of a pass is asked of another rank."""

    def on_compute_start(self, way: str, chunk: int, microbatch: int) -> None:
        """In a detailed step: a pass begins."""

    def interrupted(self) -> None:
        """Something else than training runs."""


class StepListener(Protocol):
    """Who is told of an engine's batches, where nobody else tells: `lightning_costs.recording.recorder.Recorder`."""

    def engine_step(self, samples: int) -> AbstractContextManager[None]:
        """Around the work on a batch of so many samples."""

    def engine_data_wait(self) -> AbstractContextManager[None]:
        """Around the waiting for a micro-batch."""

    @property
    def sampling_memory(self) -> bool:
        """Whether `sample_memory` is of use in the step in work."""

    def sample_memory(self) -> None:
        """Memory may peak here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentedPipeline:
    """A pipeline that is watched.

    Args:
        shape: Its shape at the time of the call.
        at: This rank's replica, stage and shard.
        chunks: Parts of the model that this rank holds, numbered as a micro-batch passes them.
        ranks: Global ranks of the processes that a micro-batch passes.
    """

    shape: Callable[[], PipelineShape]
    at: RankInfo
    chunks: Sequence[int]
    ranks: Sequence[int]


@contextmanager
def step_scope(tape: StageListener) -> Iterator[None]:
    """Around a training step; one that raises counts for nothing."""
    tape.begin()
    try:
        yield
    except BaseException:
        tape.interrupted()
        raise
    finally:
        tape.end()


def known_name(kinds: Sequence[type]) -> str:
    """The schedule's class, or the one with a closed form that it is made from."""
    names = [kind.__name__ for kind in kinds]
    return next((name for name in names if name in KNOWN), names[0])


def ranks_of(group: Any) -> list[int]:
    """Global ranks of a process group, ascending."""
    from torch import distributed

    return sorted(distributed.get_process_group_ranks(group or distributed.group.WORLD))
