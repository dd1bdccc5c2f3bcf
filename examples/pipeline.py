"""Pipeline parallelism in a Lightning Trainer, and its bubble: two processes, real data, no GPU needed.

Lightning has no strategy for pipelines. What works: manual optimization, `ModelParallelStrategy` with every process in
one group, each process building its own stage, and the schedule of `torch.distributed.pipelining` in `configure_model`.
CostMonitor finds the schedule by itself. Trains a deep MLP on the 1,797 handwritten digits of scikit-learn.

    python examples/pipeline.py --microbatches 4

To make it yours, change `stage_of` (the model), `Digits` (the data) or the schedule.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from sklearn.datasets import load_digits
from torch import Tensor, distributed, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.utils.data import DataLoader, TensorDataset

from lightning_costs import CostMonitor

#: Divides both the 1,380 digits that are trained on and the 360 held out.
BATCH = 60


class Digits(pl.LightningDataModule):
    """8x8 grey images of digits. Every process reads all of them: they are stages of one model, no replicas."""

    def setup(self, stage: str) -> None:
        images, labels = load_digits(return_X_y=True)
        x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        self.train_set = TensorDataset(x[order[:1380]], y[order[:1380]])
        self.held_out = TensorDataset(x[order[-360:]], y[order[-360:]])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train_set, BATCH)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.held_out, BATCH)


def stage_of(rank: int, stages: int, width: int = 1024, depth: int = 2) -> nn.Module:
    """A stage's part of the model: as many hidden layers as every other's."""
    hidden = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    first = [nn.Linear(64, width), nn.ReLU()] if rank == 0 else []
    last = [nn.Linear(width, 10)] if rank == stages - 1 else []
    return nn.Sequential(*first, *hidden, *last)


class Pipelined(pl.LightningModule):
    """A stage on each process, and the schedule that runs them."""

    def __init__(self, microbatches: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.microbatches = microbatches
        self.schedule: Schedule1F1B | None = None

    def configure_model(self) -> None:
        if self.schedule is not None:
            return
        group = self.device_mesh["tensor_parallel"].get_group()
        rank, stages = distributed.get_rank(group), distributed.get_world_size(group)
        self.part = stage_of(rank, stages).to(self.device)
        self.stage = PipelineStage(self.part, rank, stages, self.device, group=group)
        self.schedule = Schedule1F1B(self.stage, self.microbatches, loss_fn=nn.functional.cross_entropy)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        assert self.schedule is not None
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.schedule.step(*self._input(x), **self._target(y))
        optimizer.step()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        assert self.schedule is not None
        x, y = batch
        logits = self.schedule.eval(*self._input(x), **self._target(y))
        accuracy = (logits.argmax(1) == y).float().mean() if self.stage.is_last else torch.zeros((), device=self.device)
        distributed.broadcast(accuracy, src=distributed.get_world_size() - 1)  # the last stage alone knows it
        self.log("val/acc", accuracy, sync_dist=True)

    def _input(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) if self.stage.is_first else ()

    def _target(self, y: Tensor) -> dict[str, Any]:
        return {"target": y} if self.stage.is_last else {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.part.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--microbatches", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--save-dir", default="costs")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec).*")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if args.accelerator == "cpu":
        torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    monitor = CostMonitor(
        monitor="val/acc", mode="max", save_dir=args.save_dir, name=f"{args.microbatches} micro-batches"
    )
    trainer = pl.Trainer(
        accelerator=args.accelerator,
        devices=args.stages,
        strategy=ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=args.stages),
        max_epochs=args.epochs,
        log_every_n_steps=23,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[monitor],
    )
    trainer.fit(Pipelined(args.microbatches), Digits())
    if monitor.run is not None:
        pipeline, final = monitor.run.header["pipeline"], monitor.run.final
        told = {name: final[name] for name in ("bubble_fraction", "bubble_theory_fraction", "samples")}
        print(f"{pipeline['schedule']}, {pipeline['stages']} stages, {pipeline['microbatches']} micro-batches: {told}")


if __name__ == "__main__":
    main()
