"""ZeRO: a residual network of some millions of parameters on two processes, at DeepSpeed's stages 0, 1, 2 and 3.

Parameters, FLOPs and what is learned are the same; what differs is what each process holds and says.

To make it yours, change `network` (the model), `_rank` (the engine) and `STUDY.arms` (what differs).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_costs import Comparison
from lightning_costs.analysis.schema import RunRow
from lightning_costs.integrations.deepspeed import watch

from .blocks import feed_forward
from .claims import Alike, Claim, Less, Quantity, final, quality
from .ranks import PRELOAD, RANKS, Batch, Tell, course, micro_batches, on_ranks, recorder
from .study import Job, Settings, Study

#: Micro-batches of each process in a step: while gradients accumulate, stage 1 keeps whole ones and stage 2 a shard.
_ACCUMULATED = 2


class Residual(nn.Module):
    """A transformer's block without its attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.feed_forward = nn.LayerNorm(width), feed_forward(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.feed_forward(self.norm(x))
        return found


def network(settings: Settings) -> nn.Module:
    """[samples, 1, 8, 8] to [samples, 10]."""
    width = settings["width"]
    blocks = [Residual(width) for _ in range(settings["depth"])]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), *blocks, nn.LayerNorm(width), nn.Linear(width, 10))


def _rank(job: Job, tell: Tell) -> None:
    """One of the processes."""
    from .with_deepspeed import deepspeed

    settings = job.settings
    micro = settings["batch"] // RANKS // _ACCUMULATED
    net = network(settings)
    engine, *_ = deepspeed.initialize(
        model=net,
        optimizer=torch.optim.AdamW(net.parameters(), settings["lr"]),
        config={
            "train_micro_batch_size_per_gpu": micro,
            "gradient_accumulation_steps": _ACCUMULATED,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {
                "stage": settings["stage"],
                "reduce_bucket_size": settings["bucket"],
                "allgather_bucket_size": settings["bucket"],
                "stage3_param_persistence_threshold": 0,
                "stage3_max_live_parameters": settings["bucket"],
                "stage3_max_reuse_distance": settings["bucket"],
                "stage3_prefetch_bucket_size": settings["bucket"],
            },
            "steps_per_print": 10**9,
        },
    )

    def accuracy(held_out: Batch) -> float:
        images, labels = held_out
        engine.eval()
        with torch.no_grad():
            right = (engine(images).argmax(1) == labels).float().mean()
        engine.train()
        return float(right)

    with recorder(job, engine.module) as costs, watch(engine, costs):

        def step(batch: Batch) -> None:
            ours = (part[engine.global_rank :: RANKS] for part in batch)
            for images, labels in costs.wrap_loader(micro_batches((next(ours), next(ours)), micro)):
                engine.backward(nn.functional.cross_entropy(engine(images), labels))
                engine.step()

        course(job, costs, step, accuracy, tell)


def _states(_: Comparison, row: RunRow) -> float | None:
    """Bytes of all that ZeRO shares, over all processes, each kind at its most."""
    held = [row["final"].get(name) for name in ("param_bytes", "master_bytes", "grad_bytes", "opt_peak_bytes")]
    return None if None in held else sum(amount for amount in held if amount is not None)


states = Quantity("parameters, masters, gradients and optimizer memory", _states)
_ORDER = tuple(f"stage{stage}" for stage in range(4))
#: Half, and a little for partitions that are filled up to equal sizes.
_HALF = 0.51


def _same(column: str) -> tuple[Alike, ...]:
    return tuple(Alike(final(column), arm, "stage0", within=0.0) for arm in _ORDER[1:])


STUDY = Study(
    name="zero",
    title="ZeRO's stages on two processes",
    part="Section 2.1, and ZeRO",
    monitor="val/acc",
    mode="max",
    arms={f"stage{stage}": {"stage": stage} for stage in range(4)},
    sizes={
        "tiny": {"width": 32, "depth": 2, "epochs": 2, "batch": 360, "lr": 2e-3, "bucket": 5_000, "targets": (0.9,)},
        "cpu": {"width": 256, "depth": 4, "epochs": 4, "batch": 120, "lr": 1e-3, "bucket": 500_000, "targets": (0.9,)},
    },
    train=on_ranks(_rank),
    preload=PRELOAD,
    claims=(
        Claim(
            "From stage 1 on, optimizer state is shared: all processes together hold half of stage 0's on two of them",
            tuple(Less(final("opt_state_bytes"), arm, "stage0", share=_HALF) for arm in _ORDER[1:]),
        ),
        Claim(
            "The fullest process holds half of it, too",
            tuple(Less(final("rank_max_opt_state_bytes"), arm, "stage0", share=_HALF) for arm in _ORDER[1:]),
        ),
        Claim("From stage 1 to 2, gradients take less", (Less(final("grad_bytes"), "stage2", "stage1"),)),
        Claim("From stage 2 to 3, parameters take less", (Less(final("param_bytes"), "stage3", "stage2"),)),
        Claim(
            "From stage 2 to 3, parameters take half, at most, with those that are gathered",
            (Less(final("param_bytes"), "stage3", "stage2", share=_HALF),),
        ),
        Claim(
            "All of these together, with master weights, take less from each stage to the next",
            tuple(Less(states, more, less) for less, more in pairwise(_ORDER)),
        ),
        Claim(
            "Resident memory of the fullest process is less at stage 3 than at stage 0",
            (Less(final("host_rss_bytes"), "stage3", "stage0"),),
        ),
        Claim("Parameters do not see it: they are the same", _same("params")),
        Claim("FLOPs do not see it: they are the same", _same("flop")),
        Claim(
            "Stages 1 and 2 train as fast as stage 0, within 5 %",
            tuple(Alike(final("train_s"), arm, "stage0") for arm in ("stage1", "stage2")),
        ),
        Claim(
            "Stage 3, which gathers parameters, trains more slowly than stage 2",
            (Less(final("train_s"), "stage2", "stage3"),),
        ),
        Claim(
            "What is learned is the same, within 2 %",
            tuple(Alike(quality(), arm, "stage0", within=0.02) for arm in _ORDER[1:]),
        ),
    ),
    seeds=3,
    columns=(
        "params",
        "flop",
        "param_bytes",
        "master_bytes",
        "grad_bytes",
        "opt_state_bytes",
        "opt_peak_bytes",
        "rank_max_opt_state_bytes",
        "host_rss_bytes",
        "train_s",
        "samples_per_s",
    ),
)
