"""Matched pairs against exact arithmetic over all pairs of runs."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import declaration, make_run

from lightning_costs import compare
from lightning_costs.analysis.matched import MOST_LISTED, matched_pairs
from lightning_costs.analysis.windows import count_within, first_pairs, widest_pairs, width
from lightning_costs.report.tables.agreement import matched_lines

#: Near and at the tolerance, equal, nothing, missing, endless, below nothing.
GRID = [None, 0.0, 1.0, 1.05, 1.0500001, 1.1025, 2.0, 2.1, 4.0, 4.2, 40.0, math.inf, -1.0]
AMOUNT = st.one_of(st.sampled_from(GRID), st.integers(80, 120).map(lambda n: n / 100))
COLUMNS = st.integers(0, 9).flatmap(
    lambda n: st.lists(st.lists(AMOUNT, min_size=n, max_size=n), min_size=2, max_size=4)
)


def exact(amount):
    """The decimal number that an amount is written as."""
    return None if amount is None or not 0 <= amount < math.inf else Fraction(str(amount))


def by_loops(columns, tolerance):
    """Column to its pairs, and per other column: how many pairs have both, how many differ, the largest ratio."""
    factor = 1 + Fraction(str(tolerance))
    found = {}
    for name, column in columns.items():
        pairs = [
            (i, j)
            for i, j in itertools.combinations(range(len(column)), 2)
            if None not in (a := exact(column[i]), b := exact(column[j])) and max(a, b) <= min(a, b) * factor
        ]
        hides = {}
        for other, amounts in columns.items():
            both = [(exact(amounts[i]), exact(amounts[j])) for i, j in pairs]
            ratios = [max(x, y) / min(x, y) for x, y in both if x and y]
            if ratios and other != name:
                hides[other] = (len(ratios), sum(ratio > factor for ratio in ratios), float(max(ratios)))
        if pairs:
            found[name] = ({frozenset(pair) for pair in pairs}, hides)
    return found


@settings(deadline=None)
@given(COLUMNS, st.sampled_from([0.0, 0.05, 0.1, 1.0]))
def test_matched_pairs_and_what_they_hide_are_those_of_exact_arithmetic_over_all_pairs(columns, tolerance):
    columns = {f"c{index}": column for index, column in enumerate(columns)}
    runs = [str(index) for index in range(len(columns["c0"]))]
    rows = {row["column"]: row for row in matched_pairs(runs, columns, [None] * len(runs), tolerance)["rows"]}
    expected = by_loops(columns, tolerance)
    assert list(rows) == list(expected)
    for name, (pairs, hides) in expected.items():
        row = rows[name]
        listed = [frozenset((int(pair["a"]), int(pair["b"]))) for pair in row["listed"]]
        assert (row["pairs"], len(set(listed))) == (len(pairs), len(listed))
        assert set(listed) <= pairs
        assert len(listed) == min(len(pairs), MOST_LISTED)
        assert {other: (hid["n"], hid["differ"]) for other, hid in row["hides"].items()} == {
            other: (n, differ) for other, (n, differ, _) in hides.items()
        }
        for other, hid in row["hides"].items():
            assert hid["most"] == pytest.approx(hides[other][2])
            a, b = (exact(columns[other][int(run)]) for run in hid["example"])
            assert float(max(a, b) / min(a, b)) == pytest.approx(hid["most"])
        for pair in row["listed"]:
            for other, ratio in pair["others"].items():
                a, b = (exact(columns[other][int(pair[end])]) for end in "ab")
                assert ratio == (pytest.approx(float(b / a)) if a and b else None)
                differs = bool(a and b) and max(a, b) > min(a, b) * (1 + Fraction(str(tolerance)))
                assert (other in pair["differ"]) == differs


def hidden(pair):
    return max((abs(math.log(ratio)) for ratio in pair["others"].values() if ratio is not None), default=0.0)


def test_of_very_many_matched_pairs_all_are_counted_and_the_widest_is_the_widest_of_all():
    # 79,800 pairs by params, most of whose neighbours are close in compute: the widest ones are far apart in the order.
    rng = np.random.default_rng(7)
    params = np.linspace(1.0, 1.04, 400)
    flop = np.where(np.arange(400) < 200, 1.0, 50.0) * rng.uniform(1.0, 1.2, 400)
    columns = {"params": params.tolist(), "flop": flop.tolist()}
    row = matched_pairs([str(i) for i in range(400)], columns, [1.0] * 400, 0.05)["rows"][0]
    first, second = np.triu_indices(400, 1)
    ratios = np.maximum(flop[first], flop[second]) / np.minimum(flop[first], flop[second])
    assert (row["pairs"], row["hides"]["flop"]["n"]) == (79_800, 79_800)
    assert row["hides"]["flop"]["differ"] == (ratios > 1.05).sum()
    assert row["hides"]["flop"]["most"] == pytest.approx(ratios.max())
    widest = np.sort(np.log(ratios))[::-1][:MOST_LISTED]
    assert [hidden(pair) for pair in row["listed"]] == pytest.approx(widest.tolist())


@settings(deadline=None)
@given(COLUMNS)
def test_the_pairs_that_are_listed_hide_no_less_than_any_other(columns):
    columns = {f"c{index}": column * 4 for index, column in enumerate(columns)}
    runs = [str(index) for index in range(len(columns["c0"]))]
    for row in matched_pairs(runs, columns, [None] * len(runs), 1.0)["rows"]:
        sizes = [hidden(pair) for pair in row["listed"]]
        assert sizes == pytest.approx(sorted(sizes, reverse=True))
        every = sorted((hid["most"] for hid in row["hides"].values()), reverse=True)
        assert math.exp(sizes[0]) == pytest.approx(every[0] if every else 1.0)


WINDOWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=14)


@given(WINDOWS, st.integers(1, 30))
def test_windows_are_counted_and_searched_as_loops_over_their_pairs_do(rows, most):
    values = np.array([value for value, _ in rows], dtype=float)
    ends = np.array([min(len(rows), i + 1 + size) for i, (_, size) in enumerate(rows)], dtype=np.int64)
    pairs = [(i, j) for i in range(len(rows)) for j in range(i + 1, ends[i])]
    low, high = values - 1, values + 2
    assert width(ends) == len(pairs)
    assert first_pairs(ends, most) == pairs[:most]
    assert count_within(values, low, high, ends) == sum(low[i] <= values[j] <= high[i] for i, j in pairs)
    apart = sorted((abs(values[i] - values[j]) for i, j in pairs if values[i] != values[j]), reverse=True)
    found = widest_pairs(values, ends, most)
    assert [abs(values[i] - values[j]) for i, j in found] == apart[:most]
    assert len(set(found)) == len(found)
    assert set(found) <= set(pairs)


@pytest.mark.parametrize(
    ("a", "b", "factor"),
    [(4.0, 4.2, 1.0), (0.4, 0.42, 1e9), (1.1, 1.155, 1e-3), (2.2, 2.31, 3.6e6), (0.58, 0.609, 1e6), (8.2, 8.61, 0.01)],
)
def test_a_pair_at_exactly_the_tolerance_is_matched_and_does_not_differ(a, b, factor):
    columns = {"params": [a, b], "flop": [a * factor, b * factor], "other": [b * factor, a * factor]}
    for row in matched_pairs(["a", "b"], columns, [None, None], 0.05)["rows"]:
        assert row["pairs"] == 1
        assert [hid["differ"] for hid in row["hides"].values()] == [0, 0]
        assert row["listed"][0]["differ"] == []


def test_a_pair_just_past_the_tolerance_differs():
    columns = {"params": [4.0, 4.0], "flop": [4.0, 4.200001]}
    (row,) = matched_pairs(["a", "b"], columns, [None, None], 0.05)["rows"]
    assert row["hides"]["flop"]["differ"] == 1


def test_the_page_tells_no_difference_of_a_pair_at_exactly_the_tolerance():
    declared = {
        name: declaration(name, unit, "static", "size", headline=True)
        for name, unit in (("params", "params"), ("forward_mac", "mac"))
    }
    runs = [
        make_run(name, costs={}, statics={"params": p, "forward_mac": m}, declared=declared)
        for name, p, m in (("a", 4.0, 0.4), ("b", 4.2, 0.42))
    ]
    for line in matched_lines(compare(runs)):
        assert (line.pairs, line.hides, line.examples) == (1, [], [])
