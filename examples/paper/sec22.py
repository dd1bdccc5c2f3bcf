"""Section 2.2: FLOPs and parameters do not tell speed. Pruned weights, weights of low rank, depth against width.

A vision transformer, 'dense', beside five that differ from it in one thing each:

- sparse90: after a third of training, nine tenths of the weights of each linear layer in the blocks are masked, those
  of least magnitude (`torch.nn.utils.prune.l1_unstructured`), and training goes on. At the end the zeros are made
  permanent: it is served as it would be, without masks to multiply by.
- sparse90-csr: trained in the same way, and served with its weights in CSR format, by torch's sparse kernels.
- factorised: W = UV in place of each of these layers, with a quarter of the width as rank, from the start.
- deep, wide: four times the depth at half the width, and a quarter of the depth at twice the width: FLOPs and
  parameters as they were, within 5 % at size cpu.

To make it yours, change `build` (what is trained) and `STUDY.arms` (what differs); `linear_layers` says which weights
are pruned or factorised. `theoretical_forward_flop` holds for a model each of whose weights meets `TOKENS` tokens.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lightning_costs import Comparison
from lightning_costs.analysis.schema import RunRow
from lightning_costs.records.samples import Amount

from .blocks import ViT, stack
from .claims import Alike, Claim, Less, Quantity, final, quotient
from .data import Digits
from .learning import Classifier, Training, with_lightning
from .study import Job, Study

#: Pixels along a side of a patch, and the tokens that an image is: patches and the class token.
PATCH = 2
TOKENS = (8 // PATCH) ** 2 + 1
#: Width of an attention head, whatever the width of the model.
HEAD = 16


def linear_layers(net: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Each linear layer of a module: what it is in, its name there, itself."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                yield parent, name, child


class Factorised(nn.Module):
    """A linear layer whose weight is UV, of a rank: rank · (inputs + outputs) weights in place of inputs · outputs."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.v, self.u = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.u(self.v(x))
        return found


def factorise(net: nn.Module, rank: int) -> None:
    """Put a factorised layer, newly initialised, in place of each linear layer."""
    for parent, name, layer in linear_layers(net):
        setattr(parent, name, Factorised(layer.in_features, layer.out_features, rank))


class SparseLinear(nn.Module):
    """A linear layer with its weight in CSR format, for inference: the products of zeros are not made."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            weight = layer.weight.detach().to_sparse_csr()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        product = torch.addmm(self.bias[:, None], self.weight, rows.T)  # the sparse matrix has to be the left one
        return product.T.reshape(*x.shape[:-1], -1)


class Prune(pl.Callback):
    """Masks the weights of least magnitude in each linear layer from an epoch on, and makes them zero at the end.

    Args:
        net: The module whose linear layers are pruned.
        amount: Which share of each layer's weights.
        epoch: The first epoch with masks.
        sparse: Whether the layers are served by sparse kernels.
    """

    def __init__(self, net: nn.Module, *, amount: float, epoch: int, sparse: bool) -> None:
        self.net, self.amount, self.epoch, self.sparse = net, amount, epoch, sparse

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            for _, _, layer in linear_layers(self.net):
                prune.l1_unstructured(layer, "weight", amount=self.amount)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training is over and the last evaluation too; inference is measured when `on_train_end` begins."""
        if trainer.max_epochs is None or trainer.current_epoch + 1 < trainer.max_epochs:
            return
        for parent, name, layer in linear_layers(self.net):
            prune.remove(layer, "weight")
            if self.sparse:
                setattr(parent, name, SparseLinear(layer))


def network(job: Job) -> ViT:
    """The job's model: `stretch` times as deep as the size's, and narrower by its root, so that the FLOPs stay."""
    settings, stretch = job.settings, job.settings.get("stretch", 1)
    width, depth = round(settings["width"] / math.sqrt(stretch)), round(settings["depth"] * stretch)
    net = ViT(stack(width, depth, width // HEAD), width=width, patch=PATCH)
    if "rank" in settings:
        factorise(net.blocks, round(settings["rank"] * width))
    return net


def build(job: Job) -> Training:
    settings, net = job.settings, network(job)
    callbacks = []
    if "prune" in settings:
        epoch, sparse = settings["epochs"] // 3, settings.get("sparse", False)
        callbacks.append(Prune(net.blocks, amount=settings["prune"], epoch=epoch, sparse=sparse))
    return Training(module=Classifier(net, settings), data=Digits(settings), callbacks=callbacks, infer=True)


def theoretical_forward_flop() -> Quantity:
    """FLOPs of a forward pass of one sample if zeros cost nothing: a theory, which nothing executes.

    Each weight of a linear layer is one multiply-accumulate, two FLOPs, per token, so that
    `forward_flop` - 2 · `TOKENS` · (`params` - `nonzero_params`): what was counted, less what the zeros took part in.
    It is none of the package's columns, and has to be told with its assumption: that a device skips a zero for free.
    """

    def read(_: Comparison, row: RunRow) -> Amount:
        counted, all_of_them, kept = (row["final"].get(name) for name in ("forward_flop", "params", "nonzero_params"))
        if counted is None or all_of_them is None or kept is None:
            return None
        return counted - 2 * TOKENS * (all_of_them - kept)

    return Quantity("theoretical forward FLOPs of nonzero weights", read)


def per(cost: str, unit: str) -> Quantity:
    """One column over another: where it rises, the first falls by less than the second, or rises by more."""
    return quotient(cost, unit, f"`{cost}` per `{unit}`")


def last_quality() -> Quantity:
    """Quality at the end of training: the best one may be from before the weights were pruned."""
    return Quantity("quality at the end", lambda _, row: row["final_quality"])


def _not_less(column: str, a: str, b: str) -> Less:
    """Method a needs at least as much as b, within 5 %."""
    return Less(final(column), b, a, share=1.05)


STUDY = Study(
    name="sec22",
    title="Sparse weights, factorised weights, and depth: FLOPs and parameters against time",
    part="Section 2.2",
    monitor="val/acc",
    mode="max",
    arms={
        "dense": {},
        "sparse90": {"prune": 0.9},
        "sparse90-csr": {"prune": 0.9, "sparse": True},
        "factorised": {"rank": 0.25},
        "deep": {"stretch": 4},
        "wide": {"stretch": 0.25},
    },
    sizes={
        "tiny": {"width": 32, "depth": 4, "epochs": 1, "batch": 256, "lr": 3e-3, "targets": (0.9,)},
        "cpu": {"width": 64, "depth": 4, "epochs": 12, "batch": 64, "lr": 2e-3, "targets": (0.9,)},
    },
    train=with_lightning(build, monitor="val/acc", mode="max"),
    claims=(
        Claim(
            "Pruning nine tenths of the weights leaves about a tenth of the parameters",
            (Less(final("nonzero_params"), "sparse90", "dense", share=0.15),),
        ),
        Claim(
            "In theory, FLOPs fall with them: to a fifth or less",
            (Less(theoretical_forward_flop(), "sparse90", "dense", share=0.2),),
        ),
        Claim("Executed training FLOPs do not fall", (Alike(final("flop"), "sparse90", "dense", within=0.01),)),
        Claim("Training time does not fall", (_not_less("train_s", "sparse90", "dense"),)),
        Claim(
            "Neither does the latency of one image, with the zeros made permanent",
            (_not_less("infer_latency_p50_s", "sparse90", "dense"),),
        ),
        Claim(
            "The pruned model is as good as the dense one at the end, within 2 %",
            (Alike(last_quality(), "sparse90", "dense", within=0.02),),
        ),
        Claim(
            "A sparse kernel makes the latency of one image fall",
            (Less(final("infer_latency_p50_s"), "sparse90-csr", "dense"),),
        ),
        Claim(
            "A sparse kernel makes the throughput of batches rise",
            (Less(final("infer_samples_per_s"), "dense", "sparse90-csr"),),
        ),
        Claim(
            "A sparse kernel makes throughput rise as much as the theoretical FLOPs fall: five times or more",
            (Less(final("infer_samples_per_s"), "dense", "sparse90-csr", share=0.2),),
        ),
        Claim(
            "Factorised weights halve parameters and executed FLOPs, or better",
            (Less(final("params"), "factorised", "dense", 0.5), Less(final("flop"), "factorised", "dense", 0.5)),
        ),
        Claim("They take more operators", (Less(final("op_calls"), "dense", "factorised"),)),
        Claim("Training time falls by less than FLOPs", (Less(per("train_s", "flop"), "dense", "factorised"),)),
        Claim("Training time does not fall at all", (_not_less("train_s", "factorised", "dense"),)),
        Claim(
            "The latency of one image does not fall at all", (_not_less("infer_latency_p50_s", "factorised", "dense"),)
        ),
        Claim(
            "Deep, dense and wide are alike in parameters and forward FLOPs, within 5 %",
            tuple(Alike(final(name), arm, "dense") for arm in ("deep", "wide") for name in ("params", "forward_flop")),
        ),
        Claim(
            "The deeper of them launches more operators",
            (Less(final("op_calls"), "dense", "deep"), Less(final("op_calls"), "wide", "dense")),
        ),
        Claim(
            "The deeper of them trains for longer",
            (Less(final("train_s"), "dense", "deep"), Less(final("train_s"), "wide", "dense")),
        ),
        Claim(
            "The deeper of them answers later",
            (
                Less(final("infer_latency_p50_s"), "dense", "deep"),
                Less(final("infer_latency_p50_s"), "wide", "dense"),
            ),
        ),
    ),
    seeds=3,
    columns=("nonzero_params", "flop", "op_calls", "train_s", "infer_latency_p50_s", "infer_samples_per_s"),
)
