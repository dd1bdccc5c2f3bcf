"""One look at a batch: how many samples it holds and which shapes; no device is asked anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from lightning_costs.probes.tensors import tensors_in

_PAIR = (list, tuple)
Signature = tuple[tuple[tuple[int, ...], torch.dtype], ...]


class Look(NamedTuple):
    """What a batch looks like.

    Args:
        signature: Shape and dtype of every tensor in it, in order; () where there is none.
        samples: Length of the first tensor's first dimension; None where no tensor has one.
    """

    signature: Signature
    samples: int | None


def look(batch: object) -> Look:
    """Shapes of a batch: a tensor, or tuples, lists, mappings and dataclasses that hold tensors.

    Example:
        >>> look({"x": torch.zeros(8, 3), "y": torch.zeros(8)}).samples
        8
        >>> look("no tensor").samples is None
        True
    """
    if isinstance(batch, _PAIR) and len(batch) == 2:
        first, second = batch[0], batch[1]
        if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor) and first.ndim:
            shape = shape_of(first)
            return Look(((shape, first.dtype), (shape_of(second), second.dtype)), shape[0])
    signature = tuple((shape_of(t), t.dtype) for t in tensors_in(batch))
    samples = next((shape[0] for shape, _ in signature if shape), None)
    return Look(signature, samples)


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
