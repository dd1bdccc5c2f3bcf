"""Section 2.1: what a 'step' is. SGD with momentum, SAM and Lookahead around it: steps, passes, copies of the weights.

A step of SAM (Foret et al. 2021) is two passes over its batch, and holds a second copy of the weights between them. A
step of Lookahead (Zhang et al. 2019), in its authors' own terms one of the slow weights, is k batches. So quality
against 'steps' flatters both. AdamW is there for its memory.

To make it yours, change `OPTIMIZERS` and `STUDY.arms` (what differs), or `build` (what is trained). `OuterSteps` is how
a count of your own gets into every run beside the default columns.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_costs import Measured
from lightning_costs.records.samples import StepSample

from .blocks import ViT, stack
from .claims import Better, Claim, Finding, Less, Quantity, Results, Warns, final, judged, quotient, ratio, to_target
from .data import Digits
from .learning import Classifier, Training, with_lightning
from .study import Job, Settings, Study


def sgd(parameters: Iterable[nn.Parameter], settings: Settings) -> Optimizer:
    return torch.optim.SGD(parameters, **_options(settings))


def sam(parameters: Iterable[nn.Parameter], settings: Settings) -> Optimizer:
    from pytorch_optimizer import SAM

    found: Optimizer = SAM(parameters, torch.optim.SGD, rho=settings["rho"], **_options(settings))
    return found


def lookahead(parameters: Iterable[nn.Parameter], settings: Settings) -> Optimizer:
    from pytorch_optimizer import Lookahead

    found: Optimizer = Lookahead(sgd(parameters, settings), k=settings["k"], alpha=settings["alpha"])
    return found


def adamw(parameters: Iterable[nn.Parameter], settings: Settings) -> Optimizer:
    return torch.optim.AdamW(parameters, settings["lr"], weight_decay=settings["weight_decay"])


def _options(settings: Settings) -> dict[str, Any]:
    return {name: settings[name] for name in ("lr", "momentum", "weight_decay")}


OPTIMIZERS: Mapping[str, Callable[[Iterable[nn.Parameter], Settings], Optimizer]] = {
    "sgd": sgd,
    "sam": sam,
    "lookahead": lookahead,
    "adamw": adamw,
}


class OuterSteps(Measured):
    """Steps as an algorithm's authors count them: of Lookahead those of the slow weights, else every update."""

    name, unit, kind, family = "outer_steps", "steps", "counter", "data"
    scope, across, label = "job", "rank0", "outer steps"

    def __init__(self) -> None:
        self._since_last_read = 0

    def count(self, optimizer: Optimizer) -> None:
        """Count this optimizer's from now on."""
        optimizer.register_step_post_hook(self._stepped)

    def _stepped(self, optimizer: Optimizer, *_: Any) -> None:
        # Lookahead's counter of inner steps is back at nought when the slow weights have moved.
        self._since_last_read += all(group.get("counter", 0) == 0 for group in optimizer.param_groups)

    def read(self, sample: StepSample) -> float:
        made, self._since_last_read = self._since_last_read, 0
        return float(made)


class Stepper(Classifier):
    """A classifier by one of `OPTIMIZERS`, whose outer steps are counted."""

    def __init__(self, net: nn.Module, settings: Settings, outer: OuterSteps) -> None:
        super().__init__(net, settings)
        self.outer = outer

    def optimizer(self) -> Optimizer:
        made = OPTIMIZERS[self.settings["optimizer"]](self.parameters(), self.settings)
        self.outer.count(made)
        return made

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """SAM's `step` expects gradients at the current weights, which Lightning's closure has not made yet."""
        if self.settings["optimizer"] == "sam":
            optimizer_closure()
        optimizer.step(closure=optimizer_closure)


def build(job: Job) -> Training:
    settings = job.settings
    net = ViT(stack(settings["width"], settings["depth"], settings["heads"]), width=settings["width"])
    # Without an adaptive optimizer, positions that begin near nought keep all methods at chance for hundreds of steps.
    nn.init.normal_(net.positions, std=0.5)
    outer = OuterSteps()
    return Training(
        module=Stepper(net, settings, outer),
        data=Digits(settings),
        indicators=(outer,),
        trainer={"max_steps": round(settings["steps"] * settings.get("share", 1))},
    )


@dataclass(frozen=True)
class Within:
    """Of a quantity, method a's amount over b's (or less b's) lies from `least` to `most`, both included."""

    quantity: Quantity
    a: str
    b: str
    sign: Literal["/", "-"]
    least: float
    most: float = math.inf

    def __call__(self, results: Results) -> Finding:
        return judged(
            results.paired(self.quantity, self.a, self.b, ratio if self.sign == "/" else operator.sub),
            f"{self.a} {self.sign} {self.b} =",
            self.quantity.label,
            holds=lambda low, high: self.least <= low and high <= self.most,
            fails=lambda low, high: high < self.least or low > self.most,
        )


def times(quantity: Quantity, a: str, b: str, factor: float, within: float = 0.0) -> Within:
    """Method a has `factor` times b's amount, give or take the share `within`."""
    return Within(quantity, a, b, "/", factor / (1 + within), factor * (1 + within))


def more(quantity: Quantity, a: str, b: str, by: float, within: float) -> Within:
    """Method a has `by` more than b, give or take `within`."""
    return Within(quantity, a, b, "-", by - within, by + within)


def no_less(quantity: Quantity, a: str, b: str) -> Within:
    """Method a has at least b's amount."""
    return Within(quantity, a, b, "/", 1.0)


def copies(column: str) -> Quantity:
    """Bytes at the end of training, in copies of the weights."""
    return quotient(column, "param_bytes", f"`{column}` in copies of the weights")


#: Share of a copy that may be in a reading beside copies of the weights: AdamW's step counts.
_ROUNDING = 0.02

_COMMON = {"momentum": 0.9, "weight_decay": 5e-4, "rho": 0.05, "k": 5, "alpha": 0.5, "targets": (0.95,)}

STUDY = Study(
    name="sec21",
    title="Momentum, SAM and Lookahead: what a step is",
    part="Section 2.1",
    monitor="val/acc",
    mode="max",
    arms={
        "sgd": {"optimizer": "sgd"},
        "sam": {"optimizer": "sam"},
        "sam-half": {"optimizer": "sam", "share": 0.5},
        "sam-near": {"optimizer": "sam", "rho": 0.005},
        "lookahead": {"optimizer": "lookahead"},
        "adamw": {"optimizer": "adamw", "lr": 1e-3},
    },
    # Evaluations are a multiple of k steps apart, so that Lookahead's weights are the slow ones there.
    sizes={
        "tiny": {
            **_COMMON,
            "width": 16,
            "depth": 1,
            "heads": 2,
            "batch": 128,
            "lr": 0.05,
            "steps": 20,
            "evaluations": 4,
            "targets": (0.05,),  # below chance: twenty steps teach nothing
        },
        "cpu": {
            **_COMMON,
            "width": 48,
            "depth": 2,
            "heads": 4,
            "batch": 32,
            "lr": 0.05,
            "steps": 1000,
            "evaluations": 50,
        },
        "gpu": {
            **_COMMON,
            "width": 1024,
            "depth": 6,
            "heads": 16,
            "batch": 128,
            "lr": 0.01,
            "steps": 220,
            "evaluations": 22,
            "precision": "bf16-mixed",
        },
    },
    train=with_lightning(build, monitor="val/acc", mode="max"),
    claims=(
        Claim("A step of SAM is two of SGD in FLOPs", (times(final("flop"), "sam", "sgd", 2),)),
        Claim("SAM's training time doubles likewise, within 15 %", (times(final("train_s"), "sam", "sgd", 2, 0.15),)),
        Claim(
            "The energy of SAM's training doubles likewise, within 15 %",
            (times(final("train_energy_j"), "sam", "sgd", 2, 0.15),),
        ),
        Claim("The comparison warns by itself that SAM's steps hide passes", (Warns("steps_hide_passes"),)),
        Claim(
            "At rest SAM's optimizer holds what SGD's does",
            (times(copies("opt_state_bytes"), "sam", "sgd", 1),),
        ),
        Claim(
            "Inside the step SAM's optimizer holds one copy of the weights more than SGD's",
            (more(copies("opt_peak_bytes"), "sam", "sgd", 1, _ROUNDING),),
        ),
        Claim(
            "At rest SAM's optimizer is smaller than AdamW's, inside the step it is as large",
            (
                Less(copies("opt_state_bytes"), "sam", "adamw"),
                times(copies("opt_peak_bytes"), "sam", "adamw", 1, _ROUNDING),
            ),
        ),
        Claim(
            "The most memory held during backward passes, everything included, is one copy larger with SAM, too",
            (more(copies("peak_backward_bytes"), "sam", "sgd", 1, 0.1),),
        ),
        Claim(
            "Lookahead's optimizer holds one copy of the weights more than SGD's, at rest as in the step",
            (
                more(copies("opt_state_bytes"), "lookahead", "sgd", 1, _ROUNDING),
                more(copies("opt_peak_bytes"), "lookahead", "sgd", 1, _ROUNDING),
            ),
        ),
        Claim("At equal steps, SAM is better than SGD", (Better("sam", "sgd"),)),
        Claim(
            "At equal FLOPs (half the steps), SAM is still better than SGD",
            (times(final("flop"), "sam-half", "sgd", 1), Better("sam-half", "sgd")),
        ),
        Claim(
            "A tenth of SAM's radius costs the same FLOPs and, within 15 %, the same training time",
            (times(final("flop"), "sam-near", "sam", 1), times(final("train_s"), "sam-near", "sam", 1, 0.15)),
        ),
        Claim("At that equal cost the usual radius is better than a tenth of it", (Better("sam", "sam-near"),)),
        Claim("SAM needs fewer steps than SGD to the target", (Less(to_target("steps"), "sam", "sgd"),)),
        Claim("SAM needs no fewer FLOPs than SGD to the target", (no_less(to_target("flop"), "sam", "sgd"),)),
        Claim("SAM needs no less training time than SGD to the target", (no_less(to_target("train_s"), "sam", "sgd"),)),
        Claim(
            "Lookahead needs fewer of its outer steps than SGD of its steps to the target",
            (Less(to_target("outer_steps"), "lookahead", "sgd"),),
        ),
        Claim(
            "Lookahead needs no fewer samples than SGD to the target",
            (no_less(to_target("samples"), "lookahead", "sgd"),),
        ),
        Claim(
            "Lookahead needs no fewer FLOPs than SGD to the target", (no_less(to_target("flop"), "lookahead", "sgd"),)
        ),
        Claim(
            "Lookahead needs no less training time than SGD to the target",
            (no_less(to_target("train_s"), "lookahead", "sgd"),),
        ),
        Claim("At equal samples, Lookahead is better than SGD", (Better("lookahead", "sgd"),)),
    ),
    seeds=4,
    columns=("outer_steps", "samples", "flop", "train_s", "train_energy_j", "opt_state_bytes", "opt_peak_bytes"),
)
