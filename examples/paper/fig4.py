"""Figure 4 and Table 2: a vision transformer scaled in depth against the same one scaled in width.

Twice the width has the parameters of four times the depth. To make it yours, change `build` (what is trained), and in
`DEPTHS` and `WIDTHS` what is scaled from the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

from torch import nn

from lightning_costs import Comparison
from lightning_costs.analysis.schema import RunRow
from lightning_costs.records.samples import Amount

from .blocks import ViT, stack
from .claims import Alike, Better, Claim, Finding, Less, Quantity, Results, final, flips
from .data import Digits
from .learning import Classifier, Training, with_lightning
from .study import Job, Settings, Study

#: Methods by name, from small to large: how many times deeper or wider than the base. Both families have the base.
DEPTHS = {"half-depth": 0.5, "base": 1.0, "2x-depth": 2.0, "4x-depth": 4.0}
WIDTHS = {"half-width": 0.5, "base": 1.0, "2x-width": 2.0, "3x-width": 3.0}


def shape(settings: Settings) -> tuple[int, int, int]:
    """Width, depth and heads. The width of a head stays; the feed-forward part is four times the width.

    Example:
        >>> shape({"width": 64, "depth": 4, "head_width": 16, "wider": 3.0})
        (192, 4, 12)
    """
    width = round(settings["width"] * settings.get("wider", 1.0))
    return width, round(settings["depth"] * settings.get("deeper", 1.0)), width // settings["head_width"]


def build(job: Job) -> Training:
    settings = job.settings
    width, depth, heads = shape(settings)
    net = ViT(stack(width, depth, heads), width=width, patch=settings["patch"])
    if "position_std" in settings:  # patches of one pixel are told apart by their positions alone
        nn.init.normal_(net.positions, std=settings["position_std"])
    return Training(module=Classifier(net, settings), data=Digits(settings), infer=True)


def _order(results: Results, quantity: Quantity, a: str, b: str) -> int:
    """-1 where a has surely less than b, 1 where it has surely more, else 0."""
    if Less(quantity, a, b)(results).verdict == "held":
        return -1
    return 1 if Less(quantity, b, a)(results).verdict == "held" else 0


@dataclass(frozen=True)
class ChangePlaces:
    """Some method of one family has less of the first quantity than one of the other family, and more of the second."""

    first: Quantity
    second: Quantity
    ours: Sequence[str]
    theirs: Sequence[str]

    def __call__(self, results: Results) -> Finding:
        return _told(results, self.first, self.second, list(product(self.ours, self.theirs)), wanted=True)


@dataclass(frozen=True)
class KeepPlaces:
    """Two quantities order every two methods of a family alike."""

    first: Quantity
    second: Quantity
    family: Sequence[str]

    def __call__(self, results: Results) -> Finding:
        return _told(results, self.first, self.second, list(combinations(self.family, 2)), wanted=False)


def _told(
    results: Results, first: Quantity, second: Quantity, pairs: Sequence[tuple[str, str]], *, wanted: bool
) -> Finding:
    """Held where one of the pairs changes places, or, where that is not wanted, where all keep them."""
    orders = {pair: (_order(results, first, *pair), _order(results, second, *pair)) for pair in pairs}
    changed = [pair for pair, (one, two) in orders.items() if one * two < 0]
    kept = sum(one * two > 0 for one, two in orders.values())
    said = f"{first.label} and {second.label}: {len(changed)} of {len(pairs)} pairs change places, {kept} keep them"
    if changed:
        said += f" ({', '.join(f'{a} and {b}' for a, b in changed[:4])}{' ...' if len(changed) > 4 else ''})"
        return Finding("held" if wanted else "not held", said)
    if kept < len(pairs):
        return Finding("undecided", said)
    return Finding("not held" if wanted else "held", said)


def _per_image(_: Comparison, row: RunRow) -> Amount:
    rate = row["final"].get("infer_samples_per_s")
    return None if not rate else 1 / rate


#: Seconds, so that less is better, as with every other cost.
SERVING = Quantity("seconds per image, by `infer_samples_per_s`", _per_image)
#: Of each family without the base, which is in both.
_DEEP, _WIDE = tuple(arm for arm in DEPTHS if arm != "base"), tuple(arm for arm in WIDTHS if arm != "base")


STUDY = Study(
    name="fig4",
    title="Depth against width of a vision transformer",
    part="Figure 4 and Table 2",
    monitor="val/acc",
    mode="max",
    arms={
        **{arm: {"deeper": times} for arm, times in DEPTHS.items() if arm != "base"},
        "base": {},
        **{arm: {"wider": times} for arm, times in WIDTHS.items() if arm != "base"},
    },
    sizes={
        "tiny": {
            "width": 16,
            "depth": 2,
            "head_width": 8,
            "patch": 4,
            "epochs": 1,
            "batch": 256,
            "lr": 3e-3,
            "targets": (0.9,),
        },
        "cpu": {
            "width": 48,
            "depth": 4,
            "head_width": 12,
            "patch": 4,
            "epochs": 8,
            "batch": 64,
            "lr": 2e-3,
            "targets": (0.9,),
        },
        "gpu": {
            "width": 512,
            "depth": 8,
            "head_width": 64,
            "patch": 1,
            "position_std": 0.5,
            "epochs": 20,
            "batch": 128,
            "lr": 3e-4,
            "targets": (0.9,),
            "precision": "bf16-mixed",
        },
    },
    train=with_lightning(build, monitor="val/acc", mode="max"),
    claims=(
        Claim(
            "Four times the depth and twice the width are alike in parameters",
            (Alike(final("params"), "4x-depth", "2x-width"),),
        ),
        Claim("They are alike in FLOPs of a forward pass", (Alike(final("forward_flop"), "4x-depth", "2x-width"),)),
        Claim("Of these two, the wider one trains faster", (Less(final("train_s"), "2x-width", "4x-depth"),)),
        Claim("The wider one serves more images per second", (Less(SERVING, "2x-width", "4x-depth"),)),
        Claim(
            "The wider one answers a single image sooner",
            (Less(final("infer_latency_p50_s"), "2x-width", "4x-depth"),),
        ),
        Claim(
            "The wider one runs through fewer operators, at most half as many",
            (Less(final("op_calls"), "2x-width", "4x-depth", share=0.5),),
        ),
        Claim("The deeper one is better", (Better("4x-depth", "2x-width"),)),
        Claim(
            "Among models that differ in depth alone, parameters and time per image served agree",
            (KeepPlaces(final("params"), SERVING, tuple(DEPTHS)),),
        ),
        Claim(
            "Among models that differ in width alone, they agree too",
            (KeepPlaces(final("params"), SERVING, tuple(WIDTHS)),),
        ),
        Claim(
            "Between deeper and wider models, parameters and time per image served change places",
            (ChangePlaces(final("params"), SERVING, _DEEP, _WIDE),),
        ),
        Claim(
            "Between deeper and wider models, FLOPs and time per image served change places",
            (ChangePlaces(final("forward_flop"), SERVING, _DEEP, _WIDE),),
        ),
        Claim(
            "Between deeper and wider models, FLOPs and training time change places",
            (ChangePlaces(final("flop"), final("train_s"), _DEEP, _WIDE),),
        ),
        Claim(
            "Twice the depth has fewer parameters than three times the width, and answers a single image later",
            flips(final("params"), final("infer_latency_p50_s"), "2x-depth", "3x-width"),
        ),
        Claim(
            "Where depth grows, latency follows the number of operators",
            (KeepPlaces(final("op_calls"), final("infer_latency_p50_s"), tuple(DEPTHS)),),
        ),
    ),
    seeds=4,
    columns=(
        "params",
        "forward_flop",
        "op_calls",
        "train_s",
        "infer_samples_per_s",
        "infer_latency_p50_s",
        "train_energy_j",
    ),
)
