"""Loops that no Lightning Trainer runs: a pipeline's schedule or engine, told to a Recorder."""

from __future__ import annotations

from lightning_costs.recorder import Recorder

__all__ = ["watch_pipeline"]


def watch_pipeline(pipeline: object, recorder: Recorder, *, steps: bool = False) -> None:
    """Measure the bubble of a pipeline, on every rank that takes part in it; call it before its first step.

    Its instances are shadowed, no class is touched, and the recorder's `end` lifts the shadows. It tells the recorder
    which stage and which copy of the model this rank is, so that samples are counted once and FLOPs of all stages add
    up.

    Args:
        pipeline: A schedule of `torch.distributed.pipelining` (any), or a DeepSpeed `PipelineEngine`.
        recorder: The run's.
        steps: Whether each `train_batch` of an engine is a step of the run: the loop then tells nothing. A schedule's
            steps are told by the loop, with `recorder.counting` and `recorder.step`, as in any other.

    Raises:
        ValueError: For anything else, or a second pipeline in one run.

    Example:
        ::

            schedule = ScheduleGPipe(stage, n_microbatches=8, loss_fn=loss)
            with Recorder(module=stage.submod, optimizers=[optimizer]) as recorder:
                watch_pipeline(schedule, recorder)
                for x, y in recorder.fetching(loader):
                    optimizer.zero_grad()
                    with recorder.counting(x):
                        schedule.step(x, target=y)
                        optimizer.step()
                    recorder.step(x)

        A DeepSpeed engine's loop, which sees no batch::

            with Recorder(module=engine.module, optimizers=[engine.optimizer]) as recorder:
                watch_pipeline(engine, recorder, steps=True)
                for _ in range(steps):
                    engine.train_batch(data_iter=batches)
    """
    recorder.watch_pipeline(pipeline, steps=steps)
