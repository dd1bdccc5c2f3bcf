import dataclasses
import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import declaration, make_run, zoo

from lightning_costs import Comparison, compare
from lightning_costs.pricing.tariff import Tariff


def said(cmp):
    return [caution["text"] for caution in cmp.cautions]


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.integration
@pytest.mark.parametrize(
    "imports",
    [
        "from lightning_costs import compare",
        "import lightning_costs.analysis.comparison\nfrom lightning_costs import compare",
        "import lightning_costs.comparison\ncompare = lightning_costs.compare",
        "import lightning_costs\ncompare = lightning_costs.compare",
    ],
)
def test_compare_can_be_called_in_any_import_order(imports):
    ran = python(f"{imports}\ntry:\n    compare([])\nexcept ValueError as error:\n    print(error)")
    assert ran.stdout.startswith("expected at least one run to compare"), ran.stderr


@pytest.mark.integration
def test_comparing_loads_no_framework_and_neither_scipy_nor_altair():
    ran = python(
        "import sys\nimport lightning_costs.analysis.comparison\n"
        "print(sorted({'torch', 'pytorch_lightning', 'lightning', 'wandb', 'scipy', 'altair'} & set(sys.modules)))"
    )
    assert ran.stdout.strip() == "[]", ran.stderr


@pytest.mark.integration
def test_importing_the_package_loads_no_comparison_yet():
    ran = python(
        "import sys\nfrom lightning_costs import compare\nprint('polars' in sys.modules, 'numpy' in sys.modules)"
    )
    assert ran.stdout.strip() == "False False", ran.stderr


def test_a_comparison_is_frozen_plain_data():
    cmp = compare([make_run()])
    with pytest.raises(dataclasses.FrozenInstanceError):
        cmp.monitor = "other"
    assert isinstance(cmp, Comparison)
    assert not hasattr(cmp, "__dict__")


# Which metric


def test_metric_and_mode_come_from_headers_that_agree():
    cmp = compare([make_run(), make_run("b", monitor=None, mode=None, metric="val/acc")])
    assert (cmp.monitor, cmp.mode) == ("val/acc", "max")


def test_headers_that_disagree_are_refused_with_what_to_do():
    runs = [make_run(), make_run("b", monitor="val/loss", mode="min")]
    with pytest.raises(
        ValueError, match=r"headers monitor 'val/acc', 'val/loss'; choose one: compare\(runs, monitor='val/acc'"
    ):
        compare(runs)
    assert compare(runs, monitor="val/loss").mode == "min"


def test_a_metric_without_a_mode_is_refused():
    run = make_run(monitor=None, mode=None)
    with pytest.raises(ValueError, match=r"monitor='val/acc' needs a mode, .* give mode='max' or mode='min'"):
        compare([run], monitor="val/acc")


def test_modes_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"expected one mode of 'val/acc', .* 'max', 'min'"):
        compare([make_run(), make_run("b", mode="min")])
    assert compare([make_run(), make_run("b", mode="min")], mode="max").mode == "max"


def test_headers_that_name_no_metric_are_refused_with_what_was_logged():
    with pytest.raises(ValueError, match=r"no run's header names one; give monitor= and mode=; .* 'val/acc'"):
        compare([make_run(monitor=None, mode=None)])


def test_a_misspelt_metric_is_refused_with_near_ones():
    with pytest.raises(ValueError, match=r"no run logged 'val/ac'; .*'val/acc'"):
        compare([make_run()], monitor="val/ac", mode="max")


def test_a_cost_column_is_no_quality_metric():
    with pytest.raises(ValueError, match="no run logged 'energy_j'"):
        compare([make_run()], monitor="energy_j", mode="min")


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode must be 'max' or 'min', got 'maximum'"):
        compare([make_run()], mode="maximum")


# Runs


def test_runs_of_one_name_are_told_apart_by_their_ids():
    runs = [make_run("a", run_id="x"), make_run("a", run_id="y"), make_run("b")]
    assert compare(runs).labels == ["a (x)", "a (y)", "b"]


@given(st.lists(st.tuples(st.sampled_from(["a", "a (x)", "b"]), st.sampled_from("xy")), min_size=1, max_size=6))
def test_labels_are_always_unique(names):
    labels = compare([make_run(name, run_id=run_id) for name, run_id in names]).labels
    assert len(set(labels)) == len(names)


def test_a_run_without_quality_stays_listed_with_a_caution():
    silent = make_run("silent", quality=[None, None])
    cmp = compare([make_run(), silent])
    assert cmp.runs[1]["best_quality"] is None
    assert cmp.runs[1]["final"]["energy_j"] == 200.0
    assert cmp.curves["silent"]["step"] == []
    assert cmp.fronts["energy_j"] == ["run"]
    assert any("run 'silent' never logged 'val/acc'" in text for text in said(cmp))


def test_runs_that_logged_no_metric_at_all_can_still_be_listed():
    runs = [make_run(name, quality=[None], header_quality=[]) for name in "ab"]
    for run in runs:
        run.header["quality"].clear()
    cmp = compare(runs)
    assert (cmp.best, cmp.targets, cmp.fronts["energy_j"]) == ([], [], [])


def test_a_run_without_any_point_is_listed():
    cmp = compare([make_run(quality=[]), make_run("b")])
    assert cmp.runs[0]["final"]["energy_j"] is None


def test_curves_hold_only_points_where_the_metric_was_logged():
    run = make_run(quality=[None, 0.5, None, 0.7])
    curve = compare([run]).curves["run"]
    assert curve["step"] == [1, 3]
    assert curve["energy_j"] == [200.0, 400.0]


def test_the_best_is_the_first_best_and_the_last_is_the_final():
    row = compare([make_run(quality=[0.5, 0.9, 0.9, 0.7])]).runs[0]
    assert (row["best_quality"], row["best_step"], row["final_quality"]) == (0.9, 1, 0.7)


def test_an_indicator_that_runs_mean_differently_is_left_out_with_a_caution():
    other = declaration("energy_j", "j", "counter", "energy", better="higher")
    cmp = compare([make_run(), make_run("b", declared={"energy_j": other})])
    assert "energy_j" not in cmp.indicators
    assert any("declare 'energy_j' with different" in text for text in said(cmp))


def test_diagnostics_are_shown_but_take_part_in_no_ranking():
    cmp = compare(zoo(3, 4))
    assert "nodes" in cmp.indicators
    assert "nodes" not in cmp.fronts
    assert "nodes" not in cmp.ranks["indicators"]


def test_higher_is_better_throughput_is_respected_on_its_front_and_leads_nothing():
    slow = make_run("slow", quality=[0.9], costs={"samples_per_s": [10.0]})
    fast = make_run("fast", quality=[0.9], costs={"samples_per_s": [90.0]})
    cmp = compare([slow, fast])
    assert cmp.fronts["samples_per_s"] == ["fast"]
    assert "samples_per_s" not in {*cmp.leaders, *cmp.ranks["indicators"], *cmp.dominance["columns"]}


def test_leaders_by_counters_are_those_who_reached_the_target_not_those_who_stopped_early():
    short = make_run("short", quality=[0.3], costs={"energy_j": [1.0]})
    cmp = compare([make_run(quality=[0.5, 0.9]), short], targets=[0.9])
    assert cmp.leaders["energy_j"] == {"labels": ["run"], "basis": "to reach 0.9"}


def test_order_of_runs_is_irrelevant_to_what_a_comparison_claims():
    runs = zoo(5, 6)
    forward, backward = compare(runs), compare(runs[::-1])
    assert {n: set(f) for n, f in forward.fronts.items()} == {n: set(f) for n, f in backward.fronts.items()}
    assert forward.best == backward.best
    assert [row["target"] for row in forward.targets] == [row["target"] for row in backward.targets]
    by_pair = {(p["first"], p["second"]): p["spearman"] for p in backward.ranks["pairs"]}
    assert {(p["first"], p["second"]): p["spearman"] for p in forward.ranks["pairs"]} == by_pair


# Tariff


def test_one_tariff_prices_all_runs_anew_at_the_end_and_along_the_curve():
    run = make_run(
        quality=[0.5, 0.8],
        costs={"energy_j": [3.6e6, 7.2e6], "device_s": [3600.0, 7200.0], "co2e_g": [1.0, 2.0]},
        tariff={"gco2e_per_kwh": 1.0},
        methods={"co2e_g": "1 g/kWh (given)"},
    )
    tariff = Tariff(gco2e_per_kwh=50.0, pue=1.2, usd_per_device_h=2.0, usd_per_kwh=0.25)
    cmp = compare([run], tariff=tariff)
    final = cmp.runs[0]["final"]
    assert final["co2e_g"] == pytest.approx(120.0)
    assert final["cloud_usd"] == pytest.approx(4.0)
    assert final["electricity_usd"] == pytest.approx(0.6)
    assert cmp.curves["run"]["co2e_g"] == pytest.approx([60.0, 120.0])
    assert cmp.tariff["pue"] == 1.2
    assert cmp.runs[0]["methods"]["co2e_g"] == "50 g/kWh (given); PUE 1.2"
    assert cmp.indicators["cloud_usd"]["unit"] == "usd"


def test_a_price_per_node_takes_node_seconds():
    run = make_run(quality=[0.5], costs={"total_s": [3600.0], "nodes": [4.0], "device_s": [9.0]})
    cmp = compare([run], tariff=Tariff(usd_per_node_h=10.0))
    assert cmp.runs[0]["final"]["cloud_usd"] == pytest.approx(40.0)
    without = make_run(quality=[0.5], costs={"total_s": [3600.0]})
    row = compare([without], tariff=Tariff(usd_per_node_h=10.0)).runs[0]
    assert row["final"]["cloud_usd"] is None
    assert row["missing"]["cloud_usd"] == "node_s is missing, and the price is made from it"


def test_what_a_tariff_does_not_give_is_missing_with_its_reason_even_where_a_run_had_recorded_it():
    run = make_run(costs={"energy_j": [1.0, 2.0], "co2e_g": [5.0, 6.0]})
    cmp = compare([run], tariff=Tariff(usd_per_kwh=0.2))
    assert cmp.runs[0]["final"]["co2e_g"] is None
    assert cmp.curves["run"]["co2e_g"] == [None, None]
    assert "no place was given" in cmp.runs[0]["missing"]["co2e_g"]


def test_without_a_tariff_each_run_keeps_its_own_and_differences_are_named():
    cheap = make_run("cheap", tariff={"gco2e_per_kwh": 1.0}, costs={"co2e_g": [1.0, 2.0]})
    dear = make_run("dear", tariff={"gco2e_per_kwh": 9.0}, costs={"co2e_g": [9.0, 18.0]})
    cmp = compare([cheap, dear])
    assert [row["final"]["co2e_g"] for row in cmp.runs] == [2.0, 18.0]
    assert any("different tariffs" in text for text in said(cmp))
    assert not any("different tariffs" in t for t in said(compare([cheap, dear], tariff=Tariff(pue=1.1))))


# Cautions


def test_cautions_name_unfinished_runs_setups_methods_hindsight_and_too_few_runs():
    runs = [
        make_run("a", setup={"precision": "32"}, methods={"energy_j": "counter"}),
        make_run("b", setup={"precision": "16"}, methods={"energy_j": "model"}, status="failed"),
    ]
    text = "\n".join(said(compare(runs)))
    assert "run 'b' is 'failed', not finished" in text
    assert "setups differ in precision" in text
    assert "energy_j was measured by different methods (counter: 'a'; model: 'b')" in text
    assert "0.8 was chosen after seeing the results" in text
    assert "two runs have no meaningful rank correlation" in text


def test_three_finished_runs_of_one_setup_with_a_declared_target_need_no_caution():
    assert compare([make_run(name) for name in "abc"], targets=[0.5]).cautions == []


def test_a_diverged_run_is_named():
    cmp = compare([make_run(quality=[0.5, math.nan])])
    assert any("run 'run' diverged" in text for text in said(cmp))


def test_one_run_can_be_compared_with_nothing_but_is_shown():
    cmp = compare([make_run()])
    assert cmp.ranks["pairs"][0]["spearman"] is None
    assert cmp.fronts["energy_j"] == ["run"]
    assert any("one run has no meaningful rank correlation" in text for text in said(cmp))


# JSON


def test_json_holds_the_comparison_and_reads_back_as_the_same_data(tmp_path):
    cmp = compare(zoo(4, 5))
    assert json.loads(cmp.to_json(tmp_path / "out.json").read_text(encoding="utf-8")) == cmp.as_dict()


@pytest.mark.parametrize("name", ["*", "^.*$", "^val.*$"])
def test_a_metric_whose_name_looks_like_a_pattern_is_compared_as_any_other(name):
    def compared(metric):
        runs = [
            make_run(each, monitor=metric, metric=metric, quality=(0.2, best))
            for each, best in (("a", 0.9), ("b", 0.7))
        ]
        return compare(runs).as_dict()

    plain, odd = compared("val/acc"), compared(name)
    assert odd["monitor"] == name
    assert [run["best_quality"] for run in odd["runs"]] == [0.9, 0.7]
    for part in ("fronts", "leaders", "best", "sweep", "ranks"):
        assert odd[part] == plain[part]


def test_what_json_cannot_hold_is_none():
    cmp = compare(
        [make_run(quality=[0.1, math.nan]), make_run("inf", costs={"energy_j": [1.0, math.inf]})], targets=[9.0]
    )
    data = cmp.as_dict()
    json.dumps(data, allow_nan=False)
    spend = data["targets"][0]["costs"]["energy_j"]["run"]
    assert (spend["cost"], spend["reached"]) == (None, False)
    assert data["curves"]["run"]["quality"] == [0.1, None]
    assert data["runs"][1]["final"]["energy_j"] is None


@pytest.mark.parametrize("call", [lambda c, p: c.chart("energy_j"), lambda c, p: c.to_html(p / "page.html")])
def test_a_missing_report_package_is_named_with_the_extra_that_brings_it(monkeypatch, tmp_path, call):
    for module in [name for name in sys.modules if name.startswith("lightning_costs.report")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(ImportError, match=r"needs altair: pip install 'lightning-costs\[report\]'"):
        call(compare([make_run()]), tmp_path)
