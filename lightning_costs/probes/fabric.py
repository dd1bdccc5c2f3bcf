"""A Lightning Fabric seen from outside: the one file that wraps its methods.

A Fabric script owns its loop, and no hook surrounds a step. So public methods of the class are wrapped, once, in a
process that asked for it; on the class, because a Fabric is pickled where processes are spawned. For a Fabric without a
listener each only calls through. Seen on Lightning 2.6.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial, wraps
from typing import Any, Protocol

from torch import nn

from lightning_costs.core.records import Place
from lightning_costs.probes.optimizers import hook_step, on_update, unwrap
from lightning_costs.probes.places import on_mesh, replicas
from lightning_costs.probes.shadow import Shadows

_WRAPPED = "_lightning_costs_wrapped"


class FabricListener(Protocol):
    """What is told of a Fabric; `lightning_costs.fabric` listens."""

    def set_up(
        self, fabric: Any, modules: Sequence[nn.Module], optimizers: Sequence[Any], wrappers: Sequence[nn.Module]
    ) -> None:
        """Modules and optimizers were set up: the user's modules, optimizers as the strategy gave them, wrappers."""

    def batches(self, loader: Any, fetched: Iterator[Any]) -> Iterator[Any]:
        """A loader is iterated over: the same batches, one by one."""

    def backward(self) -> None:
        """A backward pass begins."""

    def saving(self) -> AbstractContextManager[None]:
        """What is entered around writing a checkpoint."""

    def logged(self, metrics: Mapping[str, float]) -> None:
        """Metrics were logged."""


Find = Callable[[Any], FabricListener | None]
Call = Callable[[], Any]


def watch(kind: Any, find: Find) -> None:
    """Wrap the methods of a Fabric class.

    Args:
        kind: `lightning.fabric.Fabric` or `lightning_fabric.Fabric`.
        find: The listener of a Fabric, if it has one.
    """
    if vars(kind).get(_WRAPPED):
        return
    setattr(kind, _WRAPPED, True)
    for name in ("setup", "setup_module", "setup_optimizers"):
        _wrap(kind, name, find, _setting_up)
    _wrap(kind, "setup_dataloaders", find, partial(_setting_up_loaders, find))
    _wrap(kind, "backward", find, _running_backward)
    _wrap(kind, "save", find, _saving)
    _wrap(kind, "log_dict", find, _logging)


def _wrap(kind: Any, name: str, find: Find, around: Callable[[Any, FabricListener, Call, Any, Any], Any]) -> None:
    original = getattr(kind, name, None)
    if original is None:  # an older Lightning
        return

    @wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        listener = find(self)
        if listener is None:
            return original(self, *args, **kwargs)
        return around(self, listener, partial(original, self, *args, **kwargs), args, kwargs)

    setattr(kind, name, wrapped)


def _setting_up(fabric: Any, listener: FabricListener, call: Call, args: Any, kwargs: Any) -> Any:
    result = call()
    parts = result if isinstance(result, tuple) else (result,)
    wrappers = [part for part in parts if isinstance(part, nn.Module)]
    modules = [getattr(part, "module", part) for part in wrappers]
    optimizers = [getattr(part, "_optimizer", part) for part in parts if hasattr(part, "param_groups")]
    listener.set_up(fabric, modules, optimizers, wrappers)
    return result


def _setting_up_loaders(find: Find, fabric: Any, listener: FabricListener, call: Call, args: Any, kwargs: Any) -> Any:
    result = call()
    for loader in result if isinstance(result, list) else [result]:
        kind = type(loader)
        loader.__class__ = type(kind.__name__, (_Loader, kind), {"_listener": partial(find, fabric)})
    return result


class _Loader:
    """A loader that tells of its batches; in front of the class that Fabric gave it."""

    _listener: Callable[[], FabricListener | None]

    def __iter__(self) -> Iterator[Any]:
        fetched: Iterator[Any] = super().__iter__()  # type: ignore[misc]
        listener = type(self)._listener()
        return fetched if listener is None else listener.batches(self, fetched)


def _running_backward(fabric: Any, listener: FabricListener, call: Call, args: Any, kwargs: Any) -> Any:
    listener.backward()
    return call()


def _saving(fabric: Any, listener: FabricListener, call: Call, args: Any, kwargs: Any) -> Any:
    with listener.saving():
        return call()


def _logging(fabric: Any, listener: FabricListener, call: Call, args: Any, kwargs: Any) -> Any:
    metrics = args[0] if args else kwargs.get("metrics")
    if isinstance(metrics, Mapping):
        listener.logged(metrics)
    return call()


# What a Fabric says -----------------------------------------------------------------------------------------


def callbacks(fabric: Any) -> Sequence[object]:
    """Its callbacks, those of entry points among them."""
    found: Sequence[object] = fabric._callbacks
    return found


def places(fabric: Any) -> tuple[Place, tuple[Place, ...]]:
    """This process, and all of them: known once Fabric has launched them."""
    everyone = replicas(fabric.world_size, fabric.world_size // nodes(fabric))
    everyone = on_mesh(getattr(fabric.strategy, "_device_mesh", None), everyone)
    return everyone[fabric.global_rank], everyone


def nodes(fabric: Any) -> int:
    """How many machines take part."""
    return max(1, int(getattr(fabric.strategy, "num_nodes", 1)))


def facts(fabric: Any) -> dict[str, Any]:
    """Fabric's part of the setup."""
    return {
        "precision": str(fabric.strategy.precision.precision),
        "strategy": type(fabric.strategy).__name__,
        "accelerator": type(fabric.accelerator).__name__,
    }


def on_step(optimizer: Any, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call around every update of an optimizer, where it can be hooked."""
    hooks = Shadows()
    hook_step(unwrap(optimizer), hooks, before=before)
    on_update(optimizer, after, hooks)
