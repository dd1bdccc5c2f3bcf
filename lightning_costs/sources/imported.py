"""Runs from foreign data: checks of their points, and a header that records their origin."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lightning_costs.records.declaration import Declaration
from lightning_costs.records.formatting import format_number
from lightning_costs.records.samples import SCHEMA_VERSION, Amount
from lightning_costs.run.record import RunRecord
from lightning_costs.sources.columns import CostColumn, ReadOptions, known_columns
from lightning_costs.storage.run_folder.frames import OWN

if TYPE_CHECKING:
    import polars

#: The setup of a row in a foreign table.
PUBLISHED = "published, setup unknown"


def make_imported_run(
    points: polars.DataFrame,
    costs: Sequence[CostColumn],
    reading: ReadOptions,
    *,
    run_id: str,
    name: str,
    source: str,
    status: str = "unknown",
    statics: Mapping[str, Amount] | None = None,
    missing: Mapping[str, str] | None = None,
    methods: Mapping[str, str] | None = None,
    setup: Mapping[str, Any] | None = None,
    **header: Any,
) -> RunRecord:
    """A run of foreign origin: its points, closed by one that holds the last totals, and a header.

    Points are rows of step, epoch, time, trigger, costs that are no statics, and metrics. `missing` says why a column
    is; of others it is said here.
    """
    declared = {cost.declared.name: dict(_declaration_row(cost.declared)) for cost in costs}
    taken = {*OWN, *declared}
    metrics = [column for column in points.columns if column not in taken]
    points = _closed(points, [column for column in declared if column in points.columns])
    last = points.row(-1, named=True) if points.height else {}
    given, reasons = dict(statics or {}), dict(missing or {})
    for column in declared:
        if given.get(column, last.get(column)) is None:
            reasons.setdefault(column, f"{source} does not say")
    return RunRecord(
        header={
            "schema_version": SCHEMA_VERSION,
            "run_id": run_id,
            "name": name,
            "status": status,
            "created": "",
            "monitor": reading.monitor if reading.monitor in metrics else None,
            "mode": reading.mode if reading.monitor in metrics else None,
            "targets": [],
            "indicators": declared,
            "missing": reasons,
            "methods": {column: how for column, how in (methods or {}).items() if column not in reasons},
            "statics": given,
            "setup": dict(setup or {}),
            "tariff": {},
            "attempts": [],
            "quality": metrics,
            **header,
        },
        points=points,
        source=source,
    )


@lru_cache(maxsize=1024)
def _declaration_row(declared: Declaration) -> dict[str, Any]:
    """A declaration as data, made once for a thousand runs."""
    return declared.as_dict()


def _closed(points: polars.DataFrame, costs: Sequence[str]) -> polars.DataFrame:
    """The points, the last of which has every total and state that an earlier one has: one more if it had not."""
    import polars

    if points.height < 2 or not costs or None not in points.select(costs).row(-1):
        return points
    filled = points.select(polars.col(costs).forward_fill().last())
    if filled.equals(points[-1].select(costs)):
        return points
    ended = points["trigger"][-1] == "end"
    end = points[-1] if ended else points[-1].select("step", "epoch", "time").with_columns(trigger=polars.lit("end"))
    end = end.drop(costs, strict=False).hstack(filled)
    return polars.concat([points[:-1] if ended else points, end], how="diagonal")


def unmeasured(run: RunRecord, why: str, **reasons: str) -> RunRecord:
    """A run that nobody measured says so of each headline cost, for those that it is compared with.

    Args:
        run: The run.
        why: Why such a cost is missing.
        **reasons: By column, what else is to be said.
    """
    known = {**run.header["statics"], **run.final}
    lacking = {name: why for name, row in known_columns().items() if row.headline and known.get(name) is None}
    return replace(run, header={**run.header, "missing": {**lacking, **reasons, **run.header["missing"]}})


def first_decrease(amounts: Iterable[Amount]) -> tuple[int, float, float] | None:
    """Where a total falls: index, the total before it and its own; None if it never does.

    Example:
        >>> first_decrease([1.0, None, 3.0, 2.0]), first_decrease([1.0, None, 1.0])
        ((3, 3.0, 2.0), None)
    """
    before: Amount = None
    for index, amount in enumerate(amounts):
        if amount is None:
            continue
        if before is not None and amount < before:
            return index, before, amount
        before = amount
    return None


def describe_decrease(name: str, before: float, after: float) -> str:
    """Why a counter that falls is none."""
    return f"{name} falls from {format_number(before)} to {format_number(after)}: a total never falls"


def number(value: object) -> float | None:
    """A value of a log as a number; None for what is none, infinite and undefined ones as they are.

    Example:
        >>> number("0.5"), number("Infinity"), number(True), number("image"), number("")
        (0.5, inf, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def finite_or_none(amount: Amount) -> Amount:
    """A cost that is finite; None for what is no amount of anything."""
    return amount if amount is not None and math.isfinite(amount) else None
