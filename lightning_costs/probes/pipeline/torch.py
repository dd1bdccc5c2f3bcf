"""Shadows on a schedule of `torch.distributed.pipelining` and on its stages.

Names that are not public were seen on torch 2.13 and 2.15.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from lightning_costs.patching.patches import Patches
from lightning_costs.probes.pipeline.protocols import (
    InstrumentedPipeline,
    known_name,
    ranks_of,
    step_scope,
)
from lightning_costs.probes.pipeline.stage_timer import StageTimer
from lightning_costs.records.pipeline.ideal_bubble import PipelineShape
from lightning_costs.records.samples import RankInfo


def watch_schedule(
    schedule: Any, tape: StageTimer[Any], shadows: Patches, aside: Callable[[], AbstractContextManager[None]]
) -> InstrumentedPipeline:
    """Put shadows on a schedule and its stages, as `pipeline_engines.watch` describes it."""
    stages = list(getattr(schedule, "_stages", None) or [schedule._stage])
    chunks = {stage.stage_index: chunk for chunk, stage in enumerate(stages)}

    def shape() -> PipelineShape:
        return PipelineShape(
            engine="torch.distributed.pipelining",
            schedule=known_name(type(schedule).__mro__),
            stages=stages[0].group_size,
            microbatches=schedule._n_microbatches,
            chunks=len(stages),
        )

    for stage in stages:
        _watch_stage(stage, chunks[stage.stage_index], tape, shadows)
    shadows.wrap(schedule, "step", lambda original: _torch_step(schedule, original, tape))

    def losing(original: Callable[..., Any]) -> Callable[..., Any]:
        """The last stage's loss is forward work; it is computed beside its forward pass."""

        def maybe_compute_loss(*args: Any, **kwargs: Any) -> Any:
            stage: Any = args[0] if args else kwargs.get("stage")
            if not tape.in_step or not stage.is_last:
                return original(*args, **kwargs)
            begun = tape.mark()
            result = original(*args, **kwargs)
            microbatch = args[3] if len(args) > 3 else kwargs.get("mb_index", -1)
            tape.add_span("F", chunks.get(stage.stage_index, 0), microbatch, begun)
            return result

        return maybe_compute_loss

    shadows.wrap(schedule, "_maybe_compute_loss", losing)

    def initializing(original: Callable[..., Any]) -> Callable[..., Any]:
        def initialize(*args: Any, **kwargs: Any) -> Any:
            with aside():
                return original(*args, **kwargs)

        return initialize

    for name in ("_initialize_stage", "_initialize_stages"):
        shadows.wrap(schedule, name, initializing)
    ranks = ranks_of(stages[0].group)
    at = RankInfo(replica=_replica_of(ranks), stage=stages[0].group_rank)
    return InstrumentedPipeline(shape=shape, at=at, chunks=list(chunks), ranks=ranks)


def _torch_step(schedule: Any, original: Callable[..., Any], tape: StageTimer[Any]) -> Callable[..., Any]:
    """`eval` calls `step` too, with the backward passes switched off."""

    def step(*args: Any, **kwargs: Any) -> Any:
        if not schedule._has_backward:
            tape.interrupted()
            return original(*args, **kwargs)
        with step_scope(tape):
            return original(*args, **kwargs)

    return step


def _watch_stage(stage: Any, chunk: int, tape: StageTimer[Any], shadows: Patches) -> None:
    def passing(kind_of: Callable[..., str], first: str) -> Callable[..., Any]:
        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                if not tape.in_step:
                    return original(*args, **kwargs)
                kind, microbatch = kind_of(*args[2:3], **kwargs), args[0] if args else kwargs.get(first, -1)
                if tape.detailed:
                    tape.on_compute_start("B" if kind == "I" else kind, chunk, microbatch)
                begun = tape.mark()
                result = original(*args, **kwargs)
                tape.add_span(kind, chunk, microbatch, begun)
                if tape.detailed:
                    tape.on_gap("")
                return result

            return run

        return wrap

    def backward_kind(full_backward: bool = True, **_: Any) -> str:
        return "B" if full_backward else "I"

    shadows.wrap(stage, "forward_one_chunk", passing(lambda *_, **__: "F", "fwd_chunk_id"))
    shadows.wrap(stage, "backward_one_chunk", passing(backward_kind, "bwd_chunk_id"))
    shadows.wrap(stage, "backward_weight_one_chunk", passing(lambda *_, **__: "W", "bwd_chunk_id"))
    shadows.wrap(stage, "perform_reduce_grad", lambda original: _reducing(original, chunk, tape))

    def talking(way: str, first: str, *, sends: bool) -> Callable[..., Any]:
        """The schedule asks for what to send or to receive, and posts it at once."""

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def operations(*args: Any, **kwargs: Any) -> Any:
                found = original(*args, **kwargs)
                if tape.detailed and found:
                    microbatch = args[0] if args else kwargs.get(first, -1)
                    if sends:
                        tape.on_gap("S", chunk, microbatch)
                    else:
                        tape.on_recv_start(way, chunk, microbatch)
                return found

            return operations

        return wrap

    shadows.wrap(stage, "get_fwd_recv_ops", talking("F", "fwd_chunk_id", sends=False))
    shadows.wrap(stage, "get_bwd_recv_ops", talking("B", "bwd_chunk_id", sends=False))
    shadows.wrap(stage, "get_fwd_send_ops", talking("F", "fwd_chunk_id", sends=True))
    shadows.wrap(stage, "get_bwd_send_ops", talking("B", "bwd_chunk_id", sends=True))


def _reducing(original: Callable[..., Any], chunk: int, tape: StageTimer[Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not tape.in_step:
            return original(*args, **kwargs)
        begun = tape.mark()
        result = original(*args, **kwargs)
        tape.add_span("G", chunk, -1, begun)
        return result

    return run


def _replica_of(ranks: Sequence[int]) -> int:
    """Which of a job's pipelines this is, where their ranks keep one distance, as a mesh's dimension makes them.

    Of a mesh with tensor-parallel ranks beside the pipeline's each of these counts as a replica: the schedule does not
    know them.

    Example:
        >>> [_replica_of(ranks) for ranks in ([0, 1], [2, 3])], [_replica_of(ranks) for ranks in ([0, 2], [1, 3])]
        ([0, 1], [0, 1])
    """
    apart = ranks[1] - ranks[0] if len(ranks) > 1 else 1
    return ranks[0] // (apart * len(ranks)) * apart + ranks[0] % apart
