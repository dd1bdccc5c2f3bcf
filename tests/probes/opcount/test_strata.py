"""Totals from counts of some batches: exact where the counts agree, and intervals that hold the truth."""

import random
from statistics import fmean

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.probes.opcount import sampling
from lightning_costs.probes.opcount.sampling import (
    ALLOWED_S,
    FIRST_S,
    FIRST_SHARE,
    SHARE,
    RecountSchedule,
)
from lightning_costs.probes.opcount.strata import Strata
from lightning_costs.probes.opcount.stratum import shares

ONE = (1.0,)


def drawn(amounts, *, keys=None, features=None, cost_s=0.001, step_s=0.01):
    """A training: the first batch of each kind is counted, and others as they are drawn."""
    strata, draws, spent_s, counted = Strata(lambda count: (count,)), RecountSchedule(), 0.0, 0
    for n, amount in enumerate(amounts):
        key = keys[n] if keys else None
        about = features[n] if features else ONE
        if n > draws.at:
            draws.plan(n - 1, busy_s=n * step_s, step_s=step_s, wanted=strata.wanted(0))
        is_drawn = n == draws.at
        stratum = strata.stratum(key, about)
        strata.book(stratum, about)
        if is_drawn or (stratum is not None and not stratum.counts and strata.counted < 64):
            strata.count(stratum, amount, features=about, drawn=is_drawn)
            counted += 1
            if is_drawn:
                draws.took(step_s + cost_s)
                spent_s += cost_s
    return strata, counted, spent_s


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**15)), min_size=1, max_size=60),
    st.data(),
)
def test_counts_that_agree_give_the_exact_total_in_whole_numbers(kinds, data):
    amounts = dict(kinds)
    order = data.draw(st.lists(st.sampled_from(sorted(amounts)), min_size=1, max_size=200))
    strata, _, _ = drawn([amounts[key] for key in order], keys=order)
    assert strata.total(0) == sum(amounts[key] for key in order)
    assert strata.estimate(0).exact
    assert strata.estimate(0).half_width == 0


@given(st.integers(1, 500), st.data())
def test_shares_add_up_to_the_batches(batches, data):
    positions = sorted(data.draw(st.sets(st.integers(1, batches), min_size=1, max_size=20)))
    at_random = data.draw(st.lists(st.booleans(), min_size=len(positions), max_size=len(positions)))
    found = shares(batches, positions, at_random)
    assert found.sum() == pytest.approx(batches)
    assert (found >= 0).all()
    if any(at_random):
        assert all(share == 1 for share, was in zip(found, at_random, strict=True) if not was)


def test_a_first_batch_that_is_an_outlier_stands_for_itself_alone():
    strata, _, _ = drawn([10_000] + [7] * 999)
    found = strata.estimate(0)
    assert (found.amount, found.half_width, found.exact) == (10_000 + 7 * 999, 0, True)


VARYING = {
    "uniform": lambda chance, n: [chance.uniform(50, 150) for _ in range(n)],
    "layer drop": lambda chance, n: [5 + 10 * sum(chance.random() > 0.3 for _ in range(12)) for _ in range(n)],
    "exponential": lambda chance, n: [100 * chance.expovariate(1) for _ in range(n)],
    "a quarter, five times as much": lambda chance, n: [500 if chance.random() < 0.25 else 100 for _ in range(n)],
    "a trend": lambda chance, n: [100 + 300 * i / n + chance.uniform(-5, 5) for i in range(n)],
    "another stage": lambda chance, n: (lambda at: [100 if i < at else 300 for i in range(n)])(chance.randrange(n)),
}


@pytest.mark.parametrize("name", VARYING)
@pytest.mark.parametrize("batches", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_intervals_hold_the_truth_in_nine_of_ten_trainings(name, batches):
    trainings, held, errors = 40, 0, []
    for seed in range(trainings):
        amounts = VARYING[name](random.Random(seed), batches)
        strata, _, _ = drawn(amounts)
        found, truth = strata.estimate(0), sum(amounts)
        held += found.low <= truth * (1 + 1e-9) and truth * (1 - 1e-9) <= found.high
        errors.append(found.amount / truth - 1)
    assert held / trainings >= 0.85
    assert abs(fmean(errors)) < 0.1


@pytest.mark.parametrize("cost_s", [0.0005, 0.005, 0.05])
def test_counting_takes_its_share_of_the_time_and_some_counts_whatever_they_cost(cost_s):
    amounts = VARYING["uniform"](random.Random(0), 20_000)
    _, counted, spent_s = drawn(amounts, cost_s=cost_s)
    assert spent_s <= ALLOWED_S + FIRST_SHARE * FIRST_S + SHARE * 20_000 * 0.01 + 7 * cost_s
    assert counted >= 5


def test_what_was_never_counted_is_foretold_from_what_its_batches_look_like():
    chance = random.Random(1)
    lengths = [8 + int(chance.lognormvariate(4, 0.5)) for _ in range(2_000)]
    amounts = [1_000 * length + 3 * length**2 for length in lengths]
    features = [(1.0, 8.0 * length, 8.0 * length**2, 0.0, 0.0, 0.0, 0.0, 40.0) for length in lengths]
    strata, counted, _ = drawn(amounts, keys=lengths, features=features)
    assert counted < 300
    assert strata.total(0) == pytest.approx(sum(amounts), rel=1e-9)
    assert not strata.estimate(0).exact


def test_where_looks_tell_nothing_the_interval_is_as_wide_as_it_is():
    held = 0
    for seed in range(10):
        chance = random.Random(seed)
        amounts = [chance.uniform(50, 150) for _ in range(2_000)]
        features = [(1.0, chance.random(), chance.random(), 0.0, 0.0, 0.0, 0.0, 40.0) for _ in amounts]
        strata, _, _ = drawn(amounts, keys=list(range(2_000)), features=features)
        found = strata.estimate(0)
        held += found.low <= sum(amounts) <= found.high
    assert held >= 8


def test_one_kind_that_was_never_counted_may_be_wrong_by_all_that_it_is_taken_for():
    strata: Strata[int] = Strata(lambda count: (count,))
    for n in range(100):
        stratum = strata.stratum(n == 50, ONE)
        strata.book(stratum)
        if n == 0:
            strata.count(stratum, 10)
    found = strata.estimate(0)
    assert (found.exact, found.amount) == (False, 1000)
    assert found.half_width >= 10


def test_steady_batches_are_the_same_share_of_each_kind():
    strata: Strata[int] = Strata(lambda count: (count,))
    stratum = strata.stratum("k", ONE)
    for n in range(10):
        strata.book(stratum, steady=int(n > 3))
        if n in (0, 4, 5, 7, 9):
            strata.count(stratum, 10 + n, drawn=n > 0)
    assert strata.total(0, steady=True) == pytest.approx(strata.total(0) * 0.6)


def test_the_mean_of_kinds_that_are_each_known_is_exact():
    strata: Strata[int] = Strata(lambda count: (count,))
    for key in "aab":
        stratum = strata.stratum(key, ONE)
        strata.book(stratum)
        if not stratum.counts:
            strata.count(stratum, {"a": 4, "b": 10}[key])
    found = strata.mean(0, lambda key: True)
    assert (found.amount, found.exact, found.half_width) == (6, True, 0)
    assert strata.mean(0, lambda key: key == "c") is None


def counted_by(took_s, *, step_s=0.01, seed=0, known_step_s=lambda n: None, batches=5_000):
    """Batches that a rank counts whose counts agree and take so long."""
    chance, draws, found = random.Random(seed), RecountSchedule(), []
    for n in range(batches):
        if n > draws.at:
            known_s = known_step_s(n) or step_s * chance.uniform(0.99, 1.01)
            draws.plan(n - 1, busy_s=n * step_s * chance.uniform(0.99, 1.01), step_s=known_s)
        if n == draws.at:
            draws.took(took_s * chance.uniform(0.99, 1.01))
            found.append(n)
    return found


@pytest.mark.parametrize("times", [1, 1.5, 2, 5])
def test_ranks_that_count_at_other_rates_count_the_same_batches(times):
    """The rarer ones are among the others: what a rank counts alone, all others wait for."""
    one, other = counted_by(0.015, seed=1), counted_by(0.01 + 0.005 * times, seed=2)
    rare, often = sorted((set(one), set(other)), key=len)
    assert len(rare & often) >= 0.8 * len(rare) > 3


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=20), st.floats(0, 10), st.none() | st.floats(0, 1))
def test_whatever_counts_took_the_next_one_is_ahead_and_no_more_than_four_times_as_far(counts, busy_s, step_s):
    draws, done = RecountSchedule(), 100
    for took_s, again in counts:
        draws.took(took_s, again=again)
    draws.plan(done, busy_s=busy_s, step_s=step_s)
    assert done < draws.at <= 3 * 4 * done


@given(st.integers(0, 2**40), st.integers(0, 24))
def test_the_batch_of_a_block_is_that_of_one_of_its_halves(place, power):
    length = 2 << power
    start = place // length * length
    at = sampling.drawn(start, length)
    assert start <= at < start + length
    assert at in {sampling.drawn(start, length // 2), sampling.drawn(start + length // 2, length // 2)}


def test_every_batch_of_a_block_is_as_likely_as_the_others():
    length, blocks = 16, 8_000
    places = numpy.bincount([sampling.drawn(n * length, length) - n * length for n in range(blocks)])
    expected = blocks / length
    assert ((places - expected) ** 2 / expected).sum() < 37.7  # chi-squared of 15 degrees of freedom, a chance of 0.1 %


def test_first_batches_that_are_too_long_leave_no_more_counts_than_may_be():
    """A training's first batches are eight times as long as the rest: what counts cost is known only later."""
    step_s, took_s, batches = 0.001, 0.003, 20_000
    slow_s = [8 * step_s if n < 50 else step_s for n in range(batches)]
    found = counted_by(
        took_s, step_s=step_s, known_step_s=lambda n: sum(slow_s[:n]) / n if n < 500 else step_s, batches=batches
    )
    spent_s = len(found) * (took_s - step_s)
    whole_s = batches * step_s
    assert spent_s <= ALLOWED_S + FIRST_SHARE * min(FIRST_S, whole_s) + SHARE * max(0, whole_s - FIRST_S) + took_s


def test_ever_so_many_kinds_and_counts_are_bounded():
    amounts = numpy.arange(20_000)
    strata, _, _ = drawn([int(a) for a in amounts], cost_s=0.0, keys=[int(a) % 5_000 for a in amounts])
    assert len(list(strata)) <= 256
    assert all(len(stratum.counts) <= 513 for stratum in strata)
    assert strata.rest > 10_000


def test_a_kind_beyond_all_that_were_counted_may_be_off_by_as_much_as_it_is_beyond():
    """Cost is linear in the layers, but for the batch in which all are left out."""
    strata: Strata[int] = Strata(lambda count: (count,))
    truth = 0
    for layers in [3, 4, 5, 6, 5, 4, 3, 6, 0]:
        stratum = strata.stratum(layers, (1.0, 8.0, 0.0, 8.0, 0.0, 0.0, 0.0, 3.0 * layers))
        strata.book(stratum)
        cost = 200 * layers - 60 if layers else 2
        truth += cost
        if layers and not stratum.counts:
            strata.count(stratum, cost)
    found = strata.estimate(0)
    assert found.amount != truth
    assert found.low <= truth <= found.high


def test_if_no_stratum_was_counted_twice_intervals_have_what_features_leave_unexplained():
    """Steps of a forecaster on packed sequences, in a short training: nodes of autograd tell them apart roughly."""
    chance, held = random.Random(1), 0
    for _ in range(100):
        nodes = [675.0, 686.0, 697.0, 708.0, 719.0] + [chance.choice([675.0, 686.0, 697.0, 708.0]) for _ in range(19)]
        amounts = [5_000_000 - 2_000 * (n - 675) + chance.randrange(40_000) for n in nodes]
        strata = Strata(lambda count: (count,))
        for n, amount in zip(nodes, amounts, strict=True):
            stratum = strata.stratum(n, (1.0, 512.0, n))
            strata.book(stratum, (1.0, 512.0, n))
            if not stratum.counts and n != 719:
                strata.count(stratum, amount, features=(1.0, 512.0, n))
        found = strata.estimate(0)
        held += found.low <= sum(amounts) <= found.high
    assert held >= 80


def test_of_strata_that_are_known_by_others_alike_there_is_an_interval_too():
    strata = Strata(lambda count: (count,), alike=lambda key: key[0])
    for key, amount in [("a1", 7), ("a2", None), ("b1", 9), ("b1", None), ("c1", 8)]:
        stratum = strata.stratum(key, (1.0, 2.0, 3.0))
        strata.book(stratum)
        if amount is not None:
            strata.count(stratum, amount)
    found = strata.estimate(0)
    assert (found.amount, found.exact) == (7 + 7 + 9 + 9 + 8, False)
    assert 0 < found.half_width < 10


def test_batches_that_a_magnitude_alone_tells_apart_are_not_settled_by_one_count():
    """Rows that are unpadded by lengths: a kind has from 8 to 15 of them."""
    rows = [9, 30, 12, 17, 15, 25, 10, 20]
    for sized, exact in [(lambda key: "rows", False), (lambda key: None, True)]:
        strata: Strata[int] = Strata(lambda count: (count,), sized=sized)
        for number in rows:
            stratum = strata.stratum(number.bit_length(), (1.0, 32.0, float(1 << number.bit_length())))
            strata.book(stratum)
            if not stratum.counts:
                strata.count(stratum, 100 * number)
        found = strata.estimate(0)
        assert (found.exact, strata.agrees, found.amount) == (exact, exact, 4 * 900 + 4 * 3000)
        assert exact or found.low <= 100 * sum(rows) <= found.high


def test_batches_of_several_magnitudes_are_settled_by_counts_that_agree():
    strata: Strata[int] = Strata(lambda count: (count,), sized=lambda key: "rows")
    for key in [8, 32, 8, 32, 8, 8, 32]:
        stratum = strata.stratum(key, (1.0, float(key)))
        strata.book(stratum)
        if len(stratum.counts) < 2:
            strata.count(stratum, 100 * key)
    assert (strata.estimate(0).exact, strata.agrees, strata.total(0)) == (True, True, 4 * 800 + 3 * 3200)


def test_a_kind_is_in_proportion_to_a_feature_in_which_all_counted_ones_are_alike():
    """One batch in five repeats its rows four times, and none of these was counted."""
    strata: Strata[int] = Strata(lambda count: (count,))
    for n in range(50):
        rows = 32 if n % 5 == 4 else 8
        stratum = strata.stratum(rows, (1.0, 8.0, 0.0, 8.0, 0.0, 0.0, 0.0, 3.0, float(rows)))
        strata.book(stratum)
        if rows == 8 and len(stratum.counts) < 3:
            strata.count(stratum, 800)
    found = strata.estimate(0)
    assert found.low <= 40 * 800 + 10 * 3200 <= found.high
