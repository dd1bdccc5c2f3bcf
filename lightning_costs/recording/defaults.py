"""What a recorder takes if an argument is not given."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from lightning_costs.probes.context import Count

if TYPE_CHECKING:
    import torch
    from torch import nn

#: How operators are counted, if no argument says it.
COUNT = "LIGHTNING_COSTS_COUNT"


def counting_of(given: Count | None) -> Count:
    """How operators are counted: as given, else as LIGHTNING_COSTS_COUNT says.

    Raises:
        ValueError: For what is none of 'auto', 'eager', 'off'.

    Example:
        >>> counting_of(None), counting_of("off")
        ('auto', 'off')
    """
    value: str | None = given
    if given is None:
        from_environment = os.environ.get(COUNT, "")
        value = {"": "auto", "1": "auto", "0": "off"}.get(from_environment, from_environment)
    if value not in ("auto", "eager", "off"):
        raise ValueError(f"{'count' if given is not None else COUNT} must be 'auto', 'eager' or 'off', got {value!r}")
    return cast("Count", value)


def device_of(device: torch.device | str | None, module: nn.Module | None) -> torch.device | None:
    """The device that trains: as given, else the module's, else the CPU if there is no other."""
    import torch

    if device is not None:
        return torch.device(device)
    if module is not None and (first := next(module.parameters(), None)) is not None:
        return first.device
    return torch.device("cpu") if not torch.cuda.is_available() else None
