"""Runs priced under one tariff: carbon and money from the physical amounts that each run recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from lightning_costs.core.indicator import Declaration, Family, Missing
from lightning_costs.core.records import Amount, RunRecord
from lightning_costs.core.tariff import Tariff


def _priced(name: str, unit: str, family: Family, label: str, *, headline: bool) -> Declaration:
    return Declaration(
        name=name,
        unit=unit,
        kind="counter",
        fold="sum",
        scope="job",
        across="sum",
        better="lower",
        family=family,
        role="indicator",
        label=label,
        headline=headline,
    )


#: What the priced columns are, for runs whose headers do not declare them.
PRICED = {
    "co2e_g": _priced("co2e_g", "g", "energy", "CO2e", headline=True),
    "cloud_usd": _priced("cloud_usd", "usd", "money", "cloud cost", headline=True),
    "electricity_usd": _priced("electricity_usd", "usd", "money", "electricity cost", headline=False),
}


def price(amounts: Mapping[str, Amount], tariff: Tariff) -> tuple[dict[str, Amount], dict[str, str]]:
    """Carbon and money of physical amounts under a tariff.

    Args:
        amounts: Totals by column: `energy_j`, `device_s`, and `total_s` with `nodes` for a price per node.
        tariff: Prices and carbon intensity.

    Returns:
        Amounts of the columns in `PRICED`, None where they cannot be had, and the reasons why.

    Example:
        >>> price({"energy_j": 3.6e6}, Tariff(gco2e_per_kwh=50.0))[0]["co2e_g"]
        50.0
    """
    energy_j, device_s = amounts.get("energy_j"), amounts.get("device_s")
    total_s, nodes = amounts.get("total_s"), amounts.get("nodes")

    def co2e_g() -> float:
        return tariff.co2e_g(_have("energy_j", energy_j))

    def electricity_usd() -> float:
        return tariff.electricity_usd(_have("energy_j", energy_j))

    def cloud_usd() -> float:
        if tariff.usd_per_node_h is None:
            return tariff.cloud_usd(device_s=_have("device_s", device_s), node_s=0.0)
        return tariff.cloud_usd(device_s=0.0, node_s=_have("total_s", total_s) * _have("nodes", nodes))

    ways: dict[str, Callable[[], float]] = {
        "co2e_g": co2e_g,
        "cloud_usd": cloud_usd,
        "electricity_usd": electricity_usd,
    }
    prices: dict[str, Amount] = {}
    reasons: dict[str, str] = {}
    for name, way in ways.items():
        try:
            prices[name] = way()
        except Missing as missing:
            prices[name], reasons[name] = None, str(missing)
    return prices, reasons


def reprice(run: RunRecord, tariff: Tariff) -> RunRecord:
    """The run as if it had been recorded under a tariff: carbon and money of every point anew.

    Args:
        run: The record.
        tariff: Prices and place.
    """
    import polars as pl

    statics: Mapping[str, Amount] = run.header.get("statics", {})
    priced = [price({**row, **statics}, tariff) for row in run.points.iter_rows(named=True)]
    columns = [pl.Series(name, [row[name] for row, _ in priced], dtype=pl.Float64) for name in PRICED]
    reasons = priced[-1][1] if priced else {}
    header = {
        **run.header,
        "tariff": tariff.as_dict(),
        "indicators": {name: row.as_dict() for name, row in PRICED.items()} | dict(run.header["indicators"]),
        "missing": {name: why for name, why in run.header.get("missing", {}).items() if name not in PRICED} | reasons,
        "methods": {**run.header.get("methods", {}), **dict.fromkeys(PRICED, "priced under the tariff that was given")},
    }
    return replace(run, header=header, points=run.points.with_columns(columns))


def _have(name: str, amount: Amount) -> float:
    if amount is None:
        raise Missing(f"{name} is missing, and the price is made from it")
    return amount
