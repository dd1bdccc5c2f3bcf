"""Which batches are counted, and which steps are timed."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from lightning_costs.probes.opcount.sampling import drawn, scattered


@pytest.mark.parametrize("length", [2, 16, 64, 1000])
def test_numbers_of_blocks_are_even_and_those_of_neighbours_are_unrelated(length):
    places = [scattered(length * block, length) % length for block in range(20_000)]
    expected = len(places) / length
    chi_square = sum((places.count(place) - expected) ** 2 / expected for place in range(length))
    assert abs(chi_square - (length - 1)) < 5 * math.sqrt(2 * (length - 1)) + 5
    middle = (length - 1) / 2
    together = sum((a - middle) * (b - middle) for a, b in pairwise(places)) / sum((a - middle) ** 2 for a in places)
    assert abs(together) < 5 / math.sqrt(len(places))


def test_a_batch_of_each_block_is_drawn_evenly_and_is_that_of_one_of_its_halves():
    firsts = [drawn(32 * block, 32) - 32 * block for block in range(8_000)]
    expected = len(firsts) / 32
    chi_square = sum((firsts.count(place) - expected) ** 2 / expected for place in range(32))
    assert abs(chi_square - 31) < 5 * math.sqrt(62)
    assert all(drawn(32 * b, 32) in (drawn(32 * b, 16), drawn(32 * b + 16, 16)) for b in range(500))
