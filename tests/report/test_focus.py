"""`total --focus`: a project's attempts as a FOCUS dataset, held against the specification's own tables."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from attempts import Attempt
from command_line import call
from synthetic import make_run

from lightning_costs import Tariff, default_indicators, load_runs
from lightning_costs.report.tables.focus import focus_csv

#: Mandatory in FOCUS 1.2, and which of them may be null.
MANDATORY = (
    "BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd BillingPeriodStart ChargeCategory "
    "ChargeClass ChargeDescription ChargePeriodEnd ChargePeriodStart ContractedCost EffectiveCost InvoiceIssuerName "
    "ListCost PricingQuantity PricingUnit ProviderName PublisherName ServiceCategory ServiceName"
).split()
NULLABLE = {"BillingAccountName", "ChargeClass", "ChargeDescription", "PricingQuantity", "PricingUnit"}
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
NUMBER = re.compile(r"-?\d+(\.\d+)?")


class Attempts(Attempt):
    @staticmethod
    def indicators() -> list[Any]:
        return [each for each in default_indicators() if each.family not in ("energy", "compute")]


def resumed(folder: Path, tariff: Tariff | None) -> None:
    """A run that was killed two steps after its checkpoint, and finished by a second process."""
    options = {"tariff": tariff, "name": "=mine", "owner": "vision", "device": "cpu", "module": None}
    first = Attempts(folder, **options).train(5)
    state = first.checkpoint()
    first.train(2).kill()
    Attempts(folder, state, **options).train(3).end()


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_each_attempt_is_a_row_that_the_specification_admits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIGHTNING_COSTS_GROUP", "ablation")
    monkeypatch.setenv("LIGHTNING_COSTS_TAGS", "paper")
    resumed(tmp_path / "costs", Tariff(usd_per_device_h=2.0, provider="lambda", tier="spot"))
    out = tmp_path / "focus.csv"
    assert call(monkeypatch, "total", tmp_path / "costs", "--focus", out) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    found = rows(out.read_text(encoding="utf-8"))
    (run,) = load_runs(tmp_path / "costs")
    assert [row["x_AttemptStatus"] for row in found] == ["killed", "finished"]
    assert sum(float(row["BilledCost"]) for row in found) == pytest.approx(run.final["cloud_usd"], rel=1e-12)
    columns = list(found[0])
    ours = [column for column in columns if column.startswith("x_")]
    assert columns == [*sorted(set(columns) - set(ours)), *ours]
    for row in found:
        assert set(MANDATORY) <= set(row)
        assert not [column for column in MANDATORY if not row[column] and column not in NULLABLE]
        assert all(MOMENT.fullmatch(row[column]) for column in columns if "Period" in column)
        assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"]
        assert row["ChargePeriodStart"] < row["BillingPeriodEnd"]
        numbers = [column for column in columns if column.endswith(("Cost", "Quantity", "UnitPrice", "Joules"))]
        assert all(NUMBER.fullmatch(row[column]) for column in numbers if row[column])
        product = float(row["PricingQuantity"]) * float(row["ListUnitPrice"])
        assert product == pytest.approx(float(row["ListCost"]), rel=1e-12)
        assert (row["ProviderName"], row["PricingCategory"], row["PricingUnit"]) == (
            "lambda",
            "Dynamic",
            "Device-Hours",
        )
        assert (row["BillingAccountId"], row["BillingCurrency"], row["ChargeCategory"]) == ("vision", "USD", "Usage")
        assert json.loads(row["Tags"]) == {
            "paper": True,
            "lightning-costs/group": "ablation",
            "lightning-costs/owner": "vision",
        }
        assert row["ResourceName"] == "'=mine"  # a spreadsheet takes it for no formula


def test_electricity_is_charged_for_if_nothing_was_rented_and_what_has_no_price_is_counted() -> None:
    costs = {"energy_j": [1.8e6, 3.6e6], "total_s": [5.0, 10.0], "device_s": [5.0, 10.0]}
    attempt = {"id": "a", "started": "2026-01-31T23:59:55.000+00:00", "ended": "2026-02-01T00:00:05.000+00:00"}
    owned, free, unknown = (
        make_run("run", costs=costs, quality=(0.5, 0.8), attempts=attempts, tariff=tariff)
        for attempts, tariff in (
            ([attempt], {"usd_per_kwh": 0.25, "pue": 1.2}),
            ([{**attempt, "id": "b"}], {}),
            ([{"id": "c"}], {"usd_per_device_h": 1.0}),  # nothing says when
        )
    )
    text, notes = focus_csv([owned, owned, free, unknown], account="4711")
    (row,) = rows(text)  # the same attempt in two folders is one
    assert (row["BilledCost"], row["PricingQuantity"], row["PricingUnit"]) == ("0.3", "1.2", "Kilowatt-Hours")
    assert (row["BillingAccountId"], row["BillingPeriodEnd"]) == ("4711", "2026-02-01T00:00:00Z")
    assert row["ChargePeriodEnd"] == "2026-02-01T00:00:05Z"
    assert len(notes) == 2
    assert any("it has no price" in note for note in notes)
