"""Shadows on a DeepSpeed `PipelineEngine`: on its map of instructions, an attribute of the instance from then on.

Seen on DeepSpeed 0.18.2, 0.18.6 and 0.19.8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from lightning_costs.patching.fail_safe import carefully
from lightning_costs.patching.patches import ABSENT, Patches
from lightning_costs.probes.pipeline.protocols import (
    InstrumentedPipeline,
    StepListener,
    known_name,
    ranks_of,
    step_scope,
)
from lightning_costs.probes.pipeline.stage_timer import StageTimer
from lightning_costs.records.pipeline.ideal_bubble import PipelineShape
from lightning_costs.records.samples import RankInfo

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


def watch_engine(
    engine: Any, tape: StageTimer[Any], shadows: Patches, loop: StepListener | None
) -> InstrumentedPipeline:
    """Put shadows on an engine, as `pipeline_engines.watch` describes it."""
    grid = engine.grid
    counts: Counter[str] = Counter()

    def train_batch(original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            samples = engine.train_micro_batch_size_per_gpu() * engine.micro_batches
            with nullcontext() if loop is None else loop.engine_step(samples):
                counts.clear()
                with step_scope(tape):
                    return original(*args, **kwargs)

        return run

    def fetching(original: Callable[..., Any]) -> Callable[..., Any]:
        def next_batch(*args: Any, **kwargs: Any) -> Any:
            if loop is None or not tape.in_step:
                return original(*args, **kwargs)
            with loop.engine_data_wait():
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
        updates = loop if kind == "U" else None  # the engine lets gradients go with the update

        def run(engine: Any, *args: Any, **kwargs: Any) -> Any:
            if kind is None or not tape.in_step or (talks and not tape.detailed):
                return original(engine, *args, **kwargs)
            return carefully(partial(original, engine), timing, tape.disable, args, kwargs)

        def timing(instruction: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                assert kind is not None
                looks = updates if updates is not None and updates.sampling_memory else None
                if looks is not None:
                    looks.sample_memory()
                begun = tape.mark()
                result = instruction(*args, **kwargs)
                tape.add_span(kind, 0, -1 if kind in _OF_THE_STEP else counts[name], begun)
                counts[name] += 1
                if looks is not None:
                    looks.sample_memory()
                return result

            return call

        return run

    before = vars(engine).get("_INSTRUCTION_MAP", ABSENT)
    ours = {kind: timed(kind.__name__, run) for kind, run in engine._INSTRUCTION_MAP.items()}
    engine._INSTRUCTION_MAP = ours

    def undo() -> None:
        if vars(engine).get("_INSTRUCTION_MAP") is not ours:
            return  # another library's map stands on it, and calls through: outside of a step nothing is noted
        if before is ABSENT:
            del engine._INSTRUCTION_MAP
        else:
            engine._INSTRUCTION_MAP = before

    shadows.add_cleanup(undo)
    shadows.wrap(engine, "train_batch", train_batch)
    shadows.wrap(engine, "eval_batch", eval_batch)
    shadows.wrap(engine, "_next_batch", fetching)

    def shape() -> PipelineShape:
        schedule = engine._train_schedule()
        return PipelineShape(
            engine="DeepSpeed",
            schedule=known_name(type(schedule).__mro__),
            stages=grid.pipe_parallel_size,
            microbatches=engine.micro_batches,
        )

    at = RankInfo(replica=grid.get_data_parallel_id(), stage=grid.get_stage_id(), shard=grid.get_slice_parallel_rank())
    return InstrumentedPipeline(
        shape=shape, at=at, chunks=[grid.get_stage_id()], ranks=ranks_of(grid.get_pipe_parallel_group())
    )
