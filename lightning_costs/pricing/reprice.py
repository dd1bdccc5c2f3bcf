"""Reprice a run: carbon and money of every point, from its physical totals and a tariff."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lightning_costs.pricing.hourly import HourlyCarbon, HourlyIntensity, carbon_by_hour
from lightning_costs.pricing.rates import AFTERWARDS, BASE_COLUMNS, PRICED, PriceHistory, UnitPrices
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.samples import Amount
from lightning_costs.run.record import RunRecord

if TYPE_CHECKING:
    import polars

#: Columns that a run which was recorded without them gets only from a tariff that has their figures.
_IF_GIVEN = ("embodied_co2e_g", "water_l")


def reprice(run: RunRecord, tariff: Tariff) -> RunRecord:
    """The run as if it had been recorded under a tariff.

    Args:
        run: The record.
        tariff: Prices and place; if it names a provider, each attempt's device is looked up.

    Returns:
        The record with carbon and money of every point, of lost work, and their reasons and methods, repriced. Columns
        that a user's own indicator priced are unchanged.
    """
    header = reprice_header(run.header, tariff)
    by_hour = _carbon_by_hour(run.points, header)
    if by_hour is not None:
        _tell_by_hour(by_hour, run.points, header)
    points = price_points(run.points, header)
    last = points.row(-1, named=True) if points.height else {}
    for name in header["priced"]:
        if last and last[name] is None and name not in header["missing"]:
            need = UnitPrices.of(header["tariff"]).base_column(name)
            header["missing"][name] = f"{need} is missing, and the price is made from it"
            header["methods"].pop(name, None)
    return replace(run, header=header, points=points)


def priced_columns(header: Mapping[str, Any]) -> list[str]:
    """Columns that are functions of the tariff: those that a run's header names; all of them if it names none."""
    return [str(name) for name in header.get("priced", PRICED)]


def reprice_header(header: Mapping[str, Any], tariff: Tariff) -> dict[str, Any]:
    """A run's header under another tariff: declarations, attempts, what is missing and how the rest was got."""
    declared = dict(header["indicators"])
    priced = priced_columns(header)
    attempts = [
        {**attempt, "tariff": tariff.for_device(_device(attempt, header)).as_dict()}
        for attempt in header.get("attempts", ())
    ]
    own = attempts[-1]["tariff"] if attempts else tariff.for_device(_device({}, header)).as_dict()
    rates = UnitPrices.of(own)
    for name in PRICED:
        # The run was recorded without them. Those that few tariffs have are worth no reason why they are missing.
        if name not in declared and (name not in _IF_GIVEN or rates.reason(name) is None):
            declared[name] = PRICED[name].as_dict()
            priced = [*priced, *([name] if name not in priced else [])]
    history = PriceHistory(attempts, own)
    for number, attempt in enumerate(attempts):
        if number and attempt.get("lost") is not None:
            attempt["lost"] = lost_priced_at_attempt(history, number, attempt["lost"], priced)
    missing, methods = missing_and_methods(history, priced, header.get("missing", {}), header.get("methods", {}))
    return {
        **header,
        "indicators": declared,
        "attempts": attempts,
        "tariff": own,
        "priced": priced,
        "missing": missing,
        "methods": methods,
    }


def lost_priced_at_attempt(
    history: PriceHistory, attempt: int, lost: Mapping[str, Amount], priced: Sequence[str]
) -> dict[str, Amount]:
    """Lost work when an attempt began, with repriced columns; an absent column is 0."""
    repriced = {name: history.lost(name, attempt) for name in priced}
    return {name: amount for name, amount in {**lost, **repriced}.items() if amount != 0}


def missing_and_methods(
    history: PriceHistory, priced: Sequence[str], missing: Mapping[str, str], methods: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Why columns are missing, and the methods of the others, including repriced ones."""
    missing = {name: why for name, why in missing.items() if name not in priced}
    methods = {name: how for name, how in methods.items() if name not in priced}
    for name in priced:
        bases = dict.fromkeys(rates.base_column(name) for rates in history.rates)
        lacking = next((need for need in bases if need in missing), None)
        why = history.reason(name) if lacking is None else f"needs {lacking}: {missing[lacking]}"
        if why is None:
            methods[name] = history.method(name)
        else:
            missing[name] = why
    return missing, methods


def price_points(points: polars.DataFrame, header: Mapping[str, Any]) -> polars.DataFrame:
    """The points of a run with the priced columns that follow from its header."""
    import polars

    names = [name for name in (*BASE_COLUMNS, "total_s", "nodes") if name in points.columns]
    used: list[dict[str, Amount]] = points.select(names).to_dicts() if names else [{}] * points.height
    priced = priced_amounts(used, header)
    if (by_hour := _carbon_by_hour(points, header)) is not None:
        priced["co2e_g"] = by_hour.amounts
    return points.with_columns([polars.Series(name, amounts, polars.Float64) for name, amounts in priced.items()])


def _carbon_by_hour(points: polars.DataFrame, header: Mapping[str, Any]) -> HourlyCarbon | None:
    """Carbon by the hours that a run ran in; None if not all of it is under one table."""
    attempts: Sequence[Mapping[str, Any]] = header.get("attempts") or ()
    tariffs = [attempt.get("tariff") or {} for attempt in attempts] or [header.get("tariff") or {}]
    if "co2e_g" not in priced_columns(header) or len({_table_of(tariff) for tariff in tariffs}) > 1:
        return None
    if "hours" not in tariffs[0]:
        return None
    if "energy_j" not in points.columns or "time" not in points.columns:
        return HourlyCarbon([None] * points.height, why="energy_j or the points' times are missing")
    try:
        table = HourlyIntensity.of_dict(tariffs[0])
    except ValueError as error:
        return HourlyCarbon([None] * points.height, why=str(error))
    times, energy_j = points["time"].to_list(), points["energy_j"].to_list()
    return carbon_by_hour(times, energy_j, attempts, table, tariffs[0].get("pue"))


def _table_of(tariff: Mapping[str, Any]) -> tuple[object, object]:
    return tariff.get("intensity_by_hour"), tariff.get("pue")


def _tell_by_hour(carbon: HourlyCarbon, points: polars.DataFrame, header: dict[str, Any]) -> None:
    """Note in a header how carbon by the hour was got, and of the table those hours alone that the run ran in."""
    if header["missing"].get("co2e_g") != AFTERWARDS:
        return
    header["missing"].pop("co2e_g")
    if carbon.why is not None:
        header["missing"]["co2e_g"] = carbon.why
        return
    header["methods"]["co2e_g"] = carbon.method
    begun_s = datetime.fromisoformat(str(header["attempts"][0]["began"])).timestamp()
    ended_s = max(points["time"].to_list(), default=begun_s)
    for owner in (header, *header["attempts"]):
        hours = [hour for hour in owner["tariff"]["hours"] if begun_s - 3600 < hour[0] <= ended_s]
        owner["tariff"] = {**owner["tariff"], "hours": hours}
        if "lost" in owner and not owner["lost"].get("energy_j", 0.0):
            owner["lost"] = {name: amount for name, amount in owner["lost"].items() if name != "co2e_g"}


def priced_amounts(
    used: Sequence[Mapping[str, Amount]], header: Mapping[str, Any], *, first: int = 0
) -> dict[str, list[Amount]]:
    """The priced columns, by name, of points with these amounts; `first` is the row of the first of them."""
    attempts: Sequence[Mapping[str, Any]] = header.get("attempts", ())
    history = PriceHistory(attempts, header.get("tariff", {}))
    begins = [(attempt["row"], number) for number, attempt in enumerate(attempts) if "row" in attempt] or [(0, 0)]
    rows = [row for row, _ in begins]
    used = [_with_node_s(at, attempts) for at in used]
    return {
        name: [
            history.amount(name, at, begins[max(0, bisect_right(rows, row) - 1)][1])
            for row, at in enumerate(used, start=first)
        ]
        for name in priced_columns(header)
    }


def _with_node_s(used: Mapping[str, Amount], attempts: Sequence[Mapping[str, Any]]) -> Mapping[str, Amount]:
    """What a point had used; `node_s`, which earlier versions did not write, where nodes stayed as many."""
    if "node_s" in used or len({attempt.get("nodes") for attempt in attempts}) > 1:
        return used
    total_s, nodes = used.get("total_s"), used.get("nodes")
    return {**used, "node_s": None if total_s is None or nodes is None else total_s * nodes}


def _device(attempt: Mapping[str, Any], header: Mapping[str, Any]) -> str | None:
    """Which device an attempt trained on, by the name that it reports; 'cpu' for nodes without accelerators."""
    if attempt.get("device"):
        return str(attempt["device"])
    setup = header.get("setup") or {}
    found = (setup.get("hardware") or {}).get("device") or ("cpu" if setup.get("device") == "cpu" else None)
    return None if found is None else str(found)
