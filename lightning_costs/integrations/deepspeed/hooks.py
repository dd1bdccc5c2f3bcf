"""A DeepSpeed engine seen from outside: its loop belongs to the script, so its own methods report what happens.

Everything is an instance shadow, lifted when the watching ends. Seen on DeepSpeed 0.19.8.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, final

import torch

from lightning_costs.patching.optimizers import Sampling, hook_optimizer_step
from lightning_costs.patching.patches import Patches
from lightning_costs.records.samples import RankInfo


class DeepSpeedListener(Sampling, Protocol):
    """Receives the events of an engine; `lightning_costs.integrations.deepspeed.monitor` implements it."""

    def forward_begins(self, batch: object) -> None:
        """A forward pass that may be trained on begins, with this as its input."""

    def evaluating(self, batch: object) -> AbstractContextManager[None]:
        """A forward pass of an evaluation: what is entered around it."""

    def backward_begins(self) -> None:
        """A backward pass begins."""

    def backward_ended(self) -> None:
        """A backward pass is over."""

    def updated(self) -> None:
        """The optimizer updated the weights."""

    def end_batch(self) -> bool | None:
        """The engine's step is over, whether or not it was one at which the optimizer updates."""

    def drop_batch(self) -> None:
        """Something in the engine raised: what is in work is no batch that counts."""

    def saving(self) -> AbstractContextManager[None]:
        """What is entered around writing a checkpoint."""

    def restoring(self) -> AbstractContextManager[None]:
        """What is entered around loading one."""

    def disable(self) -> None:
        """Called when an exception of the package is handled: the training is to be left alone."""


@final
class DeepSpeedHooks:
    """Reads an engine and reports to a listener what happens in it."""

    def __init__(self, engine: Any, listener: DeepSpeedListener) -> None:
        self._engine, self._listener = engine, listener
        self._shadows = Patches(listener.disable)

    def watch(self) -> None:
        """Put the shadows."""
        engine, put = self._engine, self._shadows.wrap
        put(engine, "forward", self._forward)
        put(engine, "backward", self._backward)
        put(engine, "step", self._step)
        for name in ("save_checkpoint", "save_16bit_model"):
            put(engine, name, self._inside(self._listener.saving))
        put(engine, "load_checkpoint", self._inside(self._listener.restoring))
        hook_optimizer_step(engine.optimizer, self._listener.updated, self._shadows, self._listener)

    def unwatch(self) -> None:
        """Lift the shadows; the listener receives nothing more."""
        self._shadows.restore()

    @property
    def at_boundary(self) -> bool:
        """Whether the micro-batch in work ends with an update, as far as the engine itself counts them."""
        return bool(self._engine.is_gradient_accumulation_boundary())

    def _forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            batch = batch_from_args(args, kwargs)
            if not torch.is_grad_enabled() or not self._engine.training:
                with self._listener.evaluating(batch):
                    return original(*args, **kwargs)
            self._listener.forward_begins(batch)
            return self._tried(original, args, kwargs)

        return forward

    def _backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def backward(*args: Any, **kwargs: Any) -> Any:
            self._listener.backward_begins()
            result = self._tried(original, args, kwargs)
            self._listener.backward_ended()
            return result

        return backward

    def _step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            result = self._tried(original, args, kwargs)
            self._listener.end_batch()
            return result

        return step

    def _tried(self, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except BaseException:
            self._listener.drop_batch()
            raise

    @staticmethod
    def _inside(
        context: Callable[[], AbstractContextManager[None]],
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def around(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                with context():
                    return original(*args, **kwargs)

            return call

        return around


def batch_from_args(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
    """What a forward pass was given, in the form in which people hand batches over.

    Examples:
        >>> (batch_from_args((), {"input_ids": 1, "labels": 2}), batch_from_args((3,), {}), batch_from_args((3,
        ...  4), {"mask": 5}))
        ({'input_ids': 1, 'labels': 2}, 3, (3, 4, 5))
    """
    if not args:
        return dict(kwargs)
    return args[0] if len(args) == 1 and not kwargs else (*args, *kwargs.values())


def rank_info_from_engine(engine: Any) -> RankInfo:
    """This process by the engine's topology: its pipeline grid, or the model-parallel unit that it was given.

    Ranks of a tensor-parallel or sequence-parallel group are shards of one replica: they see the same samples. Without
    a topology every rank is a replica. The node is the launcher's; one node if no launcher names it.
    """
    rank = int(engine.global_rank)
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 0)
    topology = getattr(engine, "grid", None) or getattr(engine, "mpu", None)
    shards = [
        _rank(topology, "get_slice_parallel_rank", "get_tensor_model_parallel_rank", "get_model_parallel_rank"),
        _rank(topology, "get_sequence_parallel_rank"),
    ]
    sequences = int(getattr(engine, "sequence_parallel_size", 1) or 1)
    replica = _rank(topology, "get_data_parallel_rank")
    return RankInfo(
        rank=rank,
        node=rank // per_node if per_node else 0,
        replica=rank if replica is None else replica,
        stage=_rank(topology, "get_stage_id", "get_pipeline_model_parallel_rank", "get_pipe_parallel_rank") or 0,
        shard=(shards[0] or 0) * sequences + (shards[1] or 0),
    )


def _rank(topology: Any, *names: str) -> int | None:
    """The first of these that the topology has."""
    for name in names:
        if (ask := getattr(topology, name, None)) is not None:
            return int(ask())
    return None


def engine_setup(engine: Any) -> dict[str, Any]:
    """The engine's part of the setup; nothing of what is no DeepSpeed engine."""
    if not hasattr(engine, "zero_optimization_stage"):
        return {}
    return {
        "zero_stage": int(engine.zero_optimization_stage()),
        "offload_optimizer": _device(engine.zero_offload_optimizer()),
        "offload_param": _device(engine.zero_offload_param()),
    }


def loop_facts(engine: Any) -> dict[str, Any]:
    """What a framework would report of the loop, under the names that it uses."""
    bf16, fp16 = engine.bfloat16_enabled(), engine.fp16_enabled()
    return {
        "strategy": type(engine).__name__,
        "precision": "bf16" if bf16 else "fp16" if fp16 else "32",
        "batch_size": engine.train_micro_batch_size_per_gpu(),
        "accumulate_grad_batches": engine.gradient_accumulation_steps(),
        "gradient_clip_val": engine.gradient_clipping() or None,
    }


def _device(offload: Any) -> str | None:
    device = getattr(offload, "device", None)
    return None if device is None else str(getattr(device, "value", device))
