"""A run over several attempts: totals continue, and what was spent is never forgotten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import attempts
import pytest
import torch
from attempts import BATCH
from fakes import FakeClock, measured
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_costs import Recorder, load_run
from lightning_costs.storage.run_folder.files import HEADER

pytestmark = pytest.mark.usefixtures("every_point_at_once")


def counters():
    return [
        measured("train_s", reads=lambda s: s.accounts_s["train"]),
        measured("total_s", reads=lambda s: s.ended_s - s.begun_s),
        measured("steps", "steps", reads=lambda s: float(s.steps)),
        measured("samples", "samples", reads=lambda s: float(s.samples)),
        measured("peak_bytes", kind="gauge", fold="max", reads=lambda s: float(s.samples)),
        measured("last_bytes", kind="gauge", reads=lambda s: float(s.samples)),
    ]


class Attempt(attempts.Attempt):
    indicators = staticmethod(counters)


def test_a_state_is_plain_containers(tmp_path):
    attempt = Attempt(tmp_path).train(3)
    state = attempt.checkpoint()
    attempt.kill()
    assert json.loads(json.dumps(state)) == state
    assert state["run_id"]


def test_a_resumed_run_goes_on_with_identity_and_totals(tmp_path):
    first = Attempt(tmp_path).train(3)
    state = first.checkpoint()
    first.kill()
    run = Attempt(tmp_path, state).train(2).end()
    assert run.id == first.recorder.run_id
    assert (run.final["steps"], run.final["train_s"], run.final["samples"]) == (5.0, 5.0, 40.0)
    assert [p.name for p in tmp_path.iterdir()] == [run.id]
    assert run.points["steps"].to_list() == [1.0, 2.0, 3.0, 4.0, 5.0, 5.0]


@pytest.mark.parametrize("first", [lambda r: r.state_dict(), lambda r: r.log_metrics({"acc": 0.1})])
def test_a_checkpoint_or_an_evaluation_before_the_first_batch_leaves_nothing_missing(tmp_path, first):
    def train(first: Callable[[Recorder], object]) -> Recorder:
        net = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        with Recorder(save_dir=tmp_path, module=net, optimizers=[optimizer]) as recorder:
            first(recorder)
            for _ in range(3):
                batch = torch.ones(8, 4)
                with recorder.train_batch(batch):
                    optimizer.zero_grad()
                    net(batch).sum().backward()
                    optimizer.step()
                recorder.step(batch)
        return recorder

    early, plain = train(first), train(id)
    assert early.final["flop"] == plain.final["flop"] == 3 * 2 * (2 * 8 * 4 * 2)
    assert early.header["missing"].keys() == plain.header["missing"].keys()


def test_each_attempt_is_listed(tmp_path):
    first = Attempt(tmp_path, devices=4).train(3)
    state = first.checkpoint()
    first.end()
    run = Attempt(tmp_path, state, devices=2).train(2).end()
    assert [a["devices"] for a in run.header["attempts"]] == [4, 2]
    assert [a.get("status") for a in run.header["attempts"]] == ["finished", "finished"]
    assert run.header["created"] == load_run(tmp_path / run.id).header["created"]


class Estimated(Attempt):
    """Its samples are estimated, within a share of them."""

    error: float | None = None

    @staticmethod
    def indicators():
        return [*counters(), measured("seen_samples", reads=lambda s: float(s.samples), error=Estimated.error)]


def test_the_interval_of_a_total_is_of_all_attempts(tmp_path, monkeypatch):
    state, intervals = None, []
    for error, steps in ((0.25, 10), (None, 20), (0.5, 10)):
        monkeypatch.setattr(Estimated, "error", error)
        attempt = Estimated(tmp_path, state).train(steps)
        state = attempt.checkpoint()
        run = attempt.end()
        intervals.append(run.header["intervals"]["seen_samples"])
    assert run.final["seen_samples"] == 320.0
    assert intervals == [[60.0, 100.0], [220.0, 260.0], [320.0 - 60.0, 320.0 + 60.0]]


def test_work_after_the_checkpoint_was_spent_and_stays_in_the_totals(tmp_path):
    first = Attempt(tmp_path).train(3)
    state = first.checkpoint()
    first.train(4).kill()
    run = Attempt(tmp_path, state).train(2).end()
    assert run.final["steps"] == 3 + 4 + 2


def test_a_run_killed_right_after_its_checkpoint_keeps_what_the_checkpoint_knew(tmp_path):
    """The checkpoint is newer than the folder's last point: its totals are the ones that were spent."""
    first = Attempt(tmp_path, log_every_n_steps=10).train(15)
    state = first.checkpoint()
    first.kill()
    run = Attempt(tmp_path, state, log_every_n_steps=10).train(2).end()
    assert (run.final["steps"], run.final["train_s"]) == (17.0, 17.0)


def test_a_run_killed_before_its_first_point_keeps_what_the_checkpoint_knew(tmp_path):
    first = Attempt(tmp_path, log_every_n_steps=10).train(5)
    state = first.checkpoint()
    first.kill()
    run = Attempt(tmp_path, state, log_every_n_steps=10).train(2).end()
    assert (run.final["steps"], run.final["train_s"]) == (7.0, 7.0)


def test_without_the_folder_the_checkpoints_totals_go_on(tmp_path):
    first = Attempt(tmp_path / "a").train(3)
    state = first.checkpoint()
    first.train(4).kill()
    run = Attempt(tmp_path / "b", state).train(2).end()
    assert (run.final["steps"], run.final["samples"]) == (5.0, 40.0)
    assert run.id == first.recorder.run_id
    assert len(run.header["attempts"]) == 2


def test_a_broken_folder_of_the_earlier_attempt_does_not_stop_the_training(tmp_path):
    first = Attempt(tmp_path).train(3)
    state = first.checkpoint()
    first.kill()
    (first.recorder.path / HEADER).write_text("{")
    second = Attempt(tmp_path, state).train(2)
    assert second.recorder.costs["steps"] == 5.0
    second.end()


def test_gauges_go_on_too(tmp_path):
    first = Attempt(tmp_path, log_every_n_steps=4).train(4)
    state = first.checkpoint()
    first.kill()
    run = Attempt(tmp_path, state, log_every_n_steps=1).train(1).end()
    assert run.final["peak_bytes"] == 32.0


def test_an_indicator_that_the_first_attempt_lacked_is_missing_in_the_resumed_run(tmp_path):
    first = Attempt(tmp_path).train(3)
    state = first.checkpoint()
    first.kill()
    more = [*counters(), measured("late_calls", reads=lambda s: 1.0)]
    run = Attempt(tmp_path, state, indicators=more).train(2).end()
    assert run.final["late_calls"] is None
    assert "late_calls" in run.header["missing"]


def test_a_counter_that_went_missing_stays_missing_over_a_resume(tmp_path):
    bad = [*counters(), measured("bad_calls", reads=[1.0, None])]
    first = Attempt(tmp_path, indicators=bad).train(3)
    state = first.checkpoint()
    first.kill()
    good = [*counters(), measured("bad_calls", reads=lambda s: 1.0)]
    run = Attempt(tmp_path, state, indicators=good).train(2).end()
    assert run.final["bad_calls"] is None
    assert "bad_calls" in run.header["missing"]


def test_taking_a_state_changes_no_total(tmp_path):
    once, never = Attempt(tmp_path / "a", log_every_n_steps=5), Attempt(tmp_path / "b", log_every_n_steps=5)
    for n in range(12):
        once.train(1)
        never.train(1)
        if n % 2:
            once.checkpoint()
    runs = once.end(), never.end()
    for name in ("steps", "samples", "train_s", "total_s"):
        assert runs[0].points[name].to_list() == runs[1].points[name].to_list()


def test_setup_of_every_attempt_is_somebodys_cost(tmp_path):
    clock = FakeClock()
    first = Attempt(tmp_path).train(3)
    state = first.checkpoint()
    first.kill()
    recorder = Recorder(save_dir=tmp_path, clock=clock, indicators=counters())
    clock.sleep(64)
    recorder.load_state_dict(state)
    with recorder:
        clock.sleep(1)
        recorder.step(BATCH)
    assert (recorder.final["total_s"], recorder.final["train_s"]) == (3 + 64 + 1, 4.0)


pieces = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@settings(max_examples=15)
@given(pieces=pieces, every=st.integers(1, 3), keep=st.booleans())
def test_resume_equals_no_interruption(tmp_path_factory, pieces, every, keep):
    """Killed right after each checkpoint, with and without the folder at hand."""
    base = tmp_path_factory.mktemp("costs")
    straight = Attempt(base / "straight", log_every_n_steps=every).train(sum(pieces)).end()
    state = None
    for n, steps in enumerate(pieces):
        attempt = Attempt(base / "parts", state, log_every_n_steps=every).train(steps)
        if n < len(pieces) - 1:
            state = attempt.checkpoint()
            attempt.kill()
            if not keep:
                shutil.rmtree(base / "parts")
    run = attempt.end()
    for name in ("steps", "samples", "train_s", "total_s"):
        assert run.final[name] == straight.final[name], name


@pytest.mark.parametrize("attempts", [2, 4])
def test_totals_never_go_down_over_attempts(tmp_path, attempts):
    state = None
    for n in range(attempts):
        attempt = Attempt(tmp_path, state, log_every_n_steps=2).train(3 + n)
        state = attempt.checkpoint()
        attempt.train(2).kill()
    run = load_run(attempt.recorder.path)
    for name in ("steps", "samples", "train_s", "total_s"):
        assert run.points[name].is_sorted(), name
