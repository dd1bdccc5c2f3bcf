"""Figures 2 and 3: the same model trained along a short schedule and a long one, with low and with high weight decay.

Which leads depends on the quality that is asked for. To make it yours, change `build` (what is trained) and
`STUDY.arms`: `share` of the epochs, `weight_decay`, or whatever trades early quality for late quality in your training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lightning_costs.analysis.schema import Spread
from lightning_costs.analysis.seeds import seed_spread
from lightning_costs.records.samples import Amount

from .blocks import ViT, stack
from .claims import Better, Claim, Finding, Less, Results, number, to_target
from .data import Digits
from .learning import Classifier, Training, with_lightning
from .study import Job, Settings, Study

#: A lead counts where it covers this share of the range of qualities, as in the comparison's own caution.
_COUNTS = 0.1


def epochs(settings: Settings) -> int:
    """How many are planned and trained: the learning rate comes down over just these.

    Example:
        >>> epochs({"epochs": 40, "share": 0.25}), epochs({"epochs": 40}), epochs({"epochs": 2, "share": 0.25})
        (10, 40, 1)
    """
    return max(1, round(settings["epochs"] * settings.get("share", 1.0)))


def build(job: Job) -> Training:
    settings = job.settings
    width = settings["width"]
    net = ViT(stack(width, settings["depth"], settings["heads"]), width=width, patch=settings["patch"])
    return Training(module=Classifier(net, settings), data=Digits(settings), trainer={"max_epochs": epochs(settings)})


@dataclass(frozen=True)
class LeadChanges:
    """Method `early` needs less of a counter than `late` for easy qualities, and `late` less for all better ones.

    Seed by seed, over every quality that some run of the study reached: over which share of their range `early` leads,
    and over which one `late` does past the last lead of `early`. Equal costs are nobody's lead; who alone reaches a
    quality leads there. An early lead counts from a tenth of the range on, as in the comparison's own caution; the
    late one counts however narrow, as that is where quality is hard to get.
    """

    counter: str
    early: str
    late: str

    def __call__(self, results: Results) -> Finding:
        ours, theirs = results.rows.get(self.early, {}), results.rows.get(self.late, {})
        costs = results.compared.sweep["costs"].get(self.counter, {})
        targets = results.compared.sweep["targets"]
        led = [
            leads(targets, costs.get(ours[seed]["label"], []), costs.get(theirs[seed]["label"], []))
            for seed in sorted(ours.keys() & theirs.keys())
        ]
        first, last = seed_spread([one for one, _ in led]), seed_spread([two for _, two in led])
        said = (
            f"`{self.counter}`: {self.early} leads over {_percent(first)} of the range of qualities, "
            f"{self.late} over the {_percent(last)} above that"
        )
        if first["low"] is None or first["high"] is None or last["low"] is None or last["high"] is None:
            return Finding("undecided", f"{said}; {first['n']} pairs of seeds: too few for an interval")
        if first["high"] < _COUNTS or last["high"] == 0:
            return Finding("not held", said)
        return Finding("held" if first["low"] >= _COUNTS and last["low"] > 0 else "undecided", said)


def leads(
    targets: Sequence[float], early: Sequence[Amount], late: Sequence[Amount]
) -> tuple[float | None, float | None]:
    """Shares of the range of targets over which `early` costs less, and past the last of these, `late` does.

    Args:
        targets: From the easiest.
        early: The cost of each, infinite where it was not reached.
        late: Likewise.

    Example:
        >>> leads([0.0, 1.0, 2.0, 4.0], [1.0, 2.0, 4.0, float("inf")], [2.0, 3.0, 4.0, 8.0])
        (0.25, 0.5)
    """
    if len(targets) < 2 or len(early) != len(targets) or len(late) != len(targets) or None in (*early, *late):
        return None, None
    widths = [abs(two - one) for one, two in pairwise((targets[0], *targets))]
    ahead = [float(one or 0) < float(two or 0) for one, two in zip(early, late, strict=True)]
    behind = [float(two or 0) < float(one or 0) for one, two in zip(early, late, strict=True)]
    turn = max((at for at, is_ahead in enumerate(ahead) if is_ahead), default=-1) + 1
    whole = sum(widths)
    first = sum(width for width, is_ahead in zip(widths, ahead, strict=True) if is_ahead)
    last = sum(width for width, is_behind in zip(widths[turn:], behind[turn:], strict=True) if is_behind)
    return first / whole, last / whole


def _percent(found: Spread) -> str:
    if found["median"] is None:
        return "an unknown share"
    if found["low"] is None or found["high"] is None or found["low"] == found["high"]:
        return f"{number(100 * found['median'])} %"
    return f"{number(100 * found['median'])} % [{number(100 * found['low'])}, {number(100 * found['high'])}]"


@dataclass(frozen=True)
class WarnsOfEarlyLead:
    """The comparison warns by itself of an early lead in samples, and names the setting in which the two runs differ.

    A lead in seconds alone may be the machine's.

    Args:
        setting: As the caution names it, such as `max_epochs`.
        early: The method that leads early.
    """

    setting: str
    early: str

    def __call__(self, results: Results) -> Finding:
        ours = {row["label"] for row in results.rows.get(self.early, {}).values()}
        for caution in results.compared.cautions:
            named = caution["evidence"].get("differences") or ()
            if (
                caution["kind"] == "early_lead"
                and caution["runs"][0] in ours
                and "samples" in caution["evidence"].get("share_of_range", ())
                and any(difference.startswith(self.setting) for difference in named)
            ):
                return Finding("held", f"`early_lead`: {caution['text']}")
        return Finding("not held", f"no caution `early_lead` of {self.early} by samples names `{self.setting}`")


STUDY = Study(
    name="fig2",
    title="Short and long schedules, low and high weight decay",
    part="Figures 2 and 3",
    monitor="val/acc",
    mode="max",
    arms={
        "short": {"share": 0.25},
        "long": {},
        "low-decay": {"weight_decay": 0.01},
        "high-decay": {"weight_decay": 1.0},
    },
    sizes={
        "tiny": {
            "width": 16,
            "depth": 1,
            "heads": 2,
            "patch": 4,
            "epochs": 4,
            "batch": 256,
            "lr": 3e-3,
            "weight_decay": 0.1,
            "targets": (0.1, 0.3),
        },
        "cpu": {
            "width": 64,
            "depth": 4,
            "heads": 4,
            "patch": 4,
            "epochs": 40,
            "batch": 64,
            "lr": 1e-3,
            "weight_decay": 0.1,
            "targets": (0.9, 0.97),
        },
    },
    train=with_lightning(build, monitor="val/acc", mode="max"),
    claims=(
        Claim(
            "The short schedule reaches the easy target after fewer samples than the long one",
            (Less(to_target("samples", 0), "short", "long"),),
        ),
        Claim(
            "The long schedule reaches the hard target after fewer samples than the short one",
            (Less(to_target("samples", 1), "long", "short"),),
        ),
        Claim("The long schedule ends better", (Better("long", "short"),)),
        Claim(
            "Which of the two schedules needs fewer samples changes with the target",
            (LeadChanges("samples", "short", "long"),),
        ),
        Claim(
            "It changes by training time and by energy too",
            (LeadChanges("train_s", "short", "long"), LeadChanges("train_energy_j", "short", "long")),
        ),
        Claim(
            "The comparison warns of the short schedule's early lead, and names the schedule",
            (WarnsOfEarlyLead("max_epochs", "short"),),
        ),
        Claim(
            "Low weight decay reaches the easy target after fewer samples than high weight decay",
            (Less(to_target("samples", 0), "low-decay", "high-decay"),),
        ),
        Claim("High weight decay ends better than low", (Better("high-decay", "low-decay"),)),
        Claim(
            "Which weight decay needs fewer samples changes with the target",
            (LeadChanges("samples", "low-decay", "high-decay"),),
        ),
        Claim(
            "The comparison warns of the low weight decay's early lead, and names the weight decay",
            (WarnsOfEarlyLead("optimizers.0.weight_decay", "low-decay"),),
        ),
    ),
    columns=("samples", "steps", "flop", "train_s", "total_s", "train_energy_j"),
)
