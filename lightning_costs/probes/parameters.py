"""Counts of parameters: unique, shared, of embeddings, used per token, not zero. Sharded ones count in full."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lightning_costs.records.missing import Missing

Calls = Mapping[nn.Module, int]
Sizes = Mapping[int, int]


def numel(parameter: torch.Tensor, sizes: Sizes | None = None) -> int:
    """Elements of a parameter as the model has it: under ZeRO-3 its own `numel()` is 0, under FSDP that of a shard."""
    if is_lazy(parameter):
        raise Missing("a lazy module has not seen its first batch")
    if sizes and id(parameter) in sizes:
        return sizes[id(parameter)]
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def sharded_sizes(module: nn.Module) -> dict[int, int]:
    """Whole sizes of parameters that FSDP (version 1) holds in shards, by identity.

    Args:
        module: The outermost FSDP module: the one that it wraps knows nothing of it.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return {}
    sizes: dict[int, int] = {}
    for part in fsdp.FullyShardedDataParallel.fsdp_modules(module):
        flat = getattr(getattr(part, "_handle", None), "flat_param", None)
        if flat is None:
            continue
        sizes[id(flat)] = math.prod(flat._unpadded_unsharded_size)
        shapes = getattr(flat, "_shapes", ())
        for parameter, shape in zip(getattr(flat, "_params", None) or (), shapes, strict=False):
            sizes[id(parameter)] = math.prod(shape)
    return sizes


def in_shards(module: nn.Module) -> bool:
    """Whether ranks share the parameters: by ZeRO-3, FSDP of either version, or tensor parallelism."""
    marks = ("ds_numel", "_fsdp_flattened", "device_mesh")
    return any(hasattr(parameter, mark) for parameter in module.parameters() for mark in marks)


def count_parameters(module: nn.Module, *, trainable_only: bool = False, sizes: Sizes | None = None) -> int:
    """Unique parameters: a tensor used in two places is one."""
    sizes = sharded_sizes(module) if sizes is None else sizes
    counted = (p for p in module.parameters() if p.requires_grad or not trainable_only)
    return sum(numel(p, sizes) * _expert_groups(p) for p in counted)


def _expert_groups(parameter: torch.Tensor) -> int:
    """Ranks that hold other experts in the place of this one: DeepSpeed names the size of their group on each."""
    if getattr(parameter, "allreduce", True) is not False:
        return 1
    size = str(getattr(parameter, "group_name", "")).removeprefix("ep_size_")
    return int(size) if size.isdigit() else 1


def _parents(module: nn.Module) -> dict[nn.Module, nn.Module]:
    """Each module's first parent."""
    parents: dict[nn.Module, nn.Module] = {}
    for parent in module.modules():
        for child in parent.children():
            parents.setdefault(child, parent)
    return parents


def _nearest_called(module: nn.Module, counts: Calls, parents: Mapping[nn.Module, nn.Module]) -> nn.Module | None:
    """The module itself, or the nearest of its ancestors, that the forward pass called."""
    current: nn.Module | None = module
    while current is not None and not counts.get(current):
        current = parents.get(current)
    return current


def count_shared(module: nn.Module, counts: Calls, sizes: Sizes | None = None) -> int:
    """Parameters used in more than one place.

    They are registered under several names (tied weights), or owned by a module that one forward pass calls more than
    once: a Universal Transformer's block, the encoder of two views. A module whose parameters its parent reads goes by
    the nearest ancestor that was called.
    """
    sizes, parents = sharded_sizes(module) if sizes is None else sizes, _parents(module)
    places: defaultdict[int, int] = defaultdict(int)
    found: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        called = _nearest_called(owner, counts, parents)
        for parameter in owner._parameters.values():
            if parameter is not None:
                found[id(parameter)] = parameter
                places[id(parameter)] += max(1, counts.get(called, 0) if called is not None else 0)
    return sum(numel(found[key], sizes) for key, uses in places.items() if uses > 1)


def count_embedding(module: nn.Module, sizes: Sizes | None = None) -> int:
    """Parameters that an embedding owns: nn.Embedding, nn.EmbeddingBag, or a class named ...Embedding(s)."""
    sizes = sharded_sizes(module) if sizes is None else sizes
    found = {
        id(parameter): parameter
        for owner in module.modules()
        if any(kind.__name__.endswith(("Embedding", "Embeddings", "EmbeddingBag")) for kind in type(owner).__mro__)
        for parameter in owner._parameters.values()
        if parameter is not None
    }
    return sum(numel(parameter, sizes) for parameter in found.values())


def count_active(module: nn.Module, counts: Calls, rows: Calls, sizes: Sizes | None = None) -> float:
    """Parameters used per token: fewer than all in a sparse mixture of experts.

    A module may declare them for all below it: an attribute `active_params`, a number or a function without
    arguments. Else experts are found by what they were given: siblings of one class and equal shapes, some of which
    got a part of the rows that the module around them got. An expert's parameters then count with the share of rows
    that the experts got together (top-2 routing: twice one expert).
    """
    sizes, parents = sharded_sizes(module) if sizes is None else sizes, _parents(module)
    total = 0.0
    taken: set[int] = set()

    def take(part: nn.Module) -> int:
        new = {id(p): p for p in part.parameters() if id(p) not in taken}
        taken.update(new)
        return sum(numel(p, sizes) for p in new.values())

    def walk(part: nn.Module) -> None:
        nonlocal total
        declared: Any = getattr(part, "active_params", None)
        if declared is not None:
            take(part)
            total += float(declared() if callable(declared) else declared)
            return
        inside: set[nn.Module] = set()
        for group in _experts(part, counts, rows, parents, sizes):
            around = _nearest_called(part, counts, parents)
            assert around is not None
            each = sum(take(expert) for expert in group) / len(group)
            total += each * sum(rows.get(expert, 0) for expert in group) / rows[around]
            inside.update(group)
        for parameter in part._parameters.values():
            if parameter is not None and id(parameter) not in taken:
                taken.add(id(parameter))
                total += numel(parameter, sizes)
        for child in part.children():
            if child not in inside:
                walk(child)

    walk(module)
    return total


def _experts(
    part: nn.Module, counts: Calls, rows: Calls, parents: Mapping[nn.Module, nn.Module], sizes: Sizes
) -> Iterator[list[nn.Module]]:
    """Groups of routed experts among a module's children."""
    around = _nearest_called(part, counts, parents)
    entered = rows.get(around, 0) if around is not None else 0
    if not entered:
        return
    alike: defaultdict[Any, list[nn.Module]] = defaultdict(list)
    for child in part.children():
        shapes = tuple(_shape(p, sizes) for p in child.parameters())
        if shapes:
            alike[(type(child), shapes)].append(child)
    for siblings in alike.values():
        given = [rows.get(sibling, 0) for sibling in siblings]
        named = _called_experts(part, siblings, parents)
        # A name makes experts of those that got fewer rows. Without one they share out each row, or k times each:
        # layers for a part of the input (its static features, a coarser level) get what adds up to neither.
        shared_out = len(set(given)) > 1 and sum(given) % entered == 0
        uneven = any(0 < n < entered for n in given) and max(given) <= entered and (shared_out or named)
        narrowing = given[0] >= entered and sorted(given, reverse=True) == given  # layers that drop tokens
        idle = any(n == 0 for n in given) and any(given)
        if len(siblings) > 1 and ((uneven and not narrowing) or (named and (uneven or idle))):
            yield siblings


def _shape(parameter: torch.Tensor, sizes: Sizes) -> tuple[int, ...]:
    """Its whole shape, under ZeRO-3 too; where FSDP keeps a flat shard, its whole size."""
    if id(parameter) in sizes:
        return (sizes[id(parameter)],)
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _called_experts(part: nn.Module, siblings: list[nn.Module], parents: Mapping[nn.Module, nn.Module]) -> bool:
    """Whether the code calls them experts: their class, their name, or that of the list that holds them."""
    names = [type(siblings[0]).__name__, *(name for name, child in part.named_children() if child in siblings)]
    if part in parents:
        names += [name for name, child in parents[part].named_children() if child is part]
    return any("expert" in name.lower() for name in names)


def count_nonzero(module: nn.Module) -> int:
    """Elements that are not zero in the weights used: masks of `torch.nn.utils.prune` are applied, sparse layouts too.

    One synchronisation with the device, for all of them.
    """
    kept: list[torch.Tensor] = []
    seen: set[int] = set()
    if in_shards(module) or sharded_sizes(module):
        raise Missing("parameters are held in shards: one rank cannot count their zeros")
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if is_lazy(parameter):
                raise Missing("a lazy module has not seen its first batch")
            if parameter.is_meta:
                raise Missing("on the meta device weights have no values")
            mask = owner._buffers.get(f"{name.removesuffix('_orig')}_mask") if name.endswith("_orig") else None
            weight = parameter.detach()
            kept.append(torch.count_nonzero(_values(weight if mask is None else weight * mask)))
    if not kept:
        return 0
    device = kept[0].device
    return int(torch.stack([k.to(device) for k in kept]).sum().item())


def _values(weight: torch.Tensor) -> torch.Tensor:
    """The elements that a sparse tensor holds, each place once; a strided one itself."""
    if weight.layout == torch.strided:
        return weight
    return weight.coalesce().values() if weight.layout == torch.sparse_coo else weight.values()


def repeated_blocks(module: nn.Module | None, given_bytes: Mapping[nn.Module, int]) -> dict[str, Any]:
    """The layers that a model repeats, as `records.step_profile.StepProfile` names them: those of its largest list.

    A list is a ModuleList or Sequential; of its children, those of the class that has most of its parameters are
    layers, if there are several. Parameters count in the child that has them.
    """
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList | nn.Sequential)] if module is not None else []
    parts = [[part for part in m._modules.values() if part is not None] for m in lists]
    alike = [[child for child in m if type(child) is kind] for m in parts for kind in {type(child) for child in m}]
    alike = [children for children in alike if len(children) > 1]
    sizes = [[sum(p.nbytes for p in child.parameters() if not is_lazy(p)) for child in children] for children in alike]
    if not any(map(sum, sizes)):
        return {}
    at = max(range(len(sizes)), key=lambda n: sum(sizes[n]))
    boundary = max((given_bytes.get(child, 0) for child in alike[at]), default=0)
    return {"blocks": len(alike[at]), "block_bytes": max(sizes[at]), "boundary_bytes": boundary}
