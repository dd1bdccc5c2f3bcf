"""The goodput misnomer: one chain of kills and resumes, and definitions of goodput that rank its settings otherwise.

    python -m examples.paper.goodput_misnomer --out results.json

Every setting (an interval between checkpoints, written while training waits or beside it) is trained by real processes
that are killed after the same seconds of training, at two rates of failure, and resumed from the newest checkpoint. The
definitions are those of `lightning_costs.run.goodput`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

STEPS, STEP_S, WAIT_S, SAVE_S, EVALUATE_EVERY, EVALUATE_S = 400, 0.02, 0.004, 0.25, 100, 0.5
#: Means between two failures, in seconds of training.
RATES_S = (20.0, 5.0)
#: A pair of settings flips if two definitions put it in opposite orders, each by so much.
APART = 0.005


class Setting(NamedTuple):
    """How checkpoints are written."""

    every: int
    beside: bool

    @property
    def label(self) -> str:
        """For people."""
        return f"every {self.every} steps, {'beside training' if self.beside else 'training waits'}"


SETTINGS = [Setting(every, beside) for every in (10, 40, 150) for beside in (False, True)]


def train(folder: Path, setting: Setting) -> None:
    """One process: from the newest checkpoint to the end, unless it is killed."""
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
    from torch.utils.data import DataLoader, Dataset

    from lightning_costs import CostMonitor

    torch.set_num_threads(1)

    class Slow(TorchCheckpointIO):
        """A store that takes its time and shows a checkpoint once it is whole."""

        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            part = Path(f"{path}.part")
            super().save_checkpoint(checkpoint, part)
            time.sleep(SAVE_S)
            part.replace(path)

    class Samples(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> torch.Tensor:
            time.sleep(WAIT_S)
            return torch.ones(4)

    class Model(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(4, 2)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            time.sleep(STEP_S)
            loss: torch.Tensor = self.net(batch).square().mean()
            return loss

        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            time.sleep(EVALUATE_S)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.01)

    class Begins(Callback):
        def on_train_start(self, *_: object) -> None:
            (folder / "trains").touch()

    store = Slow()
    saved = ModelCheckpoint(folder / "ckpt", "{step:05d}", every_n_train_steps=setting.every, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        max_steps=STEPS, max_epochs=-1, val_check_interval=EVALUATE_EVERY, num_sanity_val_steps=0, limit_val_batches=1,
        plugins=[AsyncCheckpointIO(store) if setting.beside else store], log_every_n_steps=10,
        callbacks=[Begins(), CostMonitor(save_dir=folder / "costs", infer=False, count="off"), saved],
    )  # fmt: skip
    newest = max((folder / "ckpt").glob("*.ckpt"), default=None)
    trainer.fit(Model(), DataLoader(Samples()), DataLoader(torch.ones(1, 4)), ckpt_path=newest)


def chain(root: Path, setting: Setting, mtbf_s: float, seed: int) -> dict[str, Any]:
    """One run to its end through all of its failures; what the definitions make of it."""
    folder = root / f"{setting.every}-{setting.beside}-{mtbf_s:g}"
    folder.mkdir()
    dice = random.Random(seed)
    mark, code = folder / "trains", -signal.SIGKILL
    environment = {**os.environ, "LIGHTNING_COSTS_RUN_ID": "chain"}
    while code:
        mark.unlink(missing_ok=True)
        lives_s = dice.expovariate(1 / mtbf_s)
        command = [sys.executable, "-m", "examples.paper.goodput_misnomer", "--train", str(folder), str(setting.every)]
        log = (folder / "log").open("ab")
        process = subprocess.Popen([*command, str(int(setting.beside))], env=environment, stdout=log, stderr=log)
        while not mark.exists() and process.poll() is None:
            time.sleep(0.02)
        try:
            process.wait(lives_s)
        except subprocess.TimeoutExpired:
            process.kill()
        code = process.wait()
        log.close()
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError((folder / "log").read_text()[-2000:])
    return told(folder, setting, mtbf_s)


def told(folder: Path, setting: Setting, mtbf_s: float) -> dict[str, Any]:
    """What the definitions make of a chain that has come to its end."""
    from lightning_costs import load_runs
    from lightning_costs.run.goodput import goodput

    (run,) = load_runs(folder / "costs")
    found = goodput(run.header, run.final)
    return {
        "setting": setting.label,
        "mtbf_s": mtbf_s,
        "wall_s": found.wall_s,
        "disruptions": found.disruptions,
        "seconds": {bucket.name: bucket.s for bucket in found.buckets},
        "joules": {bucket.name: bucket.energy_j for bucket in found.buckets},
        "definitions": {each.name: each.fraction for each in found.definitions if each.fraction is not None},
    }


def flips(rows: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Pairs of settings that two definitions put in opposite orders: settings, then definitions."""
    found = []
    for one, other in combinations(rows, 2):
        gaps = {name: share - other["definitions"][name] for name, share in one["definitions"].items()}
        up = [name for name, gap in gaps.items() if gap >= APART]
        down = [name for name, gap in gaps.items() if gap <= -APART]
        found += [(one["setting"], other["setting"], a, b) for a in up for b in down]
    return found


def show(rows: list[dict[str, Any]]) -> dict[str, list[tuple[str, str, str, str]]]:
    """Print the ranks by every definition at every rate; the pairs that flip, by rate."""
    flipped = {}
    for mtbf_s in RATES_S:
        those = [row for row in rows if row["mtbf_s"] == mtbf_s]
        print(f"\nA failure every {mtbf_s:g} s of training")
        for name in those[0]["definitions"]:
            ranked = sorted(those, key=lambda row: -row["definitions"][name])
            shares = [f"{row['setting']} {100 * row['definitions'][name]:.1f} %" for row in ranked]
            print(f"  {name:16}", "; ".join(shares))
        flipped[f"{mtbf_s:g}"] = flips(those)
        pairs = {flip[:2] for flip in flipped[f"{mtbf_s:g}"]}
        print(f"  {len(pairs)} of {len(list(combinations(those, 2)))} pairs flip")
    return flipped


def main() -> None:
    """Train every setting at every rate, and say which ranks flip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(Path(given.train[0]), Setting(int(given.train[1]), given.train[2] == "1"))
        return
    jobs = [(setting, mtbf_s) for mtbf_s in RATES_S for setting in SETTINGS]
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda job: chain(Path(root), *job, seed=given.seed), jobs))
    flipped = show(rows)
    if given.out is not None:
        given.out.write_text(json.dumps({"rows": rows, "flips": flipped}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
