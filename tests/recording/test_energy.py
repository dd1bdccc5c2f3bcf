"""Energy by account and by sample, and how it was got, from a recorder's own transitions."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time

import pytest
import torch
from consistency import agree
from fakes import FakeMeter

from lightning_costs import Recorder, Tariff, load_run, load_runs
from lightning_costs.indicators import counts, default_indicators
from lightning_costs.probes.energy import meters as probe
from lightning_costs.records.meter_info import COMPONENTS
from lightning_costs.records.time_buckets import ACCOUNTS

BATCH = torch.zeros(8, 3)


@pytest.fixture
def cpu(monkeypatch, only_sleeps):
    """A node whose CPU's power is told; its memory draws 2 W. Sleeps alone take time."""
    meters = []

    def make():
        meters.append(FakeMeter(100.0))
        return meters[-1]

    monkeypatch.setattr(probe, "cpu_meter", make)
    monkeypatch.setattr(probe, "ram_meter", lambda: FakeMeter(2.0))
    return meters


def indicators():
    return [i for i in default_indicators() if i.family == "energy" and i.name != "co2e_g"] + [
        counts.Samples(), counts.Tokens(), counts.Steps()
    ]  # fmt: skip


def recorder(tmp_path, **options):
    return Recorder(save_dir=tmp_path, device="cpu", indicators=indicators(), **options)


def train(run, steps=4, seconds=0.05):
    for _ in range(steps):
        time.sleep(seconds)
        run.step(BATCH)


def test_an_evaluation_and_a_checkpoint_get_what_they_drew_and_not_their_share_of_time(tmp_path, cpu):
    run = recorder(tmp_path, log_every_n_steps=0)
    with run:
        train(run)
        with run.bucket("evaluate"):
            cpu[0].watts = 10.0
            time.sleep(0.4)
        cpu[0].watts = 100.0
        train(run)
        with run.bucket("checkpoint"):
            cpu[0].watts = 1.0
            time.sleep(0.4)
        cpu[0].watts = 100.0
        train(run)
    final = load_run(run.path).final
    assert final["evaluate_energy_j"] == pytest.approx(12.0 * 0.4)
    assert final["checkpoint_energy_j"] == pytest.approx(3.0 * 0.4)
    assert final["train_energy_j"] == pytest.approx(102.0 * 0.6)
    assert math.fsum(final[f"{account}_energy_j"] for account in ACCOUNTS) == pytest.approx(final["energy_j"])
    assert final["energy_j"] == pytest.approx(cpu[0].ended_j + final["ram_energy_j"])


def test_energy_per_sample_is_the_trainings_over_all_samples_so_far(tmp_path, cpu):
    run = recorder(tmp_path, log_every_n_steps=2, length_fn=lambda batch: 30)
    with run:
        train(run, steps=6, seconds=0.12)
        with run.bucket("evaluate"):
            time.sleep(0.2)
        run.log_metrics({"val/acc": 0.5})
    record = load_run(run.path)
    final = record.final
    assert (final["samples"], final["tokens"]) == (48.0, 180.0)
    assert final["sample_energy_j"] == pytest.approx(final["train_energy_j"] / 48)
    assert final["token_energy_j"] == pytest.approx(final["train_energy_j"] / 180)
    assert final["sample_energy_j"] < final["energy_j"] / 48
    known = record.points["sample_energy_j"].drop_nulls()
    assert (known > 0).all()
    assert known.len() >= 1


def test_energy_per_token_is_missing_where_nobody_counts_tokens(tmp_path, cpu):
    run = recorder(tmp_path)
    with run:
        train(run, steps=2)
    record = load_run(run.path)
    assert record.final["token_energy_j"] is None
    assert record.header["missing"]["token_energy_j"].startswith("needs tokens: ")
    assert record.final["sample_energy_j"] > 0


def test_the_header_says_for_each_component_how_it_was_got_from_the_first_point_on(tmp_path):
    """With the real meters of this machine, whatever they are."""
    run = recorder(tmp_path, log_every_n_steps=1)
    run.begin()
    train(run, steps=1)
    told = json.loads((run.path / "header.json").read_text())["energy"]
    assert set(told) == {*COMPONENTS, "by_account", "job_share_fraction"}
    assert told["gpu"]["method"] == "none"
    assert told["cpu"]["method"] in ("counter", "model")
    assert told["ram"]["method"] in ("counter", "constant")
    for component in ("cpu", "ram"):
        how = told[component]
        assert {"method", "instrument", "error_j", "detail"} <= set(how)
        assert (how["error_j"] is None) == (how["method"] in ("model", "constant"))
    ends_s = time.process_time() + 0.1  # some ticks of CPU time
    while time.process_time() < ends_s:
        pass
    run.end()
    told = load_run(run.path).header["energy"]
    assert 0.0 < told["job_share_fraction"] <= 1.0
    assert told["by_account"]["readings"] >= 1


def test_energy_goes_on_over_a_resume_account_by_account(tmp_path, cpu):
    first = recorder(tmp_path)
    with first:
        train(first)
        state = first.state_dict()
    second = recorder(tmp_path)
    second.load_state_dict(state)
    with second:
        train(second)
    before, after = load_run(first.path).final, load_run(second.path).final
    for name in ("energy_j", "train_energy_j"):
        assert after[name] >= before[name] > 0
    assert math.fsum(after[f"{account}_energy_j"] for account in ACCOUNTS) == pytest.approx(after["energy_j"])
    assert after["sample_energy_j"] == pytest.approx(after["train_energy_j"] / 64)


def test_meters_are_not_read_after_the_run(tmp_path, cpu):
    run = recorder(tmp_path)
    with run:
        train(run, steps=2)
    reads = cpu[0].reads
    assert cpu[0].detached == 1
    time.sleep(0.15)
    with run.hooks.steps.accounts.bucket("evaluate"):
        time.sleep(0.15)
    assert cpu[0].reads == reads


# What other trackers get wrong ---------------------------------------------------------------------------------


def test_each_joule_of_the_meter_is_counted_once_to_the_end(tmp_path, cpu):
    """codecarbon may count the last interval twice, and drops what ran between start() and start_task()."""
    run = recorder(tmp_path, log_every_n_steps=1)
    run.hooks.run.open()
    time.sleep(0.12)
    run.begin()
    train(run)
    with run.bucket("evaluate"):
        time.sleep(0.12)
        with run.bucket("checkpoint"):
            run.state_dict()
            time.sleep(0.12)
        run.log_metrics({"val/acc": 0.5})
    train(run)
    run.hooks.run.training_ended()
    time.sleep(0.12)
    assert run.end() is not None
    assert run.end() is None
    final = load_run(run.path).final
    assert final["cpu_energy_j"] == pytest.approx(cpu[0]._told, rel=1e-12)
    assert final["cpu_energy_j"] == pytest.approx(cpu[0].ended_j)
    assert min(final[f"{account}_energy_j"] for account in ACCOUNTS) > 0


def test_energy_is_it_energy_whatever_the_pue(tmp_path, cpu):
    """codecarbon has the PUE inside its energy."""
    run = recorder(tmp_path, tariff=Tariff(pue=2.0, gco2e_per_kwh=100.0))
    with run:
        train(run)
    assert load_run(run.path).final["cpu_energy_j"] == pytest.approx(cpu[0]._told, rel=1e-12)


def test_a_lock_that_another_tracker_left_does_not_matter(tmp_path, monkeypatch):
    """codecarbon measures nothing where it finds a lock, whoever left it."""
    from codecarbon import lock

    monkeypatch.setattr(lock.Lock, "acquire", lambda self: pytest.fail("the lock was asked for"))
    with Recorder(save_dir=tmp_path, device="cpu", indicators=indicators()) as run:
        train(run)
    assert load_run(run.path).final["energy_j"] > 0


_KILLED = """
import os, signal, sys, time
import torch
from lightning_costs import Recorder
run = Recorder(save_dir=sys.argv[1], device="cpu", log_every_n_steps=1)
run.begin()
for step in range(4):
    time.sleep(0.6)
    run.step(torch.zeros(8, 3))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.integration
def test_a_killed_run_keeps_its_energy_and_how_it_was_got(tmp_path):
    """codecarbon writes nothing without stop()."""
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], capture_output=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    (run,) = load_runs(tmp_path)
    assert run.header["status"] == "killed"
    assert run.final["energy_j"] > 0
    assert 0 < run.final["train_energy_j"] <= run.final["energy_j"]
    agree(run)
    assert run.header["energy"]["ram"]["method"] in ("counter", "constant")
