"""How a model is called on a batch, and what its loss is if the user gives none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import nn

from lightning_costs.patching.patches import Patches
from lightning_costs.probes.memory.tensors import tensors_in

Loss = Callable[[Any, Any], torch.Tensor]
Forward = Callable[[nn.Module, Any], Any]


@final
class BoundModel(nn.Module):
    """A model with the way to call it on a batch."""

    def __init__(self, model: nn.Module, call: Forward) -> None:
        super().__init__()
        self.model, self._call = model, call

    def forward(self, batch: Any) -> Any:
        """The model's output."""
        return self._call(self.model, batch)


def call_model(model: nn.Module, batch: Any) -> Any:
    """The model on a batch, by as many of its parts as its forward takes."""
    takes = inspect.signature(model.forward).parameters.values()
    if isinstance(batch, Mapping):
        anything = any(p.kind is p.VAR_KEYWORD for p in takes)
        names = {p.name for p in takes}
        chosen = {name: value for name, value in batch.items() if anything or name in names}
        return model(**chosen) if chosen else model(batch)
    if isinstance(batch, tuple | list):
        needed = [p for p in takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
        if any(p.kind is p.VAR_POSITIONAL for p in takes) and not needed:
            return model(*batch[:1])
        return model(*batch[: max(1, len(needed))])
    return model(batch)


def lightning_loss(model: Any, batch: Any) -> torch.Tensor | None:
    """What a LightningModule's `training_step` returns as the loss, without its logging."""
    shadows = Patches()
    # It would say that there is no trainer. Ignoring warnings instead makes Python show all earlier ones once more.
    shadows.wrap(model, "log", lambda _: lambda *args, **kwargs: None)
    try:
        takes_index = len(inspect.signature(model.training_step).parameters) > 1
        result = model.training_step(batch, 0) if takes_index else model.training_step(batch)
    finally:
        shadows.restore()
    found = result.get("loss") if isinstance(result, Mapping) else result
    return found if isinstance(found, torch.Tensor) else None


def sum_of_outputs(output: Any) -> torch.Tensor | None:
    """A loss that adds no product; None if no output takes a gradient."""
    parts = [tensor.sum() for tensor in tensors_in(output) if tensor.requires_grad]
    return sum(parts[1:], parts[0]) if parts else None
