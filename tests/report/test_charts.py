import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import make_run, zoo

from lightning_costs import compare
from lightning_costs.report.charts.data import MOST, chart_data, downsample_evaluations
from lightning_costs.report.charts.look import cycle
from lightning_costs.report.charts.quality import chart

HOSTILE = "a['b'].c\"]\\<script>\n'"


def fields(spec):
    found = set()

    def walk(node):
        if isinstance(node, dict):
            if isinstance(node.get("field"), str):
                found.add(node["field"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk({key: value for key, value in spec.items() if key != "datasets"})
    return found


def test_a_chart_reads_no_field_that_a_user_named():
    run = make_run(HOSTILE, monitor=HOSTILE)
    spec = compare([run]).chart("energy_j").to_dict()
    assert fields(spec) <= {"run", "who", "r", "s", "m", "q", "c0", "c1", "x_text", "y_text"}


def test_costs_are_on_a_logarithmic_axis_unless_asked_otherwise():
    cmp = compare(zoo(3, 4))

    def scale(spec):
        return {layer["encoding"]["x"]["scale"]["type"] for layer in spec["layer"]}

    assert scale(cmp.chart("energy_j").to_dict()) == {"log"}
    assert scale(cmp.chart("energy_j", log=False).to_dict()) == {"linear"}


def test_a_cost_that_is_nowhere_above_zero_is_drawn_on_a_linear_axis():
    cmp = compare([make_run(costs={"energy_j": [0.0, 0.0]})])
    assert cmp.chart("energy_j").to_dict()["layer"][0]["encoding"]["x"]["scale"]["type"] == "linear"


def test_a_static_cost_is_one_point_per_run_at_its_best_quality():
    cmp = compare(zoo(3, 4))
    spec = cmp.chart("params").to_dict()
    (values,) = [spec["data"]["values"]] if "values" in spec["data"] else spec["datasets"].values()
    assert [row["q"] for row in values] == pytest.approx([run["best_quality"] for run in cmp.runs], rel=1e-5)


def test_one_cost_can_be_drawn_against_another():
    spec = compare(zoo(3, 4)).chart("energy_j", "flop").to_dict()
    assert {layer["encoding"]["y"]["field"] for layer in spec["layer"]} == {"c1"}
    assert spec["layer"][0]["encoding"]["y"]["scale"]["type"] == "log"


def test_an_unknown_cost_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'energy' is not compared; choose one of train_s, energy_j"):
        chart(compare([make_run()]), "energy")


def test_a_cost_that_no_run_has_is_refused():
    with pytest.raises(ValueError, match="'tokens' is missing in every run"):
        compare(zoo(2, 3)).chart("tokens")


def test_a_chart_holds_only_numbers_that_json_can_hold():
    cmp = compare([make_run(quality=[math.nan, 0.5, math.inf], costs={"energy_j": [1.0, math.inf, math.nan]})])
    json.dumps(cmp.chart("energy_j").to_dict(), allow_nan=False)


def test_colors_shapes_and_dashes_start_again_where_they_run_out():
    cmp = compare([make_run(f"run {i}") for i in range(20)])
    spec = cmp.chart("energy_j").to_dict()
    assert len(spec["layer"][0]["encoding"]["color"]["scale"]["range"]) == 20
    assert cycle("ab", 5) == ["a", "b", "a", "b", "a"]


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e6)), min_size=1, max_size=30))
def test_chart_data_keeps_every_point_to_five_digits(energy):
    cmp = compare([make_run(quality=[0.5] * len(energy), costs={"energy_j": energy})])
    data = chart_data(cmp)
    assert all(len(column) == len(energy) for column in data.curves.values())
    axis = data.axes.get("energy_j")
    if axis is None:
        assert all(value is None for value in energy)
        return
    factor = {"J": 1.0, "kJ": 1e3, "kWh": 3.6e6}[axis.suffix]
    for shown, value in zip(data.curves[axis.field], energy, strict=True):
        assert shown is None if value is None else shown * factor == pytest.approx(value, rel=1e-4)


def test_curves_are_thinned_for_drawing_alone_and_keep_their_ends_and_extremes() -> None:
    runs = [make_run(f"run {i}", quality=_wavy(i), costs={"flop": [float(n) for n in range(5000)]}) for i in range(20)]
    found = compare(runs)
    data = chart_data(found)
    assert sum(map(len, data.curves.values())) <= 1.1 * MOST
    for index, label in enumerate(found.labels):
        rows = [row for row, run in enumerate(data.curves["r"]) if run == index]
        drawn = [data.curves["q"][row] for row in rows]
        whole = [value for value in found.curves[label]["quality"] if value is not None]
        assert drawn[0] == pytest.approx(whole[0], abs=1e-6)
        assert drawn[-1] == pytest.approx(whole[-1], abs=1e-6)
        assert max(value for value in drawn if value is not None) == pytest.approx(max(whole), abs=1e-6)
        assert min(value for value in drawn if value is not None) == pytest.approx(min(whole), abs=1e-6)
        assert found.runs[index]["best_quality"] == max(_wavy(index))  # figures are of all evaluations


def _wavy(run: int) -> list[float]:
    return [0.5 + 0.3 * math.sin(run + n / 37.0) + 1e-5 * n for n in range(5000)]


@given(
    quality=st.lists(st.one_of(st.none(), st.floats()), max_size=200),
    most=st.integers(4, 60),
)
def test_thinning_keeps_order_ends_extremes_and_its_bound(quality: list[float | None], most: int) -> None:
    kept = downsample_evaluations(quality, most)
    assert kept == sorted(set(kept))
    assert len(kept) <= max(most, 4) or len(quality) <= most
    if quality:
        assert kept[0] == 0
        assert kept[-1] == len(quality) - 1
    finite = [value for value in quality if value is not None and math.isfinite(value)]
    if finite:
        assert {min(finite), max(finite)} <= {quality[at] for at in kept}
