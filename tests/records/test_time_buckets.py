from __future__ import annotations

import contextlib

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.records.time_buckets import ACCOUNTS, PARTS, TimeBuckets


def fresh(now: float = 0.0) -> tuple[FakeClock, TimeBuckets]:
    clock = FakeClock(now)
    return clock, TimeBuckets(clock, begun_s=now)


def test_a_run_begins_in_setup_and_its_time_since_the_beginning_counts():
    clock = FakeClock(100.0)
    accounts = TimeBuckets(clock, begun_s=96.0)
    assert accounts.read() == {**dict.fromkeys((*ACCOUNTS, *PARTS), 0.0), "setup": 4.0}


def test_the_top_of_the_stack_gets_the_time():
    clock, accounts = fresh()
    clock.sleep(1)
    accounts.reset_to("train")
    clock.sleep(2)
    with accounts.bucket("evaluate"):
        clock.sleep(4)
        with accounts.bucket("checkpoint"):
            clock.sleep(8)
        clock.sleep(16)
    clock.sleep(32)
    assert accounts.read() == {
        **{"setup": 1.0, "train": 34.0, "evaluate": 20.0, "checkpoint": 8.0, "other": 0.0},
        "data_wait": 0.0,
        "h2d": 0.0,
        "hooks": 0.0,
        "restore": 0.0,
    }


def test_hooks_in_the_training_loop_of_an_asynchronous_device_are_training_until_it_says_otherwise():
    clock, accounts = fresh()
    accounts.reset_to("train")
    accounts.asynchronous = True
    hook = accounts.wrap(lambda: clock.sleep(4), "other", "Bar")
    hook()
    with accounts.bucket("other"):
        clock.sleep(2)
    with accounts.bucket("evaluate"):
        hook()
    spent = accounts.read()
    assert (spent["hooks"], spent["other"], spent["evaluate"], accounts.hooks_s()) == (6.0, 4.0, 0.0, 6.0)
    assert accounts.train_s() == 6.0
    assert accounts.seconds_by_source == {("other", "Bar"): 8.0}


def test_waiting_for_data_is_shown_apart_and_is_training():
    clock, accounts = fresh()
    accounts.reset_to("train")
    clock.sleep(3)
    with accounts.bucket("data_wait"):
        clock.sleep(2)
    assert (accounts.read()["train"], accounts.read()["data_wait"], accounts.train_s()) == (3.0, 2.0, 5.0)
    assert accounts.work_s() == 3.0


def test_an_account_is_left_when_its_inside_raises():
    clock, accounts = fresh()
    accounts.reset_to("train")
    with contextlib.suppress(RuntimeError), accounts.bucket("evaluate"):
        clock.sleep(5)
        raise RuntimeError("diverged")
    clock.sleep(7)
    spent = accounts.read()
    assert (accounts.current, spent["evaluate"], spent["train"]) == ("train", 5.0, 7.0)


def test_what_raises_inside_gets_out():
    def diverge():
        with fresh()[1].bucket("evaluate"):
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        diverge()


def test_leaving_closes_whatever_was_left_open_inside():
    clock, accounts = fresh()
    accounts.reset_to("train")
    with accounts.bucket("evaluate"):
        accounts.try_enter("checkpoint")
        accounts.try_enter("other")
    clock.sleep(1)
    assert (accounts.current, accounts.read()["train"]) == ("train", 1.0)


def test_rebase_forgets_what_was_open_and_later_pops_do_no_harm():
    clock, accounts = fresh()
    with accounts.bucket("evaluate"):
        depth = accounts.try_enter("checkpoint")
        clock.sleep(1)
        accounts.reset_to("other")
        clock.sleep(2)
        accounts.exit(depth)
        clock.sleep(4)
    clock.sleep(8)
    assert (accounts.current, accounts.root) == ("other", "other")
    assert accounts.read() == {**dict.fromkeys((*ACCOUNTS, *PARTS), 0.0), "checkpoint": 1.0, "other": 14.0}


def test_the_base_of_the_stack_cannot_be_popped():
    _, accounts = fresh()
    for _ in range(3):
        accounts.exit()
    assert (accounts.current, accounts.root) == ("setup", "setup")


def test_one_transition_reads_the_clock_once():
    reads = []
    accounts = TimeBuckets(lambda: reads.append(0) or float(len(reads)), begun_s=0.0)
    for transition in (
        lambda: accounts.try_enter("train"),
        accounts.exit,
        lambda: accounts.reset_to("other"),
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
                accounts.enter(rest[0])
            case "pop":
                accounts.exit(rest[0])
            case "rebase":
                accounts.reset_to(rest[0])
            case "read":
                accounts.read()
            case "inside":
                with accounts.bucket(rest[0]):
                    run(rest[1], clock, accounts)
            case "raise":
                with contextlib.suppress(ZeroDivisionError), accounts.bucket(rest[0]):
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
    accounts.reset_to("train")
    only_deeper = [step for step in program if step[0] in ("sleep", "push", "read")]
    with accounts.bucket("evaluate"):
        run(only_deeper, clock, accounts)
    assert (accounts.current, accounts.root) == ("train", "train")


def test_a_booked_function_is_an_inside_in_one_frame():
    clock, accounts = fresh()
    accounts.reset_to("train")

    def slow(seconds: float, *, fail: bool = False) -> float:
        clock.sleep(seconds)
        with accounts.bucket("checkpoint"):
            clock.sleep(1)
        if fail:
            raise RuntimeError("diverged")
        return seconds

    booked = accounts.wrap(slow, "other", "Slow")
    assert booked(2.0) == 2.0
    with contextlib.suppress(RuntimeError):
        booked(3.0, fail=True)
    spent = accounts.read()
    assert (spent["other"], spent["checkpoint"], spent["train"], accounts.current) == (5.0, 2.0, 0.0, "train")
    assert accounts.seconds_by_source == {("other", "Slow"): 5.0}


def test_what_is_waited_for_is_only_training_where_training_waits():
    clock, accounts = fresh()
    told: list[str] = []
    enter, leave = accounts.start_stop_hooks("data_wait", lambda: told.append("begins"), lambda: told.append("ends"))
    accounts.reset_to("train")
    enter()
    clock.sleep(2)
    leave()
    with accounts.bucket("evaluate"):
        enter()
        clock.sleep(4)
        leave()
    spent = accounts.read()
    assert (spent["data_wait"], spent["evaluate"], told) == (2.0, 4.0, ["begins", "ends"] * 2)


def test_who_meters_by_account_is_told_before_long_accounts_change_and_never_of_short_ones():
    clock, accounts = fresh()
    seen = []
    accounts.before_switch = lambda: seen.append(accounts.current)
    accounts.reset_to("train")
    for account in ("data_wait", "h2d", "other"):
        with accounts.bucket(account):
            clock.sleep(1)
    accounts.wrap(lambda: None, "checkpoint", "ModelCheckpoint")()  # a hook of every batch
    assert seen == ["setup"]
    with accounts.bucket("evaluate"), accounts.bucket("checkpoint"):
        clock.sleep(1)
    accounts.reset_to("other")
    assert seen == ["setup", "train", "evaluate", "checkpoint", "evaluate", "train"]


def test_the_end_of_a_long_account_is_told_when_it_raises_too():
    accounts = fresh()[1]
    seen = []
    accounts.before_switch = lambda: seen.append(accounts.current)
    with contextlib.suppress(RuntimeError), accounts.bucket("evaluate"):
        raise RuntimeError("diverged")
    assert seen == ["setup", "evaluate"]


def test_the_parts_of_the_start_up_add_up_to_it_and_what_is_not_known_is_the_rests():
    clock = FakeClock(10.0)
    accounts = TimeBuckets(clock, begun_s=2.0)  # the process began 8 s ago
    accounts.startup_s |= {"imports": 5.0, "distributed": 1.0}
    accounts.startup_rest = "model"
    accounts.book("restore", 1.5)
    clock.sleep(4.0)
    with accounts.bucket("restore"):
        clock.sleep(0.5)
    accounts.reset_to("train")
    assert accounts.startup() == {"imports": 5.0, "distributed": 1.0, "model": 4.5, "restore": 2.0}
    assert sum(accounts.startup().values()) == accounts.read()["setup"] + accounts.read()["restore"] == 12.5
