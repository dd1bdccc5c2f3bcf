import json
import re
from html.parser import HTMLParser

import altair as alt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import whole
from synthetic import declaration, make_run, zoo

from lightning_costs import compare
from lightning_costs.report.page.page import content_security_policy, page, script_json

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}`\u2028\n🔥"


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def hostile_page():
    runs = [
        make_run(
            f"{HOSTILE}{i}",
            monitor=HOSTILE,
            setup={HOSTILE: HOSTILE, "other": f"{HOSTILE}{i}"},
            methods={"energy_j": f"{HOSTILE}{i}"},
            status=HOSTILE,
        )
        for i in range(3)
    ]
    return page(compare(runs))


@pytest.fixture(scope="module")
def two_runs():
    return page(compare(zoo(2, 3)))


@pytest.fixture(scope="module")
def four_runs():
    return page(compare(zoo(4, 8)))


def test_no_users_text_becomes_an_element_of_the_page(hostile_page):
    elements = Elements(hostile_page).found
    assert [attrs.get("type") for tag, attrs in elements if tag == "script"] == ["application/json", None, None]
    assert not [tag for tag, _ in elements if tag == "img"]
    assert not [attrs for _, attrs in elements if any(name.startswith("on") for name in attrs)]


def test_a_users_template_is_not_run(hostile_page):
    assert "{{ 7 * 7 }}" in hostile_page
    assert "49`" not in hostile_page


def test_the_page_names_no_other_place_to_load_from(two_runs):
    elements = Elements(two_runs).found
    links = [attrs[name] for _, attrs in elements for name in ("src", "href") if name in attrs]
    assert [link for link in links if not link.startswith("#")] == ["data:,"]
    assert {link[1:] for link in links if link.startswith("#")} <= {attrs.get("id") for _, attrs in elements}


def test_charts_of_the_page_are_valid_vega_lite_which_the_page_itself_does_not_check(monkeypatch):
    real, checked = alt.LayerChart.to_dict, []

    def to_dict(self, validate=True, **options):
        checked.append(validate)
        return real(self, validate=True, **options)

    monkeypatch.setattr(alt.LayerChart, "to_dict", to_dict)
    page(compare(whole(3), queries=[1e6]))
    assert len(checked) > 10
    assert not checked[0]


def test_the_policy_lets_only_our_own_scripts_run_and_nothing_connect():
    text = content_security_policy(["one", "two"])
    assert text.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in text
    assert "'unsafe-inline'" not in text.split("style-src")[0]
    assert text.count("'sha256-") == 2


@given(st.text())
def test_data_in_a_script_element_reads_back_as_it_was(text):
    safe = script_json({"name": text})
    assert not re.search("[<>&\u2028\u2029]", safe)
    assert json.loads(safe) == {"name": text}


def test_a_lone_surrogate_in_a_name_can_be_written():
    script_json("\ud83d").encode("utf-8")


def test_the_page_has_its_parts_in_reading_order(four_runs):
    headings = [
        'id="answer"',
        "Read this first</h2>",
        'id="cost-total_s"',
        'id="cost-energy_j"',
        "All runs</h2>",
        "Any cost against any other</h3>",
        "Cost to reach a quality, by every cost</h3>",
        "Pareto fronts of every cost</h3>",
        "Do all costs agree on who is cheaper?</h3>",
        "Equal by one cost, unequal by others</h3>",
        "Memory</h3>",
        "Energy and money</h3>",
        "All columns at the end of each run</h3>",
        "Not measured, and why</h3>",
        "Setups: what differs, what is the same</h3>",
    ]
    text = four_runs[four_runs.index("<main") :]
    places = [text.index(heading) for heading in headings]
    assert places == sorted(places)


def test_a_winner_is_marked_and_a_target_not_reached_is_told_in_words():
    text = page(compare([make_run("a", quality=[0.5, 0.95]), make_run("b")], targets=[0.9]))
    assert "★" in text
    assert "not reached within 20 s" in text


def test_why_a_cost_is_missing_is_on_the_page(two_runs):
    assert "length_fn=lambda batch" in two_runs


@pytest.mark.parametrize(
    "runs",
    [
        [make_run()],
        [make_run(quality=[])],
        [make_run(quality=[None, None])],
        [make_run(quality=[float("nan"), float("inf")])],
        [make_run(costs={}, statics={})],
        [make_run(costs={"energy_j": [None, None]})],
    ],
    ids=["one run", "no points", "no quality", "diverged", "no indicator", "all missing"],
)
def test_a_page_is_written_for_the_poorest_of_comparisons(runs, tmp_path):
    assert compare(runs).to_html(tmp_path / "new" / "page.html").read_text(encoding="utf-8").endswith("</html>\n")


def test_eight_runs_of_500_points_by_45_costs_are_drawn_whole_under_four_megabytes():
    extra = {f"extra{i}_j": declaration(f"extra{i}_j", "j", "counter", "energy") for i in range(33)}
    runs = []
    for run in zoo(8, 500):
        columns = [(run.points["energy_j"] * (1.1 + 0.37 * i)).alias(name) for i, name in enumerate(extra)]
        run.header["indicators"].update(extra)
        runs.append(type(run)(header=run.header, points=run.points.with_columns(columns)))
    text = page(compare(runs))
    assert len(text.encode()) < 4e6
    data = json.loads(text.split('id="page-data">')[1].split("</script>")[0])
    assert len(data["datasets"]["curves"]["r"]) == 8 * 500


def test_the_page_says_of_each_run_whether_it_waited_and_of_others_nothing():
    columns = {name: declaration(name, "s", "counter", "time") for name in ("idle_s", "idle_data_s", "timed_s")}
    waited = {"idle_s": [0.0, 40.0], "idle_data_s": [0.0, 34.0], "timed_s": [50.0, 100.0]}
    runs = [
        make_run(f"slow loader {HOSTILE}", costs=waited, declared=columns, setup={"device": "cuda", "devices": 1}),
        make_run("nothing known"),
    ]
    text = page(compare(runs))
    assert "input-bound 34 %: the device waited 34 s of 100 s for batches; idle at least 6 % beside that" in text
    assert text.count("for batches;") == 1
    assert "Did the device wait?" not in page(compare([make_run("nothing known")]))


def test_the_page_has_each_runs_verdict_and_the_ladder_of_those_that_are_on_it():
    names = ("train_s", "idle_s", "idle_data_s", "timed_s")
    columns = {name: declaration(name, "s", "counter", "time") for name in names}
    columns["sm_active_fraction"] = declaration("sm_active_fraction", "fraction", "gauge", "compute")
    costs = {name: [0.0, 100.0] for name in names} | {"idle_data_s": [0.0, 34.0], "sm_active_fraction": [0.5, 0.6]}
    runs = [
        make_run(f"slow loader {HOSTILE}", costs=costs, declared=columns, setup={"device": "cuda", "devices": 1}),
        make_run("nothing known"),
    ]
    compared = compare(runs)
    assert [run["verdict"]["kind"] for run in compared.runs] == ["launch-bound", "unknown"]
    text = page(compared)
    assert "launch-bound: the device idled 66 % between steps for its host, then waiting for data 34 %" in text
    assert "How much of the device was used" in text
    assert "What bounds training?" not in page(compare([make_run("nothing known")]))


def test_the_page_says_what_steps_were_made_of(tmp_path):
    shares = {"forward_s": 3.0, "backward_s": 5.0, "optimizer_s": 1.0, "step_rest_s": 1.0}
    columns = {name: declaration(name, "s", "counter", "time") for name in shares}
    costs = {"train_s": [5.0, 10.0], **{name: [0.0, seconds] for name, seconds in shares.items()}}
    group = [{"kind": "all_reduce", "group": HOSTILE, "ranks": 2, "calls": 8, "bytes": 4096}]
    told = make_run("told", costs=costs, declared=columns, communication=group)
    text = page(compare([told, make_run("nothing known")]))
    assert "training of 10 s: forward passes 30 %, backward passes 50 %, updates 10 %, the rest 10 %" in text
    assert "all_reduce among 2 ranks" in text
    assert HOSTILE not in text
    assert "Where training time went" in text
    assert "Inside a step" not in page(compare([make_run("nothing known")]))


def test_a_table_of_results_has_a_page_without_empty_sections():
    rows = {"a": (0.8, 1e6), "b": (0.9, 4e6), "c": (0.7, 2e6)}
    runs = [
        make_run(name, quality=[quality], costs={}, statics={"params": params}, group="x" if name == "a" else "y")
        for name, (quality, params) in rows.items()
    ]
    text = page(compare(runs, group="group"))
    assert "Cost to reach a quality, by every cost" not in text
    assert "<dt>y</dt><dd>0.8, 2 runs</dd>" in text
    for heading in ("Pareto fronts of every cost</h3>", "All runs</h2>", "Groups</h2>"):
        assert heading in text


def test_medians_of_seeds_are_on_the_page_with_their_intervals():
    runs = [
        make_run(f"m-seed{i}", quality=[0.5, 0.7 + i / 100], costs={"energy_j": [10.0, 20.0 + i]}) for i in range(3)
    ]
    text = page(compare(runs, targets=[0.6], group=r"name~(.+)-seed\d"))
    assert "<dt>m</dt><dd>0.71 [0.7, 0.72], 3 runs</dd>" in text
    assert "21 J [20 J, 22 J], 3 of 3" in text


def test_a_caution_has_its_figures_beside_it(four_runs):
    assert "figures behind it</summary>" in four_runs
    assert "(The Efficiency Misnomer, section 2.1)" in four_runs


def test_parts_that_are_nothing_are_said_in_a_line():
    lost = {"lost_s": declaration("lost_s", "s", "counter", "time")}
    runs = [make_run(f"r{i}", costs={"train_s": [1.0, 2.0], "lost_s": [0.0, 0.0]}, declared=lost) for i in range(2)]
    text = page(compare(runs))
    assert "Nothing in any run." in text
    assert 'data-theme="lost"' not in text


def test_a_single_run_has_its_costs_on_the_page_although_there_is_nobody_to_compare_it_with():
    text = page(compare([make_run()]))
    assert 'data-plot="quality" data-chart="energy_j"' in text
    assert 'class="picture"' not in text


def test_without_any_quality_no_card_announces_a_figure_that_is_not_there():
    text = page(compare([make_run("a", quality=[None, None]), make_run("b", quality=[None, None])]))
    assert 'class="cost' not in text
    assert "Left: " not in text
    assert "All runs" in text
    assert 'class="cost' in page(compare([make_run("a"), make_run("b")]))
