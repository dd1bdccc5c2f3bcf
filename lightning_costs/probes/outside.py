"""What lies outside of a model, and what stands for it in a copy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final, NoReturn, final

import torch

from lightning_costs.records.missing import Missing

PLAIN: Final = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, Enum)
#: Packages whose objects run a training, feed it or write its records: a model only refers to them.
_MACHINERY: Final = tuple(
    """lightning. pytorch_lightning. lightning_fabric. lightning_costs. wandb. mlflow. torch.utils.data. torch.optim.
    torch.utils.tensorboard. torch.distributed. multiprocessing. concurrent. subprocess. socket. itertools.""".split()
)


@final
class Outside:
    """Stands in a copy for what lies outside of the model: plain values can be read, any other use is refused."""

    __slots__ = ("__weakref__", "_of")

    def __init__(self, of: Any) -> None:
        object.__setattr__(self, "_of", of)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        if isinstance(value, PLAIN):
            return value
        return _refuse(self._of, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _refuse(self._of, name)

    def _refused(name: str) -> Any:  # type: ignore[misc] # noqa: N805 - looked up on the class, not by `__getattr__`
        return lambda self, *_, **__: _refuse(self._of, name)

    __call__, __iter__, __next__, __enter__ = map(_refused, ("__call__", "__iter__", "__next__", "__enter__"))
    __getitem__, __setitem__, __contains__ = map(_refused, ("__getitem__", "__setitem__", "__contains__"))
    del _refused

    def __len__(self) -> int:
        return len(self._of)

    def __bool__(self) -> bool:
        return bool(self._of)


def _refuse(of: Any, name: str) -> NoReturn:
    raise Missing(
        f"the forward pass uses {type(of).__name__}.{name}, which is no part of the model and has no copy to try it on"
    )


def lineage(kind: type) -> Iterator[str]:
    """Modules of a class and its bases, each with a dot at its end."""
    return (f"{base.__module__}." for base in kind.__mro__)


def is_outside(value: Any) -> bool:
    """Whether a value is part of what runs a training, feeds it or writes its records."""
    kind = type(value)
    if isinstance(value, dict | list | tuple | set | frozenset | BaseException):
        return False
    return hasattr(kind, "__del__") or any(home.startswith(_MACHINERY) for home in lineage(kind))


def home_of(function: Any) -> str:
    """The module that a function was written in, whatever it wraps."""
    return f"{function.__globals__.get('__name__', '')}."


def is_global(function: Any) -> bool:
    """Whether a function is what its module holds under its name: it closes over nothing."""
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function
