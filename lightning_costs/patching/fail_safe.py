"""Errors inside the package disable measuring; they never propagate into training."""

from __future__ import annotations

import dis
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, final

_log = logging.getLogger("lightning_costs")


def _handle(record: logging.LogRecord) -> None:
    """Pass a record of the package to the script's handlers, which may raise: a message must not end the training.

    `logging` itself raises if stderr is closed, and a handler or a filter of the script's whatever it wants.
    """
    with suppress(Exception):
        logging.Logger.handle(_log, record)


_log.handle = _handle  # type: ignore[method-assign]


class FailSafe(Protocol):
    """Something that measures, until something goes wrong in it."""

    @property
    def broken(self) -> bool:
        """Whether measuring has stopped."""

    def disable(self) -> None:
        """Called where an exception is handled: say it, and leave the training alone from now on."""


S = TypeVar("S", bound=FailSafe)
P = ParamSpec("P")
R = TypeVar("R")


def fail_safe(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R | None]:
    """Wrap a method so that it never raises. After an error, measuring stops and guarded methods do nothing."""

    @wraps(method)
    def tried(measuring: S, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        if measuring.broken:
            return None
        try:
            return method(measuring, *args, **kwargs)
        except Exception as error:
            if raised_by_signal(error):
                raise
            measuring.disable()  # an internal error must not become an error of the user's training
            return None

    return tried


def never_harmful(hook: Callable[P, R]) -> Callable[P, R | None]:
    """Wrap a hook that other code calls: its internal errors are logged."""

    @wraps(hook)
    def careful(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return hook(*args, **kwargs)
        except Exception as error:
            if raised_by_signal(error):
                raise
            _log.exception("measuring costs failed in %s; training continues. Please report this", hook.__name__)
            return None

    return careful


@final
class _Call:
    """One call of the user's function: whether it was made, and how it ended."""

    __slots__ = ("error", "function", "made", "result")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.made = False
        self.result: Any = None
        self.error: BaseException | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.made = True
        try:
            self.result = self.function(*args, **kwargs)
        except BaseException as error:
            self.error = error
            raise
        return self.result


def carefully(
    function: Callable[..., Any],
    around: Callable[[Callable[..., Any]], Callable[..., Any]],
    failed: Callable[[], None],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Call `around(function)` so that only what `function` itself raises reaches the caller.

    If `around` raises before the call, the function is called with the caller's arguments. If it raises after the
    call, the caller gets what the function returned or raised.

    Example:
        >>> def fails(function):
        ...     def call(x):
        ...         function(x)
        ...         raise ValueError("a fault of ours")
        ...     return call
        >>> carefully(abs, fails, lambda: print("stopped"), [-2], {})
        stopped
        2
    """
    call = _Call(function)
    try:
        return around(call)(*args, **kwargs)
    except Exception as error:
        if error is call.error or raised_by_signal(error):
            raise
        failed()
    if call.error is not None:
        raise call.error
    return call.result if call.made else function(*args, **kwargs)


def raised_by_signal(error: BaseException) -> bool:
    """Whether a handler of a signal raised it, which ran while our code happened to run: it is meant for the script.

    A limit of time by SIGALRM is one, and torch's notice that a DataLoader's worker has died.
    """
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def reraise_from_signal(error: Exception) -> None:
    """Raise what a handler of a signal raised; any other error is the caller's to handle."""
    if raised_by_signal(error):
        raise error


def _code_of(handler: Any) -> Any:
    """The code of a function, of a method, of a partial of them, or of what is called as one."""
    function = getattr(handler, "func", handler)
    function = getattr(function, "__func__", function)
    if not hasattr(function, "__code__"):
        function = vars(type(function)).get("__call__")
    return getattr(function, "__code__", None)


def raised_on_purpose(error: BaseException) -> bool:
    """Whether Python code outside of torch raised it by its own statement, so that the package did not cause it.

    What a C function raises (torch's checks), and what torch's own Python raises, may come of being watched. Memory
    that ran out is nothing to try again with.
    """
    ran_out = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
    if not isinstance(error, Exception) or ran_out or "DefaultCPUAllocator" in str(error):
        return True
    trace = error.__traceback__
    if trace is None:
        return True
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    module = str(trace.tb_frame.f_globals.get("__name__", ""))
    if module.partition(".")[0] in ("torch", "lightning_costs"):
        return False
    return dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
