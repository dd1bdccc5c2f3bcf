"""Passes that the user did not ask for leave no trace: random numbers, output, hooks of all modules, buffers."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final, final

import torch
from torch import nn
from torch.nn.modules import module as modules
from torch.overrides import _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils._python_dispatch import _disable_current_modes

_GLOBAL_HOOKS: Final = tuple(
    f"_global_{name}"
    for name in """forward_pre_hooks forward_hooks forward_hooks_always_called forward_hooks_with_kwargs
    backward_pre_hooks backward_hooks""".split()
)
#: Buffers beyond this are not kept: a copy of a replay buffer would cost more than it is good for.
MOST_BUFFER_BYTES = 2**28


@contextmanager
def without_side_effects() -> Iterator[None]:
    """Whatever happens inside, every generator of random numbers that a process shares continues as if it had not.

    These are Python's, NumPy's and torch's, on all devices. What this thread prints inside is dropped, and hooks on all
    modules (`register_module_forward_hook`) do not fire.
    """
    with ExitStack() as put_back:
        for restore in random_states():
            put_back.callback(restore)
        for name in _GLOBAL_HOOKS:
            put_back.callback(_emptied(name))
        for name in ("stdout", "stderr"):
            put_back.callback(_muted(name))
        yield


@contextmanager
def without_modes() -> Iterator[None]:
    """Modes that the user counts or traces with see nothing of what happens inside; torch's own (a device) stay."""
    before = _get_current_function_mode_stack()
    with _disable_current_modes():
        try:
            _set_function_modes([mode for mode in before if type(mode).__module__.startswith("torch.")])
            yield
        finally:
            _set_function_modes(before)


def _set_function_modes(modes: list[Any]) -> None:
    while _get_current_function_mode_stack():
        _pop_mode()
    for mode in modes:
        _push_mode(mode)


def random_states() -> list[Callable[[], object]]:
    """Calls that put each generator back to its present state."""
    restores: list[Callable[[], object]] = [
        partial(random.setstate, random.getstate()),
        partial(torch.set_rng_state, torch.get_rng_state()),
    ]
    if (numpy := sys.modules.get("numpy")) is not None:  # its cached Gaussian is in its state
        restores.append(partial(numpy.random.set_state, numpy.random.get_state(legacy=False)))
    for name in ("cuda", "xpu"):
        device: Any = getattr(torch, name, None)
        if device is not None and device.is_initialized():
            restores.append(partial(device.set_rng_state_all, device.get_rng_state_all()))
    if torch.backends.mps.is_available():
        restores.append(partial(torch.mps.set_rng_state, torch.mps.get_rng_state()))
    return restores


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


#: What threads share that all of them take away: how many have done so, and what was there before the first.
_shared = threading.Lock()
_taken: dict[str, tuple[int, dict[int, Any]]] = {}


def _emptied(name: str) -> Callable[[], None]:
    hooks: dict[int, Any] = getattr(modules, name, {})
    with _shared:
        users, held = _taken.get(name, (0, {}))
        if not users:
            held = dict(hooks)
            hooks.clear()
        _taken[name] = users + 1, held

    def restore() -> None:
        with _shared:
            users, held = _taken.pop(name)
            if users > 1:
                _taken[name] = users - 1, held
                return
            hooks.clear()
            hooks.update(held)

    return restore


def _muted(name: str) -> Callable[[], None]:
    with _shared:
        stream = getattr(sys, name)
        if stream is None:  # no console: pythonw
            return lambda: None
        muted = stream if isinstance(stream, _Muted) else _Muted(stream)
        muted.threads.append(threading.get_ident())
        setattr(sys, name, muted)

    def restore() -> None:
        with _shared:
            muted.threads.remove(threading.get_ident())
            if not muted.threads and getattr(sys, name) is muted:
                setattr(sys, name, muted.stream)

    return restore


@final
class _Muted:
    """A stream as before, but for what some threads write."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.threads: list[int] = []

    def write(self, text: str) -> Any:
        return len(text) if threading.get_ident() in self.threads else self.stream.write(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
