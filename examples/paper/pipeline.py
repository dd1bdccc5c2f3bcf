"""Pipeline parallelism: a residual network in two stages on two processes, its batch cut into 1 to 8 micro-batches.

Parameters, FLOPs and what is learned are the same; what differs is how long the stages wait for each other.

To make it yours, change `layers` (the model), `_rank` (the engine) and `STUDY.arms` (what differs).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_costs import Comparison
from lightning_costs.analysis.schema import RunRow
from lightning_costs.integrations.deepspeed import watch_pipeline

from .claims import Alike, Claim, Finding, Less, Quantity, Results, final, number, quality, quotient
from .ranks import PRELOAD, RANKS, Batch, Tell, course, micro_batches, on_ranks, recorder
from .study import Job, Settings, Study

_MICROBATCHES = (1, 2, 4, 8)


class Block(nn.Module):
    """A residual block of one convolution of 3 x 3 pixels; its norm knows nothing of other samples of the batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.convolution = nn.GroupNorm(1, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.gelu(self.convolution(self.norm(x)))


def layers(settings: Settings) -> list[nn.Module]:
    """The model, layer by layer: cut in the middle, both stages have as many blocks."""
    width = settings["width"]
    begin = nn.Conv2d(1, width, 3, padding=1)
    end = nn.Sequential(nn.Flatten(), nn.Linear(64 * width, 10))
    return [begin, *(Block(width) for _ in range(settings["depth"])), end]


def loss_or_accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """The loss in training; the share of right answers in an evaluation, where the engine has gradients off."""
    if torch.is_grad_enabled():
        return nn.functional.cross_entropy(scores, labels)
    return (scores.argmax(1) == labels).float().mean()


def _rank(job: Job, tell: Tell) -> None:
    """One of the two stages."""
    from deepspeed.pipe import PipelineModule

    from .with_deepspeed import deepspeed

    settings = job.settings
    micro = settings["batch"] // settings["microbatches"]
    net = PipelineModule(layers(settings), num_stages=RANKS, loss_fn=loss_or_accuracy, partition_method="uniform")
    engine, *_ = deepspeed.initialize(
        model=net,
        optimizer=torch.optim.AdamW(net.parameters(), settings["lr"]),
        config={
            "train_micro_batch_size_per_gpu": micro,
            "gradient_accumulation_steps": settings["microbatches"],
            "steps_per_print": 10**9,
        },
    )

    def accuracy(held_out: Batch) -> float:
        engine.reset_activation_shape()  # all of it is one micro-batch, larger than those of training
        found = float(engine.eval_batch(iter([held_out]), num_micro_batches=1))
        engine.reset_activation_shape()
        return found

    with recorder(job, engine.module, optimizers=[engine.optimizer]) as costs:
        watch_pipeline(engine, costs, steps=True)
        course(job, costs, lambda batch: engine.train_batch(micro_batches(batch, micro)), accuracy, tell)


#: `bubble_fraction` is the last window's; of the run, totals are divided.
bubble = quotient("bubble_s", "stage_step_s", "`bubble_s` / `stage_step_s`")


@dataclass(frozen=True)
class Near:
    """A method's `bubble` is at most `within` away from the closed form (p-1)/(m+p-1) of its schedule."""

    arm: str
    within: float = 0.10

    def __call__(self, results: Results) -> Finding:
        expected = final("bubble_theory_fraction")

        def apart(compared: Comparison, row: RunRow) -> float | None:
            measured, told = bubble.read(compared, row), expected.read(compared, row)
            return None if measured is None or told is None else measured - told

        found = results.over_seeds(Quantity("difference", apart), self.arm)
        low, high = found["low"], found["high"]
        if low is None or high is None or found["median"] is None:
            return Finding("undecided", f"{self.arm}: {found['n']} seeds with a reading: too few for an interval")
        measured = results.over_seeds(bubble, self.arm)["median"] or 0.0
        said = f"{self.arm}: {number(measured)}, {found['median']:+.3f} [{low:+.3f}, {high:+.3f}] from the closed form"
        if -self.within <= low and high <= self.within:
            return Finding("held", said)
        return Finding("not held" if low > self.within or high < -self.within else "undecided", said)


_ORDER = tuple(f"m{count}" for count in _MICROBATCHES)
_FEWEST, _MOST = _ORDER[0], _ORDER[-1]


def _falls(quantity: Quantity) -> tuple[Less, ...]:
    """From each number of micro-batches to the next."""
    return tuple(Less(quantity, more, fewer) for fewer, more in pairwise(_ORDER))


def _same(column: str) -> tuple[Alike, ...]:
    return tuple(Alike(final(column), arm, _FEWEST, within=0.0) for arm in _ORDER[1:])


STUDY = Study(
    name="pipeline",
    title="Micro-batches of a pipeline of two stages",
    part="Section 2.2, and GPipe",
    monitor="val/acc",
    mode="max",
    arms={f"m{count}": {"microbatches": count} for count in _MICROBATCHES},
    sizes={
        "tiny": {"width": 8, "depth": 2, "epochs": 2, "batch": 360, "lr": 2e-3, "targets": (0.9,)},
        "cpu": {"width": 48, "depth": 8, "epochs": 8, "batch": 240, "lr": 2e-3, "targets": (0.9,)},
    },
    train=on_ranks(_rank),
    preload=PRELOAD,
    claims=(
        Claim("The bubble falls from each number of micro-batches to the next", _falls(bubble)),
        *(
            Claim(f"With m = {count} the bubble is within 0.10 of (p-1)/(m+p-1)", (Near(f"m{count}"),))
            for count in _MICROBATCHES
        ),
        Claim("Parameters do not see it: they are the same", _same("params")),
        Claim("FLOPs do not see it: they are the same", _same("flop")),
        Claim(
            "Training time falls with the bubble, from each number of micro-batches to the next",
            _falls(final("train_s")),
        ),
        Claim(
            "Small micro-batches are less efficient: the passes over the same samples take longer in 8 than in 1",
            (Less(final("stage_busy_s"), _FEWEST, _MOST),),
        ),
        Claim(
            "A step launches more operators from each number of micro-batches to the next",
            tuple(Less(final("op_calls"), fewer, more) for fewer, more in pairwise(_ORDER)),
        ),
        Claim(
            "Activations take less memory in 8 micro-batches than in 1",
            (Less(final("activation_bytes"), _MOST, _FEWEST),),
        ),
        Claim(
            "What is learned is the same, within 2 %",
            tuple(Alike(quality(), arm, _FEWEST, within=0.02) for arm in _ORDER[1:]),
        ),
    ),
    seeds=3,
    columns=(
        "params",
        "flop",
        "bubble_fraction",
        "bubble_theory_fraction",
        "train_s",
        "samples_per_s",
        "op_calls",
        "activation_bytes",
    ),
)
