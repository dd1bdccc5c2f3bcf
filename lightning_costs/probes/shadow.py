"""Instance shadows: a method of one object wrapped, and given back as it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, final

_ABSENT = object()


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

    def put(self, owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Shadow `owner.name` with `wrap(original)`, if it has such a method."""
        original = getattr(owner, name, None)
        if not callable(original):
            return
        before = vars(owner).get(name, _ABSENT)
        shadow = functools.wraps(original)(wrap(original))
        setattr(owner, name, shadow)

        def undo() -> None:
            if vars(owner).get(name) is not shadow:
                return  # somebody else wrapped it after us: theirs stays, and ours below it only calls through
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self._undo.append(undo)

    def undo_with(self, undo: Callable[[], None]) -> None:
        """Something else to undo: a hook's handle."""
        self._undo.append(undo)

    def lift(self) -> None:
        """Give every method back, last first."""
        while self._undo:
            self._undo.pop()()
