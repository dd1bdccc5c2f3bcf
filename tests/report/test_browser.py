from contextlib import contextmanager

import pytest
from pages import HOSTILE, hovered, lines, opened
from synthetic import life_run, make_run, zoo

from lightning_costs import compare
from lightning_costs.records.formatting import format_amount

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return compare(zoo(4, 20)).to_html(tmp_path_factory.mktemp("page") / "page.html")


def test_the_page_draws_every_run_and_asks_for_nothing_but_itself(browser, written):
    with opened(browser, written) as tab:
        drawn = lines(tab)
        assert len(drawn) == 4
        assert len(set(drawn)) == 4
        assert tab.locator("#main-chart").get_attribute("data-drawn") == "energy_j log"


def test_choosing_another_cost_redraws(browser, written):
    with opened(browser, written) as tab:
        before = lines(tab)
        tab.select_option("#x-choice", "flop")
        tab.wait_for_selector("#main-chart[data-drawn='flop log']")
        assert lines(tab) != before
        tab.select_option("#x-choice", "params")
        tab.wait_for_selector("#main-chart[data-drawn='params log']")
        assert tab.locator("#main-chart .mark-symbol path").count() == 4


def test_one_cost_on_both_axes_is_drawn_and_told(browser, written):
    with opened(browser, written) as tab:
        for name in ("energy_j", "params"):
            tab.select_option("#x-choice", name)
            tab.select_option("#y-choice", name)
            tab.wait_for_selector(f"#main-chart[data-drawn='{name} {name} log']")
            assert tab.locator("#main-chart .mark-symbol path").count() >= 4
        tab.select_option("#x-choice", "energy_j")
        tab.select_option("#y-choice", "energy_j")
        tab.wait_for_selector("#main-chart[data-drawn='energy_j energy_j log']")
        assert hovered(tab).count("energy") == 2


def test_a_linear_axis_draws_other_lines_and_a_log_one_the_first_again(browser, written):
    with opened(browser, written) as tab:
        before = lines(tab)
        tab.click("[data-scale=linear]")
        tab.wait_for_selector("#main-chart[data-drawn='energy_j linear']")
        linear = lines(tab)
        tab.click("[data-scale=log]")
        tab.wait_for_selector("#main-chart[data-drawn='energy_j log']")
        assert linear != before
        assert lines(tab) == before


def test_a_click_on_a_run_hides_it_and_another_one_shows_it_again(browser, written):
    with opened(browser, written) as tab:
        tab.click("[data-run='1']")
        tab.wait_for_function("document.querySelectorAll('#main-chart .mark-line path').length === 3")
        assert tab.locator("[data-run='1']").get_attribute("aria-pressed") == "false"
        tab.select_option("#x-choice", "flop")
        tab.wait_for_selector("#main-chart[data-drawn='flop log']")
        assert len(lines(tab)) == 3
        tab.click("[data-run='1']")
        tab.wait_for_function("document.querySelectorAll('#main-chart .mark-line path').length === 4")


def test_small_charts_are_drawn_when_they_come_into_sight(browser, written):
    with opened(browser, written) as tab:
        charts = tab.locator(".chart.small")
        for index in range(charts.count()):
            charts.nth(index).scroll_into_view_if_needed()
        tab.wait_for_function("!document.querySelector('.chart.small:not([data-drawn])')")
        assert tab.locator(".chart.small svg").count() == charts.count() > 6


def test_hovering_a_point_shows_its_cost_in_a_unit_for_people(browser, written):
    with opened(browser, written) as tab:
        text = hovered(tab)
        assert "kWh" in text
        assert "val/acc:" in text
        assert "undefined" not in text


def test_hostile_names_are_drawn_as_text_and_run_nothing(browser, tmp_path):
    runs = [make_run(f"{HOSTILE}{i}", monitor=HOSTILE, setup={HOSTILE: i}) for i in range(2)]
    with opened(browser, compare(runs).to_html(tmp_path / "page.html")) as tab:
        assert len(lines(tab)) == 2
        assert "<img src=x" in hovered(tab)
        assert tab.locator("img").count() == 0
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1280


@pytest.mark.parametrize("name", ["image", "__proto__", "datum", "a.b[0]"])
def test_a_metric_may_have_a_name_that_means_something_to_vega(browser, tmp_path, name):
    with opened(browser, compare([make_run(monitor=name)]).to_html(tmp_path / "page.html")) as tab:
        assert f"{name}:" in hovered(tab)
        assert tab.locator("img").count() == 0


def test_the_page_fits_a_phone(browser, written):
    with opened(browser, written, width=390) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert tab.locator("#main-chart svg").bounding_box()["width"] <= 390


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    runs = [life_run(f"small {HOSTILE}", 7.2e6, 0.5), life_run("large", 72e6, 0.05), life_run("blind", 1e6, None)]
    return compare(runs).to_html(tmp_path_factory.mktemp("page") / "lives.html")


@contextmanager
def opened_on_lives(browser, lives):
    with opened(browser, lives) as tab:
        tab.evaluate("document.getElementById('life').open = true")
        tab.locator("#life-chart").scroll_into_view_if_needed()
        tab.wait_for_selector("#life-chart[data-drawn=energy_j]", timeout=240_000)
        yield tab


def test_a_page_whose_runs_never_break_even_has_a_chart_without_marks(browser, tmp_path):
    runs = [life_run("cheap", 1e6, 0.5), life_run("dear", 2e6, 0.6)]
    with opened_on_lives(browser, compare(runs).to_html(tmp_path / "page.html")) as tab:
        assert tab.locator("#life-chart .mark-line path").count() == 2
        assert tab.locator("#life-chart .mark-symbol path").count() == 0


def test_costs_after_so_many_queries_are_in_a_table_that_is_open(browser, tmp_path):
    runs = [life_run("small", 7.2e6, 0.5), life_run("large", 72e6, 0.05), life_run("blind", 1e6, None)]
    cmp = compare(runs, queries=[144e6, 1e9])
    with opened_on_lives(browser, cmp.to_html(tmp_path / "page.html")) as tab:
        table = tab.locator("#life details[open] table")
        assert table.locator("thead th").all_inner_texts()[3:] == [
            "after 144 million queries",
            "after 1.00 billion queries",
        ]
        rows = [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]
        assert [[cell.replace("★", "") for cell in row] for row in rows] == [
            [format_amount(amount, "j") for amount in (7.2e6, 0.5, 7.2e6 + 72e6, 7.2e6 + 0.5e9)],
            [format_amount(amount, "j") for amount in (72e6, 0.05, 72e6 + 7.2e6, 72e6 + 0.05e9)],
            [format_amount(1e6, "j"), "missing", "missing", "missing"],
        ]


def test_runs_that_break_even_are_marked_and_hidden_ones_are_not_drawn(browser, lives):
    with opened_on_lives(browser, lives) as tab:
        assert tab.locator("#life-chart .mark-line path").count() == 2
        assert tab.locator("#life-chart .mark-symbol path").count() == 1
        tab.locator("#life-chart .mark-symbol path").hover()
        text = tab.wait_for_selector("#vg-tooltip-element.visible", timeout=120_000).inner_text()
        assert "144 million queries" in text
        assert "22 kWh" in text
        tab.click("[data-run='1']")
        tab.wait_for_function("document.querySelectorAll('#life-chart .mark-line path').length === 1")
        tab.wait_for_function("document.querySelectorAll('#life-chart .mark-symbol path').length === 0")
