"""Figure 1: a Transformer, a Universal Transformer and a Switch Transformer, each at two depths, as language models.

The Universal Transformer (Dehghani et al. 2019) is one block called again and again: few parameters, the same FLOPs.
The Switch Transformer (Fedus et al. 2021) has experts of which a token uses one: many parameters, the same FLOPs. What
a step takes is a third thing.

To make it yours, change `build` (what is trained), `_NETS` (which models there are) and `STUDY.arms` (what differs).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_costs import Comparison
from lightning_costs.analysis.schema import RunRow
from lightning_costs.records.samples import Amount

from .blocks import Block, Decoder, feed_forward, stack
from .claims import Alike, Better, Claim, Condition, Less, Quantity, final, flips, quotient, to_target
from .data import Text, as_bytes, sources
from .learning import LanguageModel, Training, with_lightning
from .study import Job, Settings, Study
from .switch import Switch, SwitchDecoder


class Step(nn.Module):
    """One pass through a shared block: a learned vector of this step is added before, so that passes can differ."""

    def __init__(self, block: nn.Module, width: int) -> None:
        super().__init__()
        self.block, self.vector = block, nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        done: Tensor = self.block(x + self.vector)
        return done


def transformer(settings: Settings) -> nn.Module:
    """`depth` blocks, each with parameters of its own."""
    width = settings["width"]
    blocks = stack(width, settings["depth"], settings["heads"], causal=True)
    return Decoder(blocks, width=width, context=settings["context"])


def universal(settings: Settings) -> nn.Module:
    """One block, `depth` times."""
    width = settings["width"]
    (block,) = stack(width, 1, settings["heads"], causal=True)
    return Decoder([Step(block, width) for _ in range(settings["depth"])], width=width, context=settings["context"])


def switch(settings: Settings) -> nn.Module:
    """`depth` blocks; `experts` feed-forward parts in each, of which a token uses one."""
    width = settings["width"]
    blocks: list[nn.Module] = [
        Block(
            width,
            settings["heads"],
            Switch(width, settings["experts"], lambda: feed_forward(width, 4 * width)),
            causal=True,
        )
        for _ in range(settings["depth"])
    ]
    return SwitchDecoder(blocks, width=width, context=settings["context"])


_NETS = {"transformer": transformer, "universal": universal, "switch": switch}


def build(job: Job) -> Training:
    settings = job.settings
    train, held_out = sources()
    depth = settings["depths"][settings["deep"]]
    net = _NETS[settings["net"]]({**settings, "depth": depth})
    return Training(module=LanguageModel(net, settings), data=Text(as_bytes(train), as_bytes(held_out), settings))


def params_if_reached(which: int = -1) -> Quantity:
    """Parameters of a run that reached a target; infinite where it did not. The fewest are the best per parameter."""
    steps = to_target("steps", which)

    def read(compared: Comparison, row: RunRow) -> Amount:
        needed = steps.read(compared, row)
        return needed if needed is None or math.isinf(needed) else row["final"].get("params")

    return Quantity("`params` of who reaches the target", read)


def throughput() -> Quantity:
    """Samples per second over all steps outside warm-up; `samples_per_s` is that of the last window alone."""
    return quotient("steady_samples", "steady_s", "samples per second outside warm-up")


#: What a method's name ends in.
_DEPTHS = ("", "-deep")


def _both(test: Callable[[Quantity, str, str], Condition], quantity: Quantity, a: str, b: str) -> tuple[Condition, ...]:
    """The same test at both depths."""
    return tuple(test(quantity, a + deep, b + deep) for deep in _DEPTHS)


STUDY = Study(
    name="fig1",
    title="Transformer, Universal Transformer and Switch Transformer",
    part="Figure 1",
    monitor="val/bits_per_byte",
    mode="min",
    arms={net + suffix: {"net": net, "deep": deep} for deep, suffix in enumerate(_DEPTHS) for net in _NETS},
    sizes={
        "tiny": {
            "width": 16,
            "depths": (2, 4),
            "heads": 2,
            "experts": 8,
            "context": 32,
            "batch": 8,
            "held_out": 32,
            "steps": 8,
            "evaluations": 2,
            "lr": 3e-3,
            "targets": (7.9,),
        },
        "cpu": {
            "width": 64,
            "depths": (2, 4),
            "heads": 4,
            "experts": 8,
            "context": 128,
            "batch": 16,
            "held_out": 64,
            "steps": 250,
            "evaluations": 25,
            "lr": 3e-3,
            "targets": (3.7, 3.55),
        },
        "gpu": {
            "width": 512,
            "depths": (6, 12),
            "heads": 8,
            "experts": 8,
            "context": 512,
            "batch": 32,
            "held_out": 128,
            "steps": 300,
            "evaluations": 30,
            "lr": 5e-4,
            "targets": (4.0, 3.5),
            "precision": "bf16-mixed",
        },
    },
    train=with_lightning(build, monitor="val/bits_per_byte", mode="min"),
    claims=(
        Claim(
            "Parameters order them: Universal Transformer, Transformer, Switch Transformer",
            (
                *_both(Less, final("params"), "universal", "transformer"),
                *_both(Less, final("params"), "transformer", "switch"),
            ),
        ),
        Claim(
            "Twice the depth is no more parameters for the Universal Transformer, up to a vector each step",
            (Alike(final("params"), "universal", "universal-deep", within=0.01),),
        ),
        Claim(
            "Of the three only the Universal Transformer uses parameters in more than one place",
            (
                *_both(Less, final("shared_params"), "transformer", "universal"),
                *_both(Less, final("shared_params"), "switch", "universal"),
            ),
        ),
        Claim(
            "The Switch Transformer has more than twice the Transformer's parameters, and uses as many for a token",
            (
                *_both(Alike, final("active_params"), "switch", "transformer"),
                *(Less(final("params"), "transformer" + deep, "switch" + deep, share=0.5) for deep in _DEPTHS),
            ),
        ),
        Claim(
            "At equal depth FLOPs of the Switch Transformer are the Transformer's, up to the router's",
            _both(Alike, final("forward_flop"), "switch", "transformer"),
        ),
        Claim(
            "At equal depth FLOPs of the Universal Transformer are the Transformer's",
            _both(Alike, final("forward_flop"), "universal", "transformer"),
        ),
        Claim(
            "At these equal FLOPs the Switch Transformer has the lower throughput",
            _both(Less, throughput(), "switch", "transformer"),
        ),
        Claim(
            "Fewer parameters bring no speed: throughputs of Universal Transformer and Transformer are within a tenth",
            tuple(Alike(throughput(), "universal" + deep, "transformer" + deep, within=0.1) for deep in _DEPTHS),
        ),
        Claim(
            "Parameters and FLOPs order the Switch Transformer and the deep Transformer in opposite ways",
            flips(final("forward_flop"), final("params"), "switch", "transformer-deep"),
        ),
        Claim(
            "Parameters and training time order the Transformer and the deep Universal Transformer in opposite ways",
            flips(final("params"), final("train_s"), "universal-deep", "transformer"),
        ),
        Claim(
            "FLOPs and training time order the Switch Transformer and the deep Transformer in opposite ways",
            flips(final("flop"), final("train_s"), "switch", "transformer-deep"),
        ),
        Claim(
            "More parameters at equal FLOPs are better: the Switch Transformer than the Transformer",
            tuple(Better("switch" + deep, "transformer" + deep) for deep in _DEPTHS),
        ),
        Claim(
            "More parameters at equal FLOPs are better: the Transformer than the Universal Transformer",
            tuple(Better("transformer" + deep, "universal" + deep) for deep in _DEPTHS),
        ),
        Claim(
            "More FLOPs at equal parameters are better: the deep Universal Transformer than the other",
            (Better("universal-deep", "universal"),),
        ),
        Claim(
            "Per parameter the Universal Transformer is best: it reaches the target with the fewest",
            (
                *_both(Less, params_if_reached(), "universal", "transformer"),
                *_both(Less, params_if_reached(), "universal", "switch"),
            ),
        ),
        Claim(
            "Per FLOP the Switch Transformer is best: it reaches the target with fewer than the Transformer",
            _both(Less, to_target("flop"), "switch", "transformer"),
        ),
        Claim(
            "Per FLOP the Switch Transformer is best: it reaches the target with fewer than the Universal Transformer",
            _both(Less, to_target("flop"), "switch", "universal"),
        ),
        Claim(
            "Per second it is not: the Transformer reaches the target sooner than the Switch Transformer",
            _both(Less, to_target("train_s"), "transformer", "switch"),
        ),
    ),
    columns=("params", "active_params", "forward_flop", "flop", "train_s", "samples_per_s", "train_energy_j"),
)
