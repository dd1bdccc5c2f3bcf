"""What a step that is tried again has to find as it was: random numbers, and the buffers of a module."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

#: Buffers beyond this are not kept: a copy of a replay buffer would cost more than it is good for.
MOST_BUFFER_BYTES = 2**28


def random_state() -> Callable[[], None]:
    """Note the state of the generators of torch, Python and NumPy; call what is returned to put it back."""
    host, python = torch.get_rng_state(), random.getstate()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    numpy = sys.modules.get("numpy")
    legacy = numpy.random.get_state() if numpy is not None else None

    def restore() -> None:
        torch.set_rng_state(host)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(legacy)

    return restore


def forward_state(module: nn.Module) -> Callable[[], None] | None:
    """Note what a forward pass may change of a module, and the generators' states.

    Returns:
        What puts it back; None if the buffers are too large to be kept.
    """
    with _disable_current_modes(), torch.no_grad():
        buffers = [buffer for buffer in module.buffers() if not buffer.is_meta]
        if sum(buffer.numel() * buffer.element_size() for buffer in buffers) > MOST_BUFFER_BYTES:
            return None
        copies = [(buffer, buffer.detach().clone()) for buffer in buffers]
        generators = random_state()

    def restore() -> None:
        with _disable_current_modes(), torch.no_grad():
            for buffer, copy in copies:
                buffer.copy_(copy)
            generators()

    return restore
