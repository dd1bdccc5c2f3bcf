"""What a DeepSpeed engine says of itself. Seen on DeepSpeed 0.19.8."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lightning_costs.records.samples import RankInfo


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
