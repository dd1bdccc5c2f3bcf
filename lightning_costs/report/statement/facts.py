"""What a statement is made of: what runs cost together, how each figure was got, what is missing. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_costs.compare.metric import Metric
from lightning_costs.core.certainty import Certainty
from lightning_costs.core.records import Amount

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
    "lost_s": ("time lost to restarts", "s"),
    "lost_energy_j": ("energy lost to restarts", "j"),
}
#: What one forward pass costs: told as a range over runs.
INFERENCE = {
    "infer_energy_j": ("inference energy per sample", "j"),
    "infer_latency_p50_s": ("median inference latency", "s"),
    "infer_samples_per_s": ("inference throughput", "samples_per_s"),
}
COMPONENTS = {"gpu": "GPU", "cpu": "CPU", "ram": "RAM"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A column over runs.

    Args:
        amount: Sum over the runs that know it, in the unit of its name; None where none does.
        runs: Of how many runs.
        unknown: How many of them do not know it.
        reasons: Why not, and in how many runs.
        methods: How it was got, and in how many runs.
        least: Smallest amount of a run, `most` the largest.
        certainty: That of the least certain run.
        error: Half of the 95 % interval of a sum that is estimated; runs may err the same way, so it adds up.
    """

    amount: Amount
    runs: int
    unknown: int
    reasons: Mapping[str, int]
    methods: Mapping[str, int]
    least: Amount
    most: Amount
    certainty: Certainty = "exact"
    error: Amount = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a run trained on.

    Args:
        device: Name of the accelerator, or of the CPU that trains; None where it was not recorded.
        cpu: Whether a CPU trains: its devices are nodes.
        devices: How many were allocated, attempt by attempt; equal neighbours once.
        nodes: The same of nodes.
    """

    device: str | None
    cpu: bool
    devices: tuple[int, ...]
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The carbon intensity in force, in grams of CO2 equivalent per kWh.

    Args:
        gco2e_per_kwh: The intensity.
        source: Who says so; 'given' where it was given by hand.
        place: Where that is, where a place was named.
        located: Whether the source says that it is location-based.
    """

    gco2e_per_kwh: float
    source: str
    place: str | None
    located: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a device or a node cost an hour, in US dollars, and who says so; None was not given."""

    usd_per_h: float | None
    per: str
    provider: str | None
    tier: str | None
    source: str | None
    date: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run: its label, how it ended, its attempts, hardware and final amounts, and its best quality."""

    label: str
    status: str
    attempts: int
    hardware: Hardware
    amounts: Mapping[str, Amount]
    quality: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What runs cost together, all of them: finished, failed and killed ones.

    Args:
        runs: One by one, oldest first as they were given.
        statuses: How many ended how.
        totals: Column to its figure over all runs.
        unfinished: The same over those that did not finish.
        inference: Column to its figure; the sum means nothing, the range does.
        batches: Batches at which inference was measured.
        components: 'gpu', 'cpu', 'ram' to the word for how its energy was got, and in how many runs.
        errors_j: Component to the most that its sum can be off by its reading, in joules; None where nobody can tell.
        hardware: What they ran on, and how many runs did.
        grids: Carbon intensities, and in how many runs; of the runs that have any CO2e.
        pues: PUEs, None where none was given, and in how many runs; of those that were priced by energy.
        prices: Prices of the hardware, and in how many runs.
        usd_per_kwh: Prices of electricity, and in how many runs.
        uncounted: Operators without a formula: with any, FLOPs are a lower bound.
        killed: How many attempts were killed: what they spent after their last point is in no figure.
        shared: How many runs hold an attempt that another one holds too: branches of one checkpoint.
        began: First day of any attempt, as YYYY-MM-DD; `ended` the last one.
        metric: The quality metric that the runs are told with.
        repriced: Whether one tariff replaced what the runs recorded.
    """

    runs: tuple[RunFacts, ...]
    statuses: Mapping[str, int]
    totals: Mapping[str, Figure]
    unfinished: Mapping[str, Figure]
    inference: Mapping[str, Figure]
    batches: tuple[int, ...]
    components: Mapping[str, Mapping[str, int]]
    errors_j: Mapping[str, Amount]
    hardware: Mapping[Hardware, int]
    grids: Mapping[Grid, int]
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
