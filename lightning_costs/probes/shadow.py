"""Instance shadows: a method of one object wrapped, and given back as it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

ABSENT = object()


@dataclass(slots=True)
class _Mark:
    """What a shadow covers, and whether it still acts; a lifted one below somebody else's only calls through."""

    before: object
    active: bool = True


def own(owner: Any, name: str) -> Any:
    """What an object itself holds under a method's name, `ABSENT` where that is its class's.

    `vars(owner)` would make a dictionary of the object's attributes, and every access to one of them slower from then
    on (CPython keeps attributes in the object until somebody asks for the dictionary): on Lightning's loops that costs
    10 microseconds a step. So the dictionary is only asked for where the method is not plainly the class's.
    """
    held = getattr(owner, name, ABSENT)
    if getattr(held, "__self__", None) is owner and getattr(held, "__func__", held) is getattr(type(owner), name, None):
        return ABSENT
    return held if isinstance(getattr(held, "_lightning_costs", None), _Mark) else vars(owner).get(name, ABSENT)


def _peel(owner: Any, name: str) -> None:
    """Take lifted shadows off the top of a method: whoever lifts last leaves it as it was."""
    while isinstance(mark := getattr(own(owner, name), "_lightning_costs", None), _Mark) and not mark.active:
        if mark.before is ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, mark.before)


@final
class Shadows:
    """Wraps methods on instances; no class and no other instance is touched.

    Example:
        >>> class Loop:
        ...     def run(self):
        ...         return 1
        >>> loop, shadows = Loop(), Shadows()
        >>> shadows.put(loop, "run", lambda original: lambda: original() + 1)
        >>> loop.run()
        2
        >>> shadows.lift()
        >>> loop.run(), "run" in vars(loop)
        (1, False)
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return bool(self._undo)

    def put(
        self, owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]], *, hot: bool = False
    ) -> None:
        """Shadow `owner.name` with `wrap(original)`, if it has such a method.

        Args:
            owner: Whose method.
            name: Which method.
            wrap: Makes the shadow from the original.
            hot: The shadow is called at every step: it knows by itself when it is lifted, and then calls through
                (somebody else's may still stand on it). That spares a call.
        """
        original = getattr(owner, name, None)
        if not callable(original):
            return
        mark = _Mark(before=own(owner, name))
        wrapped = wrap(original)

        def careful(*args: Any, **kwargs: Any) -> Any:
            return wrapped(*args, **kwargs) if mark.active else original(*args, **kwargs)

        shadow = functools.update_wrapper(wrapped if hot else careful, original)
        shadow._lightning_costs = mark  # type: ignore[attr-defined]
        setattr(owner, name, shadow)

        def undo() -> None:
            mark.active = False
            _peel(owner, name)

        self._undo.append(undo)

    def hide(self, owner: Any, name: str) -> None:
        """Let `owner.name` be None, for callers who ask whether a hook is callable before they call it."""
        if own(owner, name) is not ABSENT or not hasattr(owner, name):
            return
        setattr(owner, name, None)

        def undo() -> None:
            if getattr(owner, name, ABSENT) is None:
                delattr(owner, name)

        self._undo.append(undo)

    def undo_with(self, undo: Callable[[], None]) -> None:
        """Something else to undo: a hook's handle."""
        self._undo.append(undo)

    def lift(self) -> None:
        """Give every method back, last first."""
        while self._undo:
            self._undo.pop()()
