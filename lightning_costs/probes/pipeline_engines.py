"""Pipelines seen from outside: what is one, and the shadows on its instances that tell a tape what a stage does.

Names that are not public were seen on torch 2.13 and 2.15, and on DeepSpeed 0.18.2, 0.18.6 and 0.19.8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lightning_costs.core.bubble import KNOWN, Shape
from lightning_costs.core.records import Place
from lightning_costs.probes.shadow import ABSENT, Shadows

if TYPE_CHECKING:
    import torch


class Tape(Protocol):
    """Who is told: `lightning_costs.probes.pipeline.StageTape`."""

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

    def note(self, kind: str, chunk: int, microbatch: int, begun: Any) -> None:
        """Something is over."""

    def between(self, kind: str, chunk: int = 0, microbatch: int = -1) -> None:
        """In a detailed step: something between two passes begins."""

    def awaits(self, way: str, chunk: int, microbatch: int) -> None:
        """In a detailed step: the input of a pass is asked of another rank."""

    def arrived(self, way: str, chunk: int, microbatch: int) -> None:
        """In a detailed step: a pass begins."""

    def interrupted(self) -> None:
        """Something else than training runs."""


class Loop(Protocol):
    """Who is told of an engine's batches, where nobody else tells: `lightning_costs.recorder.Recorder`."""

    def engine_works(self, samples: int) -> AbstractContextManager[None]:
        """Around the work on a batch of so many samples."""

    def engine_waits(self) -> AbstractContextManager[None]:
        """Around the waiting for a micro-batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A pipeline that is watched.

    Args:
        shape: Its shape at the time of the call.
        at: This rank's replica, stage and shard.
        chunks: Parts of the model that this rank holds, numbered as a micro-batch passes them.
        ranks: Global ranks of the processes that a micro-batch passes.
    """

    shape: Callable[[], Shape]
    at: Place
    chunks: Sequence[int]
    ranks: Sequence[int]


def watch(
    pipeline: object,
    tape: Tape,
    shadows: Shadows,
    loop: Loop | None = None,
    aside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Watched:
    """Put shadows on a pipeline's instances.

    Args:
        pipeline: A schedule or an engine (`is_pipeline`).
        tape: Who is told what the stage does.
        shadows: Holds them.
        loop: Who is told of an engine's batches too; None where the loop around it tells.
        aside: Entered around what a first step does beside its work: torch infers shapes by passes of its own.

    Raises:
        ValueError: For a `loop` with a schedule, which sees no batches of its own.
    """
    if "PipelineEngine" in _kinds(pipeline):
        return _watch_deepspeed(pipeline, tape, shadows, loop)
    if loop is not None:
        raise ValueError("a schedule fetches no batches: tell its steps by recorder.counting and recorder.step")
    return _watch_torch(pipeline, tape, shadows, aside)


def is_pipeline(thing: object) -> bool:
    """Whether `watch` takes it."""
    return not {"PipelineEngine", "_PipelineSchedule"}.isdisjoint(_kinds(thing))


def device_of(pipeline: Any) -> torch.device | None:
    """Where this rank's stage runs; None where it does not say.

    Raises:
        ValueError: For an object that is no pipeline.
    """
    import torch

    if not is_pipeline(pipeline):
        raise ValueError(
            "expected a schedule of torch.distributed.pipelining or a DeepSpeed PipelineEngine, "
            f"got {type(pipeline).__name__}"
        )
    if "PipelineEngine" in _kinds(pipeline):
        device = pipeline.device
    else:
        device = (getattr(pipeline, "_stages", None) or [pipeline._stage])[0].device
    return None if device is None else torch.device(device)


def pipelines_of(module: object) -> list[object]:
    """Pipelines among a module's attributes and submodules, and in lists and dictionaries that are attributes."""
    found: dict[int, object] = {}
    for value in _attributes(module):
        if is_pipeline(value):
            found[id(value)] = value
    return list(found.values())


def _attributes(module: object) -> Iterator[object]:
    held = getattr(module, "__dict__", {})
    for value in (*held.values(), *(held.get("_modules") or {}).values()):
        if isinstance(value, Mapping):
            yield from value.values()
        elif isinstance(value, list | tuple):
            yield from value
        else:
            yield value


def _kinds(thing: object) -> set[str]:
    return {kind.__name__ for kind in type(thing).__mro__}


def _known(kinds: Sequence[type]) -> str:
    """The schedule's class, or the one with a closed form that it is made from."""
    names = [kind.__name__ for kind in kinds]
    return next((name for name in names if name in KNOWN), names[0])


@contextmanager
def _stepping(tape: Tape) -> Iterator[None]:
    """Around a training step; one that raises counts for nothing."""
    tape.begin()
    try:
        yield
    except BaseException:
        tape.interrupted()
        raise
    finally:
        tape.end()


# torch.distributed.pipelining ---------------------------------------------------------------------------------------


def _watch_torch(
    schedule: Any, tape: Tape, shadows: Shadows, aside: Callable[[], AbstractContextManager[None]]
) -> Watched:
    stages = list(getattr(schedule, "_stages", None) or [schedule._stage])
    chunks = {stage.stage_index: chunk for chunk, stage in enumerate(stages)}

    def shape() -> Shape:
        return Shape(
            engine="torch.distributed.pipelining",
            schedule=_known(type(schedule).__mro__),
            stages=stages[0].group_size,
            microbatches=schedule._n_microbatches,
            chunks=len(stages),
        )

    for stage in stages:
        _watch_stage(stage, chunks[stage.stage_index], tape, shadows)
    shadows.put(schedule, "step", lambda original: _torch_step(schedule, original, tape), hot=True)

    def losing(original: Callable[..., Any]) -> Callable[..., Any]:
        """The last stage's loss is forward work; it is computed beside its forward pass."""

        def maybe_compute_loss(*args: Any, **kwargs: Any) -> Any:
            stage: Any = args[0] if args else kwargs.get("stage")
            if not tape.in_step or not stage.is_last:
                return original(*args, **kwargs)
            begun = tape.mark()
            result = original(*args, **kwargs)
            microbatch = args[3] if len(args) > 3 else kwargs.get("mb_index", -1)
            tape.note("F", chunks.get(stage.stage_index, 0), microbatch, begun)
            return result

        return maybe_compute_loss

    shadows.put(schedule, "_maybe_compute_loss", losing)

    def initializing(original: Callable[..., Any]) -> Callable[..., Any]:
        def initialize(*args: Any, **kwargs: Any) -> Any:
            with aside():
                return original(*args, **kwargs)

        return initialize

    for name in ("_initialize_stage", "_initialize_stages"):
        shadows.put(schedule, name, initializing)
    ranks = _ranks_of(stages[0].group)
    at = Place(replica=_replica_of(ranks), stage=stages[0].group_rank)
    return Watched(shape=shape, at=at, chunks=list(chunks), ranks=ranks)


def _torch_step(schedule: Any, original: Callable[..., Any], tape: Tape) -> Callable[..., Any]:
    """`eval` calls `step` too, with the backward passes switched off."""

    def step(*args: Any, **kwargs: Any) -> Any:
        if not schedule._has_backward:
            tape.interrupted()
            return original(*args, **kwargs)
        with _stepping(tape):
            return original(*args, **kwargs)

    return step


def _watch_stage(stage: Any, chunk: int, tape: Tape, shadows: Shadows) -> None:
    def passing(kind_of: Callable[..., str], first: str) -> Callable[..., Any]:
        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                if not tape.in_step:
                    return original(*args, **kwargs)
                kind, microbatch = kind_of(*args[2:3], **kwargs), args[0] if args else kwargs.get(first, -1)
                if tape.detailed:
                    tape.arrived("B" if kind == "I" else kind, chunk, microbatch)
                begun = tape.mark()
                result = original(*args, **kwargs)
                tape.note(kind, chunk, microbatch, begun)
                if tape.detailed:
                    tape.between("")
                return result

            return run

        return wrap

    def backward_kind(full_backward: bool = True, **_: Any) -> str:
        return "B" if full_backward else "I"

    shadows.put(stage, "forward_one_chunk", passing(lambda *_, **__: "F", "fwd_chunk_id"))
    shadows.put(stage, "backward_one_chunk", passing(backward_kind, "bwd_chunk_id"))
    shadows.put(stage, "backward_weight_one_chunk", passing(lambda *_, **__: "W", "bwd_chunk_id"))
    shadows.put(stage, "perform_reduce_grad", lambda original: _reducing(original, chunk, tape))

    def talking(way: str, first: str, *, sends: bool) -> Callable[..., Any]:
        """The schedule asks for what to send or to receive, and posts it at once."""

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def operations(*args: Any, **kwargs: Any) -> Any:
                found = original(*args, **kwargs)
                if tape.detailed and found:
                    microbatch = args[0] if args else kwargs.get(first, -1)
                    if sends:
                        tape.between("S", chunk, microbatch)
                    else:
                        tape.awaits(way, chunk, microbatch)
                return found

            return operations

        return wrap

    shadows.put(stage, "get_fwd_recv_ops", talking("F", "fwd_chunk_id", sends=False))
    shadows.put(stage, "get_bwd_recv_ops", talking("B", "bwd_chunk_id", sends=False))
    shadows.put(stage, "get_fwd_send_ops", talking("F", "fwd_chunk_id", sends=True))
    shadows.put(stage, "get_bwd_send_ops", talking("B", "bwd_chunk_id", sends=True))


def _reducing(original: Callable[..., Any], chunk: int, tape: Tape) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not tape.in_step:
            return original(*args, **kwargs)
        begun = tape.mark()
        result = original(*args, **kwargs)
        tape.note("G", chunk, -1, begun)
        return result

    return run


def _ranks_of(group: Any) -> list[int]:
    """Global ranks of a process group, ascending."""
    from torch import distributed

    return sorted(distributed.get_process_group_ranks(group or distributed.group.WORLD))


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


# DeepSpeed ----------------------------------------------------------------------------------------------------------

#: Instructions by their class names. A second word for one kind does not change what micro-batch it is of.
_INSTRUCTIONS = {
    "ForwardPass": "F",
    "BackwardPass": "B",
    "SendActivation": "S",
    "SendGrad": "S",
    "RecvActivation": "R",
    "RecvGrad": "R",
    "LoadMicroBatch": "L",
    "ReduceGrads": "G",
    "ReduceTiedGrads": "G",
    "OptimizerStep": "U",
}
_OF_THE_STEP = ("G", "U")


def _watch_deepspeed(engine: Any, tape: Tape, shadows: Shadows, loop: Loop | None) -> Watched:
    grid = engine.grid
    counts: Counter[str] = Counter()

    def train_batch(original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            samples = engine.train_micro_batch_size_per_gpu() * engine.micro_batches
            with nullcontext() if loop is None else loop.engine_works(samples):
                counts.clear()
                with _stepping(tape):
                    return original(*args, **kwargs)

        return run

    def fetching(original: Callable[..., Any]) -> Callable[..., Any]:
        def next_batch(*args: Any, **kwargs: Any) -> Any:
            if loop is None or not tape.in_step:
                return original(*args, **kwargs)
            with loop.engine_waits():
                return original(*args, **kwargs)

        return next_batch

    def eval_batch(original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            tape.interrupted()
            return original(*args, **kwargs)

        return run

    def timed(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        kind = _INSTRUCTIONS.get(name)
        talks = kind in ("S", "R")

        def run(engine: Any, *args: Any, **kwargs: Any) -> Any:
            if kind is None or not tape.in_step or (talks and not tape.detailed):
                return original(engine, *args, **kwargs)
            begun = tape.mark()
            result = original(engine, *args, **kwargs)
            tape.note(kind, 0, -1 if kind in _OF_THE_STEP else counts[name], begun)
            counts[name] += 1
            return result

        return run

    before = vars(engine).get("_INSTRUCTION_MAP", ABSENT)
    ours = {kind: timed(kind.__name__, run) for kind, run in engine._INSTRUCTION_MAP.items()}
    engine._INSTRUCTION_MAP = ours

    def undo() -> None:
        if vars(engine).get("_INSTRUCTION_MAP") is not ours:
            return  # somebody else's stands on it, and calls through: outside of a step nothing is noted
        if before is ABSENT:
            del engine._INSTRUCTION_MAP
        else:
            engine._INSTRUCTION_MAP = before

    shadows.undo_with(undo)
    shadows.put(engine, "train_batch", train_batch)
    shadows.put(engine, "eval_batch", eval_batch)
    shadows.put(engine, "_next_batch", fetching)

    def shape() -> Shape:
        schedule = engine._train_schedule()
        return Shape(
            engine="DeepSpeed",
            schedule=_known(type(schedule).__mro__),
            stages=grid.pipe_parallel_size,
            microbatches=engine.micro_batches,
        )

    at = Place(replica=grid.get_data_parallel_id(), stage=grid.get_stage_id(), shard=grid.get_slice_parallel_rank())
    return Watched(shape=shape, at=at, chunks=[grid.get_stage_id()], ranks=_ranks_of(grid.get_pipe_parallel_group()))
