"""Plain DeepSpeed: what happens in an engine whose loop is the script's own, passed to a Recorder without computation.

Examples:
    Any loop around `deepspeed.initialize`:

    ```python
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    with Recorder(module=engine.module, monitor="val/acc", mode="max") as recorder, watch(engine, recorder):
        for batch, labels in recorder.wrap_loader(loader):
            loss = loss_of(engine(batch), labels)
            engine.backward(loss)
            engine.step()
    ```
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Self, final

import torch

from lightning_costs.integrations.deepspeed.engine import (
    batch_from_args,
    engine_setup,
    loop_facts,
    rank_info_from_engine,
)
from lightning_costs.integrations.session import BatchInWork, Session
from lightning_costs.patching.fail_safe import fail_safe
from lightning_costs.patching.optimizers import hook_optimizer_step
from lightning_costs.patching.patches import Patches
from lightning_costs.probes.memory.tensors import tensors_in
from lightning_costs.probes.opcount.detached import DetachedOpCounter
from lightning_costs.recording.recorder import Recorder


def watch(engine: Any, recorder: Recorder) -> EngineMonitor:
    """Report to a recorder every batch that a DeepSpeed engine trains on, until `close` or the end of a `with`.

    A batch is what `engine(...)` was given with gradients on. It ends with `engine.step()`, or when the engine is
    given another one after a backward pass. Steps are counted when the optimizer updates. Forward passes without
    gradients, or in eval mode, are evaluation (`recorder.bucket("evaluate")` books its time). Checkpoints that the
    engine writes are booked as such.

    Args:
        engine: What `deepspeed.initialize` returned.
        recorder: The run's recorder, made with `module=engine.module`; its training begins here if it has not.

    Returns:
        What is watching; as a context manager, it ends with the `with`.

    Raises:
        ValueError: For what is no engine, and for a pipeline engine, whose batches run inside `train_batch`.
    """
    if not hasattr(engine, "is_gradient_accumulation_boundary"):
        raise ValueError(f"watch() needs the engine that deepspeed.initialize returned, got {type(engine).__name__}")
    if getattr(engine, "pipeline_parallelism", False):
        raise ValueError(
            "watch() follows forward, backward and step, which a PipelineEngine runs inside train_batch(): use "
            "watch_pipeline(engine, recorder, steps=True)"
        )
    return EngineMonitor(engine, recorder)


def watch_pipeline(pipeline: object, recorder: Recorder, *, steps: bool = False) -> None:
    """Measure the bubble of a pipeline, on every rank that takes part in it; call it before its first step.

    Its instances are shadowed, no class is touched, and the recorder's `end` lifts the shadows. It sets which stage
    and which copy of the model this rank is. So samples are counted once and FLOPs of all stages add
    up.

    Args:
        pipeline: A schedule of `torch.distributed.pipelining` (any), or a DeepSpeed `PipelineEngine`.
        recorder: The run's.
        steps: Whether each `train_batch` of an engine is a step of the run: the loop then reports nothing. A schedule's
            steps are reported by the loop, with `recorder.train_batch` and `recorder.step`, as in any other.

    Raises:
        ValueError: For anything else, or a second pipeline in one run.

    Examples:
        ```python
        schedule = ScheduleGPipe(stage, n_microbatches=8, loss_fn=loss)
        with Recorder(module=stage.submod, optimizers=[optimizer]) as recorder:
            watch_pipeline(schedule, recorder)
            for x, y in recorder.wrap_loader(loader):
                optimizer.zero_grad()
                with recorder.train_batch(x):
                    schedule.step(x, target=y)
                    optimizer.step()
                recorder.step(x)
        ```

        A DeepSpeed engine's loop, which sees no batch:

        ```python
        with Recorder(module=engine.module, optimizers=[engine.optimizer]) as recorder:
            watch_pipeline(engine, recorder, steps=True)
            for _ in range(steps):
                engine.train_batch(data_iter=batches)
        ```
    """
    recorder.hooks.run.watch_pipeline(pipeline, steps=steps)


def _is_same(content: object, other: object) -> bool:
    """Whether a batch is the same one again: the second pass of SAM, say."""
    tensors, others = list(tensors_in(content)), list(tensors_in(other))
    return len(tensors) == len(others) and all(a is b for a, b in zip(tensors, others, strict=True))


@final
class EngineMonitor(Session):
    """An engine that is being watched: see `watch`.

    Its own methods report what happens, each patched on the instance until the watching ends.
    """

    def __init__(self, engine: Any, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._engine, self._patches = engine, Patches(self.disable)
        self._evaluated: BatchInWork | None = None
        run = self.hooks.run
        run.set_rank_info(rank_info_from_engine(engine))
        run.set_wrapped_module(engine, optimizers=lambda: [engine.optimizer])
        run.add_setup({**loop_facts(engine), **engine_setup(engine)})
        run.begin()
        put = self._patches.wrap
        put(engine, "forward", self._forward)
        put(engine, "backward", self._backward)
        put(engine, "step", self._step)
        for name in ("save_checkpoint", "save_16bit_model"):
            put(engine, name, _inside(self.saving))
        put(engine, "load_checkpoint", _inside(self.restoring))
        hook_optimizer_step(engine.optimizer, self._updated, self._patches, self)

    def close(self) -> None:
        """The engine is as it was; the recorder's run continues until its own end."""
        self.take_off()
        if self.batch is not None and self.batch.updates:
            self.end_batch()
        self.drop_batch()

    def take_off(self) -> None:
        """Lift the patches."""
        self._patches.restore()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The engine's methods -------------------------------------------------------------------------------------

    def _forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            batch = batch_from_args(args, kwargs)
            if not torch.is_grad_enabled() or not self._engine.training:
                with self._evaluating(batch):
                    return original(*args, **kwargs)
            self._engine_forward_begins(batch)
            return self._tried(original, args, kwargs)

        return forward

    def _backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def backward(*args: Any, **kwargs: Any) -> Any:
            self._engine_backward_begins(args[0] if args else None)
            result = self._tried(original, args, kwargs)
            self.on_backward_end()
            self.sample_memory()  # ZeRO releases most gradients before it updates
            return result

        return backward

    def _step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            result = self._tried(original, args, kwargs)
            self.end_batch()
            return result

        return step

    def _tried(self, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except BaseException:
            self.drop_batch()
            raise

    # What they report -----------------------------------------------------------------------------------------

    @fail_safe
    def _engine_forward_begins(self, batch: object) -> None:
        if self.batch is not None and self.batch.backwards and not _is_same(self.batch.content, batch):
            self.end_batch()  # gradients accumulate without a step in between
        if self.batch is None:
            self.begin_batch(batch, position=bool(self._engine.is_gradient_accumulation_boundary()))
        self.on_forward()

    @contextmanager
    def _evaluating(self, batch: object) -> Iterator[None]:
        """Operators of a forward pass of an evaluation are counted apart, unless a batch is in work."""
        count = DetachedOpCounter()
        if self.batch is None:
            self._evaluation_begins(count, batch)
        try:
            yield
        except BaseException:
            count.end(discard=True)
            raise
        count.end()

    @fail_safe
    def _evaluation_begins(self, count: DetachedOpCounter, batch: object) -> None:
        self._evaluated = BatchInWork(batch)
        count.begin(self.hooks.steps.on_eval_batch_start(batch))

    @fail_safe
    def _engine_backward_begins(self, loss: object) -> None:
        """A backward pass: in eval mode too it is training."""
        if self.batch is None:
            self.batch, self._evaluated = self._evaluated, None
        self.on_backward(loss)

    @fail_safe
    def _updated(self) -> None:
        """An update belongs to the batch in work."""
        if self.batch is None:
            self.batch = BatchInWork(None)
        self.on_update()


def _inside(context: Callable[[], AbstractContextManager[None]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with context():
                return original(*args, **kwargs)

        return call

    return around
