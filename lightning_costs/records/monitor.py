"""What a run trains for: a quality metric, which direction of it is better, and how much of it is aimed at."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable
from typing import Any, final


def validate_monitor(monitor: str | None, mode: str | None) -> None:
    """Refuse a metric without its direction, a direction that is none, and a direction of no metric.

    Raises:
        ValueError: Says what to give.
    """
    if mode not in (None, "max", "min"):
        raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
    if monitor is not None and mode is None:
        raise ValueError(f"monitor={monitor!r} needs mode='max' or mode='min': which direction is better?")
    if monitor is None and mode is not None:
        raise ValueError(f"mode={mode!r} needs monitor=, the name of the metric that it is the direction of")


def targets_of(given: float | Iterable[float]) -> tuple[float, ...]:
    """Quality targets, as one number or several.

    Raises:
        ValueError: For what is no number.

    Example:
        >>> targets_of(0.9), targets_of([0.9, 0.95])
        ((0.9,), (0.9, 0.95))
        >>> targets_of("0.9")
        Traceback (most recent call last):
        ValueError: targets must be numbers, such as 0.9 or [0.9, 0.95], got '0.9'
    """
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes)
    targets: tuple[Any, ...] = tuple(given) if several else (given,)  # type: ignore[arg-type]
    for target in targets:
        if isinstance(target, str | bytes | bool) or not hasattr(target, "__float__") or math.isnan(target):
            raise ValueError(f"targets must be numbers, such as 0.9 or [0.9, 0.95], got {target!r}")
    return tuple(float(target) for target in targets)


def validate_targets(monitor: str | None, targets: Collection[float]) -> None:
    """Refuse targets of no metric.

    Raises:
        ValueError: Says what to give.
    """
    if targets and monitor is None:
        shown = [*targets] if len(targets) > 1 else next(iter(targets))
        raise ValueError(f"targets={shown!r} need monitor= and mode=: which metric are they targets of?")


@final
class UnloggedMonitor:
    """Notices that the metric a run is to be judged by is never logged, as soon as that is known, and warns once.

    A name that differs from a logged one in punctuation and case alone is a slip, reported after the first evaluation.
    Any other name may be that of a metric which an epoch's end logs: the end of that epoch, or of the run, is awaited.

    Example:
        >>> watch = UnloggedMonitor("val_acc")
        >>> watch.evaluated(["val/acc", "val/loss"])
        "monitor='val_acc' was not logged, so no quality is recorded. Did you mean 'val/acc'? Logged: val/acc, val/loss"
        >>> watch.evaluated(["val/acc"])
    """

    def __init__(self, monitor: str | None) -> None:
        self._monitor = monitor
        self._logged: set[str] = set()
        self._evaluated = False

    def logged(self, logged: Iterable[str]) -> None:
        """A training step logged these metrics."""
        self._logged.update(logged)

    def evaluated(self, logged: Iterable[str]) -> str | None:
        """What to say after an evaluation that logged these metrics."""
        self._evaluated = True
        self._logged.update(logged)
        return self._words() if self._slips() else None

    def epoch_ended(self, logged: Iterable[str]) -> str | None:
        """What to say at the end of an epoch."""
        self._logged.update(logged)
        return self._words() if self._evaluated else None

    def run_ended(self) -> str | None:
        """What to say at the end of a run."""
        return self._words()

    def _slips(self) -> list[str]:
        return [name for name in sorted(self._logged) if _plain(name) == _plain(self._monitor or "")]

    def _words(self) -> str | None:
        monitor, self._monitor = self._monitor, None if self._monitor not in self._logged else self._monitor
        if monitor is None or monitor in self._logged:
            return None
        names = sorted(self._logged)
        slips = [name for name in names if _plain(name) == _plain(monitor)]
        near = slips or difflib.get_close_matches(monitor, names, n=3, cutoff=0.4)
        meant = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
        known = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"
        return f"monitor={monitor!r} was not logged, so no quality is recorded.{meant} Logged: {known}"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()
