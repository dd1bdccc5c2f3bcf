"""Faults on purpose: any function of ours raises at any of its calls, while something of the user's runs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

import lightning_costs

_HOME = lightning_costs.__path__[0]
#: Files between a caller of ours and a function of ours that are nobody's: `with`, `wraps`, `partial`.
_BETWEEN = ("contextlib.py", "functools.py")
#: What handles faults: it is what is tested.
_GUARDS = {"fail_safe.py"}
_GUARDS_BY_NAME = {"stop_measuring", "_fail", "_found", "_made", "Patches.lift", "Patches.suspend"}
#: They compare an attribute and call what is guarded: at a repeated step, a guard would cost more than they do.
_NOTHING_TO_RAISE = {"LoopSession.forward", "LoopSession._stepped"}
#: What stands in the place of a function of the user's: a patch of ours that calls it cannot be careful.
_IN_PLACE_OF_THE_USERS = {
    "between.<locals>.wrap.<locals>.call",
    "StepPatches._step.<locals>.run",
    "StepPatches._step.<locals>.run_timed",
    "StepPatches._watch_fetching.<locals>.begins",
}


class Fault(Exception):  # noqa: N818 - it is raised on purpose
    """A fault of ours."""


class Place(NamedTuple):
    """A function of ours, and how often it was called by another one."""

    code: CodeType
    calls: int

    @property
    def name(self) -> str:
        return f"{self.code.co_filename.removeprefix(_HOME)[1:]}:{self.code.co_qualname}"


def _ours(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_code.co_filename.startswith(_HOME)


def _counts(frame: FrameType) -> bool:
    """Whether one function of ours calls another here: whoever calls from outside has no way to be careful."""
    code = frame.f_code
    if (
        not _ours(frame)
        or code.co_filename.rpartition("/")[2] in _GUARDS
        or {code.co_name, code.co_qualname} & (_GUARDS_BY_NAME | _IN_PLACE_OF_THE_USERS | _NOTHING_TO_RAISE)
    ):
        return False
    caller, through_with = frame.f_back, False
    while caller is not None and caller.f_code.co_filename.endswith(_BETWEEN):
        through_with = through_with or caller.f_code.co_filename.endswith("contextlib.py")
        caller = caller.f_back
    resumed = bool(code.co_flags & 0x20) and frame.f_lasti > 2  # a generator goes on after a yield
    return _ours(caller) and (through_with or not resumed)


def places(work: Callable[[], object]) -> list[Place]:
    """Every function of ours that another one calls while `work` runs."""
    seen: Counter[CodeType] = Counter()

    def trace(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and _counts(frame):
            seen[frame.f_code] += 1

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    found = [Place(code, calls) for code, calls in seen.items()]
    return sorted(found, key=lambda place: place.name)


def moments(place: Place) -> Iterator[int]:
    """Which of its calls raises: the first two, one in the middle, the last."""
    yield from sorted({0, 1, place.calls // 2, place.calls - 1} & set(range(place.calls)))


def _fault() -> None:
    raise Fault


def with_fault(place: Place, at: int, work: Callable[[], Any], fault: Callable[[], None] = _fault) -> tuple[Any, bool]:
    """What `work` returns while one call of a function of ours raises, and whether it came to that."""
    calls, raised = 0, False

    def trace(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal calls, raised
        if event != "call" or frame.f_code is not place.code or not _counts(frame):
            return
        calls += 1
        if calls == at + 1:
            raised = True
            fault()

    sys.settrace(trace)
    try:
        return work(), raised
    finally:
        sys.settrace(None)
