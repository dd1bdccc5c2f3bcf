"""Runs under several power limits: energy against time to the target, and the front of the two."""

import pytest
from synthetic import make_run

from lightning_costs import compare
from lightning_costs.analysis.power_limits import power_limit_runs
from lightning_costs.report.charts.figures import figures


def limited(name, limit_w, time_s, energy_j, best=0.9):
    """Reaches 0.8 at its second evaluation."""
    hardware = {"device": "NVIDIA H100 80GB HBM3"} | ({} if limit_w is None else {"power_limit_w": limit_w})
    costs = {"total_s": [time_s / 2, time_s, 9 * time_s], "energy_j": [energy_j / 2, energy_j, 9 * energy_j]}
    return make_run(name, quality=[0.1, best, best], costs=costs, setup={"hardware": hardware}, targets=[0.8])


SWEEP = [
    limited("uncapped", 700.0, 100.0, 60e3),
    limited("best", 500.0, 110.0, 48e3),
    limited("wasteful", 400.0, 130.0, 50e3),
    limited("slow", 300.0, 170.0, 45e3),
]


def test_energy_and_time_to_the_target_stand_beside_each_limit_with_their_front():
    found = power_limit_runs(compare(SWEEP, targets=[0.8]))
    assert [(run.label, run.limit_w, run.time_s, run.energy_j, run.on_front) for run in found] == [
        ("uncapped", 700.0, 100.0, 60e3, True),
        ("best", 500.0, 110.0, 48e3, True),
        ("wasteful", 400.0, 130.0, 50e3, False),  # `best` took less of both
        ("slow", 300.0, 170.0, 45e3, True),
    ]


def test_a_run_that_misses_the_target_or_tells_no_limit_is_left_out():
    cmp = compare([*SWEEP, limited("weak", 200.0, 1.0, 1.0, best=0.5), limited("old", None, 1.0, 1.0)], targets=[0.8])
    assert [run.label for run in power_limit_runs(cmp)] == ["uncapped", "best", "wasteful", "slow"]


@pytest.mark.parametrize("runs", [SWEEP[:1], [SWEEP[0], limited("again", 700.0, 99.0, 61e3)]])
def test_one_limit_is_no_sweep(runs):
    assert power_limit_runs(compare(runs, targets=[0.8])) == []


def test_the_limit_is_a_setting_in_which_runs_differ():
    assert compare(SWEEP).setups["different"]["hardware.power_limit_w"]["best"] == 500.0


def test_the_figure_draws_limits_and_front():
    [figure] = [one for one in figures(compare(SWEEP, targets=[0.8])) if one.name == "power-limits"]
    [values] = [rows for rows in figure.picture.to_dict()["datasets"].values() if "limit" in rows[0]]
    assert [(row["limit"], row["f"]) for row in values] == [("700 W", 1), ("500 W", 1), ("400 W", 0), ("300 W", 1)]
    assert "power-limits" not in {one.name for one in figures(compare(SWEEP[:1], targets=[0.8]))}
