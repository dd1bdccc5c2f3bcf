"""The regression gate: what fails, what is only reported, and what must not be compared."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import make_run

from lightning_costs.analysis.regression_check import Limit, check_regression
from lightning_costs.report.terminal.check import check_text
from lightning_costs.run.record import RunRecord


def run(flop: float = 100.0, memory: float = 8.0, speed: float = 1.0, **header: Any) -> RunRecord:
    costs = {
        "flop": [flop / 2, flop],
        "opt_state_bytes": [memory, memory],
        "samples": [50.0 / speed, 100.0],
        "samples_per_s": [10.0, 10.0 * speed],
        "energy_j": [5.0, 10.0 / speed],
    }
    return make_run("run", quality=(0.5, 0.8), costs=costs, **({"targets": [0.5]} | header))


def outcomes(found: Any) -> dict[str, str]:
    return {row.name: row.outcome for row in found.rows}


def test_a_run_is_no_regression_of_itself() -> None:
    found = check_regression(run(), run())
    assert found.exit_code == 0
    assert outcomes(found) == {
        "flop": "ok",
        "opt_state_bytes": "ok",
        "samples@0.5": "ok",
        "samples": "reported",
        "samples_per_s": "reported",
        "energy_j": "reported",
    }
    assert check_text(found).startswith("no regression\n")


@pytest.mark.parametrize(
    ("worse", "named"),
    [({"flop": 103.0}, "flop"), ({"memory": 9.0}, "opt_state_bytes"), ({"speed": 0.5}, "samples@0.5")],
)
def test_flops_memory_and_samples_to_the_target_are_gated_by_default(worse: dict[str, float], named: str) -> None:
    found = check_regression(run(**worse), run())  # type: ignore[arg-type]
    assert found.exit_code == 1
    assert [row.name for row in found.rows if row.outcome == "regression"] == [named]
    assert check_text(found).startswith(f"regression: {named}\n")


def test_growth_within_the_limit_and_a_cheaper_run_pass() -> None:
    assert check_regression(run(flop=102.0), run()).exit_code == 0
    assert check_regression(run(flop=50.0, memory=4.0), run()).exit_code == 0


def test_energy_and_speed_are_gated_when_asked_and_nothing_else_then() -> None:
    slow = run(flop=1000.0, speed=0.9)
    assert check_regression(slow, run(), limits=[Limit.parse("energy_j>20%")]).exit_code == 0
    assert check_regression(slow, run(), limits=[Limit.parse("energy_j>5%")]).exit_code == 1
    assert check_regression(slow, run(), limits=[Limit.parse("samples_per_s<5%")]).exit_code == 1
    assert check_regression(slow, run(), limits=[Limit.parse("samples_per_s<20%")]).exit_code == 0


def test_a_limit_without_percent_is_an_amount() -> None:
    assert check_regression(run(flop=109.0), run(), limits=[Limit.parse("flop>10")]).exit_code == 0
    assert check_regression(run(flop=111.0), run(), limits=[Limit.parse("flop>10")]).exit_code == 1


def test_a_target_that_is_not_reached_any_more_is_a_regression() -> None:
    found = check_regression(run(), run(), limits=[Limit.parse("samples@0.8>10%")])
    assert found.exit_code == 0
    lost = make_run("run", quality=(0.5, 0.7), costs={"samples": [50.0, 100.0]})
    held = make_run("run", quality=(0.5, 0.8), costs={"samples": [50.0, 100.0]})
    limits = [Limit.parse("samples@0.8>10%")]
    assert check_regression(lost, held, limits=limits).exit_code == 1
    assert "not reached any more" in check_text(check_regression(lost, held, limits=limits))
    assert check_regression(held, lost, limits=limits).exit_code == 0
    assert check_regression(lost, lost, limits=limits).exit_code == 2


def test_memory_that_comes_from_nothing_is_a_regression() -> None:
    found = check_regression(run(memory=1.0), run(memory=0.0))
    assert found.exit_code == 1
    assert next(row.change for row in found.rows if row.name == "opt_state_bytes") == math.inf
    assert check_regression(run(memory=0.0), run(memory=0.0)).exit_code == 0


def test_setups_that_differ_cannot_be_compared_unless_allowed() -> None:
    one = run(setup={"optimizer": {"name": "SGD"}, "software": {"torch": "2.12"}})
    other = run(flop=200.0, setup={"optimizer": {"name": "Adam"}, "software": {"torch": "2.13"}})
    found = check_regression(other, one)
    assert found.exit_code == 2
    assert dict(found.differs) == {"optimizer.name": ("SGD", "Adam")}
    assert "--allow optimizer.name" in check_text(found)
    assert check_regression(other, one, allow=["optimizer.*"]).exit_code == 1


@pytest.mark.parametrize("header", [{"status": "failed"}, {"status": "killed"}, {"stopped": {"by": "CostBudget"}}])
def test_a_run_that_did_not_end_by_itself_cannot_be_compared(header: dict[str, Any]) -> None:
    assert check_regression(run(**header), run()).exit_code == 2
    assert check_regression(run(), run(**header)).exit_code == 2


def test_a_gate_that_lost_its_reading_does_not_pass() -> None:
    blind = make_run("run", costs={"flop": [None, None]}, missing={"flop": "the census failed"})
    seen = make_run("run", costs={"flop": [1.0, 2.0]})
    found = check_regression(blind, seen)
    assert found.exit_code == 2
    assert "missing in the run: the census failed" in check_text(found)
    assert check_regression(seen, blind).exit_code == 0  # nothing to hold it against, and nobody asked
    assert check_regression(seen, blind, limits=[Limit.parse("flop>2%")]).exit_code == 2
    with pytest.raises(ValueError, match="'flops' is no column of these runs; choose one of flop"):
        check_regression(seen, seen, limits=[Limit.parse("flops>2%")])


@pytest.mark.parametrize("text", ["flop", "flop>", "flop>many", "flop=2%", ">2%", "flop>-2%", "flop@x>2%", "flop>inf"])
def test_a_limit_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a limit must be COLUMN>AMOUNT"):
        Limit.parse(text)


@given(then=st.floats(0, 1e15), now=st.floats(0, 1e15), most=st.floats(0, 10), relative=st.booleans(), up=st.booleans())
def test_the_gate_is_the_inequality_that_it_says(
    then: float, now: float, most: float, relative: bool, up: bool
) -> None:
    limit = Limit(column="flop", amount=most, relative=relative, way=">" if up else "<")
    found = check_regression(run(flop=now), run(flop=then), limits=[limit])
    allowed = most * then if relative else most
    assert (found.exit_code == 1) == ((now - then if up else then - now) > allowed)
    assert Limit.parse(str(limit)).way == limit.way


def test_the_gate_is_plain_data_that_json_holds() -> None:
    found = check_regression(run(memory=1.0), run(memory=0.0)).as_dict()
    assert found["exit_code"] == 1
    assert [row["change"] for row in found["rows"] if row["name"] == "opt_state_bytes"] == [None]
