"""A device that works on while the host waits for it elsewhere: its time is training's, whoever waited."""

from __future__ import annotations

import pytest
import torch
from consistency import PHASES, agree
from fakes import FakeClock, FakeStream
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_costs import Recorder, default_indicators, load_runs
from lightning_costs.indicators import idle
from lightning_costs.probes.device_timeline import DeviceTimeline

WORK_S, STEPS, BATCH = 1.0, 64, 4


@pytest.fixture
def clock():
    return FakeClock(1024.0)


@pytest.fixture
def stream(clock, monkeypatch):
    """A device of its own clock, in place of CUDA's."""
    stream = FakeStream(clock)
    monkeypatch.setattr(DeviceTimeline, "attach", classmethod(lambda cls, setting: cls(stream)))
    monkeypatch.setattr(idle._DeviceAmount, "open", lambda self, setting: setting.probe(DeviceTimeline))
    return stream


def train(tmp_path, clock, stream, in_hook, *, in_loop=lambda: None):
    recorder = Recorder(
        module=nn.Linear(1, 1),
        save_dir=tmp_path,
        clock=clock,
        indicators=default_indicators(),
        log_every_n_steps=8,
        count="off",
    )
    batch = torch.zeros(BATCH, 1)
    with recorder:
        for _ in range(STEPS):
            with recorder.train_batch(batch):
                clock.sleep(0.125)
                stream.launch(WORK_S)
            recorder.step(batch)
            with recorder.bucket("other"):
                in_hook()
            in_loop()
        stream.synchronize()
    (run,) = load_runs(tmp_path)
    return run.final


def test_a_hook_that_waits_for_the_device_takes_no_time_from_training(tmp_path, clock, stream):
    waiting = train(tmp_path / "a", clock, stream, stream.synchronize)
    alone = train(tmp_path / "b", clock, stream, lambda: None, in_loop=stream.synchronize)
    for final in (waiting, alone):
        assert final["train_s"] == pytest.approx(STEPS * (WORK_S + 0.125), rel=0.03)
        assert final["steady_s"] / final["steady_samples"] == pytest.approx((WORK_S + 0.125) / BATCH, rel=0.03)
        assert final["total_s"] == pytest.approx(
            sum(final[name] for name in ("setup_s", "train_s", "evaluate_s", "checkpoint_s", "other_s"))
        )


def test_a_hook_in_which_the_device_idles_is_other_time(tmp_path, clock, stream):
    def hook():
        stream.synchronize()
        clock.sleep(0.5)

    final = train(tmp_path, clock, stream, hook)
    assert final["other_s"] == pytest.approx(STEPS * 0.5, rel=0.05)
    assert final["train_s"] == pytest.approx(STEPS * (WORK_S + 0.125), rel=0.05)
    assert final["steady_s"] / final["steady_samples"] == pytest.approx((WORK_S + 0.125) / BATCH, rel=0.05)


def test_idle_time_in_hooks_is_taken_from_training_once(tmp_path, clock, stream):
    def hook():
        stream.synchronize()
        clock.sleep(2 * WORK_S)

    final = train(tmp_path, clock, stream, hook)
    assert final["other_s"] == pytest.approx(2 * WORK_S * STEPS, rel=0.05)
    assert final["idle_hooks_s"] == pytest.approx(final["idle_s"] - final["idle_data_s"], rel=0.05)
    assert final["productive_s"] == pytest.approx(STEPS * (WORK_S + 0.125), rel=0.1)


def test_the_hook_after_the_last_batch_is_other_time_too(tmp_path, clock, stream):
    batches = iter(range(STEPS))

    def hook():
        stream.synchronize()
        clock.sleep(60.0 if next(batches) == STEPS - 1 else 0.0)

    assert train(tmp_path, clock, stream, hook)["other_s"] == pytest.approx(60.0)


def test_a_device_that_fails_leaves_training_its_own_error_and_the_run_its_end(tmp_path, clock, stream, monkeypatch):
    def hook():
        if clock() > 1030.0:
            monkeypatch.setattr(stream, "record", lambda: 1 / 0)
            raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        train(tmp_path, clock, stream, hook)
    (run,) = load_runs(tmp_path)
    assert (run.header["status"], run.points["trigger"][-1]) == ("failed", "end")


def test_a_first_hook_that_takes_long_makes_no_slow_step(tmp_path, clock, stream):
    waits_s = iter([60.0])

    def hook():
        stream.synchronize()
        clock.sleep(next(waits_s, 0.0))

    final = train(tmp_path, clock, stream, hook)
    assert final["other_s"] == pytest.approx(60.0)
    assert final["slow_s"] == pytest.approx(0.0, abs=1e-6)
    assert final["productive_s"] == pytest.approx(final["train_s"], rel=0.02)


@pytest.mark.parametrize("account", ["evaluate", "checkpoint"])
def test_what_a_loop_puts_into_an_account_is_in_no_step(tmp_path, clock, stream, account):
    recorder = Recorder(module=nn.Linear(1, 1), save_dir=tmp_path, clock=clock, log_every_n_steps=0, count="off")
    batch = torch.zeros(BATCH, 1)
    with recorder:
        for number in range(STEPS):
            with recorder.train_batch(batch):
                stream.launch(WORK_S)
            recorder.step(batch)
            stream.synchronize()
            if number % 8 == 7:
                with recorder.bucket(account):
                    clock.sleep(100.0)
    (run,) = load_runs(tmp_path)
    assert run.final["step_max_s"] == pytest.approx(WORK_S)
    assert run.final["idle_s"] == 0.0


#: Sums of these are exact. A hook may be long, short, or wait for the device.
_ticks = st.sampled_from([0, 0, 1, 8, 64, 640]).map(lambda ticks: ticks / 64)


@st.composite
def _programs(draw):
    quiet = draw(st.integers(0, 4))  # first steps without hooks: what is left of warm-up is then next to nothing
    batches = []
    for number in range(draw(st.integers(1, 24))):
        names = ("wait", "late", "hook", "evaluate", "checkpoint")
        batch = {name: draw(_ticks) if draw(st.booleans()) else 0.0 for name in names}
        batch["hook"] *= number >= quiet
        does = st.sampled_from(["waits", "saves", "logs", "fails to step"])
        batches.append((batch, draw(_ticks) + 1 / 64, draw(st.sets(does, max_size=2))))
    return batches


@given(_programs(), st.sampled_from([0, 1, 3]), st.sampled_from([8, 4096]), st.booleans())
def test_whatever_a_loop_does_the_numbers_of_every_point_agree(tmp_path_factory, program, every, most, catches_up):
    clock = FakeClock(1024.0)
    stream = FakeStream(clock)
    folder = tmp_path_factory.mktemp("agree")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DeviceTimeline, "attach", classmethod(lambda cls, setting: cls(stream, most)))
        patched.setattr(idle._DeviceAmount, "open", lambda self, setting: setting.probe(DeviceTimeline))
        indicators = [
            i
            for i in default_indicators()
            if i.family in ("time", "data", "size") and not i.name.startswith("infer") and i.name not in PHASES
        ]
        options = {"module": nn.Linear(1, 1), "save_dir": folder, "clock": clock, "log_every_n_steps": every}
        batch, hooks_s = torch.zeros(BATCH, 1), 0.0
        with Recorder(**options, indicators=indicators, count="off") as recorder:
            accounts = recorder.hooks.steps.accounts
            for takes_s, work_s, does in program:
                with accounts.bucket("data_wait"):
                    clock.sleep(takes_s["wait"])
                with recorder.train_batch(batch):
                    clock.sleep(takes_s["late"])
                    stream.launch(work_s)
                recorder.step(batch, optimizer_steps=int("fails to step" not in does))
                began_s = clock()
                with recorder.bucket("other"):
                    if "waits" in does:
                        stream.synchronize()
                    clock.sleep(takes_s["hook"])
                hooks_s += clock() - began_s
                for account in ("evaluate", "checkpoint"):
                    if takes_s[account]:
                        with recorder.bucket(account):
                            clock.sleep(takes_s[account])
                if "logs" in does:
                    recorder.log_metrics({"acc": 0.5})
                if "saves" in does:
                    recorder.state_dict()
            if catches_up:
                stream.synchronize()
        live = recorder.costs
    (run,) = load_runs(folder)
    agree(run, live=live)
    spent_s = clock() - 1024.0
    assert run.final["total_s"] == pytest.approx(spent_s)
    assert run.final["evaluate_s"] == pytest.approx(sum(takes_s["evaluate"] for takes_s, _, _ in program))
    assert run.final["other_s"] <= hooks_s + 1e-6


def test_a_hook_over_while_the_device_works_costs_nothing(tmp_path, clock, stream):
    final = train(tmp_path, clock, stream, lambda: clock.sleep(0.25), in_loop=stream.synchronize)
    assert final["other_s"] == pytest.approx(0.0, abs=0.5)
    assert final["train_s"] == pytest.approx(STEPS * (WORK_S + 0.125), rel=0.03)
