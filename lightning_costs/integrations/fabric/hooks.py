"""A Lightning Fabric seen from outside: the one file that wraps its methods.

A Fabric script owns its loop, and no hook surrounds a step. So public methods of the class are wrapped, once, in a
process that asked for it; on the class, because a Fabric is pickled where processes are spawned. For a Fabric without a
listener each only calls through. Seen on Lightning 2.6.6.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from lightning_costs.integrations.loop_session import LoopSession
from lightning_costs.patching.fail_safe import carefully
from lightning_costs.ranks.topology import apply_device_mesh, data_parallel_topology

_WRAPPED = "_lightning_costs_wrapped"
#: The Fabric that set a loader or a module up; a copy of one has none.
_fabric_of: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_log = logging.getLogger("lightning_costs")


Find = Callable[[Any], LoopSession | None]
Call = Callable[[], Any]


def patch_fabric(kind: Any, find: Find) -> None:
    """Wrap the methods of a Fabric class."""
    if vars(kind).get(_WRAPPED):
        return
    setattr(kind, _WRAPPED, True)
    for name in ("setup", "setup_module", "setup_optimizers"):
        _wrap(kind, name, find, partial(_setting_up, find))
    _wrap(kind, "setup_dataloaders", find, partial(_setting_up_loaders, find))
    _wrap(kind, "backward", find, _running_backward)
    _wrap(kind, "save", find, _saving)
    for name in ("load", "load_raw"):
        _wrap(kind, name, find, _loading)
    _wrap(kind, "log_dict", find, _logging)


def _wrap(kind: Any, name: str, find: Find, around: Callable[[Any, LoopSession, Call, Any, Any], Any]) -> None:
    original = getattr(kind, name, None)
    if original is None:  # an older Lightning
        return

    @wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        listener = _found(find, self)
        if listener is None:
            return original(self, *args, **kwargs)

        def telling(call: Callable[..., Any]) -> Callable[..., Any]:
            return lambda: around(self, listener, call, args, kwargs)

        return carefully(partial(original, self, *args, **kwargs), telling, listener.disable, (), {})

    setattr(kind, name, wrapped)


def _found(find: Find, fabric: Any) -> LoopSession | None:
    try:
        return find(fabric)
    except Exception as error:  # noqa: BLE001 - a fault of the package must not become one of the script's
        _log.warning("costs of this Fabric are not measured; the script continues: %r", error)
        return None


def _setting_up(find: Find, fabric: Any, listener: LoopSession, call: Call, args: Any, kwargs: Any) -> Any:
    result = call()
    parts = result if isinstance(result, tuple) else (result,)
    wrappers = [part for part in parts if isinstance(part, nn.Module)]
    for wrapper in wrappers:
        if "_forward_module" in wrapper._modules:  # Fabric's own; a compiled one is not watched
            _watch_modules(type(wrapper), find)
            _fabric_of[wrapper] = fabric
    modules = [_users_module(part) for part in wrappers]
    optimizers = [getattr(part, "_optimizer", part) for part in parts if hasattr(part, "param_groups")]
    listener.world_size, listener.where = fabric.world_size, _where(fabric)
    listener.add(modules, optimizers, wrappers)
    return result


def _users_module(wrapper: nn.Module) -> nn.Module:
    """The module that the user handed over: Fabric's wrapper may itself be compiled, and so may what it wraps.

    Attributes of these are the wrapped module's, and a compiled module has no truth value; so names are looked up.
    """
    parts = wrapper._modules
    inner = parts.get("_orig_mod") if "_orig_mod" in parts else wrapper
    parts = inner._modules if inner is not None else {}
    for name in ("_original_module", "_forward_module"):
        if (found := parts.get(name)) is not None:
            return found
    return wrapper


def _setting_up_loaders(find: Find, fabric: Any, listener: LoopSession, call: Call, args: Any, kwargs: Any) -> Any:
    result = call()
    for loader in result if isinstance(result, list) else [result]:
        _watch_loaders(type(loader), find)
        _fabric_of[loader] = fabric
    return result


def _watch_loaders(kind: Any, find: Find) -> None:
    """Wrap how Fabric's loaders are iterated over, on their class: a loader that is pickled carries no wrapper."""
    if vars(kind).get(_WRAPPED):
        return
    setattr(kind, _WRAPPED, True)
    original = kind.__iter__

    @wraps(original)
    def __iter__(self: Any) -> Iterator[Any]:  # noqa: N807 - it becomes the class's
        fetched: Iterator[Any] = original(self)
        fabric = _fabric_of.get(self)
        listener = _found(find, fabric) if fabric is not None else None
        return fetched if listener is None else listener.batches(self, fetched)

    kind.__iter__ = __iter__


def users_loader(loader: Any) -> Any:
    """The loader that the user handed over."""
    return getattr(loader, "_dataloader", loader)


def _watch_modules(kind: Any, find: Find) -> None:
    """Wrap the forward pass of Fabric's modules, on their class: whether a batch was worked on shows there.

    What torch.compile traces is the original: it takes the question below for a constant.
    """
    if vars(kind).get(_WRAPPED):
        return
    setattr(kind, _WRAPPED, True)
    original = kind.forward

    @wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            fabric = _fabric_of.get(self)
            listener = _found(find, fabric) if fabric is not None else None
            if listener is not None:
                listener.forward((args, kwargs))
        return original(self, *args, **kwargs)

    kind.forward = forward


def _running_backward(fabric: Any, listener: LoopSession, call: Call, args: Any, kwargs: Any) -> Any:
    listener.backward(args[0] if args else None)
    try:
        return call()
    finally:
        listener.backward_ended()


def _saving(fabric: Any, listener: LoopSession, call: Call, args: Any, kwargs: Any) -> Any:
    with listener.saving():
        return call()


def _loading(fabric: Any, listener: LoopSession, call: Call, args: Any, kwargs: Any) -> Any:
    with listener.loading():
        return call()


def _logging(fabric: Any, listener: LoopSession, call: Call, args: Any, kwargs: Any) -> Any:
    metrics = args[0] if args else kwargs.get("metrics")
    if isinstance(metrics, Mapping):
        listener.logged(metrics)
    return call()


# What a Fabric says -----------------------------------------------------------------------------------------


def callbacks(fabric: Any) -> Sequence[object]:
    """Its callbacks, those of entry points among them."""
    found: Sequence[object] = fabric._callbacks
    return found


def _where(fabric: Any) -> dict[str, Any]:
    """Arguments of `Recorder` that the Fabric knows once it has launched its processes."""
    nodes = max(1, int(getattr(fabric.strategy, "num_nodes", 1)))
    places = data_parallel_topology(fabric.world_size, fabric.world_size // nodes)
    places = apply_device_mesh(getattr(fabric.strategy, "_device_mesh", None), places)
    return {
        "place": places[fabric.global_rank],
        "places": places,
        "nodes": nodes,
        "device": fabric.device,
        "devices": fabric.world_size if fabric.device.type == "cuda" else nodes,
        "setup": fabric_setup(fabric),
    }


def fabric_setup(fabric: Any) -> dict[str, Any]:
    """Fabric's part of the setup."""
    return {
        "precision": str(fabric.strategy.precision.precision),
        "strategy": type(fabric.strategy).__name__,
        "accelerator": type(fabric.accelerator).__name__,
    }
