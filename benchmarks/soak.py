"""Runs that are killed at random moments and resumed, against what the training script says it really did.

    python benchmarks/soak.py --chains 5 --kills 10

Each chain is one run: a real Lightning script that is killed (SIGKILL or SIGTERM, while it starts or while it trains)
and resumed, mostly from its newest checkpoint, sometimes from an older one or from nothing, and at last finishes. The
script appends a line to a file of its own for every step that ran, in one write, with the time. From these lines alone
the driver works out how many steps, samples and FLOPs there should be in every point of the journal, and at the end
what of them was lost. Counts must be equal; seconds must agree within what starting a process leaves open.

The exit status is 0 where everything agrees. `interrupted` attempts were asked to end (SIGTERM), `killed` ones were not
asked, `unborn` ones died before their first batch; `unflushed` steps ran after the last point that was written.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

BATCH, EVERY, SAVE_EVERY, STEP_S = 8, 5, 7, 0.004
#: Forward 2mn a layer; backward the same for weights, and for the inputs of every layer but the first.
FLOP = BATCH * (4 * 16 * 32 + 6 * 32 * 4)
#: Points may wait this long in memory before they are on disk.
FLUSH_S = 1.5
#: A process's start is known to a clock tick, and asking for a process takes a moment.
TICK_S = 0.02


def train(folder: Path, checkpoint: str, steps: int) -> None:
    """One attempt, as a user would write it, with a truth of its own."""
    import torch
    from pytorch_lightning import Callback, LightningModule, Trainer
    from pytorch_lightning.callbacks import ModelCheckpoint
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from lightning_costs import CostMonitor

    torch.set_num_threads(1)
    truth = os.open(os.environ["SOAK_TRUTH"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    class Truth(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            os.write(truth, f"{trainer.global_step} {time.time():.6f}\n".encode())

        def teardown(self, *_: object, **__: object) -> None:  # before the monitor's, which ends the run
            (folder / "ended").write_text(f"{time.time():.6f}")

    class Model(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))

        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            time.sleep(STEP_S)
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)

    save = ModelCheckpoint(folder / "ckpt", "{step:06d}", every_n_train_steps=SAVE_EVERY, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        max_epochs=-1, max_steps=steps, log_every_n_steps=EVERY,
        callbacks=[Truth(), CostMonitor(save_dir=folder / "costs", infer=False), save],
    )  # fmt: skip
    data = DataLoader(TensorDataset(torch.randn(64, 16), torch.arange(64) % 4), BATCH)
    trainer.fit(Model(), data, ckpt_path=checkpoint or None)


@dataclass
class Attempt:
    """One process: where it began, and what its own lines say."""

    began: float  # Unix time
    base: int  # steps that the run had spent before, as far as anybody could know
    base_s: float
    start: int  # the position that it resumed from
    lines: list[tuple[int, float]] = field(default_factory=list)

    def spent(self, position: int) -> tuple[int, float]:
        """Steps and seconds that the run had spent when this attempt had come to `position`."""
        at = next((when for where, when in self.lines if where == position), self.began)
        return self.base + position - self.start, self.base_s + at - self.began


class WrongError(AssertionError):
    """What was measured is not what ran."""


def expect(found: object, truth: object, what: str) -> None:
    """Equal, or an error that says what was compared."""
    if found != truth:
        raise WrongError(f"{what}: measured {found}, true {truth}")


def rows(folder: Path) -> list[dict[str, object]]:
    """The journal's points, read without the package; a torn last line is none."""
    found = []
    for journal in folder.glob("costs/*/points.jsonl"):
        for line in journal.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def chain(number: int, kills: int, seed: int, root: Path) -> dict[str, float]:
    """One run, killed `kills` times, then finished; checked after every attempt."""
    from lightning_costs import load_run
    from lightning_costs.run.goodput import goodput

    dice = random.Random(seed + number)
    folder = root / f"chain-{number}"
    folder.mkdir()
    environment = {**os.environ, "LIGHTNING_COSTS_RUN_ID": f"soak-{number}"}
    made: dict[Path, tuple[Attempt, int]] = {}  # checkpoint: who made it, and at which position
    late_s = 0.0  # between asking for processes and having them: a busy machine takes its time
    first: float | None = None  # when the first attempt that left a trace was started
    known, known_s = 0, 0.0  # the run's totals as its folder has them
    seen = 0  # points checked so far
    count = {"attempts": 0, "killed": 0, "interrupted": 0, "unflushed": 0, "unborn": 0, "ran": 0}
    for n in range(kills + 1):
        last = n == kills
        ckpts = sorted(made, key=lambda p: p.stat().st_mtime_ns)
        resume = (ckpts[-1] if dice.random() < 0.8 else dice.choice(ckpts)) if ckpts else None
        if dice.random() < 0.05:
            resume = None  # the script starts over, in the run's folder
        start, base, base_s = 0, known, known_s
        if resume is not None:
            maker, start = made[resume]
            base, base_s = max((known, known_s), maker.spent(start))
        environment["SOAK_TRUTH"] = str(folder / f"truth-{n}")
        truth = Path(environment["SOAK_TRUTH"])
        steps = start + 40 if last else -1
        began = time.time()
        process = subprocess.Popen(
            [sys.executable, __file__, "--train", str(folder), str(resume or ""), str(steps)],
            env=environment, stdout=subprocess.DEVNULL, stderr=(folder / f"stderr-{n}").open("wb"),
        )  # fmt: skip
        late_s += time.time() - began
        how = dice.choice([signal.SIGKILL, signal.SIGTERM])
        if not last:
            if dice.random() < 0.1:
                time.sleep(dice.uniform(0, 6))
            else:
                while not (truth.exists() and truth.stat().st_size) and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(dice.uniform(0, 2))
            process.send_signal(how)
        code = process.wait(timeout=120)
        if last and code:
            raise WrongError(f"attempt {n} failed: {(folder / f'stderr-{n}').read_text()[-2000:]}")

        attempt = Attempt(began=began, base=base, base_s=base_s, start=start)
        if truth.exists():
            attempt.lines = [(int(a), float(b)) for a, b in (s.split() for s in truth.read_text().splitlines())]
        count["ran"] += len(attempt.lines)
        points = rows(folder)
        durable = 0
        for point in points[seen:]:
            durable = sum(when <= point["time"] for _, when in attempt.lines)
            costs = point["costs"]
            where = f"chain {number}, attempt {n}, point at {point['time']}"
            expect(costs["steps"], base + durable, f"steps, {where}")
            expect(costs["samples"], BATCH * (base + durable), f"samples, {where}")
            expect(costs["flop"], FLOP * (base + durable), f"flop, {where}")
            known, known_s = base + durable, base_s + point["time"] - began
        for path in (folder / "ckpt").glob("*.ckpt"):
            if path not in made or path.stat().st_mtime > began:
                made[path] = (attempt, int(path.stem.partition("=")[2].partition("-")[0]))
        unflushed = attempt.lines[durable:]
        if first is None and (attempt.lines or points or (folder / "costs" / ".starts").exists()):
            first = began
        if len(points) > seen or attempt.lines:
            count["attempts"] += 1
            late = sum(when > attempt.lines[-1][1] - FLUSH_S for _, when in unflushed) if unflushed else 0
            if len(unflushed) > EVERY + late:
                raise WrongError(f"attempt {n} lost {len(unflushed)} steps, more than since its last flush")
            count["unflushed"] += len(unflushed)
            run = load_run(next(folder.glob("costs/*/")))
            if not last:
                status = "killed" if how == signal.SIGKILL else run.header["status"]
                expect(run.header["status"], status, f"status of attempt {n}")
                if status not in ("killed", "interrupted"):
                    raise WrongError(f"attempt {n} ended by {how.name} is {status!r}")
                count[status] += 1
                if status == "interrupted":
                    expect(len(unflushed), 0, f"steps that attempt {n} did not write though it was asked to end")
        else:
            count["unborn"] += first is not None
        seen = len(points)
    position = attempt.lines[-1][0]
    final, reached = run.final, run.to_reach().final
    expect(run.header["status"], "finished", "status")
    expect(final["steps"], known, "steps at the end")
    for lost, total, each in (("lost_samples", "samples", BATCH), ("lost_flop", "flop", FLOP)):
        expect(final[lost], final[total] - each * position, lost)
        expect(reached[total], each * position, f"{total} to reach")
    expect(run.points["total_s"].is_sorted(), True, "totals never go down")
    # Seconds: the process's start is known to a clock tick, and the last point's time is read a little after its clock.
    off_s = abs(final["total_s"] - known_s)
    if off_s > late_s + 0.05 * count["attempts"] + 0.001 * known_s:
        raise WrongError(f"total_s is {final['total_s']:.3f}, true {known_s:.3f}")
    if not math.isclose(final["lost_s"] + reached["total_s"], final["total_s"]):
        raise WrongError(f"lost_s {final['lost_s']} and {reached['total_s']} to reach are not {final['total_s']}")
    # The wall clock by this driver's stopwatch: every second from the first start to the end is in one bucket.
    spent = goodput(run.header, final)
    stopwatch_s = float((folder / "ended").read_text()) - (first or 0.0)
    parts_s = math.fsum(bucket.s or 0.0 for bucket in spent.buckets)
    wall_off_s = parts_s - stopwatch_s
    if abs(wall_off_s) > 0.001 * stopwatch_s + TICK_S:
        raise WrongError(f"buckets add up to {parts_s:.3f} s, the stopwatch says {stopwatch_s:.3f} s")
    expect([bucket.name for bucket in spent.buckets if bucket.s is None], [], "buckets that are unknown")
    broken = count["attempts"] - 1
    if not broken <= spent.disruptions <= broken + count["unborn"]:
        raise WrongError(f"{spent.disruptions} disruptions, of {broken} attempts and {count['unborn']} without a batch")
    count |= {"disruptions": spent.disruptions, "wall_s": stopwatch_s, "wall_off_s": abs(wall_off_s)}
    count |= {"productive_s": spent.productive_s or 0.0, "down_s": final["down_s"]}
    return count | {"steps": known, "useful": position, "total_s": final["total_s"], "off_s": off_s} | {
        "lost_s": final["lost_s"]
    }  # fmt: skip


def main() -> None:
    """Run the chains, two at a time, and print what was compared."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=5)
    parser.add_argument("--kills", type=int, default=10, help="in each chain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", nargs=3, metavar=("FOLDER", "CHECKPOINT", "STEPS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(Path(given.train[0]), given.train[1], int(given.train[2]))
        return
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(2) as pool:
        done = list(
            pool.map(lambda number: chain(number, given.kills, given.seed, Path(root)), range(given.chains))
        )  # fmt: skip
    for number, told in enumerate(done):
        print(f"chain {number}: " + ", ".join(f"{name} {value:.6g}" for name, value in told.items()))
    total = {name: sum(told[name] for told in done) for name in done[0]}
    print("all:     " + ", ".join(f"{name} {value:.6g}" for name, value in total.items()))
    print("every point's steps, samples and FLOPs are those that ran; lost work is what led nowhere")


if __name__ == "__main__":
    main()
