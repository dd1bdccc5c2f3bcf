"""The plain data of training and queries together, as a comparison holds it."""

from __future__ import annotations

from typing import Literal, TypedDict

from lightning_costs.records.samples import Amount


class LifecycleRun(TypedDict):
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
    """What every run has cost after a number of queries: label to column to amount."""

    queries: float
    costs: dict[str, dict[str, Amount]]


class Lifecycle(TypedDict):
    """Training and queries together: runs by label, break-even numbers of every pair, who is cheapest from where.

    `columns` are those that some run has both parts of; pairs and the cheapest are by these. Of the others, `runs`
    holds why.
    """

    columns: list[str]
    runs: dict[str, LifecycleRun]
    pairs: list[BreakEven]
    cheapest: dict[str, list[Cheapest]]
    at: list[Footprint]
