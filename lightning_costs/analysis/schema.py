"""The plain data that a comparison holds. Amounts are in the unit that their column's name ends in."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from lightning_costs.records.certainty import Certainty
from lightning_costs.records.samples import Amount

Mode = Literal["max", "min"]
Plain = str | int | float | bool | None
#: Pairs are matched if the larger amount is at most 1 + this times the smaller, by default.
TOLERANCE = 0.05
#: Column name to one value per evaluation of a run.
Curve = dict[str, list[Amount]]


class Declaration(TypedDict):
    """An indicator as a header declares it (`records.declaration.Declaration.as_dict`)."""

    name: str
    unit: str
    kind: str
    fold: str
    scope: str
    across: str
    better: str
    family: str
    role: str
    label: str
    headline: bool


class EarlyStop(TypedDict):
    """What ended a run before its time: `by` whom, at which `step`, over which `limit` of a column."""

    by: str
    step: int | None
    column: str
    limit: Amount
    amount: Amount


class Search(TypedDict):
    """How a run's settings were searched, if its header has it.

    `trials` counts all trials of the search that this run is the outcome of. `under` is a column or None.
    """

    trials: int | None
    under: str | None


class RunVerdict(TypedDict):
    """What the run's training was bound by.

    `kind` is input-bound, straggler, communication-bound, launch-bound, throttled, memory-bound, compute-bound, none
    (no single bottleneck) or unknown. `share` is the loss's of the training. `saves_` amounts are what the run would
    save at most without it; null if that cannot be known. `missing` is what could not be judged.
    """

    kind: str
    share: float | None
    evidence: list[str]
    next: str
    saves_s: float | None
    saves_j: float | None
    saves_usd: float | None
    missing: list[str]
    words: str


class RunRow(TypedDict):
    """One run: what it reached and what it spent until its end.

    `certainty` states of columns with an amount whether it is exact, estimated over a sample (with its 95 % interval
    in `intervals`: [low, high]) or modelled. `rates` are the numbers of the tariff that its carbon and money are
    under; a missing one is absent. `planned_fraction` is how much of its planned training ran, 1.0 if it reached
    its end, None if none was planned. `group` is the method that it is a seed of, None without `group`.
    `about` is what its header says beside columns: attempts, census, energy, memory at peak, roofline, by whom the
    time went, pipeline; what was not recorded is absent.
    """

    label: str
    id: str
    name: str
    status: str
    source: str
    group: str | None
    best_quality: float | None
    best_step: int | None
    final_quality: float | None
    evaluations: int
    final: dict[str, Amount]
    setup: dict[str, Plain]
    missing: dict[str, str]
    methods: dict[str, str]
    certainty: dict[str, Certainty]
    intervals: dict[str, list[float]]
    rates: dict[str, float]
    planned_fraction: float | None
    stopped: EarlyStop | None
    search: Search | None
    verdict: RunVerdict
    about: dict[str, Any]


class CostToTarget(TypedDict):
    """What one run spent, by one counter, until the first evaluation at or past a target.

    `cost` is infinity if the target was never reached, None if the counter has no reading there.
    `last_miss` and `first_hit` are the bracket, each [cost, quality]. `kept_cost` ('reached and kept') is the cost at
    the first evaluation from which on all are at or past the target. It is infinity if the last one is not.
    `interpolated` is the cost at the target on the straight line through the bracket, None without one: it was not
    measured, as its name says.
    """

    cost: Amount
    reached: bool
    step: int | None
    last_miss: list[Amount] | None
    first_hit: list[Amount] | None
    spent_at_end: Amount
    kept_cost: Amount
    kept: bool
    interpolated: Amount


class ClockDisagreement(TypedDict):
    """Two counters that order runs differently by what it cost to reach a target.

    `pairs` are [a, b]: a needed less of `first`, b less of `second`; at most `ranks.MOST_FLIPS`, of `discordant`.
    `clocks` says that both are clocks. Runs that did not reach the target take no part.
    """

    first: str
    second: str
    clocks: bool
    discordant: int
    n: int
    pairs: list[list[str]]


class TargetRow(TypedDict):
    """Cost-to-quality at one target: indicator to run label to spend, and who needed least.

    `winners` go by `cost`, `kept_winners` by `kept_cost`. `orders` holds ranks, 1 for who needed least, equal costs
    sharing their average rank; runs that did not reach it, or have no reading, are absent.
    """

    target: float
    declared: bool
    basis: str
    reached: list[str]
    costs: dict[str, dict[str, CostToTarget]]
    winners: dict[str, list[str] | None]
    kept_winners: dict[str, list[str] | None]
    orders: dict[str, dict[str, float]]
    reversals: list[ClockDisagreement]


class WinnerRange(TypedDict):
    """Who reaches targets at least cost: for every target past `after` (None: from the easiest on) up to `upto`.

    `first` is the easiest target of the sweep in the range.
    """

    after: float | None
    first: float
    upto: float
    labels: list[str]


class Sweep(TypedDict):
    """Cost-to-quality over all targets, easiest first.

    `targets` are the values at which some run's best quality so far improves, so that between two of them nothing
    changes. `complete` is False if they are too many and only some, evenly by rank, are included. `costs` is
    indicator to run label to [targets]: None without a reading, infinity if it was not reached. `winners` is
    indicator to ranges; targets that no run reached at a known cost are in none. `group_winners` likewise, by
    the median of each group.
    """

    targets: list[float]
    complete: bool
    costs: dict[str, dict[str, list[Amount]]]
    winners: dict[str, list[WinnerRange]]
    group_winners: dict[str, list[WinnerRange]]


class Spread(TypedDict):
    """One quantity over the runs of a group.

    `n` runs have a known outcome, `reached` of them a finite one; a run that never reached its target is infinite and
    takes part. `low` and `high` bound the median's 95 % bootstrap interval where n >= 3; `least` and `most` are the
    extremes. `missing` runs have no reading.
    """

    n: int
    reached: int
    share_reached: float | None
    median: Amount
    low: Amount
    high: Amount
    least: Amount
    most: Amount
    missing: int


class GroupTarget(TypedDict):
    """Cost-to-quality of groups at one target: indicator to group to spread, and whose median is least."""

    target: float
    costs: dict[str, dict[str, Spread]]
    winners: dict[str, list[str] | None]


class Groups(TypedDict):
    """Seeds of one method together: never a mean over those who reached a target."""

    by: str
    members: dict[str, list[str]]
    quality: dict[str, Spread]
    finals: dict[str, dict[str, Spread]]
    targets: list[GroupTarget]


class Breakdown(TypedDict):
    """Columns that are parts of one thing, or are read side by side: label to column to final amount.

    `parts` says whether the columns are disjoint parts that may be stacked; `total` is the column they add up to.
    """

    title: str
    unit: str
    columns: list[str]
    parts: bool
    total: str | None
    amounts: dict[str, dict[str, Amount]]


class Caution(TypedDict):
    """What limits a claim: its `kind`, in words, whom it is about, the figures behind it.

    `section` is that of 'The Efficiency Misnomer' (arXiv 2110.12894) which warns of it, None if none does by number.
    """

    kind: str
    text: str
    section: str | None
    runs: list[str]
    evidence: dict[str, Any]


class Setups(TypedDict):
    """Flattened setups: what is the same everywhere, and what differs, by run label."""

    same: dict[str, Plain]
    different: dict[str, dict[str, Plain]]


class Leader(TypedDict):
    """Who is cheapest by one indicator, and in which sense."""

    labels: list[str]
    basis: str


class Contrast(TypedDict):
    """One cost of a group against the reference group's: `ratio` is the group's amount over the reference's.

    If more of a column is better, the ratio is the other way round: below 1 is always cheaper. `at` is 'target' or
    'end'. `verdict` is 'less', 'more', 'equal' (within 0.1 %) or 'undecided' (the interval includes 1, or there is
    none). `improvement` is the probability that a run of the group is cheaper than one of the reference,
    `interquartile_mean` that of the group's amounts; None for fewer than 4 runs.
    """

    group: str
    column: str
    at: Literal["target", "end"]
    ratio: Spread
    verdict: Literal["less", "more", "equal", "undecided"]
    interquartile_mean: Amount
    improvement: Amount


class QualityContrast(TypedDict):
    """Best quality of a group less the reference group's, where higher is better, else the reverse."""

    group: str
    difference: Spread
    verdict: Literal["better", "worse", "equal", "undecided"]
    interquartile_mean: Amount
    improvement: Amount


class Contrasts(TypedDict):
    """Every group against one, the `reference`: ratios of costs and differences of quality.

    `paired` says of a group whether runs of the same seed were paired; otherwise medians are held against each other.
    """

    reference: str
    target: float | None
    paired: dict[str, bool]
    costs: list[Contrast]
    quality: list[QualityContrast]


class AnswerCost(TypedDict):
    """One independent cost and how it ranks runs or groups.

    `columns` are those it stands for, itself first: they cannot disagree with it. `basis` is 'target' for what reaching
    the target cost, 'end' for the amount at the end. `amounts` are infinite if the target was never reached, None
    without a reading; of a group, the median. `ranks` are 1 for the cheapest; equal amounts share their average rank.
    They are None without a finite amount or a quality, and for those that do not reach the target. `modelled_share` is
    the largest share of an amount that comes from a model or a constant, None if all of it was measured or counted.
    `winner` is None if several tie. `undecided` states that its lead may be noise: the interval of a ratio includes 1,
    or there is one run each.
    """

    column: str
    columns: list[str]
    label: str
    unit: str
    basis: Literal["target", "end"]
    amounts: dict[str, Amount]
    ranks: dict[str, float | None]
    modelled_share: float | None
    winner: str | None
    undecided: bool


class Answer(TypedDict):
    """The answer in short: who is best, who is cheapest by which independent costs, where these disagree.

    `labels` are the runs or groups that are ranked, best quality first; `quality` is their best quality (a group's
    median). `target` is the hardest target that at least two of them reach, None for amounts at the end. `grouping`
    says how runs were grouped, or why not; it is empty if there is nothing to say.
    """

    by: Literal["run", "group"]
    labels: list[str]
    quality: dict[str, Amount]
    target: float | None
    grouping: str
    costs: list[AnswerCost]
    sentences: list[str]
