"""Energy under a real Trainer: by account, from meters whose truth is known."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeClock, FakeMeter
from lightning_models import classifier, data, namespace, trainer
from processes import TESTS, Script

from lightning_costs import CostMonitor, load_runs
from lightning_costs.probes.energy import meters as probe
from lightning_costs.records.time_buckets import ACCOUNTS
from lightning_costs.run.record import RunRecord

pl = namespace("lightning.pytorch")


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch, only_sleeps: FakeClock) -> list[FakeMeter]:
    meters: list[FakeMeter] = []

    def make() -> FakeMeter:
        meters.append(FakeMeter(100.0))
        return meters[-1]

    monkeypatch.setattr(probe, "cpu_meter", make)
    monkeypatch.setattr(probe, "ram_meter", lambda: FakeMeter(0.0))
    return meters


def fit(tmp_path: Path, *callbacks: Any, **options: Any) -> RunRecord:
    model = classifier(pl, train_s=options.pop("train_s", 0.0), val_s=options.pop("val_s", 0.0))
    monitor = CostMonitor(save_dir=tmp_path / "costs", infer=False)
    trainer(pl, monitor, *callbacks, **options).fit(model, data(), data())
    assert monitor.run is not None
    return monitor.run


class Powers(pl.Callback):
    """What the CPU draws: 10 W while it validates, 1 W while it saves, 100 W else."""

    def __init__(self, cpu: list[FakeMeter]) -> None:
        self.cpu = cpu

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.cpu[0].watts = 10.0

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.cpu[0].watts = 100.0

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        self.cpu[0].watts = 1.0
        time.sleep(0.3)
        self.cpu[0].watts = 100.0


def test_each_account_gets_what_was_drawn_in_it(tmp_path: Path, cpu: list[FakeMeter]) -> None:
    save = pl.callbacks.ModelCheckpoint(tmp_path / "saved")
    run = fit(tmp_path, Powers(cpu), save, enable_checkpointing=True, train_s=0.04, val_s=0.5, num_sanity_val_steps=0)
    final = run.final
    joules = {account: final[f"{account}_energy_j"] for account in ACCOUNTS}
    assert math.fsum(joules.values()) == pytest.approx(final["energy_j"])  # type: ignore[arg-type]
    assert joules["evaluate"] == pytest.approx(2 * 0.5 * 10.0)  # by time the evaluations would have some 90 J
    assert joules["checkpoint"] == pytest.approx(2 * 0.3 * 1.0)
    assert joules["train"] == pytest.approx(100 * final["train_s"])  # type: ignore[operator]
    assert final["energy_j"] == pytest.approx(cpu[0].ended_j)
    assert final["sample_energy_j"] == pytest.approx(joules["train"] / 128)  # type: ignore[operator]


def test_hooks_of_every_batch_read_no_meter(tmp_path: Path, cpu: list[FakeMeter]) -> None:
    """ModelCheckpoint's own hook runs at each batch and is booked to the checkpoints."""
    save = pl.callbacks.ModelCheckpoint(tmp_path / "saved", every_n_epochs=1)
    fit(tmp_path, save, enable_checkpointing=True, train_s=0.12, limit_val_batches=0, max_epochs=1)
    assert cpu[0].reads <= 8  # 8 batches of 0.12 s: a reading each would be more, with those at begin, points and end


def test_a_fit_that_fails_has_the_energy_of_what_it_did(tmp_path: Path, cpu: list[FakeMeter]) -> None:
    class Fails(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 4:
                raise RuntimeError("diverged")

    monitor = CostMonitor(save_dir=tmp_path, infer=False)
    with pytest.raises(RuntimeError, match="diverged"):
        trainer(pl, monitor, Fails()).fit(classifier(pl, train_s=0.05), data())
    assert monitor.run is not None
    final = monitor.run.final
    assert monitor.run.header["status"] == "failed"
    assert final["train_energy_j"] == pytest.approx(100 * final["train_s"])  # type: ignore[operator]
    assert math.fsum(final[f"{account}_energy_j"] for account in ACCOUNTS) == pytest.approx(final["energy_j"])  # type: ignore[misc,arg-type]


_TWO = """
import sys, time
sys.path.insert(0, sys.argv[1])
import torch
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor
from lightning_costs.probes.energy.host import cpu_meter, ram_meter
pl = namespace("lightning.pytorch")
torch.set_num_threads(1)

class Reader(pl.Callback):
    def setup(self, trainer, pl_module, stage):
        self.meters, self.joules, self.read_s = (cpu_meter(), ram_meter()), 0.0, time.perf_counter()
    def read(self):
        self.joules, self.read_s = self.joules + sum(m.joules() for m in self.meters), time.perf_counter()
    def on_train_batch_end(self, trainer, pl_module, *args):
        if time.perf_counter() - self.read_s > 0.5:
            self.read()
    def teardown(self, trainer, pl_module, stage):
        self.read()
        if trainer.global_rank == 0:
            print("one reader:", self.joules)

class Busy(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        end = time.process_time() + 0.05
        while time.process_time() < end:
            torch.randn(64, 64) @ torch.randn(64, 64)

if __name__ == "__main__":
    monitor = CostMonitor(save_dir=sys.argv[2], infer=False)
    fit = trainer(pl, Reader(), monitor, Busy(), devices=2, strategy="ddp", max_epochs=8)
    fit.fit(classifier(pl), data())
"""


@pytest.mark.integration
def test_two_processes_count_their_node_once(tmp_path: Path) -> None:
    """Against one reader of the same meters beside them; two trackers would count twice."""
    script = tmp_path / "train.py"
    script.write_text(_TWO)
    done = Script(script, (TESTS, str(tmp_path / "costs")), tmp_path).ended()
    assert done.code == 0, done.err[-3000:]
    (reader_j,) = re.findall(r"one reader: ([\d.]+)", done.out)
    (run,) = load_runs(tmp_path / "costs")
    assert run.header["setup"]["processes"] == 2
    node_j = run.final["cpu_energy_j"] + run.final["ram_energy_j"]  # type: ignore[operator]
    ratio = node_j / float(reader_j)
    print(f"node energy {node_j:.1f} J, one reader {float(reader_j):.1f} J, ratio {ratio:.3f}")
    assert 0.6 < ratio < 1.6, "two trackers would have twice of it"
    assert 0 < run.header["energy"]["job_share_fraction"] <= 1
