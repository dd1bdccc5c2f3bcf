"""A fault of ours stays ours: it ends the measuring, never the training."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar


class Measuring(Protocol):
    """Something that measures, until something goes wrong in it."""

    @property
    def broken(self) -> bool:
        """Whether measuring has stopped."""

    def stop_measuring(self) -> None:
        """Called where an exception is handled: say it, and leave the training alone from now on."""


S = TypeVar("S", bound=Measuring)
P = ParamSpec("P")
R = TypeVar("R")


def harmless(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R | None]:
    """A method that raises nothing: where it would, measuring stops, and it and its like do nothing more."""

    @wraps(method)
    def tried(measuring: S, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        if measuring.broken:
            return None
        try:
            return method(measuring, *args, **kwargs)
        except Exception:  # noqa: BLE001 - a fault of ours must not become a fault of the user's training
            measuring.stop_measuring()
            return None

    return tried
