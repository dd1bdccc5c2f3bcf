"""Bytes that an operator reads and writes: memory access cost, estimated from its inputs and outputs.

Ma et al. 2018 (ShuffleNet V2, section 2) count a layer's accesses as its input, output and weight elements; here the
same is done for every operator as it runs, each operator by itself: nothing stays in a cache between two operators,
and work space inside one is not seen. Views cost nothing, in-place operators write what they were given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from lightning_costs.probes.memory.tensors import storages, strided_parts

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_SCALAR = (int, float, complex, str, type(None))
#: In-place operators that never read what they overwrite.
_OVERWRITES = frozenset(
    """zero_ fill_ copy_ normal_ uniform_ bernoulli_ random_ exponential_ log_normal_ cauchy_ geometric_ _foreach_zero_
    _foreach_copy_ set_ resize_""".split()
)
#: Operators that take rows out of their first argument: they read what they return, not all of it.
_PICKS = frozenset(("embedding", "index_select", "gather", "index", "take", "_unsafe_index"))
#: In-place operators that write, row by row, only as much as their last tensor argument holds.
_PUTS = frozenset(("index_put_", "_index_put_impl_", "scatter_", "index_copy_", "masked_scatter_"))
_PUTS_ADDING = frozenset(("scatter_add_", "index_add_", "scatter_reduce_", "index_reduce_"))


class AccessPlan(NamedTuple):
    """What an operator's schema says, looked up once an operator."""

    name: str
    #: Names of arguments it writes.
    writes: frozenset[str]
    #: Those among them whose values it never reads.
    overwrites: frozenset[str]
    #: Names of its positional arguments, in order.
    positions: tuple[str, ...]
    #: Memory is made and left as it is.
    untouched: bool
    #: All that it is given is read in full, and nothing of it written.
    only_reads: bool
    #: How often it reads or writes each argument, if all that it returns are arguments that it writes; else empty.
    touches: Mapping[str, int]
    #: The same of its positional arguments, in order.
    touched: tuple[int, ...]


_plans: dict[Any, AccessPlan] = {}


def access_plan(func: Any) -> AccessPlan:
    """What the schema of an operator says of the memory that it touches."""
    if (plan := _plans.get(func)) is None:
        schema = getattr(func, "_schema", None)
        name = schema.name.rpartition("::")[2] if schema is not None else str(func)
        arguments = schema.arguments if schema is not None else ()
        written = [a for a in arguments if a.alias_info is not None and a.alias_info.is_write]
        overwrites = frozenset(a.name for a in written if a.kwarg_only or name in _OVERWRITES)
        writes, by_rows = frozenset(a.name for a in written), name in _PICKS | _PUTS | _PUTS_ADDING
        returned = schema.returns if schema is not None else ()
        in_place = bool(written) and all(r.alias_info is not None and r.alias_info.is_write for r in returned)
        touches = {a.name: 1 + (a.name in writes - overwrites) for a in arguments} if in_place and not by_rows else {}
        plan = _plans[func] = AccessPlan(
            name=name,
            writes=writes,
            overwrites=overwrites,
            positions=tuple(a.name for a in arguments),
            untouched=name.startswith(("empty", "new_empty")),
            only_reads=not written and not by_rows,
            touches=touches,
            touched=tuple(touches.values()),
        )
    return plan


def iter_tensors(values: Iterable[object]) -> Iterator[torch.Tensor]:
    """Tensors among an operator's arguments or results: themselves, or in lists of tensors."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from iter_tensors(value)


def written(func: Any, args: Sequence[object], kwargs: Mapping[str, object]) -> Iterator[torch.Tensor]:
    """Tensors among an operator's arguments that its schema says it writes to."""
    plan = access_plan(func)
    yield from iter_tensors(value for name, value in zip(plan.positions, args, strict=False) if name in plan.writes)
    yield from iter_tensors(value for name, value in kwargs.items() if name in plan.writes)


def given(args: Iterable[object], kwargs: Mapping[str, object]) -> list[torch.Tensor]:
    """Tensors that an operator was given."""
    found: list[torch.Tensor] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(iter_tensors(value))
    return found


def output_tensors(out: object) -> list[torch.Tensor]:
    """Tensors that an operator returned."""
    if isinstance(out, torch.Tensor):
        return [out]
    return list(iter_tensors(out)) if isinstance(out, list | tuple) else []


def _address(tensor: torch.Tensor) -> int:
    """Where a tensor's storage begins; 0 if it has none of its own, or one without memory."""
    if type(tensor) not in _PLAIN:
        return 0
    try:
        return _data_address(tensor)
    except RuntimeError:  # sparse
        return 0


#: torch's own makes no Python object for the storage, which costs a microsecond; a torch without it has the other.
_data_address: Callable[[torch.Tensor], int] = getattr(
    torch._C, "_data_address", lambda tensor: tensor.untyped_storage().data_ptr()
)


def footprint_bytes(tensor: torch.Tensor) -> int:
    """Bytes of memory that a tensor's elements lie in: an expanded dimension is stored once.

    Example:
        >>> footprint_bytes(torch.zeros(8, 4)), footprint_bytes(torch.zeros(4).expand(8, 4))
        (128, 16)
    """
    if _address(tensor) and tensor.is_contiguous():
        return tensor.nbytes
    return sum(map(_strided_bytes, strided_parts(tensor)))


def _strided_bytes(tensor: torch.Tensor) -> int:
    elements = tensor.numel()
    if not tensor.is_nested:
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            if size > 1 and not stride:
                elements //= size
    return min(elements * tensor.element_size(), tensor.untyped_storage().nbytes())


def bytes_accessed(func: Any, args: Sequence[Any], kwargs: dict[str, Any], outputs: Sequence[torch.Tensor]) -> int:
    """Bytes read from and written to memory by one operator.

    Example:
        >>> a, b = torch.zeros(10), torch.zeros(10)
        >>> bytes_accessed(torch.ops.aten.add.Tensor, (a, b), {}, [a + b])
        120
        >>> bytes_accessed(torch.ops.aten.view.default, (a, [2, 5]), {}, [a.view(2, 5)])
        0
    """
    return planned_bytes(access_plan(func), args, kwargs, given(args, kwargs), outputs)


def planned_bytes(
    plan: AccessPlan,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    inputs: Sequence[torch.Tensor],
    outputs: Sequence[torch.Tensor],
) -> int:
    """`bytes_accessed` of an operator whose plan is known, and the tensors among its arguments."""
    if plan.untouched:
        return 0
    if plan.only_reads:  # nearly all: without the names of their arguments
        return _read_bytes(inputs, outputs)
    if plan.touches:  # nearly all others
        moved = 0
        for times, value in zip(plan.touched, args, strict=False):
            if type(value) in _PLAIN:
                moved += times * footprint_bytes(value)
            elif not isinstance(value, _SCALAR):
                moved += times * sum(map(footprint_bytes, iter_tensors((value,))))
        for name, value in kwargs.items():
            moved += plan.touches[name] * sum(map(footprint_bytes, iter_tensors((value,))))
        return moved
    named = [*zip(plan.positions, args, strict=False), *kwargs.items()] if plan.positions else []
    if not named:
        named = [("", argument) for argument in (*args, *kwargs.values())]
    reads = [(name, tensor) for name, value in named for tensor in iter_tensors((value,))]
    written = [tensor for name, tensor in reads if name in plan.writes]
    fresh = _fresh(outputs, [tensor for _, tensor in reads])
    if outputs and not fresh and not written:
        return 0  # views
    if plan.name in _PUTS or plan.name in _PUTS_ADDING:
        return _put_bytes(plan, [tensor for _, tensor in reads])
    moved = sum(footprint_bytes(tensor) for tensor in (*fresh, *written))
    if plan.name in _PICKS:
        picked, *indices = [tensor for _, tensor in reads]
        return moved + sum(footprint_bytes(t) for t in indices) + min(footprint_bytes(picked), moved)
    return moved + sum(footprint_bytes(tensor) for name, tensor in reads if name not in plan.overwrites)


def _read_bytes(inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> int:
    """Inputs and outputs, or nothing if every output is a view of an input.

    A view has its input's address. Objects of storages, made for new tensors alone, would take longer than all else.
    """
    known: set[int] = set()
    moved, views = 0, True
    for tensor in inputs:
        if not (address := _address(tensor)):
            return _read_bytes_of_any(inputs, outputs)
        known.add(address)
        moved += tensor.nbytes if tensor.is_contiguous() else _strided_bytes(tensor)
    for tensor in outputs:
        if not (address := _address(tensor)):
            return _read_bytes_of_any(inputs, outputs)
        if address not in known:
            views = False
            moved += tensor.nbytes if tensor.is_contiguous() else _strided_bytes(tensor)
    return 0 if outputs and views else moved


def _read_bytes_of_any(inputs: Iterable[torch.Tensor], outputs: Sequence[torch.Tensor]) -> int:
    """The same of tensors without an address of their own: sparse, wrapping, empty, or of the meta device."""
    fresh = _fresh(outputs, inputs)
    return 0 if outputs and not fresh else sum(map(footprint_bytes, (*inputs, *fresh)))


def _fresh(outputs: Iterable[torch.Tensor], inputs: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs that lie elsewhere than the inputs, at least in part."""
    known = {storage._cdata for storage in storages(inputs)}
    return [t for t in outputs if not known.issuperset([storage._cdata for storage in storages((t,))])]


def _put_bytes(plan: AccessPlan, tensors: Sequence[torch.Tensor]) -> int:
    """The values and their indices are read, the values written; an adding one reads what it adds to as well."""
    _, *given = tensors
    values = footprint_bytes(given[-1]) if given else 0
    return sum(footprint_bytes(t) for t in given) + values * (2 if plan.name in _PUTS_ADDING else 1)
