import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import INFER, declaration, life_run, make_run

from lightning_costs import Tariff, compare
from lightning_costs.analysis.lifecycle import LinearCost, break_even, cheapest
from lightning_costs.report.tables.lifecycle import life_sentences, queries_text
from lightning_costs.report.terminal.comparison import comparison_text

COSTS = st.builds(LinearCost, st.floats(0, 1e12), st.floats(0, 1e3))
#: Of a size that energies have: differences do not drown in rounding.
COARSE = st.builds(LinearCost, st.integers(0, 10**6).map(float), st.integers(0, 1000).map(float))


def pair(cmp, column="energy_j"):
    (found,) = [row for row in cmp.lifecycle["pairs"] if row["column"] == column]
    return found


@given(COARSE, COARSE)
def test_at_a_break_even_both_have_cost_the_same_and_the_order_turns_there(first, second):
    found = break_even(first, second)
    if found.outcome != "breaks_even":
        return
    costs = (first, second)
    n = found.queries
    assert math.isclose(first.at(n), second.at(n), rel_tol=1e-9, abs_tol=1e-6)
    assert costs[found.fewer].at(n / 2) < costs[1 - found.fewer].at(n / 2)
    assert costs[found.more].at(2 * n + 1) < costs[1 - found.more].at(2 * n + 1)
    assert found.fewer != found.more


@given(COARSE, COARSE, st.floats(0, 1e9))
def test_one_that_dominates_is_never_dearer(first, second, queries):
    found = break_even(first, second)
    if found.outcome == "dominates":
        assert found.fewer == found.more
        costs = (first, second)
        assert costs[found.fewer].at(queries) <= costs[1 - found.fewer].at(queries)
    if found.outcome == "equal":
        assert first == second


@given(COARSE, COARSE)
def test_the_order_in_which_two_runs_are_given_is_irrelevant(first, second):
    one, other = break_even(first, second), break_even(second, first)
    assert (one.outcome, one.queries) == (other.outcome, other.queries)
    if one.fewer is not None:
        assert (one.fewer, one.more) == (1 - other.fewer, 1 - other.more)


@given(st.lists(COARSE, min_size=1, max_size=6), st.floats(0, 1e7))
def test_who_is_told_to_be_cheapest_costs_least_there(costs, queries):
    named = {str(index): cost for index, cost in enumerate(costs)}
    told = [row for row in cheapest(named) if row["from_queries"] <= queries][-1]
    least = min(cost.at(queries) for cost in costs)
    for label in told["labels"]:
        assert named[label].at(queries) <= least * (1 + 1e-9) + 1e-6


@given(st.dictionaries(st.sampled_from("abcdef"), COSTS))
def test_whatever_costs_are_the_cheapest_ones_come_in_order(costs):
    starts = [row["from_queries"] for row in cheapest(costs)]
    assert starts == sorted(set(starts))
    assert bool(starts) == bool(costs)


def test_break_even_is_the_difference_of_training_over_the_difference_of_a_query():
    cmp = compare([life_run("small", 7.2e6, 0.5), life_run("large", 72e6, 0.05)])
    found = pair(cmp)
    assert found["outcome"] == "breaks_even"
    assert found["queries"] == pytest.approx((72e6 - 7.2e6) / 0.45, rel=1e-12)
    assert found["cost"] == pytest.approx(7.2e6 + 0.5 * 144e6, rel=1e-12)
    assert (found["fewer"], found["more"]) == ("small", "large")
    assert [row["labels"] for row in cmp.lifecycle["cheapest"]["energy_j"]] == [["small"], ["large"]]


def test_carbon_and_electricity_hold_pue_and_intensity_of_training_and_of_queries():
    tariff = Tariff(gco2e_per_kwh=50.0, pue=1.2, usd_per_kwh=0.25)
    cmp = compare([life_run("a", 3.6e6, 36.0)], tariff=tariff, queries=[0, 1000])
    none, thousand = (row["costs"]["a"] for row in cmp.lifecycle["at"])
    assert none == pytest.approx({"energy_j": 3.6e6, "co2e_g": 60.0, "electricity_usd": 0.3})
    # 1,000 queries are 36 kJ, a hundredth of a kilowatt-hour.
    assert thousand == pytest.approx({"energy_j": 3.636e6, "co2e_g": 60.6, "electricity_usd": 0.303})


def test_under_one_tariff_runs_break_even_at_one_number_by_energy_carbon_and_money():
    cmp = compare(
        [life_run("a", 1e6, 0.5), life_run("b", 2e6, 0.25)], tariff=Tariff(gco2e_per_kwh=50.0, pue=1.3, usd_per_kwh=0.2)
    )
    numbers = [row["queries"] for row in cmp.lifecycle["pairs"]]
    assert numbers == pytest.approx([4e6] * 3, rel=1e-12)
    assert (
        "Least energy, CO2e and electricity cost: 'a' up to 4.00 million queries, then 'b' beyond."
        in life_sentences(cmp)
    )


def test_each_runs_own_tariff_prices_its_queries_where_no_other_is_given():
    co2e = {"co2e_g": declaration("co2e_g", "g", "counter", "energy")}
    run = make_run(
        quality=[0.9],
        costs={"energy_j": [3.6e6], "co2e_g": [60.0]},
        statics={"infer_energy_j": 36.0},
        declared=INFER | co2e,
        tariff={"country": "FRA", "pue": 1.2, "intensity": {"gco2e_per_kwh": 50.0, "source": "then"}},
    )
    life = compare([run]).lifecycle["runs"]["run"]
    assert life["each"]["co2e_g"] == pytest.approx(60e-5)
    assert life["missing"]["electricity_usd"].startswith("training: ")


def test_without_the_energy_of_inference_the_number_is_missing_with_its_reason():
    blind = life_run("blind", 1e6, None, missing={"infer_energy_j": "0.4 s of passes are too short"})
    cmp = compare([blind, life_run("b", 2e6, 0.25)], tariff=Tariff(gco2e_per_kwh=50.0))
    found = pair(cmp)
    assert (found["outcome"], found["queries"]) == ("missing", None)
    assert found["why"] == "blind: inference: 0.4 s of passes are too short"
    assert cmp.lifecycle["at"][0]["costs"]["blind"]["energy_j"] is None
    assert "'blind' is left out: inference: 0.4 s of passes are too short." in life_sentences(cmp)
    assert cmp.lifecycle["columns"] == ["energy_j", "co2e_g"]
    assert cmp.lifecycle["runs"]["b"]["missing"]["electricity_usd"].startswith("training: no electricity price")


def test_equal_runs_are_said_to_be_equal():
    cmp = compare([life_run("a", 1e6, 0.5), life_run("b", 1e6, 0.5)])
    assert pair(cmp)["outcome"] == "equal"
    assert any("cost the same at every number of queries" in text for text in life_sentences(cmp))
    assert [row["labels"] for row in cmp.lifecycle["cheapest"]["energy_j"]] == [["a", "b"]]


def test_quality_stands_beside_the_claim():
    def said(one, other):
        cmp = compare([life_run("a", 1e6, 0.5, one), life_run("b", 2e6, 0.25, other)])
        return " ".join(life_sentences(cmp))

    assert "(best 'val/acc' 0.81 against 0.86: not like for like)" in said(0.81, 0.86)
    assert "(both reach 'val/acc' 0.86)" in said(0.86, 0.86)
    assert "like for like is unknown" in said(None, 0.86)


def test_queries_that_measuring_cannot_tell_apart_are_said_to_be_so():
    near = compare([life_run("a", 1e6, 0.50), life_run("b", 2e6, 0.48)])
    far = compare([life_run("a", 1e6, 0.50), life_run("b", 2e6, 0.25)])
    assert "their queries' energies are 4.0% apart, within the 10% that measuring them may be off" in " ".join(
        life_sentences(near)
    )
    assert "apart" not in " ".join(life_sentences(far))


def test_training_counts_with_the_work_that_restarts_lost():
    lost = {"lost_energy_j": declaration("lost_energy_j", "j", "counter", "energy")}
    run = make_run(
        quality=[0.5, 0.9],
        costs={"energy_j": [60.0, 100.0], "lost_energy_j": [40.0, 40.0]},
        statics={"infer_energy_j": 1.0},
        declared=INFER | lost,
        attempts=[{"row": 0, "lost": {}}, {"row": 1, "lost": {"energy_j": 40.0}}],
        lineage=[[0, 0], [1, None]],
    )
    cmp = compare([run], curve="to_reach")
    assert cmp.lifecycle["runs"]["run"]["once"]["energy_j"] == 100.0


@pytest.mark.parametrize("queries", [-1.0, math.inf, math.nan])
def test_a_number_of_queries_that_cannot_be_is_refused(queries):
    with pytest.raises(ValueError, match="queries must be a finite number of at least 0"):
        compare([life_run("a", 1.0, 1.0)], queries=[queries])


def test_the_terminal_shows_costs_at_the_numbers_that_were_asked_for():
    text = comparison_text(compare([life_run("a", 3.6e6, 36.0), life_run("b", 7.2e6, 3.6)], queries=[1e6, 2e6]))
    assert "after 1.00 million queries" in text
    assert "11 kWh" in text
    assert "21 kWh" in text
    assert "Over the model's life" not in comparison_text(compare([make_run("a")]))


def test_a_comparison_with_lifecycles_is_plain_data(tmp_path):
    cmp = compare([life_run("a", 1e300, 1e300), life_run("b", 1e6, 1.0)], queries=[1e12])
    at = cmp.as_dict()["lifecycle"]["at"][0]
    assert at["costs"]["a"]["energy_j"] is None
    assert cmp.to_json(tmp_path / "c.json").stat().st_size > 100


@given(st.floats(0, 1e20))
def test_a_number_of_queries_is_told_within_half_a_percent(queries):
    text = queries_text(queries)
    if 1 <= queries < 1e15:
        number, *words = text.split()
        value = float(number.replace(",", "")) * {"million": 1e6, "billion": 1e9, "trillion": 1e12}.get(words[0], 1)
        assert value == pytest.approx(queries, rel=0.51e-2) or abs(value - queries) <= 0.5


def test_of_more_runs_than_the_terminal_shows_pairs_are_of_those_that_are_shown():
    runs = [life_run(f"run-{i:02}", 1e6 + i, 20.0 - i / 10, 0.9 - i / 100) for i in range(62)]
    text = comparison_text(compare(runs, queries=[1e6]), width=300)
    assert "Of 62 runs, 60 are shown" in text
    assert "'run-00' and 'run-01' break even" in text
    assert "run-60" not in text.split("Over the model's life")[1].split("Cautions")[0]
