"""Work that restarts lost: an account of its own, and curves with and without it."""

from __future__ import annotations

import json
import logging
import shutil

import attempts
import pytest
import torch
from fakes import FakeClock, measured
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_costs import Recorder, default_indicators, load_run
from lightning_costs.indicators import lost
from lightning_costs.records.ledger import LOST
from lightning_costs.storage.run_folder import identity
from lightning_costs.storage.run_folder.files import HEADER

pytestmark = pytest.mark.usefixtures("every_point_at_once")
BATCH = torch.zeros(8, 3)


def indicators():
    return [
        measured("total_s", reads=lambda s: s.ended_s - s.begun_s),
        measured("steps", "steps", reads=lambda s: float(s.steps)),
        measured("samples", "samples", reads=lambda s: float(s.samples)),
        measured("flop", "flop", reads=lambda s: 100.0 * s.samples),
        measured("energy_j", reads=lambda s: 2.0 * (s.ended_s - s.begun_s)),
        measured("paid_usd", reads=lambda s: 0.5 * s.steps),
        *(kind() for kind in (lost.LostS, lost.LostSamples, lost.LostFlop, lost.LostEnergyJ)),
    ]


class Attempt(attempts.Attempt):
    """The next one is another process: it does not know of this one."""

    indicators = staticmethod(indicators)

    def kill(self):
        identity._used_here.clear()
        return super().kill()

    def end(self, status="finished"):
        identity._used_here.clear()
        return super().end(status)


def lost_of(run):
    return tuple(run.final[name] for name in ("lost_s", "lost_samples", "lost_flop", "lost_energy_j"))


def test_a_run_without_restarts_lost_nothing(tmp_path):
    assert lost_of(Attempt(tmp_path).train(3).end()) == (0.0, 0.0, 0.0, 0.0)


def test_what_ran_after_the_checkpoint_is_lost_and_stays_in_the_totals(tmp_path):
    first = Attempt(tmp_path).train(3)
    state = first.checkpoint()
    first.train(4).kill()
    run = Attempt(tmp_path, state).train(2).end()
    assert (run.final["steps"], run.final["total_s"]) == (9.0, 9.0)
    assert lost_of(run) == (4.0, 32.0, 3200.0, 8.0)


def test_several_restarts_add_up_also_from_an_older_checkpoint(tmp_path):
    first = Attempt(tmp_path).train(3)
    older = first.checkpoint()
    newer = first.train(2).checkpoint()
    first.train(1).kill()
    second = Attempt(tmp_path, newer).train(4).kill()
    assert second.recorder.costs["lost_s"] == 1.0
    run = Attempt(tmp_path, older).train(2).end()
    assert run.final["steps"] == 3 + 2 + 1 + 4 + 2
    assert lost_of(run)[0] == 2 + 1 + 4
    assert run.header["attempts"][-1]["from_step"] == 3


def test_a_checkpoint_of_an_abandoned_line_makes_its_work_useful_again(tmp_path):
    first = Attempt(tmp_path).train(3)
    three = first.checkpoint()
    eight = first.train(5).checkpoint()
    first.train(1).kill()
    Attempt(tmp_path, three).train(2).kill()
    run = Attempt(tmp_path, eight).train(1).end()
    assert run.final["total_s"] == 12.0
    assert run.final["lost_s"] == 1.0 + 2.0
    assert run.to_reach().points["total_s"].to_list() == [*map(float, range(1, 10)), 9.0]


def test_an_attempt_that_left_no_point_changes_nothing_for_the_next_one(tmp_path):
    first = Attempt(tmp_path, log_every_n_steps=3).train(3)
    three = first.checkpoint()
    seven = first.train(4).checkpoint()
    first.kill()
    Attempt(tmp_path, three, log_every_n_steps=3).train(1).kill()
    run = Attempt(tmp_path, seven, log_every_n_steps=3).train(3).end()
    assert (run.final["steps"], run.final["lost_s"]) == (10.0, 0.0)
    assert run.to_reach().points["steps"].to_list() == [3.0, 6.0, 10.0, 10.0]


def test_nothing_is_lost_where_no_step_ran_after_the_checkpoint(tmp_path):
    first = Attempt(tmp_path).train(3)
    state = first.checkpoint()
    first.clock.sleep(5)
    first.end()
    run = Attempt(tmp_path, state).train(2).end()
    assert (run.final["total_s"], run.final["lost_s"]) == (10.0, 0.0)


@pytest.mark.parametrize("way", ["elsewhere", "deleted"])
def test_without_the_earlier_folder_lost_work_is_unknown_and_not_zero(tmp_path, way):
    first = Attempt(tmp_path / "a").train(3)
    state = first.checkpoint()
    first.train(1).kill()
    if way == "deleted":
        shutil.rmtree(tmp_path / "a")
    second = Attempt(tmp_path / ("a" if way == "deleted" else "b"), state).train(2)
    again = second.checkpoint()
    second.train(1).kill()
    for run in (load_run(second.recorder.path), Attempt(second.recorder.path.parent, again).train(2).end()):
        assert lost_of(run) == (None,) * 4
        assert {run.header["missing"][name] for name in LOST} == {
            "the folder of the run's earlier attempt is not available"
        }
    assert run.final["steps"] == 8.0
    reached = run.to_reach()
    assert reached.final["total_s"] is None
    assert reached.header["missing"]["total_s"] == "what the run's restarts lost is unknown"


def test_a_column_that_is_missing_has_no_lost_part_and_the_others_have(tmp_path):
    few = [i for i in indicators() if i.name not in ("energy_j", "lost_energy_j")]
    first = Attempt(tmp_path / "few", indicators=few).train(3)
    state = first.checkpoint()
    first.train(4).kill()
    run = Attempt(tmp_path / "few", state, indicators=few).train(1).end()
    assert (run.final["lost_s"], run.final["lost_flop"]) == (4.0, 3200.0)

    gone = [measured("energy_j", reads=lambda s: None) if i.name == "energy_j" else i for i in indicators()]
    first = Attempt(tmp_path / "gone", indicators=gone).train(3)
    state = first.checkpoint()
    first.train(4).kill()
    run = Attempt(tmp_path / "gone", state).train(1).end()
    assert lost_of(run) == (4.0, 32.0, 3200.0, None)
    assert run.header["missing"]["lost_energy_j"].startswith("needs energy_j: a window gave no reading")


def test_lost_work_needs_no_count_of_steps_among_the_columns(tmp_path):
    blind = [i for i in indicators() if i.name != "steps"]
    first = Attempt(tmp_path, indicators=blind).train(3)
    state = first.checkpoint()
    first.train(4).kill()
    assert Attempt(tmp_path, state, indicators=blind).train(2).end().final["lost_s"] == 4.0


def test_both_curves_can_be_drawn(tmp_path):
    first = Attempt(tmp_path).train(2).quality(0.2)
    state = first.checkpoint()
    first.train(3).quality(0.3).kill()
    run = Attempt(tmp_path, state).train(1).quality(0.25).end()
    spent, reached = run.points, run.to_reach().points
    assert spent["acc"].drop_nulls().to_list() == [0.2, 0.3, 0.25]
    assert reached["acc"].drop_nulls().to_list() == [0.2, 0.25]
    assert spent["total_s"].to_list() == [1.0, 2.0, 2.0, 3.0, 4.0, 5.0, 5.0, 6.0, 6.0, 6.0]
    assert reached["total_s"].to_list() == [1.0, 2.0, 2.0, 3.0, 3.0, 3.0]
    assert reached["paid_usd"].to_list() == [0.5, 1.0, 1.0, 1.5, 1.5, 1.5]  # any counter, not only the four
    assert set(reached["lost_s"].to_list()) == {0.0}


def test_each_attempt_says_where_it_began_and_how_it_ended(tmp_path):
    first = Attempt(tmp_path, devices=4).train(3)
    state = first.checkpoint()
    first.train(1).kill()
    run = Attempt(tmp_path, state, devices=2).train(2).end()
    assert [(a["from_step"], a["devices"], a["status"]) for a in run.header["attempts"]] == [
        (0, 4, "killed"),
        (3, 2, "finished"),
    ]
    assert all(a["began"] <= a["ended"] for a in run.header["attempts"])


def test_device_time_takes_each_attempts_own_number_of_devices(tmp_path):
    columns = [i for i in default_indicators() if i.name in ("total_s", "devices", "device_s", "lost_s", "steps")]
    first = Attempt(tmp_path, devices=4, indicators=columns).train(3)
    state = first.checkpoint()
    first.train(1).kill()
    run = Attempt(tmp_path, state, devices=2, indicators=columns).train(2).end()
    assert (run.final["total_s"], run.final["device_s"], run.final["devices"]) == (6.0, 4 * 4.0 + 2 * 2.0, 2.0)
    assert run.to_reach().final["device_s"] == 3 * 4.0 + 2 * 2.0


# Identity ----------------------------------------------------------------------------------------------------


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, logger="lightning_costs")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "lightning_costs"]


@pytest.mark.parametrize(
    "environment",
    [
        {"LIGHTNING_COSTS_RUN_ID": "mine"},
        {"WANDB_RUN_ID": "mine", "WANDB_RESUME": "allow"},
        {"SLURM_JOB_ID": "mine", "SLURM_RESTART_COUNT": "1"},
    ],
    ids=["ours", "wandb", "slurm"],
)
def test_an_attempt_that_starts_over_in_its_runs_folder_has_lost_all_before_it(tmp_path, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, "0" if name == "SLURM_RESTART_COUNT" else value)
    Attempt(tmp_path).train(3).kill()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run = Attempt(tmp_path).train(2).end()
    assert (run.id, len(run.header["attempts"]), run.final["steps"]) == ("mine", 2, 5.0)
    assert lost_of(run) == (3.0, 24.0, 2400.0, 6.0)
    assert run.to_reach().points["steps"].to_list() == [1.0, 2.0, 2.0]
    assert run.points["step"].to_list() == [0, 1, 2, 0, 1, 1]


@pytest.mark.parametrize(
    "environment",
    [{"WANDB_RUN_ID": "mine"}, {"SLURM_JOB_ID": "mine"}, {"SLURM_JOB_ID": "mine", "SLURM_RESTART_COUNT": "0"}],
    ids=["wandb", "slurm", "slurm-not-requeued"],
)
def test_a_further_run_of_one_job_that_was_not_requeued_is_another_run(tmp_path, monkeypatch, said, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Attempt(tmp_path).train(3).kill()
    run = Attempt(tmp_path).train(2).end()
    assert (run.id, run.final["steps"], said()) == ("mine-2", 2.0, [])


def test_fits_of_a_requeued_job_continue_their_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    for steps in (1, 2):
        Attempt(tmp_path).train(steps).end()
    for restarts in (1, 2):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        ids = [Attempt(tmp_path).train(steps).end().id for steps in (1, 2, 3)]
        assert ids == ["77", "77-2", "77-3"]
    assert [load_run(tmp_path / name).final["steps"] for name in ids] == [3.0, 6.0, 6.0]


def test_fits_of_one_process_under_a_given_identity_are_runs_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COSTS_RUN_ID", "mine")
    for _ in range(2):
        for steps in (1, 2):
            recorder = Recorder(save_dir=tmp_path, clock=FakeClock(), indicators=indicators())
            with recorder:
                for _ in range(steps):
                    recorder.step(BATCH)
        identity._used_here.clear()
    assert {p.name: load_run(p).final["steps"] for p in tmp_path.iterdir()} == {"mine": 2.0, "mine-2": 4.0}


def test_a_job_that_resumes_another_jobs_checkpoint_continues_that_run(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "100")
    first = Attempt(tmp_path).train(3)
    state = first.checkpoint()
    first.kill()
    monkeypatch.setenv("SLURM_JOB_ID", "101")
    assert Attempt(tmp_path, state).train(2).end().id == "100"


def test_a_name_that_the_user_gives_goes_before_the_checkpoints(tmp_path, monkeypatch):
    first = Attempt(tmp_path).train(3)
    state = first.checkpoint()
    first.train(1).kill()
    monkeypatch.setenv("LIGHTNING_COSTS_RUN_ID", "branch")
    run = Attempt(tmp_path, state).train(2).end()
    assert (run.id, run.final["steps"], run.final["lost_s"]) == ("branch", 5.0, 0.0)


# Folders that are somebody else's -----------------------------------------------------------------------------


def spoil(folder, way):
    header = json.loads((folder / HEADER).read_text())
    if way == "unreadable":
        (folder / HEADER).write_text("{")
    elif way == "no header":
        (folder / HEADER).unlink()
    else:
        change = {
            "another run": {"run_id": "somebody"},
            "a newer schema": {"schema_version": 99},
            "another run of this name": {"attempts": [{**header["attempts"][0], "id": "else"}]},
        }[way]
        (folder / HEADER).write_text(json.dumps(header | change))


@pytest.mark.parametrize(
    ("way", "found"),
    [
        ("unreadable", "cannot be read"),
        ("no header", "holds no header.json: it is no run's folder"),
        ("another run", "holds the run 'somebody', expected"),
        ("a newer schema", "was written with schema version 99"),
        ("another run of this name", "holds another run of this name, begun"),
    ],
)
def test_a_folder_of_another_run_is_left_alone_and_said_once(tmp_path, said, way, found):
    first = Attempt(tmp_path).train(3)
    state = first.checkpoint()
    first.kill()
    folder = first.recorder.path
    spoil(folder, way)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    run = Attempt(tmp_path, state).train(2).end()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert (run.id, run.final["steps"], run.final["lost_s"]) == (f"{folder.name}-2", 5.0, None)
    (warning,) = said()
    assert found in warning
    assert "LIGHTNING_COSTS_RUN_ID" in warning


def test_a_folder_that_a_living_writer_holds_is_left_to_it(tmp_path, said, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COSTS_RUN_ID", "mine")
    first = Attempt(tmp_path).train(3)
    identity._used_here.clear()
    second = Attempt(tmp_path).train(2).end()
    assert second.id == "mine-2"
    assert "is being written by another process" in said()[0]
    assert first.train(1).end().final["steps"] == 4.0


def test_resuming_after_training_began_is_refused(tmp_path):
    attempt = Attempt(tmp_path).train(1)
    with pytest.raises(ValueError, match=r"load_state_dict\(\) after begin\(\)"):
        attempt.recorder.load_state_dict(attempt.checkpoint())
    attempt.end()


# Against a plain model -----------------------------------------------------------------------------------------

moves = st.lists(
    st.one_of(
        st.tuples(st.just("train"), st.integers(1, 4)),
        st.tuples(st.just("save"), st.just(0)),
        st.tuples(st.just("kill"), st.integers(0, 9)),
        st.tuples(st.just("end"), st.integers(0, 9)),
    ),
    max_size=14,
)


@settings(max_examples=30)
@given(moves=moves, every=st.integers(1, 3))
def test_totals_are_the_sum_of_what_ran_and_lost_what_led_nowhere(tmp_path_factory, moves, every):
    """Any sequence of training, saving, dying and resuming from any checkpoint, against integers."""
    base = tmp_path_factory.mktemp("costs")
    attempt, saved = Attempt(base, log_every_n_steps=every).train(1), []
    written = ran = position = 1  # written: what is on disk; ran: what is known; position: what led here
    written = 1 if every == 1 else 0
    saved.append((attempt.checkpoint(), ran, position))
    own = 1
    for what, n in moves:
        if what == "train":
            for _ in range(n):
                attempt.train(1)
                ran, position, own = ran + 1, position + 1, own + 1
                written = ran if own % every == 0 else written
        elif what == "save":
            saved.append((attempt.checkpoint(), ran, position))
        else:
            if what == "kill":
                attempt.kill()
            else:
                attempt.end()
                written = ran
            state, known, position = saved[n % len(saved)]
            ran = max(written, known)  # what nobody had written is known to nobody
            attempt, own = Attempt(base, state, log_every_n_steps=every).train(1), 1
            ran, position = ran + 1, position + 1
            written = ran if every == 1 else written
    run = attempt.end()
    assert (run.final["steps"], run.final["total_s"], run.final["samples"]) == (ran, ran, 8 * ran)
    assert lost_of(run) == (ran - position, 8 * (ran - position), 800 * (ran - position), 2 * (ran - position))
    assert run.points["total_s"].is_sorted()
    reached = run.to_reach()
    assert reached.final["steps"] == position
    assert reached.points["steps"].is_sorted()
    assert reached.points["steps"].to_list() == reached.points["total_s"].to_list()


# Before and after ------------------------------------------------------------------------------------------------


def test_a_wandb_run_that_says_it_was_resumed_continues_its_folder(tmp_path, monkeypatch):
    class Wandb:
        class run:  # noqa: N801 - wandb's own name
            id, resumed = "mine", True

    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    Attempt(tmp_path).train(3).kill()
    monkeypatch.setitem(__import__("sys").modules, "wandb", Wandb)
    assert Attempt(tmp_path).train(1).end().final["steps"] == 4.0


def test_a_checkpoint_of_an_older_version_is_resumed(tmp_path):
    first = Attempt(tmp_path).train(3)
    state = first.checkpoint()
    first.train(1).kill()
    old = {
        "run_id": state["run_id"],
        "ledger": {"costs": {k: v for k, v in state["ledger"]["costs"].items() if k not in LOST}},
        "header": {"attempts": [{"began": "2026-01-01T00:00:00.000+00:00", "devices": 1}]},
    }
    run = Attempt(tmp_path / "elsewhere", old).train(2).end()
    assert (run.final["steps"], run.final["lost_s"], run.header["attempts"][-1]["from_step"]) == (5.0, None, 3)


def test_an_attempt_that_trains_no_batch_leaves_the_folder_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COSTS_RUN_ID", "mine")
    first = Attempt(tmp_path).train(3).kill()
    before = load_run(first.recorder.path).header
    Attempt(tmp_path).end("failed")
    assert load_run(first.recorder.path).header == before
    assert before["status"] == "killed"
    assert Attempt(tmp_path).train(1).end().final["lost_s"] == 3.0


@pytest.mark.integration
def test_a_run_whose_table_alone_was_kept_goes_on_with_all_its_points(tmp_path):
    first = Attempt(tmp_path).train(2).quality(0.5)
    first.recorder.log_metrics({"steps": 0.25})
    state = first.checkpoint()
    first.train(1).end()
    (first.recorder.path / "points.jsonl").unlink()
    run = Attempt(tmp_path, state).train(1).end()
    assert run.points["steps"].to_list() == [1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]
    assert run.points["acc"].drop_nulls().to_list() == [0.5]
    assert run.points["quality/steps"].drop_nulls().to_list() == [0.25]
    assert run.to_reach().points["steps"].to_list() == [1.0, 2.0, 2.0, 2.0, 3.0, 3.0]
