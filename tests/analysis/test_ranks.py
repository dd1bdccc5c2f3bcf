import math

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.analysis.rank_correlation import discordant_pairs, kendall, rank_pairs, spearman

PAIRS = st.lists(
    st.tuples(st.integers(-3, 3), st.floats(-2, 2, allow_nan=False).map(lambda x: round(x, 1))),
    min_size=2,
    max_size=9,
)


def columns(pairs):
    return [float(a) for a, _ in pairs], [float(b) for _, b in pairs]


def varied(values):
    return len(set(values)) > 1


@given(PAIRS)
def test_spearman_equals_scipys_also_with_ties(pairs):
    x, y = columns(pairs)
    if not (varied(x) and varied(y)):
        assert spearman(x, y) is None
        return
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)


@given(PAIRS)
def test_tau_b_equals_scipys_also_with_ties(pairs):
    x, y = columns(pairs)
    tau = kendall(x, y)[0]
    if not (varied(x) and varied(y)):
        assert tau is None
        return
    assert tau == pytest.approx(scipy.stats.kendalltau(x, y).statistic, abs=1e-12)


@given(PAIRS)
def test_discordant_pairs_are_counted_apart_from_ties(pairs):
    x, y = columns(pairs)
    n = len(x)
    signs = [((x[i] > x[j]) - (x[i] < x[j])) * ((y[i] > y[j]) - (y[i] < y[j])) for i in range(n) for j in range(i)]
    _, concordant, discordant, ties = kendall(x, y)
    assert (concordant, discordant, ties) == (signs.count(1), signs.count(-1), signs.count(0))


@given(PAIRS)
def test_flips_name_each_discordant_pair_once_with_the_one_cheaper_by_the_first_in_front(pairs):
    x, y = columns(pairs)
    found = discordant_pairs([str(i) for i in range(len(x))], x, y)
    assert len(found) == kendall(x, y)[2]
    assert len({frozenset(pair) for pair in found}) == len(found)
    for a, b in found:
        assert x[int(a)] < x[int(b)]
        assert y[int(a)] > y[int(b)]


@given(PAIRS, st.randoms())
def test_order_of_runs_is_irrelevant_to_ranks(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert spearman(*columns(pairs)) == spearman(*columns(shuffled))
    assert kendall(*columns(pairs)) == kendall(*columns(shuffled))


@given(st.lists(st.integers(0, 50), min_size=2, max_size=30).filter(varied))
def test_full_agreement_is_exactly_one_and_full_reversal_exactly_minus_one(values):
    x = [float(value) for value in values]
    assert spearman(x, x) == 1.0
    assert spearman(x, [-value for value in x]) == -1.0


def test_an_indicator_where_higher_is_better_is_ranked_by_cheapness():
    ranks = rank_pairs(
        ["slow", "fast"],
        {"train_s": [9.0, 3.0], "samples_per_s": [10.0, 30.0]},
        {"train_s": "lower", "samples_per_s": "higher"},
    )
    assert ranks[0]["spearman"] == 1.0
    assert ranks[0]["flips"] == []


def test_runs_take_part_only_where_they_have_finite_both():
    ranks = rank_pairs(
        ["a", "b", "c", "d"],
        {"flop": [1.0, 2.0, None, 4.0], "energy_j": [2.0, 1.0, 3.0, math.inf]},
        {"flop": "lower", "energy_j": "lower"},
    )
    (pair,) = ranks
    assert (pair["n"], pair["discordant"], pair["flips"]) == (2, 1, [["a", "b"]])


def test_a_constant_indicator_has_no_correlation_rather_than_nan():
    ranks = rank_pairs(
        ["a", "b"], {"flop": [1.0, 1.0], "energy_j": [2.0, 1.0]}, dict.fromkeys(("flop", "energy_j"), "lower")
    )
    assert (ranks[0]["spearman"], ranks[0]["tau_b"], ranks[0]["ties"]) == (None, None, 1)


def test_no_run_at_all_has_no_correlation():
    assert spearman([], []) is None
    assert kendall([], []) == (None, 0, 0, 0)
