"""When to count again: batches drawn at random, at a rate that falls, within a share of the training's time."""

from __future__ import annotations

import math
from typing import final

#: Seconds that counting may take in any training; a share of its first 10 s beside them, and of what it takes beyond.
ALLOWED_S = 0.005
FIRST_SHARE = 0.003
FIRST_S = 10.0
SHARE = 0.001
#: Counts that agree are apart by the batches so far over this.
AGREEING = 8.0
#: They are apart by this number of batches at least.
LEAST_APART = 16


#: A count costs this share of what it took at least, and the other one if the length of other batches is unknown.
LEAST_COST, UNKNOWN_COST = 0.1, 0.5
_64_BITS = (1 << 64) - 1


@final
class RecountSchedule:
    """Draws which batch is counted next: one of each block, whose length grows.

    Blocks are powers of two and begin at their multiples. The batch of a block is that of one of its halves, by a coin
    that depends on nothing but the block. So ranks that count at different rates count batches of which the rarer ones
    are among the others. A rank waits for one that counts, and ranks that count the same batch wait once.
    """

    def __init__(self) -> None:
        #: Seconds and number of counts; of those of kinds that had none, apart; seconds of the last one.
        self._took_s = self._new_s = self._last_s = 0.0
        self._counts = self._new = 0
        #: The batch to be counted next, from 0.
        self.at = drawn(LEAST_APART // 2, LEAST_APART // 2)

    def plan(self, done: int, *, busy_s: float, step_s: float | None, wanted: float = 0.0) -> None:
        """Draw the next batch.

        Args:
            done: Batches so far.
            busy_s: Seconds of training so far.
            step_s: Seconds of a batch that is not counted; None if unknown.
            wanted: Number of counts that would make the total precise enough; 0 if counts agree.
        """
        short_s = max(0.0, -self.left_s(busy_s, step_s))
        share = FIRST_SHARE if busy_s < FIRST_S else SHARE
        each_s = step_s or UNKNOWN_COST * self._last_s
        affordable = short_s / share / each_s if each_s else 1.0
        # Counts spread evenly over whatever length the training will have, if part of the seconds lasts till now.
        cost_s = self._cost_s(step_s)
        many = (ALLOWED_S / 4 + share * busy_s) / cost_s if cost_s else AGREEING
        apart = done / min(max(AGREEING, wanted), max(2.0, many))
        least = 1 if wanted else LEAST_APART
        # Now and then one whatever it costs: counts that are never checked are worth nothing.
        apart = min(max(affordable, apart, least), max(4 * done, LEAST_APART))
        length = 1 << math.floor(math.log2(max(1.0, apart)))
        self.at = drawn(-(-(done + 1) // length) * length, length)

    def took(self, took_s: float, *, again: bool = True) -> None:
        """A batch was counted, which took so long; `again` if one like it had been."""
        self._counts += 1
        if again:
            self._took_s += took_s
            self._last_s = took_s
        else:
            self._new += 1
            self._new_s += took_s
            self._last_s = self._last_s or took_s

    def _cost_s(self, step_s: float | None) -> float:
        """Seconds that one more count costs."""
        return _excess_s(self._last_s, 1, step_s)

    def left_s(self, busy_s: float, step_s: float | None) -> float:
        """Seconds that may be spent on counting, less what one more count costs; negative if it has to wait.

        What counts so far cost is known as well as `step_s` is now: a training's first batches are longer than others.
        """
        took_s = self._took_s + min(self._new_s, self._new * self._last_s)  # what is made once is not counting's
        allowed_s = ALLOWED_S + FIRST_SHARE * min(busy_s, FIRST_S) + SHARE * max(0.0, busy_s - FIRST_S)
        return allowed_s - _excess_s(took_s, self._counts, step_s) - self._cost_s(step_s)


def _excess_s(took_s: float, counts: int, step_s: float | None) -> float:
    """What counted batches took beyond others."""
    return UNKNOWN_COST * took_s if step_s is None else max(took_s - counts * step_s, LEAST_COST * took_s)


def drawn(start: int, length: int) -> int:
    """A batch of a block, as likely as any other; that of a block is that of one of its halves.

    Args:
        start: The block's first batch, a multiple of `length`.
        length: A power of two.

    Example:
        >>> drawn(0, 64) in {drawn(0, 32), drawn(32, 32)}
        True
    """
    while length > 1:
        second_half = scattered(start, length) & 1
        length //= 2
        start += length * second_half
    return start


def scattered(start: int, length: int) -> int:
    """A number of 64 bits that depends on a block alone, and looks random: SplitMix64's mixing (Steele et al. 2014).

    Ranks draw the same one, and a generator of Python's takes ten times as long to seed.
    """
    z = (start * 0x9E3779B97F4A7C15 + length) & _64_BITS
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _64_BITS
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _64_BITS
    return z ^ z >> 31
