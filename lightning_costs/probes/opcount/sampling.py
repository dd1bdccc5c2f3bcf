"""When to count again: batches drawn at random, at a rate that falls, within a share of the training's time."""

from __future__ import annotations

import math
import random
from typing import final

#: Seconds that counting may take in any training, and in one whose steps vary; a share of its first 10 s beside them,
#: and of what it takes beyond.
ALLOWED_S = 0.004
ALLOWED_IF_VARYING_S = 0.02
FIRST_SHARE = 0.003
FIRST_S = 10.0
SHARE = 0.001
#: Counts that agree are apart by the batches so far over this.
AGREEING = 8.0
#: They are apart by this number of batches at least.
LEAST_APART = 16


@final
class RecountSchedule:
    """Draws which batch is counted next: one of each block, whose length grows.

    Blocks are powers of two and begin at their multiples, and the draw depends on nothing else. Ranks that count at
    about the same rate count the same batches. So they wait for each other no longer than one of them counts.
    """

    def __init__(self) -> None:
        self._spent_s = self._cost_s = 0.0
        #: The batch to be counted next, from 0.
        self.at = self._draw(LEAST_APART // 2, LEAST_APART)

    def plan(self, done: int, *, busy_s: float, step_s: float, wanted: float = 0.0) -> None:
        """Draw the next batch.

        Args:
            done: Batches so far.
            busy_s: Seconds of training so far.
            step_s: Seconds of a batch that is not counted.
            wanted: Number of counts that would make the total precise enough; 0 if counts agree.
        """
        short_s = max(0.0, -self.left_s(busy_s, varies=wanted > 0))
        share = FIRST_SHARE if busy_s < FIRST_S else SHARE
        affordable = short_s / share / step_s if step_s > 0 else 1.0
        # Counts spread evenly over whatever length the training will have, if part of the seconds lasts till now.
        begun_s = ALLOWED_IF_VARYING_S if wanted else ALLOWED_S
        many = (begun_s / 4 + share * busy_s) / self._cost_s if self._cost_s else AGREEING
        apart = done / min(max(AGREEING, wanted), max(2.0, many))
        least = 1 if wanted else LEAST_APART
        # Now and then one whatever it costs: counts that are never checked are worth nothing.
        apart = min(max(affordable, apart, least), max(4 * done, LEAST_APART))
        length = 1 << math.floor(math.log2(max(1.0, apart)))
        self.at = self._draw(-(-(done + 1) // length) * length, length)

    @staticmethod
    def _draw(start: int, length: int) -> int:
        return start + random.Random(start * 1_000_003 + length).randrange(length)

    def spent(self, took_s: float, step_s: float, *, again: bool = True) -> None:
        """A batch was counted, which took so long instead of `step_s`; `again` if one like it had been."""
        spent_s = max(took_s - step_s, 0.1 * took_s)
        self._spent_s += spent_s
        if again or not self._cost_s:
            self._cost_s = spent_s

    def left_s(self, busy_s: float, *, varies: bool) -> float:
        """Seconds that may be spent on counting, less what one more count takes; negative if it has to wait."""
        allowed_s = ALLOWED_IF_VARYING_S if varies else ALLOWED_S
        allowed_s += FIRST_SHARE * min(busy_s, FIRST_S) + SHARE * max(0.0, busy_s - FIRST_S)
        return allowed_s - self._spent_s - self._cost_s
