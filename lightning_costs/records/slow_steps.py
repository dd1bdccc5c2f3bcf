"""Steps that took longer than the median of steps like them: how much longer."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import final

#: Durations that the median of a signature is taken of, and signatures that are told apart.
MOST_TIMES, MOST_SIGNATURES = 128, 64
#: Fewer steps of a signature have no median that is worth a comparison.
LEAST_TIMES = 3


@final
class SlowSteps:
    """Compares durations of steps with the median of the last ones of their signature.

    Example:
        >>> slow = SlowSteps()
        >>> slow.excess_s("a", [1.0, 1.0, 1.0, 3.0]), slow.excess_s("a", [1.0, 1.5])
        (2.0, 0.5)
    """

    __slots__ = ("_times_s", "_usual_s")

    def __init__(self) -> None:
        self._times_s: dict[Hashable, list[float]] = {}
        self._usual_s: dict[Hashable, float] = {}

    def excess_s(self, signature: Hashable, times_s: Sequence[float]) -> float:
        """Seconds above the median, added up over these steps; none of a signature that has hardly been seen."""
        recent = self._times_s.get(signature)
        if recent is None:
            if len(self._times_s) >= MOST_SIGNATURES:
                return 0.0
            recent = self._times_s[signature] = []
        self._usual_s.pop(signature, None)
        recent += times_s[-MOST_TIMES:]
        del recent[:-MOST_TIMES]
        if len(recent) < LEAST_TIMES:
            return 0.0
        ascending, half = sorted(recent), len(recent) // 2
        usual_s = ascending[half] if len(recent) % 2 else (ascending[half - 1] + ascending[half]) / 2
        self._usual_s[signature] = usual_s
        return sum([took_s - usual_s for took_s in times_s if took_s > usual_s])

    def usual_s(self, signature: Hashable) -> float | None:
        """The median of a signature's steps; None of one that has hardly been seen."""
        return self._usual_s.get(signature)
