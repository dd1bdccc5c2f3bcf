"""Whose methods are running, without a trace in the frames of others."""

from __future__ import annotations

from functools import lru_cache
from types import CodeType, FrameType
from typing import Any


def method_owner(frame: FrameType, kind: type) -> Any:
    """The object whose method a frame runs, if that may be a method of `kind` or of a class below it; else None.

    No other frame's variables are read. Up to Python 3.12 reading them keeps them alive until the function returns
    (its batch, its model), and changes what `locals()` gave there.

    Example:
        >>> import sys
        >>> class Loop:
        ...     def run(self):
        ...         return method_owner(sys._getframe(), Loop)
        >>> loop = Loop()
        >>> loop.run() is loop
        True
    """
    return frame.f_locals.get("self") if _may_be_method(frame.f_code, kind) else None


@lru_cache(maxsize=512)
def _may_be_method(code: CodeType, kind: type) -> bool:
    """Whether code stands in one of these classes, or a method of theirs or of what they inherit from."""
    if "self" not in code.co_varnames:
        return False
    waiting, below = [kind], set[type]()
    while waiting:
        each = waiting.pop()
        if each not in below:
            below.add(each)
            waiting += type.__subclasses__(each)
    homes = {home for each in below for home in each.__mro__ if home is not object}
    return any(code.co_qualname.startswith(f"{home.__qualname__}.") for home in homes)
