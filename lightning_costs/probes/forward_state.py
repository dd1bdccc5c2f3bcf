"""What a step that is tried again has to find as it was: random numbers, and the buffers of a module."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from lightning_costs.probes.side_effects import random_states

#: Buffers beyond this are not kept: a copy of a replay buffer would cost more than it is good for.
MOST_BUFFER_BYTES = 2**28


def forward_state(module: nn.Module) -> Callable[[], None] | None:
    """What puts back a module's buffers and the generators' states; None if the buffers are too large to be kept."""
    with _disable_current_modes(), torch.no_grad():
        buffers = [buffer for buffer in module.buffers() if not buffer.is_meta]
        if sum(buffer.numel() * buffer.element_size() for buffer in buffers) > MOST_BUFFER_BYTES:
            return None
        copies = [(buffer, buffer.detach().clone()) for buffer in buffers]
        generators = random_states()

    def restore() -> None:
        with _disable_current_modes(), torch.no_grad():
            for buffer, copy in copies:
                buffer.copy_(copy)
            for put_back in generators:
                put_back()

    return restore
