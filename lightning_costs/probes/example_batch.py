"""A forward pass to repeat, and its arguments elsewhere: on a device, or with fewer samples."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from lightning_costs.probes.memory.tensors import tensors_in
from lightning_costs.records.missing import Missing

#: An example larger than this is not kept on the host.
MOST_EXAMPLE_BYTES = 2**30

Change = Callable[[torch.Tensor], torch.Tensor]


class Example(NamedTuple):
    """A forward pass to repeat: `module(*args, **kwargs)`, its tensors on the host."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def example_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Example | None:
    """A copy of a call's arguments; None if they are too large."""
    with _disable_current_modes(), torch.no_grad():  # a census that is on must not count the copying
        if sum(t.numel() * t.element_size() for t in tensors_in([*args, *kwargs.values()])) > MOST_EXAMPLE_BYTES:
            return None
        return Example(module, tuple(_on_host(a) for a in args), {k: _on_host(v) for k, v in kwargs.items()})


def _on_host(value: Any) -> Any:
    def own(held: Any) -> Any:
        try:
            return _to(copy.deepcopy(held), torch.device("cpu"))  # many a `to` changes what it is called on
        except Exception:  # noqa: BLE001 - what cannot be copied is kept as it is
            return held

    return _mapped(value, lambda tensor: tensor.detach().to("cpu", copy=True), own)


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors on a device, in containers at any depth; an object with a `to` of its own is asked, all else stays.

    Such a `to` may change what it is called on: give a copy.
    """
    return _mapped(value, lambda tensor: tensor.to(device), lambda held: _to(held, device))


def _to(held: Any, device: torch.device) -> Any:
    there = held.to(device)
    return held if there is None else there


def resize_batch(value: Any, samples: int, to: int) -> Any:
    """The first `to` samples of every tensor whose first dimension is `samples`.

    They are repeated from the start if there are fewer. A TensorDict, and what is indexed by samples as it is
    (`batch_size`), is cut as a whole.

    Example:
        >>> resize_batch({"x": torch.arange(3), "y": torch.zeros(2, 3)}, 3, 5)["x"].tolist()
        [0, 1, 2, 0, 1]
    """

    def size(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.ndim or tensor.shape[0] != samples:
            return tensor
        times = -(-to // samples)
        return (tensor if times == 1 else tensor.repeat(times, *[1] * (tensor.ndim - 1)))[:to]

    def cut(held: Any) -> Any:
        shape = getattr(held, "batch_size", None)
        if not isinstance(shape, torch.Size):
            return None
        return held[torch.arange(to) % samples] if shape and shape[0] == samples else held

    return value if to == samples else _mapped(value, size, None, cut)


def _mapped(
    value: Any, change: Change, own: Callable[[Any], Any] | None, cut: Callable[[Any], Any] = lambda held: None
) -> Any:
    """The same containers, of their own types, around changed tensors.

    `own` is for objects with a `to`, `cut` for those that are changed as a whole; it gives None for any other.
    """

    def of(item: Any) -> Any:
        return _mapped(item, change, own, cut)

    kind = type(value)
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, type | nn.Module):
        return value
    asks = callable(getattr(value, "to", None))
    if asks and own is not None:
        return own(value)
    if asks and (whole := cut(value)) is not None:
        return whole
    if kind in (list, tuple):
        return kind(of(item) for item in value)
    if isinstance(value, tuple) and hasattr(kind, "_make") and not asks:  # a PackedSequence is no named tuple
        return kind._make(of(item) for item in value)
    if isinstance(value, dict | UserDict | list):
        twin = copy.copy(value)
        for key, item in enumerate(value) if isinstance(value, list) else value.items():
            twin[key] = of(item)
        return twin
    if names := _attributes(value):
        twin = copy.copy(value)
        for name in names:
            object.__setattr__(twin, name, of(getattr(value, name)))  # frozen ones too
        return twin
    if own is None and (asks or any(True for _ in tensors_in([value, getattr(value, "__dict__", None)]))):
        raise Missing(f"how to take samples out of a {kind.__name__} is not known")
    return value


def _attributes(value: Any) -> list[str]:
    """What a dataclass, or a class of attrs, holds."""
    if is_dataclass(value):
        return [field.name for field in fields(value)]
    return [attribute.name for attribute in getattr(type(value), "__attrs_attrs__", ())]
