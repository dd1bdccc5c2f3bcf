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


class Counts(TypedDict):
    """Pairs of runs that two indicators order alike, differently, or not at all."""

    concordant: int
    discordant: int
    ties: int


class RankPair(TypedDict):
    """How two indicators order the same runs.

    A flip [a, b] says: run a is the cheaper one by `first`, run b by `second`; at most `ranks.MOST_FLIPS` are
    listed, of `discordant`. `within` and `across` split the counts into pairs of one group and pairs of two, where runs
    have groups.
    `rounded` is [least, most] of what Spearman can be where printed digits leave the order of runs open: its extremes
    (`rounded_exactly`), or bounds that hold whatever was rounded away.
    """

    first: str
    second: str
    spearman: float | None
    tau_b: float | None
    concordant: int
    discordant: int
    ties: int
    n: int
    flips: list[list[str]]
    within: Counts | None
    across: Counts | None
    rounded: list[float] | None
    rounded_exactly: bool | None


class FamilyPair(TypedDict):
    """How two families of indicators agree: the lowest and highest Spearman of any two of their columns."""

    first: str
    second: str
    lowest: float
    highest: float
    lowest_pair: list[str]
    pairs: int


class Ranks(TypedDict):
    """Agreement of indicators about the order of runs, for every pair of them.

    `orders` holds each run's rank by its amount at the end, 1 for the cheapest, equal amounts sharing their average
    rank; runs without a finite amount are absent. `quality` ranks runs by best quality, 1 for the best. `families`
    is the agreement counted by family (`Comparison.families`).
    """

    indicators: list[str]
    pairs: list[RankPair]
    orders: dict[str, dict[str, float]]
    quality: dict[str, float]
    families: list[FamilyPair]


class FamilyRow(TypedDict):
    """Indicators that say one thing, counted once: who leads by all of them that have a leader.

    `columns` with a reading; `merged` says of a column declared in another family why it is counted here. `leaders`
    lead by every column; empty where columns disagree (`split`) or all runs tie.
    """

    family: str
    columns: list[str]
    merged: dict[str, str]
    leaders: list[str]
    split: bool


class Families(TypedDict):
    """Agreement counted by family: `leads` is run label to the families it leads, of the `contested` ones."""

    rows: list[FamilyRow]
    leads: dict[str, list[str]]
    contested: int


class Dominance(TypedDict):
    """Who is efficient by everything and who by nothing.

    `joint` is the Pareto front in quality and all `columns` together; `left_out` says why an indicator is not among
    them. `by_run` is label to the indicators whose own front it is `on` and `off` (missing ones are in neither).
    `everywhere` have a reading of every indicator that any run has and are on the front of each, `nowhere` are on none.
    `dominated_by` is label to runs that are at least as good in all of `columns` and quality and better in one; at most
    `pareto.MOST_DOMINATORS`, of `dominators`.
    """

    joint: list[str]
    columns: list[str]
    left_out: dict[str, str]
    by_run: dict[str, dict[str, list[str]]]
    everywhere: list[str]
    nowhere: list[str]
    dominated_by: dict[str, list[str]]
    dominators: dict[str, int]


class MatchedPair(TypedDict):
    """Two runs that are alike by one indicator: `ratio` of the larger to the smaller.

    `others` is column to b's amount over a's, None where either is missing, infinite or not positive. `differ` are the
    columns among them by which the two differ by more than the tolerance.
    """

    a: str
    b: str
    ratio: float
    quality: list[Amount]
    others: dict[str, Amount]
    differ: list[str]


class HiddenDifference(TypedDict):
    """What matching by one indicator hides of another: how many matched pairs differ by more than the tolerance.

    `most` is the largest ratio, of the runs `example`. It is over all `n` pairs in which both have an amount above 0.
    """

    differ: int
    n: int
    most: float
    example: list[str]


class MatchedRow(TypedDict):
    """Pairs of runs with max/min <= 1 + tolerance by one indicator.

    `pairs` counts all, and `hides` covers all; `listed` holds those that hide most, at most
    `matched.MOST_LISTED`.
    """

    column: str
    pairs: int
    listed: list[MatchedPair]
    hides: dict[str, HiddenDifference]


class Matched(TypedDict):
    """Matched comparisons, by indicator."""

    tolerance: float
    rows: list[MatchedRow]


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
