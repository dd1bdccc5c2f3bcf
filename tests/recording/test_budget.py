"""A budget in a loop of one's own: `Recorder.exceeded`, on a fake clock."""

from __future__ import annotations

import pytest
import torch
from fakes import FakeClock, derived, measured

from lightning_costs import Recorder
from lightning_costs.indicators import default_indicators
from lightning_costs.recording.emission import Emission
from lightning_costs.records.limits import LimitExceeded
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import RankInfo

BATCH = torch.zeros(8, 3)


@pytest.fixture
def clock():
    return FakeClock(1000.0)


@pytest.fixture
def make(tmp_path, clock):
    def make(*indicators, **options):
        plain = [i for i in default_indicators() if i.family not in ("energy", "money")]
        return Recorder(save_dir=tmp_path / "costs", clock=clock, indicators=[*plain, *indicators], **options)

    return make


def loop(recorder, clock, limits, steps=1000, took_s=0.125):
    """Steps that a loop makes which asks after each."""
    for step in range(steps):
        clock.sleep(took_s)
        recorder.step(BATCH)
        if passed := recorder.exceeded(limits):
            return step + 1, passed
    return steps, None


def test_a_loop_stops_at_the_first_step_past_a_limit(make, clock):
    with make() as recorder:
        assert loop(recorder, clock, {"samples": 1234}) == (
            155,
            LimitExceeded(column="samples", limit=1234.0, amount=1240.0),
        )
        assert recorder.exceeded({"samples": 1234}) is not None, "and stays past it"
    assert recorder.header["budget"] == {"limits": {"samples": 1234.0}}


def test_seconds_are_held_to_the_step(make, clock):
    with make(log_every_n_steps=0) as recorder:
        assert loop(recorder, clock, {"total_s": 40.0})[0] == 320


def test_meters_that_share_readings_are_asked_near_a_limit(make, clock):
    read = {"at_s": clock()}

    def joules(sample):
        since_s, read["at_s"] = clock() - read["at_s"], clock()
        return 96.0 * since_s

    # 3 J a step, of which points every 1/32 s would tell only each half second.
    with make(measured("meter_j", reads=joules, rate_limited=True), log_every_n_steps=1) as recorder:
        assert loop(recorder, clock, {"meter_j": 100.0}, took_s=0.03125)[0] == 34


def test_asking_costs_no_reading_while_the_limit_is_far(make, clock, monkeypatch):
    with make(log_every_n_steps=50) as recorder:
        reads = []
        read = recorder.hooks.points.read
        monkeypatch.setattr(Emission, "read", lambda self: (reads.append(1), read())[1])
        assert loop(recorder, clock, {"samples": 1e9}, steps=1000, took_s=0.0078125) == (1000, None)
        assert len(reads) <= 20


def test_a_resumed_run_continues_its_budget(make, clock):
    with make() as recorder:
        assert loop(recorder, clock, {"samples": 160})[0] == 20
        state = recorder.state_dict()
    again = make()
    again.load_state_dict(state)
    with again:
        assert loop(again, clock, {"samples": 160})[0] == 1
    again = make()
    again.load_state_dict(state)
    with again:
        assert loop(again, clock, {"samples": 240})[0] == 240 // 8 - 20 - 1, "one more was spent by the attempt before"


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"sample": 1.0}, "'sample', which is no column; did you mean samples"),
        ({"samples_per_s": 1.0}, "'samples_per_s', which is a gauge"),
        ({"samples": 0.0}, "the limit of 'samples' must be a finite number above 0"),
        ({"lost_g": 5.0}, "budget of 5 g cannot be enforced, as lost_g is missing: no place was given"),
        ({"far_g": 5.0}, "budget of 5 g cannot be enforced, as far_g is missing: needs lost_g: no place was given"),
        ({"none_j": 5.0}, "budget of 5 J cannot be enforced, as none_j is missing: no meter"),
        ({"wants_j": 5.0}, "as wants_j is missing: needs elsewhere_j: no indicator of that name was passed"),
    ],
)
def test_a_limit_that_nobody_can_hold_is_refused_before_the_first_step(make, clock, limits, says):
    def priced(window):
        raise Missing("no place was given")

    more = [
        derived("lost_g", needs=("total_s",), of=priced),
        derived("far_g", needs=("lost_g",), of=lambda window: window["lost_g"]),
        derived("wants_j", needs=("elsewhere_j",), of=lambda window: 0.0),
        measured("none_j", opens=Missing("no meter")),
    ]
    with make(*more) as recorder:
        for _ in range(2):
            with pytest.raises(ValueError, match=says):
                recorder.exceeded(limits)
    assert "budget" not in recorder.header


def test_a_total_that_goes_missing_is_told_once_and_the_loop_goes_on(make, clock, caplog):
    reads = iter([1.0, RuntimeError("fell off")])
    limits = {"some_calls": 1e6, "samples": 400.0}
    with make(measured("some_calls", reads=reads), log_every_n_steps=1) as recorder:
        assert loop(recorder, clock, limits)[0] == 50
    (told,) = [message for message in caplog.messages if "cannot be enforced" in message]
    assert told.endswith("as some_calls is missing: RuntimeError (its text is in the log); training continues")


def test_sums_over_ranks_that_were_not_heard_are_told_before_the_first_step(make):
    places = [RankInfo(rank=0, replica=0), RankInfo(rank=1, replica=1)]
    with make(place=places[0], places=places) as recorder:
        assert recorder.hooks.points.missing_counters(["samples", "steps"]) == {
            "samples": "only this rank of 2 reported, and it joins by sum"
        }
        assert recorder.header["missing"] == {}, "foretelling decides nothing"


def test_nothing_is_over_before_it_begins(make):
    with pytest.raises(ValueError, match=r"nothing is measured before begin\(\)"):
        make().exceeded({"samples": 5.0})
