"""Bytes of parameters, gradients and optimizer state: by storage, each storage once, at rest and inside the step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Self, final

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.patching.optimizers import gradients_of, inner_optimizers, master_weights, parameters_of
from lightning_costs.probes.context import ProbeContext
from lightning_costs.records.missing import Missing, type_only

_DEPTH = 6
_PLAIN = (torch.Tensor, nn.Parameter)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBreakdown:
    """Bytes held on this rank at one moment, no storage in two kinds."""

    param_bytes: int
    master_bytes: int
    grad_bytes: int
    opt_state_bytes: int


def memory_breakdown(module: nn.Module, optimizers: Iterable[Any]) -> MemoryBreakdown:
    """Walk what is held now.

    State that aliases a parameter (SAM variants keep `p.data`) counts as parameter: storages, not tensors. On the meta
    device it is what a real one would hold. Of what ranks share (DTensor, FSDP, ZeRO) it is this rank's shard.
    """
    claimed: set[tuple[torch.device, int]] = set()
    found: Counter[str] = Counter()
    for kind, tensors in tensors_by_kind(module, optimizers):
        found[kind] += _claim(tensors, claimed)
    return MemoryBreakdown(**{f"{kind}_bytes": nbytes for kind, nbytes in found.items()})


def tensors_by_kind(
    module: nn.Module, optimizers: Iterable[Any]
) -> Iterator[tuple[Literal["param", "master", "grad", "opt_state"], Iterable[torch.Tensor]]]:
    """Tensors that a training holds between operators, by kind, in the order in which kinds claim storages."""
    parameters, optimizers = list(module.parameters()), list(optimizers)
    masters = list(tensors_in([master_weights(o) for o in optimizers]))
    yield "param", (part for p in parameters for part in (p, *_shards(p)))
    yield "param", tensors_in([parameters_of(o) for o in optimizers])
    yield "master", masters
    yield "grad", (p.grad for p in (*parameters, *masters) if p.grad is not None)
    yield "grad", tensors_in([gradients_of(o) for o in optimizers])
    yield "opt_state", (state for o in optimizers for m in inner_optimizers(o) for state in tensors_in(dict(m.state)))


def _shards(parameter: torch.Tensor) -> Iterator[torch.Tensor]:
    """What ZeRO-3 keeps of a parameter on this rank, and of it with ZeRO++ for the node; the parameter may be empty."""
    for name in ("ds_tensor", "ds_secondary_tensor"):
        shard = getattr(parameter, name, None)
        if isinstance(shard, torch.Tensor):
            yield shard


def _claim(tensors: Iterable[torch.Tensor], claimed: set[tuple[torch.device, int]]) -> int:
    total = 0
    for storage in storages(tensors):
        address = storage._cdata if storage.device.type == "meta" else storage.data_ptr()
        key = (storage.device, address)
        if key not in claimed and storage.nbytes():
            claimed.add(key)
            total += storage.nbytes()
    return total


def storages(tensors: Iterable[torch.Tensor]) -> Iterator[torch.UntypedStorage]:
    """The storages behind tensors, in order, one for each strided part."""
    for tensor in tensors:
        if type(tensor) in _PLAIN and tensor.layout == torch.strided:
            yield tensor.untyped_storage()
            continue
        for part in strided_parts(tensor):
            yield part.untyped_storage()


def strided_parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain strided tensors that a tensor is made of: itself, or the parts of a sparse or wrapping one.

    A lazy parameter has none before its first batch.
    """
    if is_lazy(tensor):
        return
    if type(tensor) in _PLAIN and tensor.layout == torch.strided:
        yield tensor
    elif _wraps(tensor):  # DTensor and its like: what this rank holds
        names, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
        for part in (getattr(tensor, name) for name in names):
            if isinstance(part, torch.Tensor):  # a DTensor of torch 2.13 names its mesh, too
                yield from strided_parts(part)
    elif tensor.layout == torch.strided:
        yield tensor
    else:
        for part in _parts(tensor):
            yield from strided_parts(part)


def _wraps(tensor: torch.Tensor) -> bool:
    return is_traceable_wrapper_subclass(tensor)


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Dense tensors that a sparse one is made of; a gradient fresh from the backward pass is not coalesced."""
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return []


def tensors_in(value: object, depth: int = _DEPTH) -> Iterator[torch.Tensor]:
    """Tensors in nested mappings, sequences, sets, dataclasses and graphs, in order: those of a batch, or of a state.

    A packed sequence has its order among them, if need be on the meta device: it alone shows how many sequences it is.
    """
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
        yield value.batch_sizes
        if value.sorted_indices is None and len(value.batch_sizes):
            yield torch.empty(int(value.batch_sizes[0]), dtype=torch.int64, device="meta")
        yield from tensors_in([value.sorted_indices, value.unsorted_indices])
    elif depth == 0 or isinstance(value, str | bytes | int | float):
        return
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item, depth - 1)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from tensors_in(item, depth - 1)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name), depth - 1)
    else:
        for _, stores in graph_stores(value):
            yield from tensors_in(stores, depth - 1)


def graph_stores(value: object) -> list[tuple[str, object]]:
    """Where a graph keeps its tensors, with the attribute's name: PyTorch Geometric's `stores`, DGL's `ndata`, `edata`.

    Such objects are known by their classes' attributes; nothing is asked of any other.
    """
    kind = type(value)
    if isinstance(getattr(kind, "stores", None), property):
        names = ["stores"]
    elif isinstance(getattr(kind, "ndata", None), property):
        names = ["ndata", "edata"]
    else:
        return []
    found = [(name, getattr(value, name, None)) for name in names]
    return [(name, stores) for name, stores in found if isinstance(stores, Mapping | list)]


@final
class TensorMemory:
    """Parameters, gradients and optimizer state of a module: at rest, and at most inside a watched step.

    Inside a step the memory is read at the moments when it can differ: before each backward pass (SAM's second pass
    holds a copy of the weights) and around each optimizer's update. Only watched steps are read.
    """

    def __init__(self, setting: ProbeContext) -> None:
        self._setting = setting
        self.watching = False
        self.failed: str | None = None
        self._rest: MemoryBreakdown | None = None
        self._rest_s: float | None = None
        self.opt_peak_bytes: int | None = None
        self.grad_peak_bytes: int | None = None

    @classmethod
    def attach(cls, setting: ProbeContext) -> Self:
        """A probe of the setting's module and optimizers."""
        if setting.module is None:
            raise Missing("no module was given: no parameters to look at")
        return cls(setting)

    def detach(self) -> None:
        """Nothing is held."""

    def watch(self, watching: bool) -> None:
        """Watch the step that begins, or not; after a watched one, what is held at rest is read again."""
        self.watching = watching and self.failed is None
        if watching:
            self._rest = None

    def at_rest(self, moment_s: float | None = None) -> MemoryBreakdown:
        """What is held between two steps: one walk for all who ask.

        Args:
            moment_s: Read again unless it was read at this moment; None accepts what was seen after the
                last watched step.
        """
        if self._rest is None or moment_s not in (None, self._rest_s):
            assert self._setting.module is not None
            self._rest, self._rest_s = memory_breakdown(self._setting.module, self._setting.optimizers()), moment_s
            self._note(self._rest)
        return self._rest

    @property
    def last(self) -> MemoryBreakdown | None:
        """What was held when it was read last; None before that."""
        return self._rest

    def sample(self) -> None:
        """Read memory inside a step, if it is a watched one. If that fails, peaks inside steps are missing."""
        if not self.watching:
            return
        try:
            assert self._setting.module is not None
            self._note(memory_breakdown(self._setting.module, self._setting.optimizers()))
        except Exception as error:  # noqa: BLE001 - a look must not end the user's step
            reraise_from_signal(error)
            self.failed = type_only("reading memory inside a step failed", error)
            self.watching = False

    def _note(self, held: MemoryBreakdown) -> None:
        self.opt_peak_bytes = max(self.opt_peak_bytes or 0, held.opt_state_bytes)
        self.grad_peak_bytes = max(self.grad_peak_bytes or 0, held.grad_bytes)
