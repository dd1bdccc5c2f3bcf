"""Cost rows for FinOps tools: a project's attempts as a FOCUS dataset, one row each.

Source: FinOps Open Cost and Usage Specification (FOCUS) 1.2, FinOps Foundation, May 2025: 'Columns' and 'Attributes'.
All of its mandatory columns are there, and those conditional and recommended ones that a run knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

from lightning_costs.pricing.rates import UnitPrices
from lightning_costs.records.samples import Amount
from lightning_costs.records.units import JOULE_PER_KWH
from lightning_costs.report.tables.csv_safety import as_csv
from lightning_costs.run.attempts import seconds_of
from lightning_costs.run.record import RunRecord

#: In alphabetical order, those of our own behind, as the specification's 'Column Handling' asks.
COLUMNS = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd"),
    *("BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd"),
    *(
        "ChargePeriodStart",
        "ConsumedQuantity",
        "ConsumedUnit",
        "ContractedCost",
        "ContractedUnitPrice",
        "EffectiveCost",
    ),
    *("InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit"),
    *("ProviderName", "PublisherName", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory", "ServiceName"),
    *("ServiceSubcategory", "Tags"),
    *("x_AttemptNumber", "x_AttemptStatus", "x_CarbonGrams", "x_EnergyJoules"),
)
#: What stands where a row must name an account or a provider and the run names none.
_SELF = "lightning-costs"
_CATEGORIES = {"on_demand": "Standard", "spot": "Dynamic"}
_HOUR_S = 3600.0
_NO_PERIOD = "when it began and ended is not recorded"
_NO_AMOUNT = "what it used is not recorded"
_NO_PRICE = "it has no price: --tariff FILE gives one"


def focus_csv(runs: Sequence[RunRecord], *, account: str | None = None) -> tuple[str, list[str]]:
    """The attempts of runs as a FOCUS 1.2 dataset in CSV, and notes on those that are left out.

    A row's cost is the attempt's use at the price of its tariff: no invoice is known, so that billed, contracted,
    effective and list cost are equal. An attempt that was rented by the hour is charged for that, another one for its
    electricity, never for both.

    Args:
        runs: A project's, as they are priced.
        account: BillingAccountId; by default the run's owner.
    """
    rows: list[list[object]] = []
    left_out: dict[str, int] = {}
    seen: set[str] = set()
    for run in runs:
        for number, (attempt, spent) in enumerate(_spent(run), start=1):
            if (known := str(attempt.get("id") or "")) in seen:
                continue  # a branch's header has the attempts that it began from
            seen |= {known} if known else set()
            row = _row(run, number, attempt, spent, account)
            if isinstance(row, str):
                left_out[row] = left_out.get(row, 0) + 1
            else:
                rows.append([row.get(column) for column in COLUMNS])
    notes = [f"{count} of the attempts are in no FOCUS row: {why}" for why, count in left_out.items()]
    return as_csv(COLUMNS, rows), notes


def _spent(run: RunRecord) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Amount]]]:
    """Each attempt with what it used: from what the run had used by its begin to what it had by the next one's."""
    attempts: Sequence[Mapping[str, Any]] = run.header.get("attempts") or ({},)
    used: list[Mapping[str, Amount]] = [{}, *(attempt.get("used") or {} for attempt in attempts[1:]), run.final]
    for number, (attempt, (before, after)) in enumerate(zip(attempts, pairwise(used), strict=True)):
        names = [name for name in after if number == 0 or before.get(name) is not None]
        amounts = {name: (after[name], before.get(name) or 0.0) for name in names}
        yield attempt, {name: late - early for name, (late, early) in amounts.items() if late is not None}


def _row(
    run: RunRecord, number: int, attempt: Mapping[str, Any], spent: Mapping[str, Amount], account: str | None
) -> dict[str, object] | str:
    """A row by column, or why there is none."""
    tariff: Mapping[str, Any] = attempt.get("tariff") or run.header.get("tariff") or {}
    prices = UnitPrices.of(tariff)
    began_s, ended_s = seconds_of(attempt.get("started") or attempt.get("began")), seconds_of(attempt.get("ended"))
    if ended_s is None and "time" in run.points.columns:  # killed, or in progress
        ended_s = max(run.points["time"].drop_nulls().to_list(), default=None)
    if began_s is None or ended_s is None:
        return _NO_PERIOD
    column = next((name for name in ("cloud_usd", "electricity_usd") if prices.reason(name) is None), None)
    if column is None:
        return _NO_PRICE
    cost, base = prices.amount(column, spent), prices.base_column(column)
    amount = spent.get(base)
    if cost is None or amount is None:
        return _NO_AMOUNT
    rented = column == "cloud_usd"
    if rented:
        price = prices.usd_per_device_h if prices.usd_per_node_h is None else prices.usd_per_node_h
        quantity, unit = amount / _HOUR_S, "Device-Hours" if prices.usd_per_node_h is None else "Node-Hours"
    else:
        price, quantity, unit = prices.usd_per_kwh, amount / JOULE_PER_KWH * (prices.pue or 1.0), "Kilowatt-Hours"
    paid_to = str((tariff.get("price_row") or {}).get("provider") or tariff.get("provider") or _SELF)
    status = str(attempt.get("status") or run.header.get("status") or "unknown")
    header = run.header
    tags = {str(tag): True for tag in header.get("tags") or ()}
    tags |= {f"{_SELF}/{name}": header[name] for name in ("group", "owner") if header.get(name)}
    what = f"{run.name}, attempt {number} ({status}), {attempt.get('device') or 'device unknown'}"
    month = datetime.fromtimestamp(began_s, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    costs = dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), _decimal(cost))
    return {
        **costs,
        **dict.fromkeys(("ContractedUnitPrice", "ListUnitPrice"), _decimal(price)),
        **dict.fromkeys(("ProviderName", "PublisherName", "InvoiceIssuerName"), paid_to),
        **dict.fromkeys(("ConsumedQuantity", "PricingQuantity"), _decimal(quantity)),
        **dict.fromkeys(("ConsumedUnit", "PricingUnit"), unit),
        "BillingAccountId": account or header.get("owner") or _SELF,
        "BillingCurrency": "USD",
        "BillingPeriodStart": _moment(month.timestamp()),
        "BillingPeriodEnd": _moment((month + timedelta(days=32)).replace(day=1).timestamp()),
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{what}, at {prices.method(column)}; no invoice",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _moment(began_s),
        "ChargePeriodEnd": _moment(max(ended_s, began_s + 1.0)),
        "PricingCategory": _CATEGORIES.get(str(tariff.get("tier")), "Other") if rented else "Standard",
        "ResourceId": run.id,
        "ResourceName": run.name,
        "ResourceType": "Training Run",
        "ServiceCategory": "Compute" if rented else "Other",
        "ServiceName": "Training devices" if rented else "Electricity of training",
        "ServiceSubcategory": "Virtual Machines" if rented else "Other (Other)",
        "Tags": json.dumps(tags) if tags else None,
        "x_AttemptNumber": number,
        "x_AttemptStatus": status,
        "x_CarbonGrams": _decimal(prices.amount("co2e_g", spent)),
        "x_EnergyJoules": _decimal(spent.get("energy_j")),
    }


def _decimal(amount: Amount) -> str | None:
    """A number without an exponent, whose sign the format forbids; None if it is missing."""
    return None if amount is None else format(Decimal(repr(amount)), "f")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
