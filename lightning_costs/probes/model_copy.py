"""A copy of a model to try things on: what its forward pass changes of itself, it changes of the copy.

`copy.deepcopy` would do for most models. But it copies functions by reference: a closure over the model runs the
original. It refuses what a training model often holds: tensors of a graph, locks, open files. And it follows a
reference to the Trainer into loaders, loggers and callbacks.
"""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections import OrderedDict
from contextlib import suppress
from typing import Any, Final, final

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_costs.probes.clock import now_s
from lightning_costs.probes.opcount.bytes_accessed import written
from lightning_costs.probes.outside import PLAIN, Outside, home_of, is_global, is_outside, lineage
from lightning_costs.records.missing import Missing

#: Copies on the host hold no more than this, and on a CUDA device no more than lies below the run's own peak.
MOST_COPY_BYTES: Final = 2**30
#: Objects between two checks of the clock.
_CLOCK_EVERY: Final = 256

_SHARED: Final = (
    *PLAIN,
    type,
    range,
    slice,
    type(Ellipsis),
    type(NotImplemented),
    types.ModuleType,
    types.CodeType,
    torch.layout,
    torch.memory_format,
    torch.cuda.Stream,
    torch.cuda.Event,
)
#: Modules that run another one, by the name under which they hold it: their copy is that one's.
_WRAPPERS: Final = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "DataParallel": "module"}
#: Where hooks come from that compute a module's weights or watch their ranges.
_TORCH_HOOKS: Final = ("torch.nn.", "torch.ao.")
_FORWARD_HOOKS: Final = ("_forward_pre_hooks", "_forward_hooks")
_CALLS: Final = (types.MethodType, types.FunctionType, functools.partial)


@final
class ModelCopy:
    """Copies of objects that refer to each other, one for each, alive as long as this is.

    Args:
        room_bytes: Bytes of tensors and arrays to copy, by type of device. What does not fit is shared: arrays
            read-only, tensors to be guarded by `guard` as long as a pass has not shown that it leaves them alone.
        most_s: Seconds that copying may take.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> twin = ModelCopy().of(model)
        >>> twin is model, torch.equal(twin.weight, model.weight), twin.weight is model.weight
        (False, True, False)
    """

    def __init__(self, room_bytes: dict[str, int] | None = None, most_s: float = 60.0) -> None:
        self._room_bytes = {} if room_bytes is None else dict(room_bytes)
        self._most_s, self._until_s = most_s, now_s() + most_s
        self._seen = 0
        self._alive: list[Any] = []
        #: By identity, as `copy.deepcopy` has it: methods `__deepcopy__` are handed it.
        self._memo: dict[int, Any] = {}
        self._memo[id(self._memo)] = self._alive
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._modules: list[tuple[nn.Module, nn.Module]] = []
        #: Storages that copy and original share.
        self.shared: set[int] = set()
        #: Whether hooks of others on the model's modules were left out.
        self.hooks_left_out = False

    def of(self, value: Any) -> Any:
        """The copy of a value, and of all that it refers to."""
        if isinstance(value, _SHARED):
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        self._seen += 1
        if self._seen % _CLOCK_EVERY == 0 and now_s() > self._until_s:
            raise Missing(f"copying the model takes longer than {self._most_s:.2g} s")
        try:
            made = self._made(value)
        except Missing:
            raise
        except Exception as error:  # whatever cannot be copied can still be stood in for
            if issubclass(type(value), nn.Module | torch.Tensor):  # `isinstance` asks a dead proxy
                raise Missing(
                    f"a {type(value).__name__} of the model cannot be copied: {type(error).__name__}"
                ) from error
            made = Outside(value)
        self._memo[id(value)] = made
        self._alive.append(value)
        return made

    def _made(self, value: Any) -> Any:
        kind = type(value)
        if kind in weakref.ProxyTypes:  # first: a proxy is an instance of what it stands for
            target = self.of(value.__init__.__self__)
            return target if isinstance(target, Outside) else weakref.proxy(target)
        if kind in (weakref.ref, weakref.WeakMethod):
            target = value()
            return value if target is None else kind(self.of(target))
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if kind is types.FunctionType:
            return self._function(value)
        if kind is types.MethodType:
            return types.MethodType(self.of(value.__func__), self.of(value.__self__))
        if kind in (types.BuiltinFunctionType, types.MethodWrapperType):
            owner = self.of(value.__self__)
            return value if owner is value.__self__ else getattr(owner, value.__name__)
        if kind is functools._lru_cache_wrapper:
            plain = self.of(value.__wrapped__)
            return value if plain is value.__wrapped__ else functools.lru_cache(**value.cache_parameters())(plain)
        if kind is type(threading.Lock()):
            return threading.Lock()
        if kind is type(threading.RLock()):
            return threading.RLock()
        if kind is list:
            return self._filled(value, [], list.extend)
        if kind is dict:
            return self._filled(value, {}, dict.update)
        if kind is tuple:
            parts = [self.of(part) for part in value]
            return self._memo.get(id(value), tuple(parts))
        if isinstance(value, np.ndarray) and not self._fits("cpu", value.nbytes):
            view = value.view()
            view.flags.writeable = False
            return view
        if is_outside(value):
            return Outside(value)
        if hasattr(kind, "__deepcopy__"):
            return value.__deepcopy__(self._memo)
        return self._rebuilt(value)

    def _filled(self, value: Any, made: Any, fill: Any) -> Any:
        """A list or dictionary, known before its parts are: they may refer to it."""
        self._memo[id(value)] = made
        if isinstance(value, dict):
            fill(made, {self.of(key): self.of(item) for key, item in list(value.items())})
        else:
            fill(made, [self.of(item) for item in list(value)])
        return made

    def _rebuilt(self, value: Any) -> Any:
        """By the pickle protocol, as `copy.deepcopy` does."""
        how = value.__reduce_ex__(4)
        if isinstance(how, str):  # the name of a global
            return value
        self._alive.append(how)  # what is made on the way must not be freed: its address would name another object
        make, args, state, items, pairs, set_state = (*how, *[None] * 4)[:6]
        made = make(*[self.of(part) for part in args])
        self._memo[id(value)] = made
        if state is not None:
            state = self.of(state)
            if set_state is not None:
                set_state(made, state)
            elif hasattr(type(made), "__setstate__"):
                made.__setstate__(state)
            else:
                attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
                if attributes:
                    made.__dict__.update(attributes)
                for name, item in (slots or {}).items():
                    setattr(made, name, item)
        for item in items or ():
            made.append(self.of(item))
        for key, item in pairs or ():
            made[self.of(key)] = self.of(item)
        return made

    def _function(self, function: Any) -> Any:
        """A function over copies of what its closure and defaults hold; one that holds nothing is itself."""
        if (plain := getattr(function, "_torchdynamo_orig_callable", None)) is not None:
            return self.of(plain)
        held = (function.__closure__, function.__defaults__, function.__kwdefaults__, function.__dict__)
        if not any(held) or is_global(function):
            return function
        cells = tuple(types.CellType() for _ in function.__closure__ or ())
        made = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
        self._memo[id(function)] = made
        made.__defaults__, made.__kwdefaults__ = self.of(function.__defaults__), self.of(function.__kwdefaults__)
        made.__dict__.update(self.of(function.__dict__))
        made.__qualname__, made.__module__ = function.__qualname__, function.__module__
        for cell, original in zip(cells, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # a name that is not bound yet
                cell.cell_contents = self.of(original.cell_contents)
        return made

    # Tensors -----------------------------------------------------------------------------------------------------

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """Its values without its graph, gradient and hooks; views of one storage stay views of one storage."""
        kind = type(tensor)
        if not _is_plain(kind):
            leaf = tensor if tensor.is_leaf else tensor.detach()
            self._alive.append(leaf)
            made: torch.Tensor = leaf.__deepcopy__(self._memo)
            made.grad = None
            return made
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            leaf = tensor.detach()
            made = self._values(leaf)
            if kind is nn.Parameter:
                made = nn.Parameter(made, requires_grad=False)
            elif kind is not torch.Tensor:
                made = made.as_subclass(kind)
        if tensor.is_leaf:
            made.requires_grad_(tensor.requires_grad)
        if tensor.__dict__:
            self._memo[id(tensor)] = made
            made.__dict__.update(self.of(tensor.__dict__))
        return made

    def _values(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = _storage_of(tensor)
        if storage is None:
            return tensor.clone()
        identity = storage._cdata
        if identity in self.shared:
            return tensor
        if identity not in self._storages and not self._fits(tensor.device.type, storage.nbytes()):
            self.shared.add(identity)
            return tensor
        made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return made.set_(self._copied(storage), tensor.storage_offset(), tensor.size(), tensor.stride())

    def _copied(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage.clone()
        return self._storages[storage._cdata]

    def _fits(self, device: str, nbytes: int) -> bool:
        left = self._room_bytes.get(device, MOST_COPY_BYTES) - nbytes
        if left < 0:
            return False
        self._room_bytes[device] = left
        return True

    # Modules -----------------------------------------------------------------------------------------------------

    def _module(self, module: nn.Module) -> Any:
        if (held := _WRAPPERS.get(type(module).__name__)) and isinstance(module._modules.get(held), nn.Module):
            return self.of(module._modules[held])
        if hasattr(type(module), "__del__"):
            raise Missing(f"{type(module).__name__} has a __del__, which would run for a copy too")
        hooks = {
            name: home for name, home in vars(module).items() if name.endswith("_hooks") and isinstance(home, dict)
        }
        for home in hooks.values():
            self._memo[id(home)] = OrderedDict()
        for buffer in module._buffers.values():
            if buffer is not None and (storage := _storage_of(buffer)) is not None:
                self._copied(storage)  # passes write to them: they are never shared
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            self.of(tensor)  # a module's own way to copy itself (`__deepcopy__`) finds them in the memo
        if hasattr(type(module), "__deepcopy__"):
            made: Any = module.__deepcopy__(self._memo)  # type: ignore[operator]
        else:
            made = self._rebuilt(module)
        if made is module:
            raise Missing(f"{type(module).__name__} gives itself for its copy")
        if made.__dict__.get("_compiled_call_impl") is not None:
            made._compiled_call_impl = None
        if "_trainer" in module.__dict__ and hasattr(type(module), "log_dict"):  # a LightningModule
            if module.__dict__["_trainer"] is not None:
                made.__dict__["_trainer"] = self.of(module.__dict__["_trainer"])
            made.__dict__.update(log=_nothing, log_dict=_nothing, print=_nothing)
        self._modules.append((module, made))
        return made

    def hooks(self, module: nn.Module) -> None:
        """Give the copy those forward hooks that are parts of the model; others watch it, and have seen its training.

        A hook is a part of the model if torch computes weights in it. It is also one if all that it holds is of the
        model: the object whose method it is, its closure.
        """
        reached = {key for key, made in self._memo.items() if not isinstance(made, Outside)}
        live = {id(part) for part in module.modules()}
        for part in self.of(module).modules():
            if id(part) in live:
                raise Missing(f"a copy of {type(module).__name__} shares its {type(part).__name__}")
        for part, made in list(self._modules):
            for name in _FORWARD_HOOKS:
                kept = {}
                for key, hook in part.__dict__.get(name, {}).items():
                    if _is_torch_hook(hook) or _is_of(hook, reached):
                        kept[key] = self.of(hook)
                    else:
                        self.hooks_left_out = True
                made.__dict__[name] = OrderedDict(kept)
                for also in (f"{name}_with_kwargs", f"{name}_always_called"):
                    flags = part.__dict__.get(also, {})
                    made.__dict__[also] = OrderedDict((key, True) for key in kept if key in flags)

    def guard(self) -> Guard:
        """A mode in which an operator that would write to a storage of the original raises."""
        return Guard(self.shared)


@final
class Guard(TorchDispatchMode):
    """Refuses operators that write to some storages, before they do."""

    def __init__(self, storages: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages = storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in written(func, args, kwargs):
            if (storage := _storage_of(tensor)) is not None and storage._cdata in self._storages:
                raise Missing(f"the forward pass writes ({func}) to a weight that is too large to copy")
        return func(*args, **kwargs)


def _nothing(*_: Any, **__: Any) -> None:
    """Stands for `self.log` if no loop receives the values."""


def _is_torch_hook(hook: Any) -> bool:
    if isinstance(hook, types.FunctionType):
        return home_of(hook).startswith(_TORCH_HOOKS)
    return not isinstance(hook, nn.Module) and any(home.startswith(_TORCH_HOOKS) for home in lineage(type(hook)))


def _is_of(hook: Any, reached: set[int]) -> bool:
    """Whether all that a hook holds is of a model, and is something at all."""
    seen: set[int] = set()
    things, todo = [], [hook]
    while todo:
        if isinstance(item := todo.pop(), _SHARED) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, _CALLS):
            todo += _holds(item)
        else:
            things.append(item)
    return bool(things) and all(id(thing) in reached for thing in things)


def _holds(hook: Any) -> list[Any]:
    """What a method, a partial or a function refers to."""
    if isinstance(hook, types.MethodType):
        return [hook.__self__, hook.__func__]
    if isinstance(hook, functools.partial):
        return [hook.func, *hook.args, *hook.keywords.values()]
    if isinstance(hook, types.FunctionType):
        found = [*(hook.__defaults__ or ()), *(hook.__kwdefaults__ or {}).values()]
        for cell in hook.__closure__ or ():
            with suppress(ValueError):  # a name that is not bound yet
                found.append(cell.cell_contents)
        return found
    return []


def _is_plain(kind: type[torch.Tensor]) -> bool:
    """Whether a tensor's values are all that its class holds, beside attributes: no wrapper, no copying of its own."""
    own = (torch.Tensor.__deepcopy__, nn.Parameter.__deepcopy__)
    return kind.__deepcopy__ in own and kind.__torch_dispatch__ is torch._C._disabled_torch_dispatch_impl


def _storage_of(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    """The storage that a tensor is a plain view of; None for what is more than that, or has no storage of its own."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg():
        return None
    try:
        return None if tensor.is_meta else tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):
        return None
