"""The answer in short: who is best, who is cheapest by which independent costs, and whether that is more than noise."""

from __future__ import annotations

import math
from typing import Any

import pytest
from synthetic import declaration, make_run, zoo

from lightning_costs import compare
from lightning_costs.run.record import RunRecord


def method(
    name: str, seeds: int, *, flop: float, quality: float, seconds: float = 1.0, **header: Any
) -> list[RunRecord]:
    """Runs of a method: each seed a little worse and a little more expensive than the one before."""
    return [
        make_run(
            f"{name}-seed{seed}",
            quality=[0.2, quality - seed / 1000],
            costs={
                "train_s": [seconds, 2 * seconds * (1 + seed / 100)],
                "flop": [flop, 2 * flop],
                "samples": [10.0, 20.0],
                "energy_j": [5.0 * seconds, 10.0 * seconds * (1 + seed / 100)],
            },
            statics={"params": 100.0},
            run_id=f"{name}{seed}",
            setup={"optimizer": name},
            **header,
        )
        for seed in range(1, seeds + 1)
    ]


def by_column(found: Any) -> dict[str, Any]:
    return {cost["column"]: cost for cost in found["costs"]}


def test_a_rate_is_no_cost_whatever_it_is_called():
    rates = {
        "hfu_fraction": declaration("hfu_fraction", "fraction", "gauge", "compute", "higher", True),
        "my_flop_per_s": declaration("my_flop_per_s", "flop_per_s", "gauge", "compute", "higher", True),
    }
    runs = [
        make_run(name, costs={"train_s": [1.0, 2.0], "hfu_fraction": [h, h], "my_flop_per_s": [h, h]}, declared=rates)
        for name, h in (("a", 0.1), ("b", 0.9))
    ]
    cmp = compare(runs, targets=[0.8])
    assert list(by_column(cmp.answer)) == ["train_s"]
    assert not {"hfu_fraction", "my_flop_per_s"} & {*cmp.leaders, *cmp.ranks["indicators"]}


def test_costs_that_cannot_disagree_are_one_and_stand_for_the_others():
    costs = by_column(compare(zoo(4, 12)).answer)
    assert costs["total_s"]["columns"] == ["total_s", "device_s", "cloud_usd"]
    assert costs["energy_j"]["columns"] == ["energy_j", "co2e_g"]
    assert list(costs) == ["total_s", "flop", "samples", "energy_j", "params", "peak_mem_bytes"]


def test_a_run_that_never_logged_the_metric_leads_nothing():
    runs = [
        make_run("trained", statics={"params": 1e6}),
        make_run("other", statics={"params": 2e6}),
        make_run("silent", quality=[None, None], statics={"params": 66.0}),
    ]
    found = compare(runs, targets=[0.8]).answer
    assert found["labels"][-1] == "silent"
    assert by_column(found)["params"]["ranks"]["silent"] is None
    assert by_column(found)["params"]["winner"] == "trained"
    assert "'silent'" not in " ".join(found["sentences"])


def test_who_does_not_reach_the_target_is_not_the_cheapest_to_reach_it():
    runs = [
        make_run("small", quality=[0.3, 0.4], statics={"params": 1.0}),
        make_run("middle", statics={"params": 2.0}),
        make_run("large", statics={"params": 3.0}),
    ]
    found = compare(runs, targets=[0.8]).answer
    assert by_column(found)["params"]["winner"] == "middle"
    assert by_column(found)["train_s"]["amounts"]["small"] == math.inf
    assert "'small' never reached it" in found["sentences"][1]


def test_the_target_is_the_hardest_that_two_reach_and_none_if_no_two_do():
    runs = [make_run("a", quality=[0.5, 0.9]), make_run("b", quality=[0.5, 0.7]), make_run("c", quality=[0.1, 0.2])]
    assert compare(runs, targets=[0.5, 0.7, 0.9]).answer["target"] == 0.7
    found = compare(runs, targets=[0.9]).answer
    assert found["target"] is None
    assert {cost["basis"] for cost in found["costs"]} == {"end"}
    assert found["sentences"][1].startswith("At the end of training")


def test_costs_on_which_all_tie_have_no_winner_and_are_no_disagreement():
    runs = [make_run(n, costs={"samples": [1.0, 2.0], "flop": [1.0, f]}) for n, f in (("a", 2.0), ("b", 3.0))]
    found = compare(runs, targets=[0.8]).answer
    assert by_column(found)["samples"]["winner"] is None
    assert found["sentences"][2].startswith("No two costs disagree")


def test_all_costs_are_claimed_of_none_that_lacks_a_reading():
    whole = make_run("whole", costs={"train_s": [1.0, 9.0], "flop": [1.0, 9.0]})
    lacks = make_run("lacks", costs={"train_s": [1.0, 2.0]})
    third = make_run("third", costs={"train_s": [1.0, 8.0], "flop": [1.0, 9.0]})
    said = compare([whole, lacks, third], targets=[0.8]).answer["sentences"][1]
    assert "all" not in said
    assert "'lacks' by train s" in said


def test_single_runs_are_too_few_to_say_more_than_who_is_ahead():
    runs = [
        make_run("a", costs={"flop": [1, 2], "samples": [1, 4]}),
        make_run("b", costs={"flop": [1, 3], "samples": [1, 2]}),
    ]
    found = compare(runs, targets=[0.8]).answer
    assert all(cost["undecided"] for cost in found["costs"])
    assert len(found["sentences"]) == 3
    assert (
        "Costs disagree: 'a' costs 0.667 times what 'b' does by flop, and 2 times by samples" in found["sentences"][2]
    )
    assert "one run each is too few" in found["sentences"][2]


def test_parameters_are_counted_and_decided_by_one_run():
    found = compare([make_run(n, statics={"params": p}) for n, p in (("a", 1.0), ("b", 2.0))], targets=[0.8]).answer
    assert (by_column(found)["params"]["winner"], by_column(found)["params"]["undecided"]) == ("a", False)


def test_groups_of_seeds_are_decided_by_the_interval_of_their_paired_ratios():
    cheap, costly = method("sgd", 5, flop=10.0, quality=0.9), method("sam", 5, flop=20.0, quality=0.95, seconds=0.5)
    found = compare([*cheap, *costly], targets=[0.8]).answer
    assert (found["by"], found["labels"]) == ("group", ["sam", "sgd"])
    costs = by_column(found)
    assert (costs["flop"]["winner"], costs["flop"]["undecided"]) == ("sgd", False)
    assert (costs["train_s"]["winner"], costs["train_s"]["undecided"]) == ("sam", False)
    assert "more than noise" in found["sentences"][2]


def test_what_seeds_leave_open_is_called_undecided():
    def runs(name: str, amounts: list[float]) -> list[RunRecord]:
        return [
            make_run(f"{name}-seed{s}", quality=[0.9], costs={"train_s": [a]}, run_id=f"{name}{s}", setup={"m": name})
            for s, a in enumerate(amounts)
        ]

    cmp = compare([*runs("a", [1.0, 2.0, 3.0, 1.0]), *runs("b", [2.0, 1.0, 2.0, 3.0])], targets=[0.9])
    (cost,) = cmp.answer["costs"]
    assert cost["undecided"]
    assert "(undecided: by train s)" in cmp.answer["sentences"][1]
    assert cmp.contrasts is not None
    assert {row["verdict"] for row in cmp.contrasts["costs"]} == {"undecided"}


def test_two_seeds_are_too_few_for_an_interval_and_are_undecided():
    cmp = compare([*method("a", 2, flop=1.0, quality=0.9), *method("b", 2, flop=2.0, quality=0.9)], targets=[0.8])
    assert by_column(cmp.answer)["train_s"]["winner"] is None or by_column(cmp.answer)["train_s"]["undecided"]


@pytest.mark.parametrize(("ram", "gpu", "share"), [(1.0, 3.0, 0.25), (4.0, 0.0, 1.0)])
def test_a_modelled_amount_has_its_share(ram, gpu, share):
    parts = {name: declaration(name, "j", "counter", "energy") for name in ("gpu_energy_j", "ram_energy_j")}
    runs = [
        make_run(
            name,
            costs={"energy_j": [1.0, ram + gpu], "gpu_energy_j": [0.0, gpu], "ram_energy_j": [0.0, ram]},
            declared=parts,
            methods={"gpu_energy_j": "counter", "ram_energy_j": "constant: 20 W"},
        )
        for name in ("a", "b")
    ]
    assert by_column(compare(runs, targets=[0.8]).answer)["energy_j"]["modelled_share"] == pytest.approx(share)


def test_an_unknown_reference_is_refused_with_what_there_is():
    runs = [*method("sgd", 3, flop=1.0, quality=0.9), *method("sam", 3, flop=2.0, quality=0.9)]
    with pytest.raises(ValueError, match="reference='sdg' is no group; there are 'sgd'"):
        compare(runs, reference="sdg")
    assert compare(runs, reference="sam").contrasts["reference"] == "sam"


def test_all_costs_are_not_claimed_if_another_shares_the_first_place_of_one():
    runs = [
        make_run(n, costs={"flop": [1.0, f], "train_s": [1.0, f]}, statics={"params": p})
        for n, f, p in (("a", 2.0, 5.0), ("b", 3.0, 5.0), ("c", 4.0, 9.0))
    ]
    assert "the cheapest is 'a' by train s and flop" in compare(runs, targets=[0.8]).answer["sentences"][1]
    said = compare(runs[1:], targets=[0.8]).answer["sentences"][1]
    assert "'b' is cheapest by all 3 costs that differ (train s, flop and params)" in said


@pytest.mark.parametrize("least", [1.0, 0.0])
def test_those_who_tie_for_the_cheapest_are_contradicted_by_another_cost(least: float) -> None:
    amounts = {"a": (least, 30.0), "b": (least, 30.0), "c": (2.0, 10.0), "d": (2.0, 10.0)}
    runs = [
        make_run(name, quality=[0.7], costs={"train_s": [seconds]}, statics={"params": params})
        for name, (params, seconds) in amounts.items()
    ]
    said = compare(runs, targets=[0.7]).answer["sentences"][2]
    times = "2" if least else "infinitely many"
    start = f"Costs disagree: 'c' costs 0.333 times what 'a' does by train s, and {times} times by params"
    assert said.startswith(start)


def test_a_difference_of_a_few_per_cent_is_no_disagreement():
    runs = [
        make_run(n, costs={"flop": [1.0, f], "train_s": [1.0, t]}) for n, f, t in (("a", 2.0, 2.02), ("b", 4.0, 2.0))
    ]
    said = compare(runs, targets=[0.8]).answer["sentences"][2]
    assert said.startswith("No two costs disagree about the cheapest by more than 5 %")


def test_a_difference_of_quality_is_positive_for_the_better_one_whichever_way_is_better():
    for mode, better, worse in (("max", 0.9, 0.8), ("min", 0.1, 0.2)):
        runs = [
            make_run(f"{name}-seed{s}", quality=[value + s / 1000], mode=mode, run_id=f"{name}{s}", setup={"m": name})
            for name, value in (("good", better), ("bad", worse))
            for s in range(3)
        ]
        cmp = compare(runs, reference="bad")
        assert cmp.answer["labels"] == ["good", "bad"]
        (row,) = cmp.contrasts["quality"]
        assert (row["verdict"], round(row["difference"]["median"], 6)) == ("better", 0.1)


def test_more_of_a_cost_that_is_better_so_costs_less():
    speed = {"images": declaration("images", "images_per_s", "static", "time", "higher", True)}
    runs = [
        make_run(n, statics={"images": s, "params": p}, costs={}, declared=speed)
        for n, s, p in (("a", 9.0, 3.0), ("b", 3.0, 1.0))
    ]
    found = compare(runs, targets=[0.8]).answer
    assert by_column(found)["images"]["winner"] == "a"
    assert "'a' costs 0.333 times what 'b' does by images, and 3 times by params" in found["sentences"][2]
