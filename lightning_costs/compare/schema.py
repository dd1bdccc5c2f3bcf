"""The plain data that a comparison holds. Amounts are in the unit that their column's name ends in."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from lightning_costs.core.records import Amount

Mode = Literal["max", "min"]
Plain = str | int | float | bool | None
#: Column name to one value per evaluation of a run.
Curve = dict[str, list[Amount]]


class DeclarationRow(TypedDict):
    """An indicator as a header declares it (`core.indicator.Declaration.as_dict`)."""

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


class RunRow(TypedDict):
    """One run: what it reached and what it spent until its end.

    `rates` are the numbers of the tariff that its carbon and money are under; what it lacks is absent. `about` is what
    its header says beside columns: pipeline; what was not recorded is absent.
    """

    label: str
    id: str
    name: str
    status: str
    best_quality: float | None
    best_step: int | None
    final_quality: float | None
    final: dict[str, Amount]
    setup: dict[str, Plain]
    missing: dict[str, str]
    methods: dict[str, str]
    rates: dict[str, float]
    about: dict[str, Any]


class Spend(TypedDict):
    """What one run spent, by one counter, until the first evaluation at or past a target.

    `cost` is infinity where the target was never reached, None where the counter has no reading there.
    `last_miss` and `first_hit` are the bracket, each [cost, quality].
    """

    cost: Amount
    reached: bool
    step: int | None
    last_miss: list[Amount] | None
    first_hit: list[Amount] | None
    spent_at_end: Amount


class TargetRow(TypedDict):
    """Cost-to-quality at one target: indicator to run label to spend, and who needed least."""

    target: float
    declared: bool
    basis: str
    costs: dict[str, dict[str, Spend]]
    winners: dict[str, list[str] | None]


class RankPair(TypedDict):
    """How two indicators order the same runs.

    A flip [a, b] says: run a is the cheaper one by `first`, run b by `second`.
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


class Ranks(TypedDict):
    """Agreement of indicators about the order of runs, for every pair of them."""

    indicators: list[str]
    pairs: list[RankPair]


class Setups(TypedDict):
    """Flattened setups: what is the same everywhere, and what differs, by run label."""

    same: dict[str, Plain]
    different: dict[str, dict[str, Plain]]


class Lead(TypedDict):
    """Who is cheapest by one indicator, and in which sense."""

    labels: list[str]
    basis: str


class LifeRun(TypedDict):
    """What one run cost once, to train, and costs again at each query, by column; why either is missing.

    `batch_samples` is the batch at which a query's energy was measured, None where the run does not say.
    """

    once: dict[str, Amount]
    each: dict[str, Amount]
    missing: dict[str, str]
    batch_samples: int | None


class BreakEven(TypedDict):
    """At how many queries two runs have cost the same, by one column.

    `outcome` is 'breaks_even' (at `queries`; `fewer` costs less below it and `more` above it), 'dominates' (`fewer`
    and `more` are the same run: it costs less at every number of queries), 'equal' or 'missing' (`why`).
    """

    first: str
    second: str
    column: str
    outcome: Literal["breaks_even", "dominates", "equal", "missing"]
    queries: float | None
    cost: float | None
    fewer: str | None
    more: str | None
    why: str | None


class Cheapest(TypedDict):
    """From this number of queries on, these runs cost least."""

    from_queries: float
    labels: list[str]


class Footprint(TypedDict):
    """What every run has cost after so many queries: label to column to amount."""

    queries: float
    costs: dict[str, dict[str, Amount]]


class Lifecycle(TypedDict):
    """Training and queries together: runs by label, break-even numbers of every pair, who is cheapest from where.

    `columns` are those that some run has both parts of; pairs and the cheapest are told by these. Of the others, `runs`
    holds why.
    """

    columns: list[str]
    runs: dict[str, LifeRun]
    pairs: list[BreakEven]
    cheapest: dict[str, list[Cheapest]]
    at: list[Footprint]
