"""What is told of a pipeline by the shadows on it, and to whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from lightning_costs.probes.pipeline.stage_timer import StageTimer
from lightning_costs.records.pipeline.ideal_bubble import KNOWN, PipelineShape
from lightning_costs.records.samples import RankInfo


class StepListener(Protocol):
    """Who is told of an engine's batches, where nobody else tells: `lightning_costs.recording.recorder.Recorder`."""

    def engine_step(self, samples: int) -> AbstractContextManager[None]:
        """Around the work on a batch of so many samples."""

    def engine_data_wait(self) -> AbstractContextManager[None]:
        """Around the waiting for a micro-batch."""

    @property
    def sampling_memory(self) -> bool:
        """Whether `sample_memory` matters in the current step."""

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
def step_scope(tape: StageTimer[Any]) -> Iterator[None]:
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
