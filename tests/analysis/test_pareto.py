import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.analysis.pareto import nondominated

GRID = st.one_of(st.none(), st.just(math.nan), st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf]))
ROWS = st.lists(st.tuples(GRID, GRID), max_size=12)
DIRECTIONS = st.tuples(st.sampled_from(["lower", "higher"]), st.sampled_from(["max", "min"]))


def dominates(a, b, better, mode):
    cost = (lambda x, y: x <= y) if better == "lower" else (lambda x, y: x >= y)
    quality = (lambda x, y: x >= y) if mode == "max" else (lambda x, y: x <= y)
    return cost(a[0], b[0]) and quality(a[1], b[1]) and a != b


def complete(row):
    return all(value is not None and not math.isnan(value) for value in row)


def front(rows, better="lower", mode="max"):
    return nondominated([c for c, _ in rows], [q for _, q in rows], better=better, mode=mode)


@given(ROWS, DIRECTIONS)
def test_front_is_what_brute_force_over_all_pairs_finds(rows, directions):
    present = [row for row in rows if complete(row)]
    expected = [complete(row) and not any(dominates(other, row, *directions) for other in present) for row in rows]
    assert front(rows, *directions) == expected


@given(ROWS, DIRECTIONS, st.randoms())
def test_order_of_runs_is_irrelevant_to_the_front(rows, directions, random):
    order = list(range(len(rows)))
    random.shuffle(order)
    kept = front(rows, *directions)
    assert front([rows[i] for i in order], *directions) == [kept[i] for i in order]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=3), DIRECTIONS)
def test_dominance_is_transitive_and_two_rows_show_it(rows, directions):
    def beats(a, b):
        return front([a, b], *directions) == [True, False]

    a, b, c = rows
    if beats(a, b) and beats(b, c):
        assert beats(a, c)


@given(ROWS, DIRECTIONS)
def test_every_complete_row_off_the_front_is_dominated_by_one_on_it(rows, directions):
    kept = front(rows, *directions)
    best = [row for row, on in zip(rows, kept, strict=True) if on]
    for row, on in zip(rows, kept, strict=True):
        if complete(row) and not on:
            assert any(dominates(other, row, *directions) for other in best)


def test_exact_duplicates_stay_on_the_front():
    assert front([(1.0, 0.9), (1.0, 0.9), (2.0, 0.9)]) == [True, True, False]


def test_a_missing_value_leaves_only_that_row_out():
    assert front([(None, 0.99), (2.0, 0.9), (1.0, None), (3.0, 0.8)]) == [False, True, False, False]


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="got 2 costs, 1 qualities"):
        nondominated([1.0, 2.0], [1.0])
