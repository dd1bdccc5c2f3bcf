"""What rank correlations can be where figures were printed with few digits, against every order there may be."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import declaration, make_run

from lightning_costs import compare
from lightning_costs.analysis import rounding
from lightning_costs.analysis.rank_correlation import rank_pairs, spearman
from lightning_costs.analysis.rounding import doubt, orders, spearman_range
from lightning_costs.sources.loader import load_runs


def pair_of(x, y, **how):
    runs = [str(index) for index in range(len(x))]
    (pair,) = rank_pairs(runs, {"x": x, "y": y}, dict.fromkeys("xy", "lower"), **how)
    return pair


def amounts_behind(column, place):
    """Every weak order of amounts of which each is within half a printed digit of its figure: a fine grid has them."""
    steps = range(-5, 6)
    grids = [[round(10 * value / place) + step for step in steps] for value in column]
    seen = {}
    for chosen in itertools.product(*grids):
        seen.setdefault(tuple(sorted(set(chosen)).index(value) for value in chosen), chosen)
    return [list(map(float, chosen)) for chosen in seen.values()]


TENTHS = st.integers(500, 503).map(lambda n: n / 10)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 4).flatmap(lambda n: st.tuples(*[st.lists(TENTHS, min_size=n, max_size=n)] * 2)))
def test_spearman_of_every_amount_behind_the_figures_is_within_what_is_said(columns):
    x, y = columns
    pair = pair_of(x, y)
    grid = itertools.product(amounts_behind(x, 0.1), amounts_behind(y, 0.1))
    every = [rho for a, b in grid if (rho := spearman(a, b)) is not None]
    if pair["rounded"] is None:
        assert len(set(every)) <= 1 or doubt(np.array(x), np.ones(len(x), bool)).max() == 0
        return
    assert pair["rounded_exactly"]
    assert pair["rounded"][0] <= min(every) + 1e-12
    assert max(every) <= pair["rounded"][1] + 1e-12


INTERVALS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=5)


def every_order(rows):
    """The weak orders of amounts that are each within [value - doubt, value + doubt]: on a grid that has them all."""
    fine = 6  # enough places between whole numbers for five amounts
    ranges = [range(fine * (value - width), fine * (value + width) + 1) for value, width in rows]
    found = set()

    def grow(chosen, rest):
        if not rest:
            found.add(tuple(sorted(set(chosen)).index(value) for value in chosen))
            return
        for value in rest[0]:
            grow((*chosen, value), rest[1:])

    grow((), ranges) if math.prod(map(len, ranges)) < 40_000 else None
    return found


@settings(deadline=None, max_examples=60)
@given(INTERVALS)
def test_the_orders_are_those_that_amounts_within_their_doubts_have(rows):
    expected = every_order(rows)
    if not expected:
        return
    values, widths = np.array(rows, dtype=float).T
    found = orders(values, widths)
    ranks = {tuple(sum(np.sign(a - b) for b in order) for a in order) for order in expected}
    assert {tuple(order) for order in found.every.tolist()} == ranks
    table = np.array(sorted(ranks))
    assert (table.min(axis=0) >= found.low).all()
    assert (table.max(axis=0) <= found.high).all()
    squares = (table**2).sum(axis=1)
    assert found.least <= squares.min()
    assert squares.max() <= found.most


@settings(deadline=None, max_examples=150)
@given(st.integers(2, 6).flatmap(lambda n: st.tuples(*[st.lists(TENTHS, min_size=n, max_size=n)] * 2)))
def test_bounds_hold_where_orders_are_too_many_to_go_through(columns):
    x, y = (np.array(column) for column in columns)
    sure = np.ones(len(x), dtype=bool)
    of_x, of_y = orders(x, doubt(x, sure)), orders(y, doubt(y, sure))
    exact = spearman_range(of_x, of_y)
    loose = spearman_range(of_x._replace(every=None), of_y)
    if exact is not None and exact[2]:
        assert loose[0] <= exact[0] + 1e-12
        assert exact[1] <= loose[1] + 1e-12
        assert not loose[2]


def test_all_near_pairs_move_at_once():
    pair = pair_of([86.5, 86.6, 50.1, 50.2], [4.11, 3.21, 2.31, 1.41])
    assert (pair["spearman"], pair["rounded"], pair["rounded_exactly"]) == (0.6, [0.6, 1.0], True)


def test_ties_in_print_are_split():
    pair = pair_of([86.5, 86.5, 50.1, 50.1], [4.11, 3.21, 2.31, 1.41])
    assert pair["rounded"] == [0.6, 1.0]


def test_of_a_thousand_figures_correlation_is_bounded():
    rng = np.random.default_rng(1)
    amounts = rng.lognormal(3, 0.7, 1000)
    x, y = (np.round(amounts * rng.lognormal(0, 0.3, 1000), 1).tolist() for _ in "xy")
    pair = pair_of(x, y)
    assert not pair["rounded_exactly"]
    assert pair["rounded"][0] < pair["spearman"] < pair["rounded"][1]
    for _ in range(20):
        a, b = (np.array(column) + rng.uniform(-0.05, 0.05, 1000) for column in (x, y))
        assert pair["rounded"][0] <= spearman(a, b) <= pair["rounded"][1]


def test_figures_of_runs_that_a_program_recorded_are_not_rounded():
    assert pair_of([5e5, 5e5, 1e6], [3e4, 2e4, 1e4], printed=[False] * 3)["rounded"] is None
    declared = {n: declaration(n, n, "static", "size") for n in ("params", "samples")}
    amounts = (("a", 5e5, 3e4), ("b", 5e5, 2e4), ("c", 1e6, 1e4))
    runs = [
        make_run(name, costs={}, statics={"samples": x, "params": y}, declared=declared, attempts=[{"status": "ok"}])
        for name, x, y in amounts
    ]
    assert compare(runs).ranks["pairs"][0]["rounded"] is None
    # One that has all its digits is not moved by those that were printed.
    assert pair_of([86.5, 86.5, 1.0], [3.0, 2.0, 1.0], printed=[True, False, True])["rounded"] == pytest.approx(
        [0.5, 1.0]
    )


def test_a_table_says_what_its_digits_leave_open(tmp_path):
    table = tmp_path / "r.csv"
    table.write_text("model,params,gflops,top1\nA,86.5,4.11,70\nB,86.6,3.21,71\nC,50.1,2.31,72\nD,50.2,1.41,73\n")
    units = {"params": "M", "forward_mac": "GMAC"}
    runs = load_runs(table, monitor="top1", mode="max", costs=["params", "forward_mac=gflops"], units=units)
    cmp = compare(runs)
    assert cmp.ranks["pairs"][0]["rounded"] == [0.6, 1.0]
    (said,) = [row["text"] for row in cmp.cautions if row["kind"] == "decided_by_rounding"]
    assert "is 0.6 as printed and can be anything from 0.6 to 1 " in said


def test_bounds_are_printed_outwards(monkeypatch):
    monkeypatch.setattr(rounding, "_MOST_ORDERS", 1)
    declared = {n: declaration(n, n, "static", "size") for n in ("params", "samples")}
    rows = [(86.5, 1.0), (86.6, 2.0), (50.1, 3.0), (50.2, 4.0), (20.1, 5.0), (30.1, 6.0), (40.1, 7.0)]
    runs = [
        make_run(str(i), costs={}, statics={"params": p * 1e6, "samples": s}, declared=declared)
        for i, (p, s) in enumerate(rows)
    ]
    cmp = compare(runs)
    low, high = cmp.ranks["pairs"][0]["rounded"]
    (said,) = [row["text"] for row in cmp.cautions if row["kind"] == "decided_by_rounding"]
    first, last = said.partition("is somewhere, whatever was rounded away, from ")[2].split(" (")[0].split(" to ")
    assert float(first) <= low
    assert float(last) >= high
