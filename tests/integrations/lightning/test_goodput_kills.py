"""A run that is killed and resumed, as processes: its buckets are the wall clock of a stopwatch outside of them."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path

import pytest
from processes import Script

from lightning_costs import load_runs
from lightning_costs.run.goodput import goodput

pytestmark = pytest.mark.integration

TRAIN = """
import os, sys, time
from pathlib import Path
folder, moment, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if not (folder / "began").exists():
    (folder / "began").write_text(repr(time.time()))
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset
from lightning_costs import CostMonitor

class Dies(Callback):
    def at(self, here):
        if here == moment:
            os.kill(os.getpid(), int(how))
            time.sleep(0.2)  # a signal that is handled comes with the next bytecode
    def on_train_start(self, trainer, module):
        self.at("start")
    def on_train_batch_end(self, trainer, *_):
        self.at(str(trainer.global_step))
    def teardown(self, *_, **__):
        (folder / "ended").write_text(repr(time.time()))

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
    def training_step(self, batch, batch_idx):
        time.sleep(0.01)
        return self.net(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

save = ModelCheckpoint(folder / "ckpt", "last", every_n_train_steps=5, enable_version_counter=False)
trainer = Trainer(
    accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False, max_steps=30,
    max_epochs=-1, log_every_n_steps=1, callbacks=[Dies(), CostMonitor(save_dir=folder / "costs", infer=False), save],
)
last = folder / "ckpt" / "last.ckpt"
trainer.fit(Model(), DataLoader(TensorDataset(torch.zeros(64, 4)), 4), ckpt_path=last if last.exists() else None)
"""


def test_buckets_of_a_killed_and_resumed_run_are_the_wall_clock_of_a_stopwatch(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("SLURM", "LIGHTNING_COSTS"))}
    deaths = [("12", signal.SIGKILL), ("start", signal.SIGKILL), ("18", signal.SIGTERM), ("", signal.SIGTERM)]
    began_s = time.time()
    for moment, how in deaths:
        arguments = (str(tmp_path), moment, str(int(how)))
        done = Script(tmp_path / "train.py", arguments, tmp_path, environment).ended()
        assert done.code == (-signal.SIGKILL if how == signal.SIGKILL else 0), done.err[-3000:]
    most_s = time.time() - began_s
    least_s = float((tmp_path / "ended").read_text()) - float((tmp_path / "began").read_text())

    (run,) = load_runs(tmp_path / "costs")
    final, found = run.final, goodput(run.header, run.final)
    assert [attempt["status"] for attempt in run.header["attempts"]] == ["killed", "interrupted", "finished"]
    assert final["disruptions"] == found.disruptions == 3  # one of them had come to no batch
    assert len(run.header["attempts"][1]["unbegun"]) == 1
    parts_s = math.fsum(bucket.s or 0.0 for bucket in found.buckets)
    assert parts_s == pytest.approx(found.wall_s)
    tick_s = 0.02  # of a process's start; benchmarks/soak.py has the comparison within 0.1 %
    assert least_s - tick_s <= parts_s <= most_s + tick_s
    assert found.clock_s == pytest.approx(parts_s, rel=0.001, abs=0.1)
    # The first attempt was 2 steps past its checkpoint, the second none, the third 3: as far as they were written.
    lost_steps = final["steps"] - 30
    assert 3 <= lost_steps <= 5
    assert final["lost_samples"] == 4 * lost_steps
    assert run.header["saves"]["count"] >= 5
    shares = {each.name: each.fraction for each in found.definitions}
    assert shares["nvidia"] == pytest.approx(run.header["saves"]["train_s"] / found.wall_s)
    assert 0 < final["goodput_fraction"] < 1
    assert 0 < shares["google"] < 1
