"""GPU energy of W&B runs that nobody measured, from the power that W&B's system metrics hold."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wandb_server import ENTITY, WandbServer

from lightning_costs import compare, load_runs
from lightning_costs.sources.columns import ReadOptions
from lightning_costs.sources.wandb import OfflineAttempt, _Part, gpu_energy, joined_attempts, run_of_attempts

pytestmark = pytest.mark.integration


def event(time_s: float, **watts: float) -> dict[str, object]:
    return {"_timestamp": time_s, **{name.replace("__", "."): value for name, value in watts.items()}}


def test_a_ramp_of_power_is_the_area_under_it() -> None:
    events = [event(float(t), system__gpu__0__powerWatts=10.0 * t) for t in range(11)]
    found = gpu_energy(events, [2.0, 10.0, None, 12.0])
    assert found is not None
    assert found.at_rows_j == [20.0, 500.0, None, 700.0]  # t^2 * 5; then 100 W go on for two seconds
    assert found.total_j == 700.0


def test_gpus_of_the_process_are_taken_before_those_of_the_machine() -> None:
    both = {"gpu__0__powerWatts": 100.0, "gpu__1__powerWatts": 300.0, "gpu__process__1__powerWatts": 300.0}
    found = gpu_energy([event(0.0, **both), event(10.0, **both)], [10.0])
    assert found is not None
    assert found.total_j == 3000.0
    assert "power of 1 GPUs (those that the process used)" in found.method
    machine = {name: watts for name, watts in both.items() if "process" not in name}
    whole = gpu_energy([event(0.0, **machine), event(10.0, **machine)], [10.0])
    assert whole is not None
    assert (whole.total_j, "others' work too" in whole.method) == (4000.0, True)


def test_one_sample_is_no_energy() -> None:
    assert gpu_energy([event(0.0, gpu__0__powerWatts=100.0)], [1.0]) is None
    assert gpu_energy([{"_timestamp": 1.0, "cpu": 3.0}], [1.0]) is None


@given(st.lists(st.floats(0, 500), min_size=2, max_size=20), st.lists(st.floats(0, 30), min_size=1, max_size=20))
def test_energy_never_falls(watts: list[float], times: list[float]) -> None:
    found = gpu_energy([event(float(t), gpu__0__powerWatts=w) for t, w in enumerate(watts)], sorted(times))
    assert found is not None
    spent = [energy for energy in found.at_rows_j if energy is not None]
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(spent))
    assert spent[-1] <= found.total_j + 1e-6


_UNSEEN = """
import wandb
with wandb.init(project="unseen", name="unseen", settings=wandb.Settings(console="off")) as run:
    for step in range(3):
        run.log({"val/acc": 0.3 * step})
"""


def test_a_run_that_nobody_measured_has_its_gpus_energy_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        done = subprocess.run([sys.executable, "-c", _UNSEEN], cwd=tmp_path, timeout=240, check=False)
        assert done.returncode == 0
        (key,) = server.runs
        began_s, *_, ended_s = [row["_timestamp"] for row in server.history(key)]
        lines = server.lines[key, "wandb-events.jsonl"]
        lines.clear()
        power = "system.gpu.0.powerWatts"
        for at, time_s in enumerate((began_s - 10.0, ended_s + 10.0)):
            lines[at] = f'{{"_timestamp": {time_s!r}, "{power}": 250.0}}'
        (run,) = load_runs(f"wandb:{ENTITY}/unseen", monitor="val/acc", mode="max")
        assert server.unknown == []
    assert run.points["gpu_energy_j"][0] == pytest.approx(2500.0)
    assert run.final["gpu_energy_j"] == pytest.approx(250.0 * (ended_s - began_s + 20.0))
    assert run.header["methods"]["gpu_energy_j"].startswith("power of 1 GPUs (all of the machine's")
    assert "without lightning-costs" in run.header["missing"]["energy_j"]
    (row,) = compare([run], targets=[0.3]).targets
    assert row["costs"]["gpu_energy_j"]["unseen"]["cost"] == pytest.approx(2500.0, abs=250.0 * (ended_s - began_s) + 1)


def test_energy_of_a_resumed_offline_run_has_nothing_between_its_attempts():
    def attempt(name: str, begin: float) -> OfflineAttempt:
        events = [{"_timestamp": begin + t, "gpu.0.powerWatts": 100.0} for t in (0.0, 10.0)]
        rows = [{"_timestamp": begin + 10.0, "_step": 0, "_runtime": 10.0, "acc": begin}]
        about = {"run_id": "one", "start_time": f"{begin:05.0f}", "resume": True}
        return OfflineAttempt(name, about, {}, _Part(rows, events, {}), "finished")

    (attempts,) = joined_attempts([attempt("second", 1000.0), attempt("first", 0.0)])
    run = run_of_attempts(attempts, ReadOptions())
    assert run.points["gpu_energy_j"].to_list()[:2] == [1000.0, 2000.0]
    assert run.final == {"gpu_energy_j": 2000.0, "runtime_s": 20.0}
    assert "over 2 attempts" in run.header["methods"]["gpu_energy_j"]
