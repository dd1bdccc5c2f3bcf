from __future__ import annotations

import json
import math

from fakes import declared
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.records.ledger import Ledger

DECLARATIONS = {
    d.name: d
    for d in (
        declared("steps", "steps"),
        declared("energy_j"),
        declared("rate_s", kind="gauge"),
        declared("peak_bytes", kind="gauge", fold="max"),
        declared("params", "params", kind="static"),
    )
}


def ledger() -> Ledger:
    return Ledger(DECLARATIONS)


def test_counters_begin_at_zero_gauges_unknown_and_statics_are_not_booked():
    assert ledger().costs == {"steps": 0.0, "energy_j": 0.0, "rate_s": None, "peak_bytes": None}


def test_counters_add_up_and_gauges_keep_their_last_or_their_most():
    books = ledger()
    books.add({"steps": 2.0, "energy_j": 5.0, "rate_s": 9.0, "peak_bytes": 70.0})
    books.add({"steps": 3.0, "energy_j": 1.0, "rate_s": 4.0, "peak_bytes": 60.0})
    assert books.costs == {"steps": 5.0, "energy_j": 6.0, "rate_s": 4.0, "peak_bytes": 70.0}


def test_a_counter_that_missed_a_window_is_missing_for_good():
    for gone in ({}, {"energy_j": None}):
        books = ledger()
        books.add({"steps": 1.0, "energy_j": 5.0})
        books.add({"steps": 1.0, **gone})
        books.add({"steps": 1.0, "energy_j": 5.0})
        assert books.costs["energy_j"] is None
        assert books.costs["steps"] == 3.0


def test_a_gauge_without_a_new_reading_keeps_its_last():
    books = ledger()
    books.add({"rate_s": 9.0, "peak_bytes": 70.0})
    books.add({"rate_s": None})
    assert (books.costs["rate_s"], books.costs["peak_bytes"]) == (9.0, 70.0)


def test_a_gauge_that_cannot_be_read_any_more_is_missing():
    books = ledger()
    books.add({"rate_s": 9.0, "peak_bytes": 70.0})
    books.add({"rate_s": 9.0, "peak_bytes": 71.0}, unreadable=frozenset({"rate_s", "peak_bytes"}))
    assert (books.costs["rate_s"], books.costs["peak_bytes"]) == (None, None)


def test_a_stranger_in_a_window_is_not_booked():
    books = ledger()
    books.add({"steps": 1.0, "energy_j": 1.0, "stranger_s": 5.0, "params": 3.0})
    assert set(books.costs) == {"steps", "energy_j", "rate_s", "peak_bytes"}


def test_costs_are_a_copy():
    books = ledger()
    books.costs["steps"] = 1e9
    assert books.costs["steps"] == 0.0


def test_a_column_that_the_earlier_attempt_lacked_is_missing_as_a_counter_and_recovers_as_a_gauge():
    books = ledger()
    books.load_state_dict({"costs": {"steps": 10.0}})
    books.add({"steps": 1.0, "energy_j": 5.0, "rate_s": 2.0, "peak_bytes": 7.0})
    assert books.costs == {"steps": 11.0, "energy_j": None, "rate_s": 2.0, "peak_bytes": 7.0}


def test_a_column_that_only_the_earlier_attempt_had_is_let_go():
    books = ledger()
    books.load_state_dict({"costs": {"steps": 1.0, "energy_j": 2.0, "rate_s": None, "peak_bytes": None, "old_s": 4.0}})
    assert "old_s" not in books.costs


amount = st.floats(0, 1e12)
window = st.fixed_dictionaries(
    {"steps": amount, "energy_j": st.none() | amount, "rate_s": st.none() | amount, "peak_bytes": st.none() | amount}
)


@given(st.lists(window, max_size=12))
def test_totals_never_go_down(windows):
    books = ledger()
    for one in windows:
        before = books.costs
        books.add(one)
        for name in ("steps", "energy_j", "peak_bytes"):
            so_far, now = before[name], books.costs[name]
            assert now is None or so_far is None or now >= so_far
            assert not (name == "energy_j" and so_far is None and now is not None)


@given(st.lists(window, max_size=12))
def test_a_known_total_is_the_sum_of_all_windows(windows):
    books = ledger()
    for one in windows:
        books.add(one)
    readings = [one["energy_j"] for one in windows]
    expected = None if None in readings else sum(readings)
    assert books.costs["energy_j"] == expected or math.isclose(books.costs["energy_j"], expected, rel_tol=1e-12)


@given(st.lists(window, max_size=8))
def test_state_then_restore_is_identity(windows):
    books, again = ledger(), ledger()
    for one in windows:
        books.add(one)
    again.load_state_dict(json.loads(json.dumps(books.state_dict())))
    assert again.costs == books.costs
    assert again.state_dict() == books.state_dict()


@given(before=st.lists(window, max_size=8), after=st.lists(window, max_size=8))
def test_resume_equals_no_interruption(before, after):
    straight, first, second = ledger(), ledger(), ledger()
    for one in before + after:
        straight.add(one)
    for one in before:
        first.add(one)
    second.load_state_dict(first.state_dict())
    for one in after:
        second.add(one)
    assert second.costs == straight.costs


def test_a_state_is_a_snapshot():
    books = ledger()
    state = books.state_dict()
    books.add({"steps": 5.0, "energy_j": 1.0})
    assert state["costs"]["steps"] == 0.0


def test_gauges_that_follow_from_totals_are_set_and_keep_their_last_reading():
    books = ledger()
    books.set_gauges({"rate_s": 3.0})
    books.set_gauges({"rate_s": None})
    assert books.costs["rate_s"] == 3.0
    books.set_gauges({"rate_s": None}, unreadable={"rate_s"})
    assert books.costs["rate_s"] is None
