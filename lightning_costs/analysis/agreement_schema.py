"""The plain data of how far indicators agree: ranks, families, dominance and matched pairs."""

from __future__ import annotations

from typing import TypedDict

from lightning_costs.records.samples import Amount


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
