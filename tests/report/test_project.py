"""What a project cost: sums over all of its runs, however they ended, whatever they are called."""

from __future__ import annotations

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import declaration, make_run

from lightning_costs import Tariff
from lightning_costs.report.tables.csv_safety import as_csv, safe_cell
from lightning_costs.report.terminal.costliest import costliest_runs
from lightning_costs.report.terminal.project_total import modelled_note, project_csv, project_rows, project_total
from lightning_costs.run.record import RunRecord


def runs() -> list[RunRecord]:
    return [
        make_run("a", costs={"energy_j": [1.0, 3.6e6]}, group="g", tags=["x", "y"], attempts=[{"id": "1"}]),
        make_run("b", costs={"energy_j": [1.0, 2 * 3.6e6]}, status="failed", group="g", tags=["x"]),
        make_run("c", costs={"energy_j": [None, None]}, status="killed", attempts=[{"id": "1"}, {"id": "2"}]),
    ]


def sums(by: str) -> dict[str, float | None]:
    return {one.part: one.amount for one in project_total(runs(), by=by).sums if one.column == "energy_j"}  # type: ignore[arg-type]


def test_runs_that_failed_or_were_killed_are_in_the_sums() -> None:
    assert sums("status") == {"failed": 7.2e6, "finished": 3.6e6, "killed": None, "all": 10.8e6}
    assert sums("group") == {"g": 10.8e6, "(none)": None, "all": 10.8e6}


def test_a_run_of_two_tags_is_in_both_and_once_in_all() -> None:
    found = project_total(runs(), by="tag")
    assert sums("tag") == {"x": 10.8e6, "y": 3.6e6, "(none)": None, "all": 10.8e6}
    assert found.runs == {"x": 2, "y": 1, "(none)": 1, "all": 3}
    assert any("several tags" in note for note in found.notes)


def test_what_nobody_knows_is_said_beside_the_sum_and_never_zero() -> None:
    found = project_total(runs())
    (row,) = [row for row in project_rows(found) if row[0] == "energy j"]
    assert row[1:] == ["2 kWh", "1 kWh", "missing", "3 kWh (+ 1 unknown)"]


def test_an_attempt_in_two_runs_is_told() -> None:
    assert any("1 attempt is in several runs" in note for note in project_total(runs()).notes)


def test_money_and_carbon_are_as_recorded_or_under_one_tariff() -> None:
    recorded = [
        make_run("a", costs={"energy_j": [0.0, 3.6e6], "co2e_g": [0.0, 50.0]}, tariff={"gco2e_per_kwh": 50.0}),
        make_run("b", costs={"energy_j": [0.0, 3.6e6], "co2e_g": [0.0, 70.0]}, tariff={"gco2e_per_kwh": 70.0}),
    ]
    found = project_total(recorded)
    assert {one.part: one.amount for one in found.sums if one.column == "co2e_g"}["all"] == 120.0
    assert any("under different tariffs" in note for note in found.notes)
    anew = project_total(recorded, tariff=Tariff(gco2e_per_kwh=100.0))
    assert {one.part: one.amount for one in anew.sums if one.column == "co2e_g"}["all"] == 200.0
    assert not anew.notes


def test_csv_has_a_row_per_column_and_part() -> None:
    rows = list(csv.DictReader(io.StringIO(project_csv(project_total(runs(), by="group")))))
    assert rows[0] == {
        "group": "g",
        "column": "energy_j",
        "unit": "j",
        "amount": "10800000.0",
        "runs": "2",
        "unknown_runs": "0",
    }
    assert [row["amount"] for row in rows] == ["10800000.0", "", "10800000.0"]


NASTY = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "two\nlines",
    'quote " and , comma; semicolon',
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "x" * 300,
    "🔥 run",
    "\ud800",
    "\x00\x1b[31m",
]


@pytest.mark.parametrize("name", NASTY)
def test_no_name_becomes_a_formula_or_tears_a_row(name: str) -> None:
    text = project_csv(project_total([make_run("a", group=name)], by="group"))
    text.encode("utf-8")
    rows = list(csv.reader(io.StringIO(text)))
    assert {len(row) for row in rows} == {6}
    assert not rows[1][0].startswith(("=", "+", "-", "@", "\t"))
    assert rows[1][0] != "all"


@given(cells=st.lists(st.one_of(st.text(), st.floats(), st.integers(), st.none()), min_size=1, max_size=5))
def test_every_table_reads_back_as_so_many_cells(cells: list[object]) -> None:
    ((head, *_), row) = list(csv.reader(io.StringIO(as_csv(["h"] * len(cells), [cells]))))
    assert head == "h"
    assert len(row) == len(cells)
    for cell, value in zip(row, cells, strict=True):
        if isinstance(value, float) and math.isfinite(value):
            assert float(cell) == value
        elif isinstance(value, str):
            assert not cell.startswith(("=", "+", "-", "@"))
    assert safe_cell(math.inf) == ""


def test_an_amount_below_zero_is_unknown_and_takes_nothing_off_a_sum() -> None:
    odd = make_run("odd", costs={"energy_j": [-1.0, -1.0]})
    (total,) = [one for one in project_total([*runs()[:2], odd]).sums if (one.part, one.column) == ("all", "energy_j")]
    assert (total.amount, total.unknown_runs) == (10.8e6, 1)


def test_the_runs_that_cost_most_come_with_their_share_and_with_what_is_unlike_most_runs():
    runs = [
        make_run(f"run-{lr}", costs={"energy_j": [1.0, amount]}, hyperparameters={"lr": lr, "depth": 2}, run_id=str(lr))
        for lr, amount in ((1, 1.0), (2, 6.0), (3, 1.0), (3, 2.0))
    ]
    first, second = costliest_runs(runs, most=2)
    assert (first.label, first.share, first.differs) == ("run-2", 0.6, {"hyperparameters.lr": 2})
    assert (second.share, second.differs) == (0.2, {})
    assert costliest_runs(runs, column="nothing") == []


def test_a_sum_that_is_partly_modelled_says_its_share():
    parts = {name: declaration(name, "j", "counter", "energy") for name in ("gpu_energy_j", "ram_energy_j")}
    costs = {"energy_j": [4.0], "gpu_energy_j": [3.0], "ram_energy_j": [1.0]}
    how = {"gpu_energy_j": "counter", "ram_energy_j": "constant: 20 W"}
    total = project_total([make_run("a", quality=[0.5], costs=costs, declared=parts, methods=how)])
    shares = {one.column: one.modelled_share for one in total.sums if one.part == "all"}
    assert shares == {"energy_j": 0.25, "gpu_energy_j": None, "ram_energy_j": 1.0}
    assert ["energy j", "≈ 4 J"] in project_rows(total)
    assert modelled_note(total).endswith("energy j 25 % and ram energy j 100 %")
