"""The sections of the page in a real browser: every control and chart, by pointer and by keyboard, by day and night."""

from __future__ import annotations

import csv
import io
import re

import polars
import pytest
from pages import HOSTILE, hovered, lines, opened, whole
from synthetic import make_run, zoo

from lightning_costs import compare
from lightning_costs.report.charts.answer import differing_costs
from lightning_costs.report.charts.ranks import ranking_bases
from lightning_costs.report.tables.run_table import run_columns, runs_csv

pytestmark = pytest.mark.browser

DRAWN = """() => [...document.querySelectorAll('.chart[data-plot]')]
    .every((one) => one.clientWidth === 0 || one.dataset.drawn)"""


@pytest.fixture(scope="module")
def compared():
    return compare(whole(), group="none")


@pytest.fixture(scope="module")
def written(compared, tmp_path_factory):
    return compared.to_html(tmp_path_factory.mktemp("page") / "page.html")


def unfold(tab):
    """Open everything that is folded, and wait for the charts in it."""
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    tab.wait_for_function(DRAWN, timeout=240_000)


#: The middle of the longest part of the strip of winners, on the screen.
WIDEST = """() => {
    document.getElementById('sweep-chart').scrollIntoView({ block: 'center' });
    const parts = [...document.querySelectorAll('#sweep-chart .mark-rect path')];
    const boxes = parts.map((one) => one.getBoundingClientRect());
    const box = boxes.reduce((one, other) => (one.width > other.width ? one : other));
    return [box.x + box.width / 2, box.y + box.height / 2];
}"""


def reveal(tab, *names):
    """Open sections that are a click away."""
    for name in names:
        tab.evaluate(f"document.getElementById('{name}').open = true")


def marks(tab, chart, kind):
    """How many marks each layer of this kind has in a chart."""
    return tab.evaluate(
        f"""[...document.querySelectorAll({chart!r} + ' .{kind}')]
            .map((one) => one.querySelectorAll('path, line').length)"""
    )


def test_every_chart_of_the_page_is_drawn_and_nothing_complains(browser, written, compared):
    with opened(browser, written) as tab:
        unfold(tab)
        plots = tab.evaluate("[...document.querySelectorAll('.chart[data-plot]')].filter((one) => one.clientWidth)"
                             ".map((one) => [one.dataset.plot, Boolean(one.querySelector('svg'))])")  # fmt: skip
        assert {plot for plot, _ in plots} == {"quality", "curve", "front", "sweep", "bump", "parts"}
        assert all(drawn for _, drawn in plots)
        shown = tab.evaluate("[...document.querySelectorAll('[data-theme]')].map((one) => one.dataset.theme)")
        assert set(shown) == set(compared.breakdowns)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1280


def test_any_indicator_can_be_plotted_against_any_other(browser, written):
    with opened(browser, written) as tab:
        tab.select_option("#y-choice", "flop")
        tab.wait_for_selector("#main-chart[data-drawn='energy_j flop log']")
        assert len(lines(tab)) == 4
        text = hovered(tab)
        assert "kWh" in text
        assert "FLOP" in text
        tab.select_option("#y-choice", "params")  # a single value per run: points
        tab.wait_for_selector("#main-chart[data-drawn='energy_j params log']")
        assert marks(tab, "#main-chart", "mark-symbol") == [4]
        tab.select_option("#y-choice", "")
        tab.wait_for_selector("#main-chart[data-drawn='energy_j log']")


def test_a_front_fills_the_marks_of_those_on_it(browser, written, compared):
    with opened(browser, written) as tab:
        chart = "#cost-flop [data-plot=front]"
        tab.locator(chart).scroll_into_view_if_needed()
        tab.wait_for_selector(f"{chart}[data-drawn]")
        on = len(compared.fronts["flop"])
        assert 0 < on < 4
        assert marks(tab, chart, "mark-symbol") == [0, 4 - on, on]


def test_the_cost_of_every_target_is_drawn_by_the_chosen_cost_and_whose_is_least(browser, written, compared):
    with opened(browser, written) as tab:
        reveal(tab, "targets")
        tab.select_option("#sweep-choice", "flop")
        tab.wait_for_selector("#sweep-chart[data-drawn='flop log']")
        assert marks(tab, "#sweep-chart", "mark-line") == [1, 1, 1, 1]
        assert sum(marks(tab, "#sweep-chart", "mark-rect")) == len(compared.sweep["winners"]["flop"])
        tab.locator("#targets [data-scale=linear]").click()
        tab.wait_for_selector("#sweep-chart[data-drawn='flop linear']")
        tab.wait_for_selector("#main-chart[data-drawn='energy_j linear']")
        (x, y), who = (
            tab.evaluate(WIDEST),
            max(compared.sweep["winners"]["flop"], key=lambda one: one["upto"] - (one["after"] or one["first"]))[
                "labels"
            ],
        )
        tab.mouse.move(x, y)
        text = tab.wait_for_selector("#vg-tooltip-element.visible", timeout=120_000).inner_text()
        assert " and ".join(who) in text


def caption(compared, basis):
    return f"Ranks by {ranking_bases(compared)[basis]}, 1 is the least; – without one."


def test_ranks_and_their_table_are_by_the_amount_at_the_end_or_by_the_cost_of_a_target(browser, written, compared):
    with opened(browser, written) as tab:
        reveal(tab, "ranks")
        tab.locator("#bump-chart").scroll_into_view_if_needed()
        tab.wait_for_selector("#bump-chart[data-drawn=end]")
        at_end = tab.inner_html("#bump-chart .mark-symbol")
        assert tab.locator("[data-basis-of=bump-choice]:not([hidden]) caption").text_content() == caption(
            compared, "end"
        )
        tab.select_option("#bump-choice", "1")
        tab.wait_for_selector("#bump-chart[data-drawn='1']")
        assert tab.locator("[data-basis-of=bump-choice]:not([hidden]) caption").text_content() == caption(compared, "1")
        assert tab.inner_html("#bump-chart .mark-symbol") != at_end


def test_runs_are_hidden_and_shown_in_every_chart_at_once(browser, written):
    with opened(browser, written) as tab:
        reveal(tab, "ranks")
        tab.locator("#bump-chart").scroll_into_view_if_needed()
        tab.wait_for_selector("#bump-chart[data-drawn=end]")
        tab.click("[data-runs=none]")
        tab.wait_for_function("() => document.querySelectorAll('#main-chart .mark-line path').length === 0")
        tab.wait_for_function("() => document.querySelectorAll('#bump-chart .mark-symbol path').length === 0")
        tab.click("[data-run='2']")
        tab.wait_for_function("() => document.querySelectorAll('#main-chart .mark-line path').length === 1")
        tab.click("[data-runs=all]")
        tab.wait_for_function("() => document.querySelectorAll('#main-chart .mark-line path').length === 4")
        assert tab.locator("[data-run][aria-pressed=false]").count() == 0


def column(tab, number):
    """Values to sort by, in the order that the rows are in."""
    texts = tab.evaluate(
        f"[...document.querySelectorAll('#runs tbody tr')].map((row) => row.cells[{number}].dataset.value)"
    )
    return [float(text) if text else None for text in texts]


def test_the_table_of_runs_is_sorted_by_any_heading_what_is_missing_last(browser, tmp_path):
    runs = whole(5)
    absent = [name for name in runs[2].header["indicators"] if name in runs[2].points.columns and name != "total_s"]
    runs[2] = type(runs[2])(
        header=runs[2].header,
        points=runs[2].points.with_columns(polars.lit(None, polars.Float64).alias(name) for name in absent),
    )
    cmp = compare(runs)
    costs = [cost["column"] for cost in differing_costs(cmp)]
    names = ["label", "quality", *(one.name for one in run_columns(cmp, costs))]
    with opened(browser, cmp.to_html(tmp_path / "page.html")) as tab:
        qualities = column(tab, 1)
        assert qualities == sorted(qualities, reverse=True)
        at = names.index("energy_j")
        button = tab.locator("#runs thead th").nth(at).locator("button")
        button.click()
        up = column(tab, at)
        assert up[-1] is None
        assert up[:-1] == sorted(up[:-1])
        assert tab.locator("#runs th[aria-sort=ascending]").count() == 1
        button.press("Enter")
        down = column(tab, at)
        assert down == [*reversed(up[:-1]), None]
        tab.locator("#runs thead th").first.locator("button").click()
        labels = tab.locator("#runs tbody th").all_inner_texts()
        assert [text.strip() for text in labels] == sorted((run["label"] for run in cmp.runs), key=str.casefold)


def test_the_table_of_runs_is_searched_by_name_and_taken_along_as_csv(browser, tmp_path):
    cmp = compare(zoo(12, 4))
    with opened(browser, cmp.to_html(tmp_path / "page.html")) as tab:
        tab.fill("#runs-search", "SAM")
        assert tab.locator("#runs tbody tr:not([hidden])").count() == 2
        assert tab.inner_text("#runs-say") == "2 of 12 runs"
        with tab.expect_download() as waiting:
            tab.click("#runs-csv")
        assert waiting.value.suggested_filename == "runs.csv"
        text = waiting.value.path().read_text(encoding="utf-8-sig")
    assert text == runs_csv(cmp)
    table = list(csv.DictReader(io.StringIO(text)))
    assert [row["run"] for row in table] == cmp.labels
    assert [float(row["energy_j"]) for row in table] == [run["final"]["energy_j"] for run in cmp.runs]


#: What a screen reader would find without a name.
UNNAMED = """() => [...document.querySelectorAll('input, select, [role=region], [role=group], .chart[data-drawn]')]
    .filter((one) => !(one.ariaLabel || one.labels?.length)).map((one) => one.outerHTML.slice(0, 90))"""


def test_the_page_is_used_by_keyboard(browser, written):
    with opened(browser, written) as tab:
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.textContent") == "Skip to the figures"
        assert tab.locator(".skip").bounding_box()["x"] >= 0  # it shows itself
        for selector in ("[data-run='0']", "#x-choice", "[data-scale=linear]", "summary", ".scroll", "#runs-csv"):
            tab.locator(selector).first.focus()
            tab.keyboard.press("Shift")  # from here on by keyboard
            assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", selector
        tab.locator("[data-run='0']").focus()
        tab.keyboard.press("Space")
        tab.wait_for_function("() => document.querySelectorAll('#main-chart .mark-line path').length === 3")
        assert tab.evaluate(UNNAMED) == []


def luminance(color):
    channels = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """WCAG 2's contrast of two colors."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_are_legible_and_lines_are_seen_by_day_and_by_night(browser, written, scheme):
    with opened(browser, written, color_scheme=scheme) as tab:
        style = "(selector) => getComputedStyle(document.querySelector(selector))"
        ground = tab.evaluate(f"({style})('section').backgroundColor")
        assert (luminance(ground) > 0.5) == (scheme == "light")
        for selector in ("h2", ".hint", "td", "td.missing", "code", "summary", "tbody th"):
            assert contrast(tab.evaluate(f"({style})('main {selector}').color"), ground) >= 4.5, selector
        for selector in (".role-axis-label text", ".role-axis-title text"):
            assert contrast(tab.evaluate(f"({style})('#main-chart {selector}').fill"), ground) >= 4.5, selector
        strokes = tab.evaluate(
            "[...document.querySelectorAll('#main-chart .mark-line path')].map((one) => getComputedStyle(one).stroke)"
        )
        assert all(contrast(stroke, ground) >= 2.5 for stroke in strokes)


def test_on_paper_controls_are_gone_and_the_charts_are_there(browser, written):
    with opened(browser, written) as tab:
        tab.wait_for_function(DRAWN, timeout=240_000)  # also those far below, while nobody scrolled
        tab.emulate_media(media="print")
        assert tab.locator(".controls").first.is_hidden()
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert tab.locator("#main-chart svg").is_visible()
        assert tab.evaluate(
            "[...document.querySelectorAll('.scroll')].every((one) => getComputedStyle(one).overflowX === 'visible')"
        )
        assert len(tab.pdf(format="A4")) > 50_000


def test_hostile_names_stay_texts_in_every_section(browser, tmp_path):
    name = f"=cmd|' /C calc'!A0 ../../etc/passwd {HOSTILE}"
    runs = whole(3)
    for number, run in enumerate(runs):
        run.header["name"] = f"{name}{number}"
        run.header["setup"][HOSTILE] = number
    with opened(browser, compare(runs, group="name").to_html(tmp_path / "page.html"), width=390) as tab:
        unfold(tab)
        assert tab.locator("img").count() == 0
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
def test_of_very_many_runs_some_are_drawn_and_all_are_there(browser, tmp_path):
    runs = [
        make_run(
            f"run {i}",
            quality=[0.5, 0.5 + i / 1000],
            costs={"energy_j": [1.0, 2.0 + i % 37], "train_s": [1.0, 3.0 + i % 11]},
        )
        for i in range(60)
    ]
    cmp = compare(runs)
    with opened(browser, cmp.to_html(tmp_path / "page.html")) as tab:
        assert len(lines(tab)) == 24
        assert "24 of 60 runs are drawn" in tab.inner_text(".thinned")
        assert tab.locator("#runs tbody tr").count() == 60
        chart = "#cost-energy_j [data-plot=front]"
        tab.locator(chart).scroll_into_view_if_needed()
        tab.wait_for_selector(f"{chart}[data-drawn]")
        others, off, on = marks(tab, chart, "mark-symbol")
        assert (others, off + on) == (36, 24)
