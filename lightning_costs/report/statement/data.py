"""What a statement is made of: what runs cost together, how each figure was got, what is missing; as data and words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lightning_costs.analysis.metric import Metric
from lightning_costs.records.certainty import Certainty, noted
from lightning_costs.records.formatting import counted, format_device_time, format_for_paper, list_words
from lightning_costs.records.samples import Amount

#: Columns that are added up over runs: label, unit.
TOTALS = {
    "total_s": ("total time", "s"),
    "train_s": ("training time", "s"),
    "device_s": ("device time", "s"),
    "gpu_energy_j": ("GPU energy", "j"),
    "cpu_energy_j": ("CPU energy", "j"),
    "ram_energy_j": ("RAM energy", "j"),
    "energy_j": ("energy", "j"),
    "co2e_g": ("CO2e", "g"),
    "cloud_usd": ("cloud cost", "usd"),
    "electricity_usd": ("electricity cost", "usd"),
    "flop": ("FLOPs", "flop"),
    "model_flop": ("model FLOPs", "flop"),
    "samples": ("samples", "samples"),
    "tokens": ("tokens", "tokens"),
    "embodied_co2e_g": ("embodied CO2e", "g"),
    "water_l": ("water", "l"),
    "lost_s": ("time lost to restarts", "s"),
    "lost_energy_j": ("energy lost to restarts", "j"),
}
#: What one forward pass costs: given as a range over runs.
INFERENCE = {
    "infer_energy_j": ("inference energy per sample", "j"),
    "infer_latency_p50_s": ("median inference latency", "s"),
    "infer_samples_per_s": ("inference throughput", "samples_per_s"),
}
#: What is one number of a model and its data: stated if runs agree.
MODEL = {
    "params": ("parameters", "params"),
    "dataset_samples": ("samples of the training set", "samples"),
    "epochs": ("epochs", "epochs"),
}
COLUMNS = TOTALS | INFERENCE | MODEL
COMPONENTS = {"gpu": "GPU", "cpu": "CPU", "ram": "RAM"}
_WAYS = {
    "counter": "measured by hardware counters",
    "power": "measured as power and integrated over time",
    "model": "estimated by a model",
    "constant": "estimated from a constant power",
    "none": "none by definition",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """A column over runs: its sum over those that know it, None if none does, and the least and most of one run.

    `reasons` why others do not know it, and `methods`, come with how many runs each is of. `error` is half of the 95 %
    interval of an estimated sum: runs may err the same way, so it adds up. `of_nodes` if all devices are nodes.
    """

    name: str
    amount: Amount
    runs: int
    unknown: int
    reasons: Mapping[str, int]
    methods: Mapping[str, int]
    least: Amount
    most: Amount
    certainty: Certainty
    error: Amount
    of_nodes: bool

    @property
    def label(self) -> str:
        """What the column is called here."""
        return COLUMNS[self.name][0]

    @property
    def published(self) -> bool:
        """Whether all of it is from published tables, which do not record what it counts."""
        return bool(self.methods) and all(method.startswith("as published in ") for method in self.methods)

    @property
    def text(self) -> str:
        """The sum for people, with 'at least' if some run does not know it; '' if none does."""
        if self.amount is None:
            return ""
        if self.name == "device_s":
            text = format_device_time(self.amount, node=self.of_nodes)
        else:
            text = noted(format_for_paper(self.amount, COLUMNS[self.name][1]), self.amount, self.certainty, self.error)
        return f"at least {text}" if self.unknown else text

    @property
    def known(self) -> str:
        """Words behind a sum that some runs do not add to."""
        return f" (known in {self.runs - self.unknown} of {self.runs} runs)" if self.unknown else ""

    @property
    def span(self) -> str:
        """Smallest and largest amount of a run, one if they read alike; '' if none knows it."""
        if self.least is None or self.most is None:
            return ""
        return " to ".join(
            dict.fromkeys(format_for_paper(amount, COLUMNS[self.name][1]) for amount in (self.least, self.most))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a run trained on."""

    device: str | None
    cpu: bool
    devices: tuple[int, ...]
    nodes: tuple[int, ...]

    def __str__(self) -> str:
        name = self.device or "hardware that was not recorded"
        counts, nodes = (", then ".join(map(str, numbers)) for numbers in (self.devices, self.nodes))
        if self.cpu:
            return f"{counts or 1} node{'s' if self.devices not in ((), (1,)) else ''} with CPU {name}"
        where = f" ({nodes} node{'s' if self.nodes != (1,) else ''})" if nodes else ""
        return f"{counts} × {name}{where}" if counts else f"{name}{where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonIntensityUsed:
    """The carbon intensity in force; its source is 'given' if by hand, and may say that it is location-based."""

    gco2e_per_kwh: float
    source: str
    place: str | None
    located: bool

    def __str__(self) -> str:
        return f"{self.gco2e_per_kwh:g} g/kWh ({self.source})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a device or a node cost an hour, in US dollars, and who says so; None was not given."""

    usd_per_h: float | None
    per: str
    provider: str | None
    tier: str | None
    source: str | None
    date: str | None

    def __str__(self) -> str:
        what = f"USD {self.usd_per_h:g} per {self.per}-hour" if self.usd_per_h is not None else "a table's price"
        tier = self.tier.replace("_", " ") if self.tier else None
        date = f"of {self.date}" if self.date else "no date given"
        return f"{what} ({', '.join(filter(None, (self.provider, tier, self.source or 'no source given', date)))})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run: its label, how it ended, its attempts, hardware and final amounts, and its best quality.

    `query_g` is the carbon of one sample's forward pass, operational and embodied.
    """

    label: str
    status: str
    attempts: int
    hardware: Hardware
    amounts: Mapping[str, Amount]
    quality: Amount
    began: str | None
    query_g: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What runs cost together, all of them: finished, failed and killed ones.

    Mappings of hardware, grids, PUEs (None if none was given) and prices count the runs of each. Grids are those of
    runs that have any CO2e, PUEs those of runs priced by energy. `components` has the words for how the energy of GPU,
    CPU and RAM was measured, `errors_j` the largest error of each sum by its reading. `killed` counts attempts, whose
    last stretch is in no figure. `shared` counts runs that hold an attempt which another one holds too: branches of one
    checkpoint. Of `inference` and `model` the sum means nothing, the range does; `software` is that of the last run.
    `uncounted` are operators without a formula: with any, FLOPs are a lower bound.
    """

    runs: tuple[RunFacts, ...]
    statuses: Mapping[str, int]
    totals: Mapping[str, Total]
    unfinished: Mapping[str, Total]
    inference: Mapping[str, Total]
    model: Mapping[str, Total]
    software: Mapping[str, str]
    batches: tuple[int, ...]
    components: Mapping[str, Mapping[str, int]]
    errors_j: Mapping[str, Amount]
    hardware: Mapping[Hardware, int]
    grids: Mapping[CarbonIntensityUsed, int]
    pues: Mapping[float | None, int]
    prices: Mapping[Price, int]
    usd_per_kwh: Mapping[float, int]
    uncounted: tuple[str, ...]
    killed: int
    shared: int
    began: str | None
    ended: str | None
    metric: Metric | None
    repriced: bool

    @property
    def restarted(self) -> list[RunFacts]:
        """The runs of several attempts."""
        return [run for run in self.runs if run.attempts > 1]

    @property
    def ended_as(self) -> str:
        """How many runs ended how."""
        if len(self.statuses) == 1 and len(self.runs) > 1:
            return f"all {next(iter(self.statuses))}"
        return list_words([f"{count} {status}" for status, count in self.statuses.items()])

    @property
    def energy_parts(self) -> str:
        """GPU, CPU and RAM energy, each with how it was got; those that are zero by definition left out."""
        parts = []
        for part, label in COMPONENTS.items():
            figure, ways = self.totals[f"{part}_energy_j"], self.components[part]
            if figure.amount is None or (figure.amount == 0 and set(ways) == {"none"} and not figure.unknown):
                continue
            kept = [way for way in ways if way != "none" or len(ways) == 1]
            how = of_runs([(_WAYS.get(way, "by a method that was not recorded"), ways[way]) for way in kept])
            bound = (
                f", its reading off by {format_for_paper(error_j, 'j')} at most"
                if (error_j := self.errors_j[part])
                else ""
            )
            parts.append(f"{label} {figure.text} ({list_words(how)}{bound})")
        return list_words(parts)

    @property
    def pue_text(self) -> str:
        """The PUE, or that none was given."""
        if not self.pues or set(self.pues) == {None}:
            return "no PUE was given, so that carbon and electricity are those of the IT energy alone"
        if len(self.pues) == 1:
            return f"PUE {next(iter(self.pues)):g}, as given, is in carbon and electricity"
        parts = of_runs([("none" if pue is None else f"{pue:g}", runs) for pue, runs in self.pues.items()])
        return f"PUE in carbon and electricity, as given: {list_words(parts)}"

    @property
    def missing(self) -> list[tuple[str, int, list[str]]]:
        """Reasons, in how many runs and of which columns; what is missing in most runs first."""
        grouped: dict[tuple[str, int], list[str]] = {}
        for figure in (*self.totals.values(), *self.inference.values()):
            if not figure.name.startswith("lost_") or self.restarted:
                for reason in figure.reasons.items():
                    grouped.setdefault(reason, []).append(figure.label)
        found = [(reason, runs, labels) for (reason, runs), labels in grouped.items()]
        return sorted(found, key=lambda one: -one[1])


def of_runs(counts: Iterable[tuple[object, int]]) -> list[str]:
    """Things as texts, each with the number of its runs if there are several."""
    pairs = list(counts)
    return [f"{one} in {counted(runs)}" if len(pairs) > 1 else str(one) for one, runs in pairs]
