"""Loaders that an Accelerator prepared: how they are iterated over is wrapped on their class while one is watched."""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from lightning_costs.integrations.loop_session import LoopSession
from lightning_costs.patching.patches import ABSENT

_session_of: WeakKeyDictionary[Any, LoopSession] = WeakKeyDictionary()
#: What each class held as `__iter__` itself.
_held: dict[type, Any] = {}


def watch_loader(loader: Any, session: LoopSession) -> None:
    """Have a session give the loader's batches: the same ones, one by one."""
    _session_of[loader] = session
    kind = type(loader)  # a prepared loader's `__class__` is another: that of the loader inside
    if kind in _held:
        return
    _held[kind], original = vars(kind).get("__iter__", ABSENT), kind.__iter__

    @wraps(original)
    def __iter__(self: Any) -> Iterator[Any]:  # noqa: N807 - it becomes the class's
        session, fetched = _session_of.get(self), original(self)
        return fetched if session is None or session.broken else session.batches(self, fetched)

    kind.__iter__ = __iter__


def unwatch_loaders(session: LoopSession) -> None:
    """The session's loaders are watched no more; once none is, their classes are as they were."""
    for loader in [loader for loader, watching in _session_of.items() if watching is session]:
        del _session_of[loader]
    if not _session_of:
        for kind, held in _held.items():
            delattr(kind, "__iter__") if held is ABSENT else setattr(kind, "__iter__", held)
        _held.clear()
