"""Where the processes of a job are: which node, which copy of the model, which stage, which shard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from lightning_costs.records.samples import RankInfo

#: Those of ModelParallelStrategy, in Lightning 2.6.6.
_DIMENSIONS = ("data_parallel", "tensor_parallel")


def data_parallel_topology(world_size: int, per_node: int) -> tuple[RankInfo, ...]:
    """[ranks]: each process trains a copy of the model on samples of its own.

    Example:
        >>> data_parallel_topology(4, 2)[3]
        RankInfo(rank=3, node=1, replica=3, stage=0, shard=0, device=None)
    """
    return tuple(RankInfo(rank=rank, node=rank // max(1, per_node), replica=rank) for rank in range(world_size))


def job_topology() -> tuple[RankInfo, tuple[RankInfo, ...]]:
    """This process and all processes, from torch.distributed and its launcher; one process without either."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return RankInfo(), (RankInfo(),)
    world = dist.get_world_size()
    everyone = data_parallel_topology(world, int(os.environ.get("LOCAL_WORLD_SIZE") or world))
    return everyone[dist.get_rank()], everyone


def apply_device_mesh(mesh: Any, places: Sequence[RankInfo]) -> tuple[RankInfo, ...]:
    """Places on Lightning's device mesh [data parallel, tensor parallel]: ranks of one row see the same samples.

    On a mesh of other dimensions (replicate and shard, of hybrid sharding) every rank sees samples of its own.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> mesh = SimpleNamespace(mesh=torch.tensor([[0, 1], [2, 3]]), mesh_dim_names=_DIMENSIONS)
        >>> [(place.replica, place.shard) for place in apply_device_mesh(mesh, data_parallel_topology(4, 4))]
        [(0, 0), (0, 1), (1, 0), (1, 1)]
    """
    if mesh is None or mesh.mesh_dim_names != _DIMENSIONS:
        return tuple(places)
    by_rank = {place.rank: place for place in places}
    for replica, row in enumerate(mesh.mesh.tolist()):
        for shard, rank in enumerate(row):
            of = by_rank[rank]
            by_rank[rank] = RankInfo(rank=rank, node=of.node, replica=replica, stage=of.stage, shard=shard)
    return tuple(by_rank[place.rank] for place in places)


def trainer_topology(trainer: Any) -> tuple[RankInfo, tuple[RankInfo, ...]]:
    """This process and all of them, as a Trainer's strategy places them."""
    everyone = data_parallel_topology(trainer.world_size, trainer.world_size // max(1, trainer.num_nodes))
    everyone = apply_device_mesh(getattr(trainer.strategy, "_device_mesh", None), everyone)
    return everyone[trainer.global_rank], everyone
