from __future__ import annotations

import contextlib

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.core.accounts import ACCOUNTS, PARTS, Accounts


def fresh(now: float = 0.0) -> tuple[FakeClock, Accounts]:
    clock = FakeClock(now)
    return clock, Accounts(clock, begun_s=now)


def test_a_run_begins_in_setup_and_its_time_since_the_beginning_counts():
    clock = FakeClock(100.0)
    accounts = Accounts(clock, begun_s=96.0)
    assert accounts.read() == {**dict.fromkeys((*ACCOUNTS, *PARTS), 0.0), "setup": 4.0}


def test_the_top_of_the_stack_gets_the_time():
    clock, accounts = fresh()
    clock.sleep(1)
    accounts.rebase("train")
    clock.sleep(2)
    with accounts.inside("evaluate"):
        clock.sleep(4)
        with accounts.inside("checkpoint"):
            clock.sleep(8)
        clock.sleep(16)
    clock.sleep(32)
    assert accounts.read() == {
        **{"setup": 1.0, "train": 34.0, "evaluate": 20.0, "checkpoint": 8.0, "other": 0.0},
        "data_wait": 0.0,
        "h2d": 0.0,
    }


def test_waiting_for_data_is_shown_apart_and_is_training():
    clock, accounts = fresh()
    accounts.rebase("train")
    clock.sleep(3)
    with accounts.inside("data_wait"):
        clock.sleep(2)
    assert (accounts.read()["train"], accounts.read()["data_wait"], accounts.train_s()) == (3.0, 2.0, 5.0)


def test_an_account_is_left_when_its_inside_raises():
    clock, accounts = fresh()
    accounts.rebase("train")
    with contextlib.suppress(RuntimeError), accounts.inside("evaluate"):
        clock.sleep(5)
        raise RuntimeError("diverged")
    clock.sleep(7)
    spent = accounts.read()
    assert (accounts.top, spent["evaluate"], spent["train"]) == ("train", 5.0, 7.0)


def test_what_raises_inside_gets_out():
    def diverge():
        with fresh()[1].inside("evaluate"):
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        diverge()


def test_leaving_closes_whatever_was_left_open_inside():
    clock, accounts = fresh()
    accounts.rebase("train")
    with accounts.inside("evaluate"):
        accounts.push("checkpoint")
        accounts.push("other")
    clock.sleep(1)
    assert (accounts.top, accounts.read()["train"]) == ("train", 1.0)


def test_rebase_forgets_what_was_open_and_later_pops_do_no_harm():
    clock, accounts = fresh()
    with accounts.inside("evaluate"):
        depth = accounts.push("checkpoint")
        clock.sleep(1)
        accounts.rebase("other")
        clock.sleep(2)
        accounts.pop(depth)
        clock.sleep(4)
    clock.sleep(8)
    assert (accounts.top, accounts.base) == ("other", "other")
    assert accounts.read() == {**dict.fromkeys((*ACCOUNTS, *PARTS), 0.0), "checkpoint": 1.0, "other": 14.0}


def test_the_base_of_the_stack_cannot_be_popped():
    _, accounts = fresh()
    for _ in range(3):
        accounts.pop()
    assert (accounts.top, accounts.base) == ("setup", "setup")


def test_one_transition_reads_the_clock_once():
    reads = []
    accounts = Accounts(lambda: reads.append(0) or float(len(reads)), begun_s=0.0)
    for transition in (
        lambda: accounts.push("train"),
        accounts.pop,
        lambda: accounts.rebase("other"),
        accounts.read,
        accounts.train_s,
    ):
        before = len(reads)
        transition()
        assert len(reads) == before + 1


seconds = st.integers(0, 2**20).map(lambda n: n / 1024)  # sums of these are exact
account = st.sampled_from((*ACCOUNTS, *PARTS))
plain = st.one_of(
    st.tuples(st.just("sleep"), seconds),
    st.tuples(st.just("push"), account),
    st.tuples(st.just("pop"), st.none() | st.integers(0, 5)),
    st.tuples(st.just("rebase"), account),
    st.tuples(st.just("read"), st.none()),
)
programs = st.recursive(
    st.lists(plain, max_size=6),
    lambda inner: st.lists(
        plain | st.tuples(st.just("inside"), account, inner) | st.tuples(st.just("raise"), account, inner), max_size=6
    ),
    max_leaves=20,
)


def run(program, clock, accounts):
    for op, *rest in program:
        match op:
            case "sleep":
                clock.sleep(rest[0])
            case "push":
                accounts.push(rest[0])
            case "pop":
                accounts.pop(rest[0])
            case "rebase":
                accounts.rebase(rest[0])
            case "read":
                accounts.read()
            case "inside":
                with accounts.inside(rest[0]):
                    run(rest[1], clock, accounts)
            case "raise":
                with contextlib.suppress(ZeroDivisionError), accounts.inside(rest[0]):
                    run(rest[1], clock, accounts)
                    raise ZeroDivisionError


@given(program=programs, begun_s=seconds)
def test_every_second_belongs_to_exactly_one_account(program, begun_s):
    clock, accounts = fresh(begun_s)
    run(program, clock, accounts)
    spent = accounts.read()
    assert sum(spent.values()) == clock.now - begun_s
    assert all(amount >= 0 for amount in spent.values())
    assert set(spent) == {*ACCOUNTS, *PARTS}


@given(program=programs, more=programs)
def test_no_account_ever_goes_down(program, more):
    clock, accounts = fresh()
    run(program, clock, accounts)
    before = accounts.read()
    run(more, clock, accounts)
    assert all(amount >= before[name] for name, amount in accounts.read().items())


@given(program=programs)
def test_inside_leaves_the_stack_as_it_was_unless_it_was_cut_below(program):
    clock, accounts = fresh()
    accounts.rebase("train")
    only_deeper = [step for step in program if step[0] in ("sleep", "push", "read")]
    with accounts.inside("evaluate"):
        run(only_deeper, clock, accounts)
    assert (accounts.top, accounts.base) == ("train", "train")


def test_a_booked_function_is_an_inside_in_one_frame():
    clock, accounts = fresh()
    accounts.rebase("train")

    def slow(seconds: float, *, fail: bool = False) -> float:
        clock.sleep(seconds)
        with accounts.inside("checkpoint"):
            clock.sleep(1)
        if fail:
            raise RuntimeError("diverged")
        return seconds

    booked = accounts.booked(slow, "other", "Slow")
    assert booked(2.0) == 2.0
    with contextlib.suppress(RuntimeError):
        booked(3.0, fail=True)
    spent = accounts.read()
    assert (spent["other"], spent["checkpoint"], spent["train"], accounts.top) == (5.0, 2.0, 0.0, "train")
    assert accounts.by_whom_s == {("other", "Slow"): 5.0}


def test_what_is_waited_for_is_only_training_where_training_waits():
    clock, accounts = fresh()
    told: list[str] = []
    enter, leave = accounts.gates("data_wait", lambda: told.append("begins"), lambda: told.append("ends"))
    accounts.rebase("train")
    enter()
    clock.sleep(2)
    leave()
    with accounts.inside("evaluate"):
        enter()
        clock.sleep(4)
        leave()
    spent = accounts.read()
    assert (spent["data_wait"], spent["evaluate"], told) == (2.0, 4.0, ["begins", "ends"] * 2)


def test_who_meters_by_account_is_told_before_long_accounts_change_and_never_of_short_ones():
    clock, accounts = fresh()
    seen = []
    accounts.before_switch = lambda: seen.append(accounts.top)
    accounts.rebase("train")
    for account in ("data_wait", "h2d", "other"):
        with accounts.inside(account):
            clock.sleep(1)
    accounts.booked(lambda: None, "checkpoint", "ModelCheckpoint")()  # a hook of every batch
    assert seen == ["setup"]
    with accounts.inside("evaluate"), accounts.inside("checkpoint"):
        clock.sleep(1)
    accounts.rebase("other")
    assert seen == ["setup", "train", "evaluate", "checkpoint", "evaluate", "train"]


def test_the_end_of_a_long_account_is_told_when_it_raises_too():
    accounts = fresh()[1]
    seen = []
    accounts.before_switch = lambda: seen.append(accounts.top)
    with contextlib.suppress(RuntimeError), accounts.inside("evaluate"):
        raise RuntimeError("diverged")
    assert seen == ["setup", "evaluate"]
