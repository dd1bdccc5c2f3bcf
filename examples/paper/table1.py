"""Table 1: the patch size of a vision transformer. Larger patches: more parameters and fewer FLOPs.

To make it yours, change `build` (what is trained) and `STUDY.arms` (what differs).
"""

from __future__ import annotations

from itertools import pairwise

from .blocks import ViT, stack
from .claims import Better, Claim, Condition, Less, final, flips
from .data import Digits
from .learning import Classifier, Training, with_lightning
from .study import Job, Study


def build(job: Job) -> Training:
    settings = job.settings
    blocks = stack(settings["width"], settings["depth"], settings["heads"])
    net = ViT(blocks, width=settings["width"], patch=settings["patch"])
    return Training(module=Classifier(net, settings), data=Digits(settings), infer=True)


#: From small patches to large ones.
_ORDER = ("patch1", "patch2", "patch4", "patch8")


def _each(less: str, reverse: bool = False) -> tuple[Condition, ...]:
    """From each patch size to the next, the column rises; with `reverse`, falls."""
    pairs = pairwise(_ORDER)
    return tuple(Less(final(less), *(pair[::-1] if reverse else pair)) for pair in pairs)


STUDY = Study(
    name="table1",
    title="Patch size of a vision transformer",
    part="Table 1",
    monitor="val/acc",
    mode="max",
    arms={f"patch{size}": {"patch": size} for size in (1, 2, 4, 8)},
    sizes={
        "tiny": {"width": 16, "depth": 1, "heads": 2, "epochs": 1, "batch": 256, "lr": 3e-3, "targets": (0.9,)},
        "cpu": {"width": 64, "depth": 4, "heads": 4, "epochs": 20, "batch": 64, "lr": 2e-3, "targets": (0.9,)},
        "gpu": {
            "width": 1024,
            "depth": 8,
            "heads": 16,
            "epochs": 40,
            "batch": 256,
            "lr": 3e-4,
            "targets": (0.9,),
            "precision": "bf16-mixed",
        },
    },
    train=with_lightning(build, monitor="val/acc", mode="max"),
    claims=(
        Claim("FLOPs of a forward pass fall from each patch size to the next larger one", _each("forward_flop", True)),
        Claim("Executed training FLOPs fall likewise", _each("flop", True)),
        Claim(
            "From patches of 4 to patches of 8 pixels, parameters rise", (Less(final("params"), "patch4", "patch8"),)
        ),
        Claim(
            "Parameters and FLOPs order the two largest patch sizes in opposite ways",
            flips(final("params"), final("forward_flop"), "patch4", "patch8"),
        ),
        Claim(
            "Latency of one image falls from each patch size to the next larger one", _each("infer_latency_p50_s", True)
        ),
        Claim("Training time falls likewise", _each("train_s", True)),
        Claim("Smaller patches are better: 2 pixels than 4", (Better("patch2", "patch4"),)),
        Claim("Smaller patches are better: 4 pixels than 8", (Better("patch4", "patch8"),)),
    ),
    columns=(
        "params",
        "forward_flop",
        "flop",
        "train_s",
        "infer_latency_p50_s",
        "infer_samples_per_s",
        "train_energy_j",
    ),
)
