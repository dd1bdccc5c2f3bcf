"""How every study trains: a Lightning Trainer with a CostMonitor, and a header that says which job it was."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_costs import CostMonitor, Measured, default_indicators

from .study import Job, Settings


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one job trains.

    Args:
        module: The model with its loss and optimizer.
        data: Its data.
        callbacks: More callbacks.
        trainer: More arguments of the Trainer.
        infer: Whether inference is measured after training.
        indicators: Costs beside the default ones.
    """

    module: pl.LightningModule
    data: pl.LightningDataModule
    callbacks: Sequence[pl.Callback] = ()
    trainer: Mapping[str, Any] = field(default_factory=dict)
    infer: bool = False
    indicators: Sequence[Measured] = ()


class Told(pl.Callback):
    """Writes into the run's header which job it is."""

    def __init__(self, monitor: CostMonitor, job: Job) -> None:
        self.monitor, self.job = monitor, job

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.monitor.recorder.add_metadata(
            {"group": self.job.arm, "tags": [self.job.study, self.job.size], "job": self.job.facts}
        )


class Progress(pl.Callback):
    """Tells how much of the training is done."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self.tell = tell

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.tell(trainer.global_step / max(1, trainer.estimated_stepping_batches))


#: Where the process that trains reports its progress; `running` sets it.
report_progress: Callable[[float], None] = lambda share: None  # noqa: E731


def with_lightning(
    build: Callable[[Job], Training], *, monitor: str, mode: Literal["max", "min"]
) -> Callable[[Job], None]:
    """A study's `train`: build the job's model and data, fit them, leave a run folder.

    Settings that it reads: `epochs` or `steps`; `evaluations`, how many there are in a training of `steps`;
    `targets`; `precision`.

    Args:
        build: A job's training.
        monitor: The quality metric.
        mode: Which direction of it is better.
    """

    def train(job: Job) -> None:
        warnings.filterwarnings("ignore", message=".*(does not have many workers|LeafSpec|logging interval).*")
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        pl.seed_everything(job.seed, verbose=False)
        settings = job.settings
        training = build(job)
        # Methods draw different numbers when they are built: what is drawn in training begins at the seed for all, the
        # order of batches too where a data module has no generator of its own (`data.seeded`).
        pl.seed_everything(job.seed, verbose=False)
        costs = CostMonitor(
            monitor=monitor,
            mode=mode,
            targets=settings.get("targets", ()),
            save_dir=job.folder,
            name=job.name,
            infer=training.infer,
            indicators=[*default_indicators(), *training.indicators],
        )
        options: dict[str, Any] = {
            "accelerator": "gpu" if job.size == "gpu" else "cpu",
            "devices": 1,
            "precision": settings.get("precision", "32-true"),
            "log_every_n_steps": 50,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **length(settings),
            **training.trainer,
        }
        trainer = pl.Trainer(
            callbacks=[costs, Told(costs, job), Progress(report_progress), *training.callbacks], **options
        )
        trainer.fit(training.module, datamodule=training.data)

    return train


def length(settings: Settings) -> dict[str, Any]:
    """How long to train, and when to evaluate, as the Trainer takes it."""
    if "epochs" in settings:
        return {"max_epochs": settings["epochs"]}
    every = max(1, settings["steps"] // settings["evaluations"])
    return {"max_steps": settings["steps"], "val_check_interval": every, "check_val_every_n_epoch": None}


class Learner(pl.LightningModule):
    """A network trained by AdamW (Loshchilov and Hutter 2019) along one warm-up and a linear decay.

    Settings that it reads: `lr`, `weight_decay`, `warmup` (a share of the steps).
    """

    def __init__(self, net: nn.Module, settings: Settings) -> None:
        super().__init__()
        self.net, self.settings = net, settings

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)
        return found

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.parameters(), self.settings["lr"], weight_decay=self.settings.get("weight_decay", 0.01)
        )

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer()
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = max(1, round(self.settings.get("warmup", 0.1) * steps))

        def rate(step: int) -> float:
            return min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Classifier(Learner):
    """Classes of images; its quality is `val/acc`."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        scores = self(x)
        self.log("val/acc", (scores.argmax(1) == y).float().mean())
        self.log("val/loss", nn.functional.cross_entropy(scores, y))


class LanguageModel(Learner):
    """The next token of text; its quality is `val/bits_per_byte`, which does not depend on how text is cut into tokens.

    A batch is [samples, context + 1] tokens. `auxiliary`, where the network has it, is a loss of its own that is added.
    """

    def __init__(self, net: nn.Module, settings: Settings, bytes_per_token: float = 1.0) -> None:
        super().__init__(net, settings)
        self.bytes_per_token = bytes_per_token

    def nats(self, tokens: Tensor) -> Tensor:
        """Cross entropy per token."""
        scores = self(tokens[:, :-1])
        return nn.functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.nats(batch[0])
        self.log("train/loss", loss)
        extra = getattr(self.net, "auxiliary", None)
        return loss if extra is None else loss + extra()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        bits = self.nats(batch[0]) / math.log(2) / self.bytes_per_token
        self.log("val/bits_per_byte", bits, on_epoch=True, batch_size=len(batch[0]))
