"""Inspect a batch: its shapes, and what in it may give its number of samples; no device is queried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy
import torch
from torch.nn.utils.rnn import PackedSequence

from lightning_costs.probes.memory.tensors import graph_stores, tensors_in

_PAIR = (list, tuple)
#: What holds no count of samples of its own.
_PLAIN = (dict, list, tuple, str, bytes, int, float, bool, numpy.ndarray)
#: Depth of nested containers that are searched for signs of a sample.
_DEPTH = 6
#: Channels that an image may have as its first dimension.
_CHANNELS = (1, 3, 4)
Signature = tuple[tuple[tuple[int, ...], torch.dtype], ...]


class BatchInfo(NamedTuple):
    """What a batch looks like.

    Args:
        signature: Shape and dtype of every tensor in it, in order; () if it has none.
        samples: Length of the first tensor's first dimension; None if no tensor has one.
    """

    signature: Signature
    samples: int | None


def signature_bytes(signature: Signature) -> int:
    """Bytes of a batch of these shapes; jagged dimensions count once.

    Example:
        >>> signature_bytes((((8, 3), torch.float32), ((8,), torch.int64)))
        160
    """
    sizes = ([n for n in shape if isinstance(n, int)] for shape, _ in signature)
    return sum(prod(size) * dtype.itemsize for size, (_, dtype) in zip(sizes, signature, strict=True))


def inspect_batch(batch: object) -> BatchInfo:
    """Shapes of a batch: a tensor, or tuples, lists, mappings, dataclasses and graphs that hold tensors.

    Example:
        >>> inspect_batch({"x": torch.zeros(8, 3), "y": torch.zeros(8)}).samples
        8
        >>> inspect_batch("no tensor").samples is None
        True
    """
    if isinstance(batch, _PAIR) and len(batch) == 2:
        first, second = batch[0], batch[1]
        if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor) and first.ndim:
            shape = shape_of(first)
            return BatchInfo(((shape, first.dtype), (shape_of(second), second.dtype)), shape[0])
    signature = tuple((shape_of(t), t.dtype) for t in tensors_in(batch))
    samples = next((shape[0] for shape, _ in signature if shape), None)
    return BatchInfo(signature, samples)


def shape_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """A tensor's shape; of a strided nested one, which has none, how many parts it has and their lengths."""
    try:
        return tensor.shape
    except RuntimeError:
        return (tensor.size(0), *(length for part in tensor.unbind() for length in part.shape))


def input_ids_tokens(batch: object) -> int | None:
    """Tokens of a batch in the Hugging Face form: elements of `input_ids`, padding included."""
    if isinstance(batch, _PAIR):  # asking for an abstract class takes longer than all else in here
        return None
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    return ids.numel() if isinstance(ids, torch.Tensor) else None


# Signs of a batch's samples ---------------------------------------------------------------------------------

#: By a container that knows (graphs, packed sequences), by a dimension of a tensor, or by the length of a list.
Kind = Literal["own", "first", "second", "length"]
#: How to get from a batch to a part of it: keys, and names of attributes.
Path = tuple[tuple[Literal["key", "name"], Any], ...]


class Sign(NamedTuple):
    """A part of a batch that may give its samples; `shaped` if batches of one signature have the same number."""

    kind: Kind
    path: Path
    size: int
    words: str
    shaped: bool = True


def signs(batch: object) -> list[Sign]:
    """All signs of a batch's samples: containers that know, tensors, lists, second dimensions, in this order.

    Example:
        >>> [(sign.size, sign.words) for sign in signs((torch.zeros(50, 8), torch.zeros(8)))][:2]
        [(50, 'first dimension of tensor 1 of 2 (batch[0])'), (8, 'first dimension of tensor 2 of 2 (batch[1])')]
    """
    found = list(_walk(batch, (), _DEPTH))
    tensors = [(path, part) for path, part in found if isinstance(part, torch.Tensor) and not part.is_nested]
    ordered = [Sign("own", path, *own) for path, part in found if (own := own_size(part)) is not None]
    ordered += _dimensions(tensors, "first", 0)
    ordered += [
        Sign("length", path, len(part), f"length of {_called(path)}", next(tensors_in(part), None) is not None)
        for path, part in found
        if (isinstance(part, _PAIR) or (isinstance(part, numpy.ndarray) and part.ndim)) and len(part)
    ]
    return ordered + _dimensions(tensors, "second", 1)


def _dimensions(tensors: Sequence[tuple[Path, torch.Tensor]], kind: Literal["first", "second"], at: int) -> list[Sign]:
    return [
        Sign(kind, path, tensor.shape[at], f"{kind} dimension of tensor {n} of {len(tensors)} ({_called(path)})")
        for n, (path, tensor) in enumerate(tensors, 1)
        if tensor.ndim > at
    ]


def reads(batch: object, sign: Sign) -> int | None:
    """What the same sign says of another batch; None if it is not in it."""
    part = batch
    try:
        for how, key in sign.path:
            part = part[key] if how == "key" else getattr(part, key)  # type: ignore[index]
    except Exception:  # noqa: BLE001 - another kind of batch, or a container of the user's
        return None
    if sign.kind == "own":
        stated = own_size(part)
        return stated[0] if stated is not None else None
    if sign.kind == "length":
        return len(part) if isinstance(part, (*_PAIR, numpy.ndarray)) else None
    dimension = 0 if sign.kind == "first" else 1
    if not isinstance(part, torch.Tensor) or part.is_nested or part.ndim <= dimension:
        return None
    return part.shape[dimension]


def own_size(part: Any) -> tuple[int, str] | None:
    """Samples of a container that knows how many it holds, and how it says so.

    PackedSequence and nested tensors; by their attributes: PyTorch Geometric's batches (`num_graphs`), DGL's and
    TensorDict's (`batch_size`); a dataclass that has a length.
    """
    if isinstance(part, torch.Tensor):
        return (int(part.size(0)), "parts of the nested tensor") if part.is_nested else None
    if isinstance(part, PackedSequence):  # its batch_sizes are on the host
        return (int(part.batch_sizes[0]), "sequences of the PackedSequence") if len(part.batch_sizes) else None
    kind = type(part)
    if kind in _PLAIN or part is None or isinstance(part, type):
        return None
    name = kind.__name__
    graph = bool(graph_stores(part))
    for attribute in ("_num_graphs", "num_graphs", "batch_size"):
        if attribute not in getattr(part, "__dict__", ()) and not hasattr(kind, attribute):
            if not graph or attribute == "num_graphs":  # PyG keeps the others with its tensors
                continue
        elif graph and attribute == "num_graphs" and any(t.device.type != "cpu" for t in tensors_in(part)):
            continue  # a batch made by hand asks its tensors
        try:
            value = getattr(part, attribute)
        except Exception:  # noqa: BLE001 - a property of the user's
            continue
        value = value[0] if isinstance(value, tuple) and value else value
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return int(value), f"{attribute.lstrip('_')} of the {name}"
    if is_dataclass(part) and not isinstance(part, Mapping) and hasattr(kind, "__len__"):
        try:
            return len(part), f"length of the {name}"  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 - as above
            return None
    return None


def alone(batch: object, *, as_it_is: bool = False) -> Sign | None:
    """The sign that gives a batch's samples if its loader is unknown; None if the batch's parts contradict each other.

    It is `as_it_is` if its loader made no batches: then a single tensor may be one sample.

    Example:
        >>> alone({"x": torch.zeros(8, 3), "y": torch.zeros(8)}).size
        8
        >>> alone({"negatives": torch.zeros(60, 3), "anchor": torch.zeros(6, 3)}) is None
        True
    """
    found = signs(batch)
    if (own := next((sign for sign in found if sign.kind == "own"), None)) is not None:
        return own
    first = [sign for sign in found if sign.kind == "first"]
    if (ids := next((sign for sign in first if sign.path == (("key", "input_ids"),)), None)) is not None:
        return ids
    path, doubtful = _listed(batch)
    if path is not None:
        return next(sign for sign in found if sign.kind == "length" and sign.path == path)
    sign, witnesses = agreed(batch, found)
    scalars = any(not tensor.is_nested and not tensor.ndim for tensor in tensors_in(batch))
    if sign is None or doubtful or (scalars and witnesses == 1):
        return None
    if as_it_is and (scalars or (witnesses == 1 and not any(other.kind == "second" for other in found))):
        return None
    return sign


def agreed(batch: object, found: Sequence[Sign]) -> tuple[Sign | None, int]:
    """The first tensor's sign if all tensors have as many, and how many they are; one element says nothing."""
    first = [sign for sign in found if sign.kind == "first"]
    telling = [sign for sign in first if sign.size != 1] or first
    if not telling or any(sign.size != telling[0].size for sign in telling):
        return None, len(telling)
    if len(telling) != len(first) and any(t.ndim and t.shape[0] == 1 and t.ndim > 1 for t in tensors_in(batch)):
        return None, len(telling)
    return telling[0], len(telling)


def _listed(batch: object) -> tuple[Path | None, bool]:
    """Where a list of samples is, if there is one; and whether a list may be one of samples or of batches."""
    if not isinstance(batch, _PAIR) or not batch:
        return None, False
    are = _are_samples(batch)
    if are:
        return (), False
    doubtful = are is None
    if all(isinstance(part, _PAIR) and len(part) == len(batch[0]) for part in batch):  # images, targets
        for index, part in enumerate(batch):
            if part and (are := _are_samples(part)):
                return (("key", index),), False
            doubtful = doubtful or are is None
    return None, doubtful


def _are_samples(items: Sequence[Any]) -> bool | None:
    """Whether a list's items are samples: records that are no batches, images of several sizes; None in doubt."""
    first = items[0]
    if isinstance(first, torch.Tensor):
        if len(items) < 2 or not all(_is_image(item) for item in items):
            return False
        return True if len({shape_of(item) for item in items}) > 1 else None
    if isinstance(first, Mapping):
        records = all(isinstance(item, Mapping) and item.keys() == first.keys() for item in items)
    else:
        records = isinstance(first, _PAIR) and all(isinstance(i, _PAIR) and len(i) == len(first) for i in items)
    if not records:
        return False
    if any(_is_record(item) for item in items):
        return True
    return None if any(agreed(item, signs(item))[1] == 1 for item in items) else False


def _is_image(item: Any) -> bool:
    return isinstance(item, torch.Tensor) and item.ndim == 3 and item.shape[0] in _CHANNELS


def _is_record(item: Any) -> bool:
    """Whether a mapping or tuple is one sample and no batch: it holds scalars, or tensors of several lengths."""
    if isinstance(item, _PAIR) and len(item) == 2 and isinstance(item[0], str) and any(True for _ in tensors_in(item)):
        named = item[1]  # batches have names as well as samples: a mapping's items
        return _is_image(named) or _is_record(named if isinstance(named, (Mapping, *_PAIR)) else (named,))
    parts = list(item.values() if isinstance(item, Mapping) else item)
    if any(isinstance(part, int | float | str | bytes) for part in parts):
        return True
    sign, witnesses = agreed(item, signs(item))
    return (witnesses > 0 and sign is None) or any(not t.is_nested and not t.ndim for t in tensors_in(item))


def _walk(part: Any, path: Path, depth: int) -> Iterator[tuple[Path, Any]]:
    """A batch and all in it, outermost first, in the order of `tensors_in`."""
    yield path, part
    if depth == 0 or isinstance(part, torch.Tensor | PackedSequence | str | bytes | int | float):
        return
    if isinstance(part, _PAIR) and part and isinstance(part[0], str | bytes | int | float):
        return  # token ids and texts may be many
    inner: list[tuple[tuple[Literal["key", "name"], Any], Any]]
    if isinstance(part, Mapping):
        inner = [(("key", key), item) for key, item in part.items()]
    elif isinstance(part, _PAIR):
        inner = [(("key", index), item) for index, item in enumerate(part)]
    elif is_dataclass(part) and not isinstance(part, type):
        inner = [(("name", field.name), getattr(part, field.name)) for field in fields(part)]
    else:
        inner = [(("name", name), item) for name, item in graph_stores(part)]
    for step, item in inner:
        yield from _walk(item, (*path, step), depth - 1)


def _called(path: Path) -> str:
    """A path in Python's words.

    Example:
        >>> _called((("key", "image"), ("key", 0), ("name", "x")))
        "batch['image'][0].x"
    """
    return "batch" + "".join(f"[{key!r}]" if how == "key" else f".{key}" for how, key in path)
