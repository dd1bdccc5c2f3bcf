"""Each caution appears where it should, with its evidence and the paper's section, and not elsewhere."""

import math
from dataclasses import replace

import pytest
from synthetic import declaration, make_run, zoo

from lightning_costs import compare


def of_kind(cmp, kind):
    return [caution for caution in cmp.cautions if caution["kind"] == kind]


def curve(quality, name, step=1.0, **header):
    costs = {
        name: [rate * step * (i + 1) for i in range(len(quality))] for name, rate in (("samples", 1), ("energy_j", 7))
    }
    return make_run(name, quality=quality, costs=costs, **header)


def schedules():
    """After the paper's figure 2: the learning rate comes down early and the curve is over, or late and it wins."""
    short = [0.30, 0.45, 0.60, 0.70, 0.72]
    long = [0.20, 0.30, 0.38, 0.45, 0.50, 0.55, 0.60, 0.66, 0.74, 0.80]
    return [
        curve(short, "short", setup={"max_epochs": 5}),
        curve(long, "long", setup={"max_epochs": 10}),
    ]


def decays():
    """After the paper's figure 3: a low weight decay is ahead until the end nears."""
    low = [0.30, 0.45, 0.55, 0.62, 0.66, 0.68, 0.69, 0.695]
    high = [0.20, 0.30, 0.40, 0.50, 0.58, 0.66, 0.72, 0.78]
    return [
        curve(low, "wd 1e-5", setup={"optimizers": [{"name": "SGD", "weight_decay": 1e-5}]}),
        curve(high, "wd 1e-3", setup={"optimizers": [{"name": "SGD", "weight_decay": 1e-3}]}),
    ]


@pytest.mark.parametrize(
    ("runs", "who", "difference"),
    [
        (schedules(), ["short", "long"], "max_epochs 5 against 10"),
        (decays(), ["wd 1e-5", "wd 1e-3"], "optimizers.0.weight_decay 1e-05 against 0.001"),
    ],
)
def test_a_curve_that_leads_early_and_loses_late_is_named_with_what_its_schedule_differs_in(runs, who, difference):
    (caution,) = of_kind(compare(runs, targets=[0.6]), "early_lead")
    assert caution["runs"] == who
    assert caution["section"] == "2.1"
    assert caution["evidence"]["differences"] == [difference]
    assert set(caution["evidence"]["share_of_range"]) == {"samples", "energy_j"}
    assert "leads early and loses late" in caution["text"]
    assert difference in caution["text"]


def test_an_early_lead_is_said_at_the_target_and_of_the_costs_that_it_holds_for():
    late = make_run("late", quality=[0.1, 0.5, 0.9], costs={"train_s": [10.0, 20.0, 30.0], "energy_j": [50.0, 60, 300]})
    spent = {"train_s": [5.0, 19.0, 40.0, 41.0], "energy_j": [55.0, 100.0, 200.0, 210.0]}
    early = make_run("early", quality=[0.1, 0.5, 0.8, 0.3], costs=spent)
    (caution,) = of_kind(compare([late, early], targets=[0.8]), "early_lead")
    # It needs more time to reach 0.8, more energy to reach 0.5, and its last quality is no best one.
    assert caution["text"] == (
        "'early' leads early and loses late: to reach val/acc 0.8 it needs less than 'late' by energy_j, and its best "
        "is 0.8 against 0.9"
    )
    assert caution["evidence"]["upto"] == {"train_s": 0.5, "energy_j": 0.8}


def test_what_was_evaluated_once_leads_nothing_early():
    once = [make_run(name, quality=[q], costs={"train_s": [s]}) for name, q, s in (("a", 0.7, 1), ("b", 0.9, 9))]
    once.append(make_run("c", quality=[0.1], costs={"train_s": [0.5]}))
    assert not of_kind(compare(once), "early_lead")


def test_in_a_loss_an_early_lead_is_one_too():
    runs = [curve([-q for q in run.points["val/acc"].to_list()], run.name, mode="min") for run in schedules()]
    assert of_kind(compare(runs, targets=[-0.6]), "early_lead")


def test_a_curve_that_is_behind_throughout_has_no_early_lead():
    ahead, behind = curve([0.4, 0.6, 0.8], "ahead"), curve([0.2, 0.4, 0.6], "behind")
    assert not of_kind(compare([ahead, behind], targets=[0.5]), "early_lead")


def test_a_lead_of_a_hair_is_none():
    early = curve([0.300, 0.301, 0.302], "early")
    late = curve([0.290, 0.302, 0.9], "late")
    assert not of_kind(compare([early, late], targets=[0.3]), "early_lead")


def test_a_run_that_its_budget_ended_is_named_with_the_limit():
    stop = {"by": "CostBudget", "step": 7, "column": "energy_j", "limit": 3.6e6, "amount": 3.7e6}
    cmp = compare([make_run("poor", stopped=stop), make_run("b")])
    (caution,) = of_kind(cmp, "stopped_by_budget")
    assert "run 'poor' was ended by its budget of 1 kWh (energy_j)" in caution["text"]
    assert caution["evidence"] == stop
    assert cmp.runs[0]["stopped"] == stop


def test_a_run_that_ended_before_its_schedule_is_named_and_one_at_its_end_is_not():
    epochs = declaration("epochs", "epochs", "counter", "data")
    runs = [
        make_run(name, costs={"epochs": [1.0, done]}, declared={"epochs": epochs}, setup={"max_epochs": 10})
        for name, done in (("early", 4.0), ("whole", 10.0))
    ]
    cmp = compare(runs)
    (caution,) = of_kind(cmp, "not_at_the_end_of_the_schedule")
    assert (caution["runs"], caution["section"]) == (["early"], "2.1")
    assert [run["planned_fraction"] for run in cmp.runs] == [0.4, 1.0]


def test_runs_of_which_nobody_recorded_how_they_ended_are_told_together():
    runs = [curve([0.5, 0.8], name, status="unknown") for name in ("a", "b")] + [curve([0.5, 0.9], "c")]
    (caution,) = of_kind(compare(runs), "unfinished")
    assert caution["runs"] == ["a", "b"]
    assert caution["text"].startswith("whether 'a' and 'b' finished is not recorded")


def test_runs_that_say_of_no_cost_how_it_was_got_are_told_once_and_not_column_by_column():
    ways = {"energy_j": "counter", "samples": "counted", "flop": "step census"}
    runs = [curve([0.5, 0.8], "log", methods={}), *(curve([0.5, 0.9], name, methods=ways) for name in "ab")]
    (caution,) = of_kind(compare(runs), "methods_differ")
    assert caution["runs"] == ["log"]
    assert not of_kind(compare(runs), "flop_conventions")
    assert not of_kind(compare(runs[:1] * 1), "methods_differ")


def test_a_run_without_any_reading_is_in_no_caution_on_methods():
    runs = [curve([0.5, 0.8], "none", methods={}), curve([0.5, 0.9], "known", methods={"samples": "counted"})]
    runs[0] = replace(runs[0], points=runs[0].points.drop("samples", "energy_j"))
    assert not any(runs[0].final.values())
    assert not of_kind(compare(runs), "methods_differ")


def test_a_step_of_several_passes_is_told_from_its_work():
    def run(name, passes):
        declared = {"forward_flop": declaration("forward_flop", "flop", "static", "compute")}
        costs = {"samples": [50.0, 100.0], "flop": [passes * 50e6, passes * 100e6]}
        return make_run(name, costs=costs, statics={"forward_flop": 1e6}, declared=declared)

    (caution,) = of_kind(compare([run("sgd", 3.0), run("sam", 6.0)]), "steps_hide_passes")
    assert caution["runs"] == ["sam"]
    assert caution["evidence"]["forward_passes_per_sample"] == {"sgd": 3.0, "sam": 6.0}
    assert not of_kind(compare([run("sgd", 3.0), run("adam", 2.9)]), "steps_hide_passes")


def test_compute_matched_models_of_different_capacity_are_named():
    def run(name, params):
        return make_run(name, statics={"params": params, "forward_flop": 1e9})

    (caution,) = of_kind(compare([run("dense", 1e8), run("sparse", 8e8)]), "compute_matched")
    assert (caution["section"], caution["evidence"]["most"]) == ("3.2.2", pytest.approx(8.0))
    assert caution["runs"] == ["dense", "sparse"]


def test_flops_beside_multiply_accumulates_are_told():
    mac = declaration("forward_mac", "mac", "static", "compute")
    ours = make_run("ours", statics={"forward_flop": 2e9})
    theirs = make_run("theirs", statics={"forward_mac": 1e9}, declared={"forward_mac": mac})
    (caution,) = of_kind(compare([ours, theirs]), "flop_conventions")
    assert "'theirs' state multiply-accumulates (forward_mac) and 'ours' state operations" in caution["text"]
    mixed = [
        make_run(n, statics={"forward_flop": f, "forward_mac": 1e9}, declared={"forward_mac": mac})
        for n, f in (("two", 2e9), ("one", 1e9))
    ]
    (caution,) = of_kind(compare(mixed), "flop_conventions")
    assert caution["runs"] == ["one"]


def test_a_lower_bound_of_flops_is_told_once_and_is_no_other_convention():
    costs = {"flop": [1.0, 2.0]}
    exact = make_run("exact", costs=costs, methods={"flop": "counted"})
    least = make_run(
        "least",
        costs=costs,
        methods={"flop": "counted; lower bound: no formula for my::op"},
        census={"uncounted_calls": {"my::op": 3}},
    )
    cmp = compare([exact, least])
    (caution,) = of_kind(cmp, "flop_lower_bound")
    assert caution["evidence"] == {"uncounted_calls": {"least": {"my::op": 3}}}
    assert not of_kind(cmp, "flop_conventions")
    assert not of_kind(cmp, "methods_differ")


def test_almost_as_good_and_much_cheaper_is_told_unless_the_best_was_tuned_for_that_cost():
    cheap = make_run("cheap", quality=[0.899], costs={"energy_j": [10.0]})
    dear = make_run("dear", quality=[0.9], costs={"energy_j": [100.0]})
    (caution,) = of_kind(compare([cheap, dear]), "almost_as_good")
    assert caution["evidence"]["share_of_cost"] == {"energy_j": 0.1}
    tuned = make_run("dear", quality=[0.9], costs={"energy_j": [100.0]}, search={"trials": 9, "under": "energy_j"})
    assert not of_kind(compare([cheap, tuned]), "almost_as_good")


def test_a_winner_that_was_searched_under_its_indicator_and_unequal_trials_are_told():
    won = make_run("won", quality=[0.9], costs={"energy_j": [1.0]}, search={"trials": 100, "under": "energy_j"})
    lost = make_run("lost", quality=[0.9], costs={"energy_j": [2.0]}, search={"trials": 5, "under": None})
    cmp = compare([won, lost], targets=[0.9])
    (caution,) = of_kind(cmp, "searched_under_the_indicator")
    assert caution["runs"] == ["won"]
    (caution,) = of_kind(cmp, "tuning_budgets_differ")
    assert caution["evidence"] == {"trials": {"won": 100, "lost": 5}}


def test_a_difference_within_the_spread_of_seeds_is_no_difference():
    runs = [make_run(f"a-{i}", quality=[q]) for i, q in enumerate((0.80, 0.84, 0.82))]
    runs += [make_run(f"b-{i}", quality=[q]) for i, q in enumerate((0.81, 0.83, 0.85))]
    runs += [make_run(f"c-{i}", quality=[q]) for i, q in enumerate((0.50, 0.52, 0.51))]
    runs.append(make_run("d-0", quality=[0.1]))
    cmp = compare(runs, group=r"name~(\w)-", targets=[0.5])
    (caution,) = of_kind(cmp, "within_seed_noise")
    assert list(caution["evidence"]["spreads"]) == ["b", "a"]
    assert of_kind(cmp, "single_seed")[0]["runs"] == ["d-0"]


def test_columns_that_are_one_are_counted_once():
    def run(name, seconds, flop):
        clocks = {clock: [seconds] for clock in ("train_s", "total_s", "device_s")}
        costs = {**clocks, "cloud_usd": [seconds / 3600 * 2.5], "flop": [flop]}
        return make_run(name, quality=[0.9], costs=costs)

    cmp = compare([run("fast", 10.0, 9.0), run("lean", 20.0, 3.0)], targets=[0.9])
    assert cmp.families["contested"] == 2
    assert cmp.families["leads"] == {"fast": ["time"], "lean": ["compute"]}
    (time,) = [row for row in cmp.families["rows"] if row["family"] == "time"]
    assert time["merged"] == {"cloud_usd": "device_s times one rate for all runs"}
    assert "'fast' in 1 (time)" in " ".join(cmp.summary)
    said = of_kind(cmp, "one_indicator")
    assert {caution["runs"][0] for caution in said} == {"fast", "lean"}
    (pair,) = cmp.ranks["families"]
    assert (pair["lowest"], pair["pairs"]) == (-1.0, 4)


def test_money_at_different_prices_is_a_family_of_its_own():
    def run(name, seconds, price):
        costs = {"device_s": [seconds], "cloud_usd": [seconds * price]}
        return make_run(name, quality=[0.9], costs=costs)

    cmp = compare([run("a", 10.0, 1.0), run("b", 20.0, 0.1)], targets=[0.9])
    assert {row["family"]: row["leaders"] for row in cmp.families["rows"]} == {"time": ["a"], "money": ["b"]}


def test_other_hardware_marks_what_depends_on_it():
    runs = [make_run(n, setup={"hardware": {"device": d}}) for n, d in (("a", "H100"), ("b", "A100"))]
    (caution,) = of_kind(compare(runs), "hardware_differs")
    assert caution["evidence"] == {"keys": ["hardware.device"], "columns": ["train_s", "energy_j"]}


def test_every_caution_of_a_large_comparison_names_few_runs_and_is_short():
    for caution in compare(zoo(40, 12)).cautions:
        assert len(caution["text"]) < 600
        assert caution["section"] in (None, "2.1", "3.2.1", "3.2.2")


def test_breakdowns_hold_parts_that_belong_together():
    accounts = ("train_s", "evaluate_s", "other_s")
    declared = {name: declaration(name, "s", "counter", "time") for name in accounts}
    run = make_run(
        costs={**{name: [1.0, 2.0] for name in accounts}, "total_s": [3.0, 6.0]},
        declared=declared,
        memory_at_peak={"phase": "backward", "param_bytes": 3, "other_bytes": 1, "total_bytes": 4},
    )
    found = compare([run]).breakdowns
    assert found["time"]["amounts"] == {"run": dict.fromkeys(accounts, 2.0)}
    assert (found["time"]["parts"], found["time"]["total"]) == (True, "total_s")
    assert found["memory_at_peak"]["amounts"]["run"]["param_bytes"] == 3
    assert found["memory_at_peak"]["amounts"]["run"]["grad_bytes"] is None
    assert "energy" not in found


def test_a_long_curve_is_thinned_for_the_eye_and_never_for_figures(monkeypatch):
    monkeypatch.setattr("lightning_costs.analysis.comparison.DRAWN_VALUES", 0)
    quality = [math.sin(i) for i in range(1000)]
    cmp = compare([make_run(quality=quality)], targets=[0.99])
    assert cmp.drawn_evaluations == 64
    assert len(cmp.curves["run"]["step"]) == 64
    assert (cmp.curves["run"]["step"][0], cmp.curves["run"]["step"][-1]) == (0, 999)
    assert cmp.runs[0]["best_quality"] == max(quality)
    assert cmp.targets[0]["costs"]["energy_j"]["run"]["step"] == next(i for i, q in enumerate(quality) if q >= 0.99)


def test_runs_whose_estimates_overlap_are_in_no_sure_order_and_say_so():
    def run(name, flop, interval=None):
        intervals = {"flop": interval} if interval else {}
        return make_run(name, costs={"flop": [flop / 2, flop], "train_s": [1.0, 2.0]}, intervals=intervals)

    apart = compare([run("a", 1e9, [0.9e9, 1.1e9]), run("b", 2e9, [1.9e9, 2.1e9]), run("c", 3e9)])
    assert not [caution for caution in apart.cautions if caution["kind"] == "estimates_overlap"]
    near = compare([run("a", 1e9, [0.7e9, 1.3e9]), run("b", 1.2e9), run("c", 3e9)])
    (caution,) = [caution for caution in near.cautions if caution["kind"] == "estimates_overlap"]
    assert (set(caution["runs"]), caution["evidence"]["columns"]) == ({"a", "b"}, ["flop"])
    wide = compare([run("a", 2e9, [0.5e9, 9e9]), run("b", 1e9), run("c", 3e9), run("d", 9.5e9)])
    (caution,) = [caution for caution in wide.cautions if caution["kind"] == "estimates_overlap"]
    assert set(caution["runs"]) == {"a", "b", "c"}
    assert near.runs[0]["certainty"]["flop"] == "estimated"
    assert near.runs[0]["intervals"] == {"flop": [0.7e9, 1.3e9]}
    assert near.runs[1]["certainty"]["flop"] == "exact"


def test_runs_counted_alike_are_no_different_methods_for_being_exact_or_estimated():
    def run(name, how):
        return make_run(name, costs={"flop": [1.0, 2.0]}, methods={"flop": how})

    said = compare(
        [
            run("a", "exact; step census: products"),
            run("b", "estimated over 7 sampled steps of 90, 95 % interval 1 FLOP to 2 FLOP; step census: products"),
            run("c", "step census: products"),
        ]
    )
    assert not [caution for caution in said.cautions if caution["kind"] in ("flop_conventions", "methods_differ")]
