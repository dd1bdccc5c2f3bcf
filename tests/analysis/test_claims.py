"""What is said of all, every, none, the best and the least is true of runs that lack readings, too."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import declaration, make_run

from lightning_costs import compare
from lightning_costs.report.page.page import page
from lightning_costs.report.tables.agreement import dominance_sentences, family_lines
from lightning_costs.report.tables.tables import target_tables
from lightning_costs.report.terminal.comparison import comparison_text

STATICS = {
    "params": declaration("params", "params", "static", "size", headline=True),
    "forward_mac": declaration("forward_mac", "mac", "static", "compute", headline=True),
    "infer_latency_p50_s": declaration("infer_latency_p50_s", "s", "static", "time", headline=True),
}


def model(name, quality, *amounts, **how):
    statics = dict(zip(STATICS, amounts, strict=True))
    return make_run(name, quality=[quality], costs={}, statics=statics, declared=STATICS, **how)


def of_kind(cmp, kind):
    return [row for row in cmp.cautions if row["kind"] == kind]


# Fronts


def test_who_lacks_a_reading_is_not_on_every_front_in_any_words():
    runs = [
        model("A", 70.0, 10.0, 2.0, 5.0),
        model("B", 75.0, 20.0, 4.0, 9.0),
        model("X", 79.5, None, None, 900.0),
        model("Y", 60.0, 5.0, None, None),
    ]
    cmp = compare(runs)
    said = "On the Pareto front of every indicator: 'A' and 'B' (2 of 4 runs have a reading of all 3)."
    assert cmp.dominance["everywhere"] == ["A", "B"]
    assert said in cmp.summary
    assert said in dominance_sentences(cmp)
    assert said in cmp.as_dict()["summary"]
    assert said in " ".join(comparison_text(cmp, width=500).split())
    assert said in page(cmp).replace("&#39;", "'")


def test_the_best_quality_is_said_to_be_on_every_front_only_where_it_is():
    runs = [model("A", 70.0, 1.0, 1.0, 1.0), model("B", 75.0, 2.0, 2.0, 2.0)]
    assert any("'A' and 'B' (the best quality always is)." in text for text in compare(runs).summary)
    tied = [*runs, model("C", 75.0, 3.0, 3.0, 3.0)]
    assert not any("always is" in text for text in compare(tied).summary)
    bare = [*runs, model("C", 80.0, 3.0, 3.0, None)]
    assert not any("always is" in text for text in compare(bare).summary)


def test_an_indicator_that_no_run_has_keeps_nobody_off_every_front():
    cmp = compare([model("A", 70.0, 1.0, 1.0, None), model("B", 75.0, 2.0, 2.0, None)])
    assert cmp.dominance["everywhere"] == ["A", "B"]
    assert not any("have a reading of all" in text for text in cmp.summary)
    assert not any("Left out of the joint front" in text for text in dominance_sentences(cmp))


def test_where_nobody_has_all_readings_that_is_said():
    cmp = compare([model("A", 70.0, 1.0, None, 1.0), model("B", 75.0, 2.0, 2.0, None)])
    assert "No run is on the Pareto front of every indicator (none of 2 runs have a reading of all 3)." in cmp.summary


CELL = st.one_of(st.none(), st.sampled_from([1.0, 2.0, 3.0]))
ROW = st.tuples(st.one_of(st.none(), st.sampled_from([0.1, 0.5, 0.9])), CELL, CELL, CELL)


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=6))
def test_everywhere_is_who_has_every_reading_and_is_beaten_by_nobody_in_any(rows):
    cmp = compare([model(str(index), *row) for index, row in enumerate(rows)])
    names = list(STATICS)
    measured = [k for k in range(3) if any(row[0] is not None and row[k + 1] is not None for row in rows)]

    def beaten(row, k):
        return any(
            other[0] is not None
            and other[k + 1] is not None
            and other[0] >= row[0]
            and other[k + 1] <= row[k + 1]
            and (other[0], other[k + 1]) != (row[0], row[k + 1])
            for other in rows
        )

    expected = [
        str(index)
        for index, row in enumerate(rows)
        if row[0] is not None and measured and all(row[k + 1] is not None and not beaten(row, k) for k in measured)
    ]
    assert cmp.dominance["everywhere"] == expected
    assert [name for name in names if cmp.fronts[name]] == [names[k] for k in measured]


# Leads


def test_a_run_without_quality_leads_nothing_is_on_no_front_and_is_no_winner():
    tiny = model("tiny", None, 1.0, 1.0, 1.0)
    cmp = compare([model("a", 0.8, 10.0, 9.0, 5.0), model("b", 0.9, 20.0, 4.0, 9.0), tiny])
    assert {label for lead in cmp.leaders.values() for label in lead["labels"]} == {"a", "b"}
    assert "tiny" not in cmp.families["leads"]
    assert not any("tiny" in text for text in cmp.summary)
    assert not any("tiny" in front for front in cmp.fronts.values())
    (said,) = of_kind(cmp, "no_quality")
    assert "leads by nothing" in said["text"]
    assert [row["basis"] for row in cmp.targets] == [
        "the best that every run with a quality reaches",
        "the best that at least half of the runs with a quality reach",
    ]


def test_a_run_without_quality_is_not_the_cheapest_over_any_number_of_queries():
    infer = {"infer_energy_j": declaration("infer_energy_j", "j", "static", "energy")}
    runs = [
        make_run(name, quality=[q], costs={"energy_j": [e]}, statics={"infer_energy_j": i}, declared=infer)
        for name, q, e, i in (("a", 0.9, 100.0, 2.0), ("tiny", None, 1.0, 0.1))
    ]
    cmp = compare(runs)
    assert {label for row in cmp.lifecycle["cheapest"]["energy_j"] for label in row["labels"]} == {"a"}
    assert "'tiny' at every number" not in comparison_text(cmp)


def test_where_no_run_has_a_quality_nothing_leads_and_reports_are_written():
    infer = {"infer_energy_j": declaration("infer_energy_j", "j", "static", "energy")}
    runs = [
        make_run(name, quality=[None], costs={"energy_j": [e]}, statics={"infer_energy_j": e}, declared=infer)
        for name, e in (("a", 1.0), ("b", 2.0))
    ]
    cmp = compare(runs)
    assert cmp.leaders == {}
    assert "a" in comparison_text(cmp)
    assert "<html" in page(cmp)


def test_the_one_run_with_a_reading_leads_nobody():
    cmp = compare([model("a", 0.8, 10.0, 9.0, None), model("b", 0.9, 20.0, 4.0, 7.0)])
    assert "infer_latency_p50_s" not in cmp.leaders
    assert cmp.leaders["params"]["labels"] == ["a"]
    words = {line.family: line.leaders for line in family_lines(cmp)}
    assert words["time"] == "none: too few have a reading"


def test_a_lead_of_some_runs_says_of_how_many():
    runs = [model(n, q, p, 1.0, 1.0) for n, q, p in (("a", 0.8, 10.0), ("b", 0.9, 20.0), ("c", 0.7, None))]
    (said,) = [text for text in compare(runs).summary if "had the best" in text]
    assert said == "At the end of the run, 'a' had the best params (of 2 runs; 1 more has no reading)."


def test_all_who_have_a_reading_tying_is_no_lead():
    runs = [model(n, 0.8, p, 1.0, 1.0) for n, p in (("a", 10.0), ("b", 10.0), ("c", None))]
    cmp = compare(runs)
    assert cmp.families["leads"] == {}
    assert not any("had the best" in text for text in cmp.summary)


def test_a_target_is_won_by_nobody_where_one_run_alone_has_a_reading():
    runs = [
        make_run(name, quality=[0.9], costs={"energy_j": [e], "samples": [s]})
        for name, e, s in (("a", 5.0, 1.0), ("b", None, 2.0))
    ]
    cmp = compare(runs, targets=[0.9])
    assert "energy_j" not in cmp.leaders
    assert cmp.leaders["samples"]["labels"] == ["a"]
    (table,) = target_tables(cmp)
    assert {line.name: [cell.best for cell in line.cells] for line in table.lines} == {
        "energy_j": [False, False],
        "samples": [True, False],
    }


# Seeds


def seeds(**groups):
    return [make_run(f"{name}-{i}", quality=[q]) for name, qs in groups.items() for i, q in enumerate(qs)]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"a": [0.89], "b": [0.88, 0.92]}, "val/acc of 'a', one run each, lies within the spread of seeds of 'b':"),
        ({"a": [0.91], "b": [0.88, 0.92]}, "val/acc of 'a', one run, lies within the spread of seeds of 'b':"),
        ({"a": [0.8, 0.9], "b": [0.85, 0.95]}, "val/acc of 'a' overlaps with the spread of seeds of 'b':"),
    ],
)
def test_a_spread_of_seeds_is_that_of_a_group_of_several_runs(groups, said):
    (caution,) = of_kind(compare(seeds(**groups), group=r"name~(\w)-", targets=[0.5]), "within_seed_noise")
    assert caution["text"].startswith(said)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=3)))
def test_no_spread_is_told_of_one_run(groups):
    if not groups:
        return
    cmp = compare(seeds(**groups), group=r"name~(\w)-", targets=[0.05])
    for row in of_kind(cmp, "within_seed_noise"):
        spread_of = row["text"].partition(": which")[0].split("spread of seeds of ")[1:]
        for words in spread_of:
            named = [name for name in groups if f"'{name}'" in words.partition(" and that of ")[0]]
            assert named
            assert all(len(groups[name]) > 1 for name in named)


def test_two_single_runs_are_not_called_noise():
    assert not of_kind(compare(seeds(a=[0.9], b=[0.9]), group=r"name~(\w)-", targets=[0.5]), "within_seed_noise")


# Amounts below 0


def test_an_amount_below_zero_never_wins_and_is_missing_with_its_reason():
    runs = [model("A", 70.0, 10.0, 2.0, 5.0), model("B", 75.0, -1.0, 4.0, 9.0), model("C", 80.0, 20.0, -0.5, 8.0)]
    cmp = compare(runs)
    assert cmp.leaders["params"]["labels"] == ["A"]
    assert cmp.fronts["params"] == ["A", "C"]
    assert [run["final"]["params"] for run in cmp.runs] == [10.0, None, 20.0]
    assert cmp.runs[1]["missing"]["params"].startswith("-1 is written there, and no amount of it is below 0")
    said = of_kind(cmp, "below_zero")
    assert [(row["evidence"]["column"], row["runs"]) for row in said] == [("params", ["B"]), ("forward_mac", ["C"])]
    assert "such readings are taken as missing" in said[0]["text"]


def test_a_curve_with_a_mark_below_zero_costs_nothing_less():
    odd = make_run("odd", quality=[0.5, 0.9], costs={"energy_j": [-1.0, 7.0], "samples": [1.0, 2.0]})
    cmp = compare([odd, make_run("even", quality=[0.5, 0.9], costs={"energy_j": [3.0, 6.0], "samples": [1.0, 2.0]})])
    assert cmp.curves["odd"]["energy_j"] == [None, 7.0]
    assert not any("odd" in row["labels"] for row in cmp.sweep["winners"]["energy_j"])
    assert of_kind(cmp, "below_zero")


@pytest.mark.parametrize(
    ("unit", "amounts", "kept"),
    [
        ("drift", (-1.0, -2.0, 3.0), (-1.0, -2.0, 3.0)),
        ("drift", (-0.5, 2.0, 3.0), (-0.5, 2.0, 3.0)),
        ("drift", (-1.0, 2.0, 3.0), (None, 2.0, 3.0)),
        ("refund_usd", (-20.5, 2.0, 3.0), (-20.5, 2.0, 3.0)),
        ("ms", (-5.0, 2.0, 3.0), (None, 2.0, 3.0)),
        ("samples_per_s", (-1.0, 2.0, 3.0), (None, 2.0, 3.0)),
    ],
)
def test_a_quantity_that_may_have_a_sign_keeps_it_unless_it_is_the_usual_mark(unit, amounts, kept):
    declared = {unit: declaration(unit, unit.rpartition("_")[2] if unit == "refund_usd" else unit, "static", "other")}
    runs = [make_run(str(i), costs={}, statics={unit: amount}, declared=declared) for i, amount in enumerate(amounts)]
    cmp = compare(runs)
    assert tuple(run["final"][unit] for run in cmp.runs) == kept
    assert bool(of_kind(cmp, "below_zero")) == (kept != amounts)


def test_carbon_under_a_new_tariff_is_not_made_from_energy_below_zero():
    from lightning_costs.pricing.tariff import Tariff

    runs = [make_run(n, quality=[0.9], costs={"energy_j": [e], "co2e_g": [e]}) for n, e in (("a", -1.0), ("b", 5.0))]
    cmp = compare(runs, tariff=Tariff(gco2e_per_kwh=100.0, pue=1.0))
    assert cmp.runs[0]["final"]["co2e_g"] is None
    assert cmp.runs[1]["final"]["co2e_g"] > 0


# Directions


def test_a_mode_against_what_runs_declare_is_told_first():
    runs = [make_run("a"), make_run("b"), make_run("c", monitor=None, mode=None, metric="val/acc")]
    with pytest.raises(ValueError, match=r"the runs declare mode 'max' for 'val/acc', got 'min': leave mode out, or"):
        compare(runs, mode="min")
    cmp = compare(runs, monitor="val/acc", mode="min")
    assert cmp.cautions[0]["kind"] == "mode_contradicts_runs"
    assert cmp.cautions[0]["runs"] == ["a", "b"]
    assert "'a' and 'b' declare max for 'val/acc'" in cmp.cautions[0]["text"]
    assert "lower is better, though 2 of them declare the opposite." in cmp.summary[0]
    assert not of_kind(compare([make_run("a")], mode="max"), "mode_contradicts_runs")


def test_one_of_a_kind_is_counted_as_one():
    runs = [model(n, q, p, 1.0, 1.0) for n, q, p in (("a", 0.8, 10.0), ("b", 0.9, 20.0))]
    (said,) = [text for text in compare(runs).summary if text.startswith("Of ")]
    assert said == "Of 1 family of indicators that differs, 'a' leads in 1 (size)."
