"""Goodput of runs whose truth is known: buckets add up, what is unknown is missing, definitions are the field's."""

from __future__ import annotations

import math
import os
import time

import attempts
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs import default_indicators, load_run
from lightning_costs.recording import this_attempt
from lightning_costs.records.window import SlowSteps
from lightning_costs.report.terminal.goodput import goodput_sentence, goodput_tables
from lightning_costs.run.attempts import NO_START, at_begin, disruptions, iso
from lightning_costs.run.checkpoint_interval import advise_checkpoints
from lightning_costs.run.goodput import goodput, goodput_of_project
from lightning_costs.run.goodput_definitions import DEFINITIONS
from lightning_costs.storage.run_folder import identity

pytestmark = pytest.mark.usefixtures("every_point_at_once")


class Attempt(attempts.Attempt):
    """The next one is another process; the wall clock is the fake clock's."""

    indicators = staticmethod(default_indicators)

    def kill(self):
        identity._used_here.clear()
        return super().kill()

    def end(self, status="finished"):
        identity._used_here.clear()
        return super().end(status)


@pytest.fixture
def wall(monkeypatch):
    """What `time.time` says to the hooks of a run; each attempt's clock is moved with it."""

    class Wall:
        now = 1_000_000.0

    monkeypatch.setattr("lightning_costs.recording.run_hooks.time.time", lambda: Wall.now)
    return Wall


def spent(wall, attempt, n, took_s=1.0):
    attempt.train(n, took_s)
    wall.now += n * took_s
    return attempt


def final(**columns):
    accounts = dict.fromkeys(("setup_s", "train_s", "evaluate_s", "checkpoint_s", "other_s"), 0.0) | columns
    total_s = math.fsum(accounts[name] for name in ("setup_s", "train_s", "evaluate_s", "checkpoint_s", "other_s"))
    return {"total_s": total_s, **accounts}


amounts = st.floats(0, 1e6)


MEASURED = (
    "setup_s train_s evaluate_s checkpoint_s other_s data_wait_s compile_s slow_s restore_s "
    "idle_s idle_data_s idle_hooks_s down_s"
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(MEASURED.split(), amounts)), st.booleans())
def test_buckets_add_up_to_the_wall_clock_whatever_was_measured(columns, lost_half):
    costs = final(**columns)
    lost = {name: amount / 2 for name, amount in costs.items()} if lost_half else {}
    found = goodput({"attempts": [{}, {"lost": lost}]}, {"down_s": 0.0, **costs})
    seconds = [bucket.s for bucket in found.buckets if bucket.name != "restore" or "restore_s" in columns]
    assert all(s is not None and s >= 0 for s in seconds)
    assert math.fsum(seconds) == pytest.approx(found.wall_s)
    assert found.productive_s is not None


def test_every_bucket_has_its_joules_grams_and_dollars_and_they_add_up():
    costs = final(setup_s=10.0, train_s=60.0, evaluate_s=20.0, checkpoint_s=5.0, other_s=5.0)
    costs |= {
        "data_wait_s": 15.0,
        "energy_j": 1000.0,
        "co2e_g": 10.0,
        "cloud_usd": 1.0,
        "restore_s": 4.0,
        "down_s": 7.0,
    }
    energy = {"setup": 50.0, "train": 800.0, "evaluate": 100.0, "checkpoint": 30.0, "other": 20.0}
    costs |= {f"{account}_energy_j": joules for account, joules in energy.items()}
    lost = {
        "total_s": 10.0,
        "train_s": 10.0,
        "train_energy_j": 150.0,
        "energy_j": 150.0,
        "co2e_g": 1.5,
        "cloud_usd": 0.1,
    }
    found = goodput({"attempts": [{}, {"lost": lost}]}, costs)
    for unit, whole in (("energy_j", 1000.0), ("co2e_g", 10.0), ("cloud_usd", 1.0)):
        assert math.fsum(getattr(bucket, unit) or 0.0 for bucket in found.buckets) == pytest.approx(whole)
    assert found.bucket("lost").energy_j == 150.0
    assert found.bucket("data_wait").energy_j == pytest.approx(650.0 * 15 / 50)
    assert "share of the account's time" in found.bucket("data_wait").how
    assert (found.bucket("down").s, found.bucket("down").energy_j, found.bucket("down").cloud_usd) == (7.0, None, None)
    assert found.lost_s == {"train": 10.0}


def test_on_a_device_waiting_is_what_the_device_waited_and_not_the_host():
    costs = final(train_s=100.0) | {"data_wait_s": 60.0, "idle_s": 30.0, "idle_data_s": 20.0, "device_s": 200.0}
    found = goodput({"attempts": [{}]}, costs)
    assert (found.bucket("data_wait").s, found.bucket("device_idle").s) == (10.0, 5.0)
    with_hooks = goodput({"attempts": [{}]}, {**costs, "idle_hooks_s": 6.0})
    assert with_hooks.bucket("device_idle").s == 2.0, "the others are no training time"


def test_the_definitions_of_one_run_differ_as_their_formulas_say():
    costs = final(setup_s=20.0, train_s=100.0, evaluate_s=30.0, checkpoint_s=10.0, other_s=0.0)
    costs |= {"down_s": 40.0, "data_wait_s": 15.0, "steps": 95.0, "mfu_fraction": 0.5}
    header = {
        "attempts": [
            {"row": 0, "first_batch_s": 4.0, "queue_s": 25.0},
            {
                "row": 5,
                "first_batch_s": 3.0,
                "queue_s": 25.0,
                "lost": {"total_s": 12.0, "train_s": 10.0, "evaluate_s": 2.0},
            },
        ],
        "lineage": [[0, 4], [5, None]],
        "saves": {"count": 3, "train_s": 80.0, "evaluate_s": 20.0},
    }
    shares = {each.name: each.fraction for each in goodput(header, costs | {"queue_s": 50.0}).definitions}
    assert list(shares) == list(DEFINITIONS)
    wall_s = 200.0
    mean_s = (90.0 - 7.0) / (95 - 2)
    assert shares["lightning_costs"] == pytest.approx(75.0 / wall_s)
    assert shares["google"] == pytest.approx((90.0 - (7.0 - 2 * mean_s)) / wall_s)
    assert shares["nvidia"] == pytest.approx(100.0 / wall_s)
    assert shares["ettr"] == pytest.approx(90.0 / (wall_s + 25.0))
    assert shares["runtime"] == pytest.approx(90.0 / 160.0)
    assert shares["program_mfu"] == pytest.approx(45.0 / (wall_s + 25.0))
    assert shares["program_ofu"] is None
    assert shares["trainmeter"] == pytest.approx(100.0 / 140.0)


def test_what_an_old_folder_lacks_is_missing_with_the_reason():
    found = goodput({"attempts": [{}, {"lost": {}}]}, final(train_s=10.0))
    assert (found.wall_s, found.goodput_fraction, found.bucket("down").s) == (None, None, None)
    assert found.bucket("down").how == NO_START
    assert found.productive_s == 10.0
    assert {each.name: each.missing for each in found.definitions}["lightning_costs"] == NO_START
    unknown = goodput({"attempts": [{}, {}]}, final(train_s=10.0) | {"down_s": 1.0})
    assert (unknown.productive_s, unknown.bucket("lost").s) == (None, None)


def test_a_run_of_one_attempt_needs_nothing_new():
    assert goodput({"attempts": [{}]}, final(train_s=8.0, setup_s=2.0)).goodput_fraction == 0.8


def test_a_project_is_the_sum_over_its_runs_and_counts_those_that_do_not_know():
    one = goodput({"attempts": [{}]}, final(train_s=8.0, setup_s=2.0))
    two = goodput({"attempts": [{}]}, final(train_s=1.0, setup_s=9.0))
    old = goodput({"attempts": [{}, {"lost": {}}]}, final(train_s=10.0))
    whole = goodput_of_project([one, two, old])
    assert (whole.wall_s, whole.goodput_fraction, whole.unknown_runs) == (20.0, 0.45, 1)
    assert goodput_of_project([]).goodput_fraction is None


anything = st.sampled_from([None, math.nan, math.inf, -1.0, 1.7e308, 0.0, 5.0])
READ = (
    *MEASURED.split(),
    "total_s",
    "device_s",
    "energy_j",
    "train_energy_j",
    "co2e_g",
    "cloud_usd",
    "steps",
    "mfu_fraction",
)
moments = st.sampled_from(["soon", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-01-01T00:00:00"])


@given(
    st.dictionaries(st.sampled_from(READ), anything),
    st.dictionaries(st.sampled_from(READ), anything),
    st.lists(anything.filter(lambda amount: amount is not None), min_size=6, max_size=6),
    moments,
    moments,
)
def test_a_folder_from_somebody_else_makes_no_error(costs, lost, amount, started, ended):
    first = {"queue_s": amount[0], "first_batch_s": amount[1], "started": started, "row": 0}
    second = {"queue_s": amount[2], "first_batch_s": amount[3], "ended": ended, "row": 3, "lost": lost}
    saves = {"count": 2, "train_s": amount[4], "evaluate_s": amount[5]}
    header = {"attempts": [first, second], "saves": saves}
    found = goodput(header, costs)
    goodput_sentence(goodput_of_project([found, found]))
    assert len(goodput_tables(found)) == 2
    if (advice := advise_checkpoints(header, costs)) is not None:
        assert advice.words()


# Attempts -------------------------------------------------------------------------------------------------------


def test_time_between_attempts_is_down_time_and_the_columns_say_so(tmp_path, wall):
    first = spent(wall, Attempt(tmp_path), 6)
    state = first.checkpoint()
    spent(wall, first, 4).kill()
    wall.now += 30.0
    second = Attempt(tmp_path, state)
    run = spent(wall, second, 5).end()
    told = run.final
    assert (told["total_s"], told["down_s"], told["disruptions"], told["lost_s"]) == (15.0, 30.0, 1.0, 4.0)
    assert told["goodput_fraction"] == pytest.approx(told["productive_s"] / 45.0)
    found = goodput(run.header, told)
    assert (found.wall_s, found.clock_s, found.disruptions) == (45.0, 45.0, 1)
    assert told["productive_s"] == found.productive_s == pytest.approx(11.0)


def test_an_attempt_that_came_to_no_batch_counts_as_a_disruption(tmp_path, wall):
    first = spent(wall, Attempt(tmp_path), 6)
    state = first.checkpoint()
    first.kill()
    for _ in range(2):  # they load the checkpoint, and are gone
        wall.now += 10.0
        unborn = Attempt(tmp_path, state)
        unborn.recorder._run._found.lock.abandon()
        identity._used_here.clear()
    wall.now += 10.0
    run = spent(wall, Attempt(tmp_path, state), 2).end()
    assert (run.final["disruptions"], run.final["down_s"]) == (3.0, 30.0)
    assert len(run.header["attempts"][-1]["unbegun"]) == 2
    again = spent(wall, Attempt(tmp_path, json_state(run, state)), 1).end()
    assert again.final["disruptions"] == 3.0  # the attempt before it finished, and nothing counts twice


def test_attempts_that_die_before_the_first_batch_ever_count_and_the_wall_clock_begins_with_them(
    tmp_path, wall, monkeypatch
):
    monkeypatch.setenv("LIGHTNING_COSTS_RUN_ID", "one")
    for _ in range(2):  # the environment names the run, which has no folder yet
        Attempt(tmp_path).kill()
        assert [path.name for path in tmp_path.iterdir()] == [".starts"]
        wall.now += 10.0
    run = spent(wall, Attempt(tmp_path), 4).end()
    assert (run.final["disruptions"], run.final["down_s"], run.final["total_s"]) == (2.0, 20.0, 4.0)
    found = goodput(run.header, run.final)
    assert (found.wall_s, found.clock_s, found.disruptions) == (24.0, 24.0, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    again = spent(wall, Attempt(tmp_path), 1).end()
    assert (again.final["disruptions"], again.final["down_s"]) == (2.0, 20.0)


def test_an_attempt_that_ends_by_itself_without_a_batch_is_no_disruption(tmp_path, wall, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COSTS_RUN_ID", "one")
    Attempt(tmp_path).end()
    assert not list(tmp_path.iterdir())
    run = spent(wall, Attempt(tmp_path), 1).end()
    assert (run.final["disruptions"], run.final["down_s"]) == (0.0, 0.0)


@pytest.mark.parametrize("line", ["", "{", "[1]", "null", '{"id": 3}', '{"id": "a", "started": 7}'])
def test_any_line_among_the_traces_is_read_or_passed_over(tmp_path, wall, monkeypatch, line):
    monkeypatch.setenv("LIGHTNING_COSTS_RUN_ID", "one")
    (tmp_path / ".starts").mkdir()
    (tmp_path / ".starts" / "one.jsonl").write_text(line + "\n")
    run = spent(wall, Attempt(tmp_path), 1).end()
    assert run.final["disruptions"] == float('"a"' in line)
    assert load_run(tmp_path / "one").final["disruptions"] == run.final["disruptions"]


def json_state(run, state):
    """The first checkpoint again: the run goes on from there."""
    return {**state, "run_id": run.id}


def test_an_attempt_that_finished_was_not_disrupted():
    assert disruptions([{"status": "finished"}, {"status": "interrupted"}, {"status": "failed"}, {}]) == 2


def test_slurm_counts_restarts_that_left_no_trace():
    assert disruptions([{"status": "killed", "restart": 0}, {"restart": 3}]) == 3
    assert disruptions([{"status": "killed", "restart": 0}, {"restart": 3, "unbegun": ["a"]}]) == 3
    assert disruptions([{"status": "killed", "restart": 5}, {"restart": 0}]) == 1  # another job


def test_a_state_that_is_asked_for_after_the_end_is_no_save(tmp_path):
    attempt = Attempt(tmp_path).train(3)
    attempt.checkpoint()
    run = attempt.train(2).end()
    attempt.checkpoint()
    assert attempt.recorder.header["saves"] == run.header["saves"] == {"count": 1, "train_s": 3.0, "evaluate_s": 0.0}


def test_after_a_resume_the_checkpoint_is_what_is_saved(tmp_path):
    first = Attempt(tmp_path).train(3)
    three = first.checkpoint()
    first.train(4).checkpoint()
    first.train(1).kill()
    run = Attempt(tmp_path, three).train(2).end()
    assert run.header["saves"] == {"count": 2, "train_s": 3.0, "evaluate_s": 0.0}
    nvidia = {each.name: each.good_s for each in goodput(run.header, run.final).definitions}["nvidia"]
    assert nvidia == 3.0


def test_a_save_right_before_a_kill_is_known_by_the_checkpoint(tmp_path):
    first = Attempt(tmp_path).train(3)
    state = first.checkpoint()
    first.kill()
    run = Attempt(tmp_path, state).train(2).end()
    assert run.header["saves"] == {"count": 1, "train_s": 3.0, "evaluate_s": 0.0}


def test_without_the_earlier_folder_down_time_is_unknown(tmp_path, wall):
    first = spent(wall, Attempt(tmp_path / "a"), 3)
    state = first.checkpoint()
    first.end()
    run = spent(wall, Attempt(tmp_path / "b", state), 2).end()
    assert (run.final["down_s"], run.final["goodput_fraction"]) == (None, None)
    assert "not available" in run.header["missing"]["down_s"]
    assert load_run(tmp_path / "b" / run.id).final["down_s"] is None


def test_clocks_that_disagree_make_no_down_time_below_zero():
    first, second = {"started": iso(100.0)}, {"started": iso(50.0)}
    assert at_begin([first, second], 10.0)[0]["down_s"] == 0.0


@pytest.mark.parametrize(
    ("submitted", "started", "before", "expected"),
    [
        ("1000", "1060", None, 60.0),
        ("1970-01-01T00:16:40+00:00", "1060", None, 60.0),
        ("1000", "1500", 1400.0, 100.0),
        ("1000", "", None, 70.0),
        ("", "1060", None, None),
        ("soon", "1060", None, None),
    ],
)
def test_time_in_the_queue_goes_from_submission_to_the_jobs_start(monkeypatch, submitted, started, before, expected):
    monkeypatch.setattr(this_attempt, "first_run_here", lambda: True)
    monkeypatch.setenv(this_attempt.SUBMITTED, submitted)
    monkeypatch.setenv(this_attempt.STARTED, started)
    process_s = 1070.0 if before is None else 1510.0
    assert this_attempt.queued_s(process_s, before) == expected


def test_a_second_run_of_a_process_has_not_waited_in_the_queue_again(monkeypatch):
    monkeypatch.setattr(this_attempt, "first_run_here", lambda: False)
    monkeypatch.setenv(this_attempt.SUBMITTED, "1000")
    assert this_attempt.queued_s(2000.0, None) == 0.0


#: `scontrol show job` of a job in an array, which the controller answers with a line for every job of it.
SCONTROL = """JobId=76 ArrayJobId=75 SubmitTime=1970-01-01T00:00:01 StartTime=1970-01-01T00:00:02 Command=x
JobId=75 JobName=a b SubmitTime=1970-01-01T00:16:40 EligibleTime=1970-01-01T00:16:40 StartTime=1970-01-01T00:17:40"""


@pytest.fixture
def scontrol(monkeypatch, tmp_path):
    """A program of that name on PATH, in a job of SLURM's that no variable says the times of."""
    monkeypatch.setattr(this_attempt, "first_run_here", lambda: True)
    for name, value in {
        "SLURM_JOB_ID": "75",
        "TZ": "UTC",
        this_attempt.SUBMITTED: "",
        this_attempt.STARTED: "",
    }.items():
        monkeypatch.setenv(name, value)
    time.tzset()

    def install(body):
        program = tmp_path / "scontrol"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    yield install
    monkeypatch.undo()
    time.tzset()


def test_slurm_is_asked_for_the_time_of_submission_if_no_variable_says_it(scontrol):
    scontrol(f"test \"$*\" = '--oneliner show job 75' && test $SLURM_TIME_FORMAT = standard && echo '{SCONTROL}'")
    assert this_attempt.queued_s(1070.0, None) == 60.0
    assert this_attempt.queued_s(1070.0, 1030.0) == 30.0, "the attempt before ended later"
    assert this_attempt.queued_s(1070.0, None, asks=False) is None, "one process of a job asks"


@pytest.mark.parametrize(
    "body", ["exit 1", "echo slurm_load_jobs error", "echo JobId=75 SubmitTime=Unknown", "sleep 5 & sleep 5"]
)
def test_a_controller_that_fails_or_does_not_answer_makes_the_queue_unknown_and_holds_nothing_up(
    scontrol, monkeypatch, body
):
    monkeypatch.setattr(this_attempt, "PATIENCE_S", 0.2)
    scontrol(body)
    assert this_attempt.queued_s(1070.0, None) is None


# Slow steps -----------------------------------------------------------------------------------------------------


def test_a_step_is_held_against_steps_of_its_own_signature():
    slow = SlowSteps()
    assert slow.excess_s("short", [1.0] * 9 + [4.0]) == 3.0
    assert slow.excess_s("long", [8.0] * 5) == 0.0
    assert slow.excess_s("short", [1.0, 1.5]) == 0.5
    assert slow.excess_s("new", [9.0]) == 0.0


def test_slow_steps_show_in_their_column_and_waiting_for_data_does_not(tmp_path):
    attempt = Attempt(tmp_path)
    assert list(attempt.recorder.wrap_loader([])) == []
    attempt.train(20).train(1, 5.0).train(5)
    assert attempt.recorder.totals["slow_s"] == pytest.approx(4.0)

    def slow_loader():
        attempt.clock.sleep(7.0)
        yield attempts.BATCH

    for batch in attempt.recorder.wrap_loader(slow_loader()):
        attempt.clock.sleep(1.0)
        attempt.recorder.step(batch)
    run = attempt.end()
    assert run.final["slow_s"] == pytest.approx(4.0)
    assert run.final["data_wait_s"] == 7.0


def test_first_steps_are_slow_ones_once_a_usual_step_is_known(tmp_path):
    run = Attempt(tmp_path).train(1, 9.0).train(20).end()
    assert run.final["slow_s"] == 8.0
    assert run.final["productive_s"] == 21.0


def test_a_step_that_compiles_is_counted_once():
    found = goodput({"attempts": [{}]}, final(train_s=20.0) | {"compile_s": 5.0, "slow_s": 7.0})
    assert (found.bucket("compile").s, found.bucket("slow_steps").s, found.productive_s) == (5.0, 2.0, 13.0)


def test_restoring_a_checkpoint_is_told_by_its_bucket_and_else_missing(tmp_path):
    attempt = Attempt(tmp_path)
    with attempt.recorder.bucket("restore"):
        attempt.clock.sleep(3.0)
    run = attempt.train(2).end()
    assert (run.final["restore_s"], run.final["setup_s"], run.final["total_s"]) == (3.0, 3.0, 5.0)
    untold = Attempt(tmp_path).train(2).end()
    assert untold.final["restore_s"] is None
    assert "bucket('restore')" in untold.header["missing"]["restore_s"]
