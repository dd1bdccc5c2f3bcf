"""The course of a run on a fake clock, without any model: what is counted where, and how a run ends."""

from __future__ import annotations

import contextlib
import itertools
import logging

import optuna
import pytest
import torch
from fakes import FakeClock, derived, measured

from lightning_costs import Recorder, load_run
from lightning_costs.indicators import default_indicators
from lightning_costs.recording import emission as module
from lightning_costs.records.samples import RankInfo
from lightning_costs.records.time_buckets import ACCOUNTS

BATCH = torch.zeros(8, 3)


def plain():
    """The defaults without the meters of this machine."""
    return [i for i in default_indicators() if i.family not in ("energy", "money")]


@pytest.fixture
def clock():
    return FakeClock(1000.0)


@pytest.fixture
def make(tmp_path, clock):
    def make(**options):
        return Recorder(**{"save_dir": tmp_path / "costs", "clock": clock, "indicators": plain()} | options)

    return make


def train(recorder, clock, n=1, took_s=1.0, **options):
    for _ in range(n):
        clock.sleep(took_s)
        recorder.step(options.pop("batch", BATCH), **options)


# Accounts ----------------------------------------------------------------------------------------------------


def test_every_second_of_a_run_is_in_its_account(make, clock):
    recorder = make()
    clock.sleep(64)
    with recorder:
        for batch in recorder.wrap_loader([BATCH] * 2):
            clock.sleep(1)
            recorder.step(batch)
        with recorder.bucket("evaluate"):
            clock.sleep(2)
        recorder.log_metrics({"acc": 0.5})
        with recorder.bucket("checkpoint"):
            clock.sleep(4)
        with recorder.bucket("other"):
            clock.sleep(8)
        recorder.hooks.run.training_ended()
        clock.sleep(16)
    final = recorder.final
    assert {a: final[f"{a}_s"] for a in ACCOUNTS} == {
        **{"setup": 64.0, "train": 2.0, "evaluate": 2.0, "checkpoint": 4.0},
        "other": 24.0,
    }
    assert (final["total_s"], final["run_s"]) == (96.0, 32.0)


def test_waiting_for_batches_is_training_time_shown_apart(make, clock):
    def loader():
        for _ in range(3):
            clock.sleep(2)
            yield BATCH
        clock.sleep(16)  # what the last one costs to find out

    with make() as recorder:
        for batch in recorder.wrap_loader(loader()):
            train(recorder, clock, batch=batch)
    assert recorder.final["data_wait_s"] == 3 * 2 + 16
    assert recorder.final["train_s"] == 3 + 3 * 2 + 16


@pytest.mark.parametrize("seen", [True, False])
def test_where_no_loader_is_seen_waiting_is_missing_and_not_0(make, clock, seen):
    with make() as recorder:
        recorder.log_metrics({"acc": 0.1})  # nothing was waited for yet
        for batch in recorder.wrap_loader([BATCH] * 2) if seen else [BATCH] * 2:
            train(recorder, clock, batch=batch)
    for column in ("data_wait_s", "rank_max_data_wait_s"):
        assert recorder.final[column] == (0.0 if seen else None)
        assert ("recorder.wrap_loader(loader)" in recorder.header["missing"].get(column, "")) is not seen


def test_fetching_gives_every_batch_and_an_error_of_the_loader_gets_out(make):
    def loader():
        yield 1
        raise OSError("disk")

    with make() as recorder:
        assert list(recorder.wrap_loader([1, 2, 3])) == [1, 2, 3]
        assert list(recorder.wrap_loader([])) == []
        fetched = recorder.wrap_loader(loader())
        assert next(fetched) == 1
        with pytest.raises(OSError, match="disk"):
            next(fetched)
        assert recorder.hooks.steps.accounts.current == "train"


def test_only_what_is_not_training_can_be_paused_for(make):
    with make() as recorder:
        for account in ("train", "setup", "lunch"):
            with pytest.raises(
                ValueError, match=f"account must be 'evaluate', 'checkpoint', 'restore' or 'other', got '{account}'"
            ):
                recorder.bucket(account).__enter__()


def test_an_evaluation_that_raises_ends_its_account(make, clock):
    with make() as recorder:
        with contextlib.suppress(RuntimeError), recorder.bucket("evaluate"):
            clock.sleep(2)
            raise RuntimeError("diverged")
        train(recorder, clock)
    assert (recorder.final["evaluate_s"], recorder.final["train_s"]) == (2.0, 1.0)


# Steps and points --------------------------------------------------------------------------------------------


def test_batches_steps_and_samples_add_up(make, clock):
    with make(log_every_n_steps=0) as recorder:
        train(recorder, clock, 3, optimizer_steps=0)
        train(recorder, clock, 1)
        train(recorder, clock, 1, optimizer_steps=2)
        recorder.epoch_done()
    final = recorder.final
    assert [final[n] for n in ("batches", "steps", "optimizer_steps", "epochs", "samples")] == [5, 2, 3, 1, 40]


def test_a_point_is_made_every_so_many_steps_at_each_quality_and_at_the_end(make, clock):
    with make(log_every_n_steps=4) as recorder:
        train(recorder, clock, 9)
        recorder.log_metrics({"acc": 0.5})
        train(recorder, clock, 3)
    frame = recorder_points(recorder)
    assert frame["trigger"].to_list() == ["train", "train", "evaluate", "train", "end"]
    assert frame["steps"].to_list() == [4.0, 8.0, 9.0, 12.0, 12.0]
    assert frame["step"].to_list() == [3, 7, 8, 11, 11]
    assert frame["acc"].to_list() == [None, None, 0.5, None, None]


def recorder_points(recorder):
    return load_run(recorder.path).points


def test_step_returns_the_point_it_made(make, clock):
    with make(log_every_n_steps=2) as recorder:
        clock.sleep(1)
        assert recorder.step(BATCH) is None
        point = recorder.step(BATCH)
        assert (point.step, point.trigger, point.costs["steps"]) == (1, "train", 2.0)
        assert recorder.costs == dict(point.costs)
        assert recorder.step(BATCH, emit=True).costs["steps"] == 3.0
        assert recorder.step(BATCH, emit=False) is None
        assert recorder.step(BATCH, optimizer_steps=0, emit=True) is None


def test_a_window_of_zero_steps_between_points_makes_points_at_quality_and_end_only(make, clock):
    with make(log_every_n_steps=0) as recorder:
        train(recorder, clock, 120)
        recorder.log_metrics({"acc": 1.0}, step=77)
    frame = recorder_points(recorder)
    assert frame["trigger"].to_list() == ["evaluate", "end"]
    assert frame["step"].to_list()[0] == 77


def test_points_never_go_down(make, clock):
    with make(log_every_n_steps=1) as recorder:
        for _ in range(20):
            train(recorder, clock)
            with recorder.bucket("evaluate"):
                clock.sleep(0.5)
            recorder.log_metrics({"acc": 0.5})
    frame = recorder_points(recorder)
    for name, declared in recorder.hooks.points.declarations.items():
        if declared.kind == "counter" and frame[name].null_count() == 0:
            assert frame[name].is_sorted(), name


def test_throughput_is_counts_over_training_seconds_outside_warm_up(make, clock):
    with make(log_every_n_steps=0) as recorder:
        train(recorder, clock, module.WARMUP_STEPS, took_s=100.0)
        for took_s in (1.0, 2.0, 4.0, 1.0):
            train(recorder, clock, took_s=took_s)
            with recorder.bucket("evaluate"):
                clock.sleep(50)
    final = recorder.final
    assert final["samples_per_s"] == pytest.approx(4 * 8 / 8.0)
    assert (final["step_p50_s"], final["step_max_s"]) == (1.5, 4.0)
    assert final["samples"] == 8 * (4 + module.WARMUP_STEPS)


def test_device_time_is_allocated_devices_times_total_time(make, clock):
    with make(devices=8, nodes=2) as recorder:
        train(recorder, clock, 10)
    assert (recorder.final["device_s"], recorder.final["total_s"]) == (80.0, 10.0)


@pytest.mark.parametrize("every", [1, 3])
def test_points_of_a_long_run_grow_logarithmically(make, clock, monkeypatch, every):
    bound = 10
    monkeypatch.setattr(module, "POINTS_BEFORE_THINNING", bound)
    with make(indicators=[measured("x_calls", reads=lambda s: 1.0)], log_every_n_steps=every) as recorder:
        made = []
        for n in range(1, every * bound * 2**8 + 1):
            if recorder.step(BATCH) is not None:
                made.append(n)
    assert made[:bound] == [every * k for k in range(1, bound + 1)]
    for doublings in range(1, 9):
        points = sum(n <= every * bound * 2**doublings for n in made)
        assert points <= bound * (doublings + 1), (doublings, points)
    assert len(made) >= bound * 5


def test_totals_of_a_thinned_run_are_complete(make, clock, monkeypatch):
    monkeypatch.setattr(module, "POINTS_BEFORE_THINNING", 4)
    with make(log_every_n_steps=1) as recorder:
        train(recorder, clock, 333)
    assert (recorder.final["steps"], recorder.final["samples"], recorder.final["train_s"]) == (333, 333 * 8, 333.0)


# Begin and end -----------------------------------------------------------------------------------------------


def test_a_point_before_begin_is_an_error_that_says_what_to_do(make):
    with pytest.raises(ValueError, match=r"nothing is measured before begin\(\)"):
        make().log_metrics({"val/acc": 0.5})


def test_a_step_before_begin_is_an_error_that_says_what_to_do(make):
    with pytest.raises(ValueError, match=r"step\(\) before begin\(\): call begin\(\), or use the recorder in a `with`"):
        make().step(BATCH)


def test_a_recorder_is_used_for_one_run(make, clock):
    with make() as recorder:
        train(recorder, clock)
    with pytest.raises(ValueError, match="this recorder's run has ended; make a new Recorder for another run"):
        recorder.begin()
    with pytest.raises(ValueError, match="this recorder's run has ended; make a new Recorder for another run"):
        recorder.step(BATCH)
    assert recorder.end() is None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError, "failed"),
        (KeyboardInterrupt, "interrupted"),
        (SystemExit, "interrupted"),
        (None, "finished"),
        (optuna.TrialPruned, "interrupted"),
    ],
)
def test_a_run_ends_as_its_with_ended(make, clock, error, status):
    recorder = make()

    def run():
        with recorder:
            train(recorder, clock, 2)
            if error is not None:
                raise error("stop")

    if error is None:
        run()
    else:
        with pytest.raises(error, match="stop"):
            run()
    run = load_run(recorder.path)
    assert run.header["status"] == status
    assert [a["status"] for a in run.header["attempts"]] == [status]
    assert (run.final["steps"], run.source) == (2.0, "points.parquet")


def test_end_returns_the_run_as_its_folder_holds_it(make, clock):
    recorder = make(name="mine", monitor="acc", mode="max", targets=[1, 0.5])
    recorder.begin()
    train(recorder, clock, 3)
    recorder.log_metrics({"acc": 0.75})
    recorder.hooks.run.training_ended()
    run = recorder.end()
    assert run.final == {**dict.fromkeys(recorder.hooks.points.declarations), **recorder.final}
    assert (run.name, run.header["monitor"], run.header["mode"], run.header["targets"]) == (
        "mine",
        "acc",
        "max",
        [1.0, 0.5],
    )
    assert run.points["acc"].to_list() == [0.75, None]


def test_a_run_that_never_trained_a_batch_leaves_no_folder(make, tmp_path):
    recorder = make()
    recorder.begin()
    recorder.log_metrics({"acc": 0.1})
    assert recorder.end() is None
    assert recorder.path is None
    assert not (tmp_path / "costs").exists()


def test_the_folder_is_made_at_the_first_step(make, clock, tmp_path):
    recorder = make()
    assert (recorder.run_id, recorder.path) == ("", None)
    with recorder:
        with recorder.bucket("other"):
            clock.sleep(1)
        assert not (tmp_path / "costs").exists()
        train(recorder, clock)
        assert recorder.path.is_dir()
        assert recorder.path.name == recorder.run_id


def test_training_says_whether_steps_are_welcome(make, clock):
    recorder = make()
    assert not recorder.hooks.run.training
    with recorder:
        assert recorder.hooks.run.training
        train(recorder, clock)
        recorder.hooks.run.training_ended()
    assert not recorder.hooks.run.training


# What is refused ---------------------------------------------------------------------------------------------


def test_a_monitor_needs_its_direction(make):
    with pytest.raises(ValueError, match=r"monitor='acc' needs mode='max' or mode='min': which direction is better?"):
        make(monitor="acc")


@pytest.mark.parametrize("mode", ["maximum", "up", ""])
def test_a_direction_is_max_or_min(make, mode):
    with pytest.raises(ValueError, match=f"mode must be 'max' or 'min', got '{mode}'"):
        make(monitor="acc", mode=mode)


def test_two_indicators_of_one_name_are_refused_before_anything_is_measured(make):
    with pytest.raises(ValueError, match="two indicators are named 'x_calls'"):
        make(indicators=[measured("x_calls"), measured("x_calls")])


# Samples and tokens ------------------------------------------------------------------------------------------


def test_a_batch_size_function_is_asked_before_the_shapes(make, clock):
    with make(batch_size_fn=lambda batch: 100) as recorder:
        train(recorder, clock, 3)
    assert recorder.final["samples"] == 300.0


def test_a_batch_size_function_that_raises_makes_samples_missing_and_is_said_once(make, clock, caplog):
    caplog.set_level(logging.WARNING, logger="lightning_costs")
    with make(batch_size_fn=lambda batch: batch["x"], log_every_n_steps=1) as recorder:
        train(recorder, clock, 4)
    assert (recorder.final["samples"], recorder.final["steps"]) == (None, 4.0)
    assert "samples" in recorder.header["missing"]
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("batch_size_fn")]
    assert len(said) == 1
    assert said[0].startswith("batch_size_fn failed on a batch, so its count is missing: ")


def test_batches_without_a_size_make_samples_missing_with_how_to_give_them(make, clock):
    with make() as recorder:
        train(recorder, clock, 2, batch="text")
    assert recorder.final["samples"] is None
    assert "give batch_size_fn=lambda batch: ..." in recorder.header["missing"]["samples"]


def test_tokens_are_what_length_fn_says(make, clock):
    with make(length_fn=lambda batch: batch.shape[0] * 10) as recorder:
        train(recorder, clock, 2)
    assert recorder.final["tokens"] == 160.0


def test_tokens_are_the_input_ids_where_nobody_says(make, clock):
    ids = {"input_ids": torch.zeros(4, 7, dtype=torch.int64)}
    with make() as recorder:
        for _ in range(3):
            train(recorder, clock, batch=ids)
    assert (recorder.final["tokens"], recorder.final["samples"]) == (84.0, 12.0)


def test_without_either_tokens_are_missing_with_how_to_give_them(make, clock):
    with make() as recorder:
        train(recorder, clock, 2)
    assert recorder.final["tokens"] is None
    assert "give length_fn=lambda batch: ..." in recorder.header["missing"]["tokens"]


# A user's own ------------------------------------------------------------------------------------------------


def test_a_users_own_indicator_is_one_class_and_is_in_the_run_folder(make, clock):
    from lightning_costs import Measured

    class Sneezes(Measured):
        name, unit, kind, family = "sneeze_calls", "calls", "counter", "data"

        def read(self, sample):
            return 3.0 * sample.batches

    with make(indicators=[*plain(), Sneezes()], log_every_n_steps=2) as recorder:
        train(recorder, clock, 4)
    run = load_run(recorder.path)
    assert run.points["sneeze_calls"].to_list() == [6.0, 12.0, 12.0]
    assert run.header["indicators"]["sneeze_calls"]["label"] == "sneeze calls"
    assert run.final["sneeze_calls"] == 12.0


def test_a_users_own_derived_indicator_reads_the_columns_it_needs(make, clock):
    own = derived("pair_samples", "samples", needs=("samples",), of=lambda w: w["samples"] / 2)
    with make(indicators=[own, *plain()]) as recorder:
        train(recorder, clock, 4)
    assert recorder.final["pair_samples"] == 16.0


def test_a_users_indicator_that_raises_does_not_touch_the_training(make, clock, caplog):
    bad = measured("bad_calls", reads=lambda s: 1 / 0)
    with make(indicators=[bad, *plain()], log_every_n_steps=1) as recorder:
        train(recorder, clock, 3)
    assert (recorder.final["bad_calls"], recorder.final["steps"]) == (None, 3.0)
    assert recorder.header["missing"]["bad_calls"] == "ZeroDivisionError (its text is in the log)"
    assert sum("bad_calls" in r.getMessage() for r in caplog.records) == 1


# Several processes -------------------------------------------------------------------------------------------


PLACES = (RankInfo(rank=0), RankInfo(rank=1, replica=1))


def test_of_two_processes_of_which_one_is_heard_sums_are_missing_and_clocks_are_not(make, clock):
    with make(place=PLACES[0], places=PLACES, devices=2) as recorder:
        train(recorder, clock, 3)
    final = recorder.final
    assert (final["train_s"], final["device_s"], final["steps"]) == (3.0, 6.0, 3.0)
    assert (final["samples"], final["samples_per_s"]) == (None, None)
    assert recorder.header["missing"]["samples"] == (
        "only this rank of 2 reported, and it joins by sum "
        "(torch.distributed is not initialized, so the ranks cannot exchange their costs)"
    )
    assert recorder.header["attempts"][0]["processes"] == 2


def test_only_rank_0_writes(make, clock, tmp_path):
    recorder = make(place=PLACES[1], places=PLACES)
    recorder.begin()
    train(recorder, clock, 3)
    assert recorder.path is None
    assert recorder.end() is None
    assert not (tmp_path / "costs").exists()


# Identity ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["LIGHTNING_COSTS_RUN_ID", "WANDB_RUN_ID", "SLURM_JOB_ID"])
def test_the_environment_names_the_run(make, clock, monkeypatch, variable):
    monkeypatch.setenv(variable, "abc-123")
    with make(name="mine") as recorder:
        train(recorder, clock)
    assert (recorder.run_id, recorder.header["name"]) == ("abc-123", "mine")


def test_our_own_variable_comes_first(make, clock, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    monkeypatch.setenv("LIGHTNING_COSTS_RUN_ID", "ours")
    with make() as recorder:
        train(recorder, clock)
    assert recorder.run_id == "ours"


def test_an_identity_that_a_folder_has_already_gets_a_suffix(make, clock, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COSTS_RUN_ID", "same")
    ids = []
    for _ in range(3):
        with make() as recorder:
            train(recorder, clock)
        ids.append(recorder.run_id)
    assert ids == ["same", "same-2", "same-3"]


@pytest.mark.parametrize(("given", "made"), [("a/b c", "a-b-c"), ("../../etc", "-..-etc"), ("..", "run"), ("é", "-")])
def test_an_identity_is_one_folder_name(make, clock, monkeypatch, tmp_path, given, made):
    monkeypatch.setenv("LIGHTNING_COSTS_RUN_ID", given)
    with make() as recorder:
        train(recorder, clock)
    assert recorder.run_id == made
    assert recorder.path.resolve().parent == (tmp_path / "costs").resolve()


def test_without_one_the_identity_is_made_of_name_and_time(make, clock):
    ids = []
    for name in ("My run: big/one", None):
        with make(name=name) as recorder:
            train(recorder, clock)
        ids.append(recorder.run_id)
    assert ids[0].startswith("My-run-big-one-20")
    assert ids[1].startswith("run-20")


def test_runs_made_in_one_second_have_different_identities(make, clock):
    ids = set()
    for _ in itertools.repeat(None, 10):
        with make(indicators=[measured("x_calls", reads=lambda s: 1.0)]) as recorder:
            train(recorder, clock)
        ids.add(recorder.run_id)
    assert len(ids) == 10


def test_after_a_resume_too_the_header_says_why_a_users_count_is_missing(tmp_path):
    with Recorder(save_dir=tmp_path, name="one") as first:
        first.step(torch.zeros(4, 2))
        state = first.state_dict()
    again = Recorder(save_dir=tmp_path, name="one", batch_size_fn=lambda batch: "four")
    again.load_state_dict(state)
    with again:
        again.step(torch.zeros(4, 2))
    assert again.header["missing"]["batch_size_fn"].startswith("batch_size_fn failed on a batch")
