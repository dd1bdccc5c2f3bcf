"""Collectives and messages among the operators of a step: what kind, in which process group, how many bytes.

torch dispatches them as operators, those of DDP's reducer and of compiled code too (seen on torch 2.13). Their bytes
are the payload of this rank, as nccl-tests counts it: the larger of what it gives and what it gets. A message is
counted by its sender. What an algorithm sends for that over each link depends on it and is not in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import FrameType
from typing import Any, NamedTuple

import torch

_NAMESPACES = ("c10d.", "_c10d_functional.", "c10d_functional.")
#: Beginnings of operators' names, underscores apart, and the word for their kind; of two that fit, the longer one.
_KINDS = {
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "reducescatter": "reduce_scatter",
    "reduce": "reduce",
    "broadcast": "broadcast",
    "gather": "gather",
    "scatter": "scatter",
    "alltoall": "all_to_all",
    "send": "send",
    "isend": "send",
    "batchp2pops": "send",
}


class Collective(NamedTuple):
    """One kind of communication in one process group: its name, how many ranks it has."""

    kind: str
    group: str
    ranks: int


def communicates(name: str) -> bool:
    """Whether an operator is a collective or a message that is sent.

    Example:
        >>> [communicates(f"c10d.{name}") for name in ("allreduce_", "_reduce_scatter_base_", "recv_", "barrier")]
        [True, True, False, False]
    """
    return name.startswith(_NAMESPACES) and _kind(name) is not None


def _kind(name: str) -> str | None:
    plain = name.partition(".")[2].replace("_", "")
    fitting = [known for known in _KINDS if plain.startswith(known)]
    return _KINDS[max(fitting, key=len)] if fitting else None


def collective(
    name: str, args: Any, kwargs: Mapping[str, Any], out: Any, caller: FrameType | None
) -> tuple[Collective, int] | None:
    """What an operator that `communicates` does, and its bytes; None for DDP's note of how it rebuilt its buckets.

    Args:
        name: Of the operator.
        args: As it was called.
        kwargs: As it was called.
        out: Its result.
        caller: The frame that called it.
    """
    given = [*args, *kwargs.values()]
    if caller is not None and caller.f_code.co_name == "_pre_forward" and _of_int32(given):
        return None  # once, in the second step: other steps do not repeat it
    kind, (group, ranks) = _kind(name), _group(given)
    assert kind is not None, "asked for operators that communicate"
    if name.endswith("batch_p2p_ops"):  # words, peers, tags, tensors
        nbytes = sum(_bytes(tensor) for word, tensor in zip(given[0], given[3], strict=True) if word == "isend")
    else:
        nbytes = max(map(_bytes, (*given, out)))
    return Collective(kind, group, ranks), nbytes


def _bytes(value: Any) -> int:
    """Bytes of the tensors in an argument."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0


def _of_int32(given: list[Any]) -> bool:
    first = given[0][0] if isinstance(given[0], list | tuple) and given[0] else given[0]
    return isinstance(first, torch.Tensor) and first.dtype == torch.int32


def _group(given: list[Any]) -> tuple[str, int]:
    """The description of the process group among arguments, or its name, and its size."""
    import torch.distributed.distributed_c10d as c10d

    for value in reversed(given):
        try:
            if isinstance(value, torch.ScriptObject):
                group = c10d.ProcessGroup.unbox(value)
            elif isinstance(value, str):
                group = c10d._resolve_process_group(value)  # type: ignore[attr-defined,arg-type]
            else:
                continue
        except (RuntimeError, LookupError, ValueError, TypeError):  # a reduction, or the name of one
            continue
        named = str(group.group_desc or "")
        return named if named not in ("", "undefined") else str(group.group_name), int(group.size())
    return "unknown", 0
