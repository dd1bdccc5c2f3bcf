"""A count of operators that no `with` surrounds: loops that belong to the script begin and end it by what they call."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Any, final

from torch.utils._python_dispatch import _get_current_dispatch_mode_stack, _pop_mode, _push_mode


@final
class DetachedOpCounter:
    """A count of operators from one batch to the next: entered and left by hand, and never in the user's modes' way.

    Between two fetches the script may enter modes of its own and keep them: torch's modes are a stack, and a mode that
    leaves pops its top. So nothing is counted if a mode is on already, and those above are off while it leaves.
    """

    def __init__(self) -> None:
        self._stack: ExitStack | None = None

    def begin(self, count: AbstractContextManager[None] | None) -> None:
        """Enter what was given; under a mode of the script's it is left at once, and what it counts stays unknown."""
        if count is None:
            return
        self.end(discard=True)
        lowest = not _modes()
        self._stack = ExitStack()
        self._stack.enter_context(count)
        if not lowest:
            self._leave(discard=True)

    def end(self, *, discard: bool = False) -> None:
        """Leave it; `discard` where what was counted is not the work of one batch."""
        if self._stack is None:
            return
        above = [_pop_mode() for _ in range(len(_modes()) - 1)]
        try:
            self._leave(discard=discard)
        finally:
            for mode in reversed(above):
                _push_mode(mode)

    def _leave(self, *, discard: bool) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            error = GeneratorExit() if discard else None
            stack.__exit__(type(error) if error is not None else None, error, None)


def _modes() -> list[Any]:
    return list(_get_current_dispatch_mode_stack())
