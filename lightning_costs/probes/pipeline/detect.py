"""Pipelines seen from outside: what is one, and who puts the shadows on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from lightning_costs.patching.patches import Patches
from lightning_costs.probes.pipeline.deepspeed import watch_engine
from lightning_costs.probes.pipeline.protocols import InstrumentedPipeline, StepListener
from lightning_costs.probes.pipeline.stage_timer import StageTimer
from lightning_costs.probes.pipeline.torch import watch_schedule

if TYPE_CHECKING:
    import torch


def instrument_pipeline(
    pipeline: object,
    tape: StageTimer[Any],
    shadows: Patches,
    loop: StepListener | None = None,
    aside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> InstrumentedPipeline:
    """Put shadows on a pipeline's instances."""
    if "PipelineEngine" in _kinds(pipeline):
        return watch_engine(pipeline, tape, shadows, loop)
    if loop is not None:
        raise ValueError("a schedule fetches no batches: report its steps by recorder.train_batch and recorder.step")
    return watch_schedule(pipeline, tape, shadows, aside)


def is_pipeline(thing: object) -> bool:
    """Whether `instrument_pipeline` takes it."""
    return not {"PipelineEngine", "_PipelineSchedule"}.isdisjoint(_kinds(thing))


def device_of(pipeline: Any) -> torch.device | None:
    """The device of this rank's stage; None if the engine does not report it."""
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


def find_pipelines(module: object) -> list[object]:
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
