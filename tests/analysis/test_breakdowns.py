from __future__ import annotations

from typing import Any, cast

from lightning_costs.analysis.breakdowns import cost_breakdowns
from lightning_costs.analysis.schema import RunRow


def run(label: str, **final: float | None) -> RunRow:
    return cast(RunRow, {"label": label, "final": final, "about": {}})


def ladder(*runs: RunRow) -> Any:
    return cost_breakdowns(runs, {}).get("utilization")


def test_the_ladder_goes_from_a_busy_device_to_what_the_model_needs() -> None:
    fractions = {"sm_active_fraction": 0.8, "tensor_active_fraction": 0.4, "hfu_fraction": 0.38, "mfu_fraction": 0.3}
    found = ladder(run("gpu", idle_s=5.0, timed_s=100.0, **fractions), run("cpu", data_wait_s=3.0))
    assert found["columns"] == ["busy_fraction", *fractions]
    assert list(found["amounts"]["gpu"].values()) == [0.95, 0.8, 0.4, 0.38, 0.3]
    assert set(found["amounts"]["cpu"].values()) == {None}
    assert (found["unit"], found["parts"]) == ("fraction", False)


def test_a_device_without_counters_has_the_steps_that_it_knows() -> None:
    found = ladder(run("old card", idle_s=0.0, timed_s=10.0, hfu_fraction=0.4, mfu_fraction=0.4))
    assert found["columns"] == ["busy_fraction", "hfu_fraction", "mfu_fraction"]
    assert found["amounts"]["old card"]["busy_fraction"] == 1.0


def test_flops_alone_are_no_ladder() -> None:
    assert ladder(run("cpu", hfu_fraction=0.4, mfu_fraction=0.4)) is None
    assert ladder(run("cpu", idle_s=None, timed_s=0.0)) is None
