"""The reader's tariff, in a real browser: what the page says under it is what a comparison under it says."""

from __future__ import annotations

import pytest
from pages import opened
from synthetic import make_run, zoo

from lightning_costs.compare import compare
from lightning_costs.core.tariff import Tariff
from lightning_costs.core.units import human
from lightning_costs.report.tables import (
    final_blocks,
    flip_lines,
    front_lines,
    ordered_names,
    rank_matrix,
    target_tables,
)
from lightning_costs.report.words import summary

pytestmark = pytest.mark.browser
TARIFF = Tariff(gco2e_per_kwh=417.5, pue=1.31, usd_per_device_h=0.93, usd_per_kwh=0.27)
PRICED = ("co2e_g", "cloud_usd", "electricity_usd")


def differing(count=4):
    """Runs whose recorded tariffs contradict each other: by carbon and money they are ordered otherwise than by use."""
    runs, grams = zoo(count, 12), (5.0, 900.0, 2000.0, 700.0)
    for index, run in enumerate(runs):
        run.header["tariff"] = {"gco2e_per_kwh": grams[index], "usd_per_device_h": 1.0 + index}
        columns = {"co2e_g": run.points["energy_j"] / 3.6e6 * grams[index],
                   "cloud_usd": run.points["device_s"] / 3600 * (1.0 + index)}  # fmt: skip
        object.__setattr__(run, "points", run.points.with_columns(**columns))
    return runs


def enter(tab, **rates):
    for name, value in rates.items():
        tab.fill(f"[data-rate={name}]", str(value))
    tab.wait_for_timeout(300)


def rows(tab, table):
    """Name to the row's cells in text, without the star, and where the star is; rows that are not shown are absent."""
    return tab.evaluate(
        """(selector) => Object.fromEntries([...document.querySelectorAll(selector + " tr[data-line]")]
            .filter((row) => !row.hidden)
            .map((row) => [row.dataset.line, [...row.cells].filter((cell) => !cell.hidden).slice(1)
                .map((cell) => [cell.textContent.replace("★", ""), cell.textContent.includes("★"), cell.title])]))""",
        table,
    )


def expected_rows(lines):
    return {line.name: [[cell.text, cell.best] for cell in line.cells] for line in lines if line.name in PRICED}


def assert_as_compared(tab, cmp):
    """Tables, fronts, ranks, flips and sentences are those of a comparison under the tariff."""
    for index, target in enumerate(target_tables(cmp)):
        shown = rows(tab, f"[data-target='{index}']")
        for name, cells in expected_rows(target.lines).items():
            assert [cell[:2] for cell in shown[name]] == cells, name
            (line,) = (line for line in target.lines if line.name == name)
            assert [cell[2] for cell in shown[name]] == [cell.note for cell in line.cells]
    shown = rows(tab, ".finals")
    for name, cells in expected_rows([line for block in final_blocks(cmp) for line in block.lines]).items():
        assert [cell[0] for cell in shown[name][:-1]] == [text for text, _ in cells]
        assert shown[name][-1][0].startswith("reader's tariff: ")
    shown = rows(tab, ".fronts")
    for line in front_lines(cmp):
        assert [cell[0] == "●" for cell in shown[line.name]] == [cell.best for cell in line.cells], line.name
    headline = ordered_names(cmp, headline=True, role="indicator")
    (matrix,) = tab.evaluate("""[...document.querySelectorAll("table.matrix")].slice(0, 1).map((table) => {
        const lines = [...table.tBodies[0].rows].filter((row) => !row.hidden);
        return lines.map((row) => [row.dataset.line, [...row.cells].slice(2).filter((cell) => !cell.hidden)
            .map((cell) => cell.textContent)]);
    })""")
    lines = rank_matrix(cmp, headline)
    names = [line.name for line in lines]
    wanted = {line.name: dict(zip(names, (cell.text for cell in line.cells), strict=True)) for line in lines}
    order = [name for name, _ in matrix]
    assert {name: dict(zip(order, texts, strict=True)) for name, texts in matrix} == wanted
    flips = [item.replace("\n", "") for item in tab.locator("#flips li").all_text_contents()]
    lines = flip_lines(cmp, headline)
    assert sorted(" and ".join(sorted(item.split(" disagree")[0].split(" and "))) for item in flips) == sorted(
        " and ".join(sorted((line.first, line.second))) for line in lines
    )
    assert sorted(item.split(" disagree on ")[1].split(":")[0] for item in flips) == sorted(
        f"{line.discordant} of {line.pairs}" for line in lines
    )
    assert tab.locator("#lead p").all_inner_texts() == summary(cmp)


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    def page_of(runs, **options):
        return compare(runs, **options).to_html(tmp_path_factory.mktemp("page") / "page.html")

    return page_of


def test_under_the_readers_tariff_the_page_says_what_a_comparison_under_it_says(browser, page_of):
    runs = differing()
    with opened(browser, page_of(runs)) as tab:
        enter(tab, gco2e_per_kwh=417.5, pue=1.31, usd_per_device_h=0.93, usd_per_kwh=0.27)
        said = " ".join(tab.inner_text("#reader-banner").split())
        assert said.startswith(
            "Reader's tariff 417.5 g CO2e/kWh · PUE 1.31 · 0.93 USD per device and hour · 0.27 USD/kWh"
        )
        assert_as_compared(tab, compare(runs, tariff=TARIFF))
    assert summary(compare(runs, tariff=TARIFF)) != summary(compare(runs))  # what was recorded led elsewhere
    assert compare(runs, tariff=TARIFF).fronts["co2e_g"] != compare(runs).fronts["co2e_g"]


def test_runs_that_nobody_priced_are_priced_by_the_reader(browser, page_of):
    runs = []
    for run in zoo(3, 8):
        run.header["tariff"] = {}
        nothing = dict.fromkeys(("co2e_g", "cloud_usd"), [None] * run.points.height)
        object.__setattr__(run, "points", run.points.with_columns(**{n: run.points[n] * float("nan") for n in nothing}))
        object.__setattr__(run, "points", run.points.fill_nan(None))
        runs.append(run)
    with opened(browser, page_of(runs)) as tab:
        assert tab.locator("option[value=co2e_g]").get_attribute("disabled") is not None
        assert "co2e_g" not in rows(tab, ".fronts")
        enter(tab, gco2e_per_kwh=417.5, pue=1.31, usd_per_device_h=0.93, usd_per_kwh=0.27)
        assert_as_compared(tab, compare(runs, tariff=TARIFF))
        tab.select_option("#x-choice", "cloud_usd")
        tab.wait_for_selector("#main-chart.reader[data-drawn='cloud_usd log']")
        assert tab.locator("#main-chart .mark-line path").count() == 3
        tab.click("#reader [data-reset]")
        tab.wait_for_function("!document.querySelector('#main-chart').dataset.drawn.startsWith('cloud')")
        assert "co2e_g" not in rows(tab, ".fronts")
        assert tab.locator("#reader-banner").is_hidden()


def test_reset_brings_the_page_back_as_it_was(browser, page_of):
    with opened(browser, page_of(differing())) as tab:
        tab.wait_for_timeout(300)
        text = "document.querySelector('main').innerText"
        tables = """[...document.querySelectorAll("table")].map((t) => t.outerHTML.replaceAll(' class=""', ""))"""
        before, tables_before = tab.evaluate(text), tab.evaluate(tables)
        lead = tab.inner_text("#lead")
        enter(tab, gco2e_per_kwh=1.0, usd_per_device_h=77)
        assert tab.evaluate(text) != before
        tab.click("#reader-banner [data-reset]")
        tab.wait_for_timeout(300)
        assert tab.evaluate(tables) == tables_before
        assert tab.inner_text("#lead") == lead


def test_the_controls_hold_what_all_runs_are_under_and_are_empty_where_they_differ(browser, page_of):
    with opened(browser, page_of(zoo(3, 6))) as tab:  # all under one tariff
        assert tab.input_value("[data-rate=gco2e_per_kwh]") == "56.0"
        assert tab.input_value("[data-rate=usd_per_device_h]") == "2.5"
        assert tab.input_value("[data-rate=pue]") == ""
        enter(tab, pue=1.5)  # of what is known: carbon alone
        assert tab.evaluate("document.body.dataset.reader") == "co2e_g"
    with opened(browser, page_of(differing())) as tab:
        assert tab.input_value("[data-rate=gco2e_per_kwh]") == ""
        enter(tab, pue=1.5)
        assert "because a rate is left empty: co2e g" in tab.inner_text("#reader-says")
        assert tab.evaluate("document.body.dataset.reader") == ""


def test_what_no_tariff_can_be_prices_nothing_and_is_said(browser, page_of):
    with opened(browser, page_of(zoo(2, 4))) as tab:
        for rate, value in (("pue", 0.9), ("usd_per_device_h", 0), ("usd_per_kwh", -1), ("gco2e_per_kwh", -5)):
            enter(tab, **{rate: value})
            assert "nothing is priced anew" in tab.inner_text("#reader-says")
            assert tab.evaluate("document.body.dataset.reader") == ""
            tab.click("#reader [data-reset]")
            assert tab.inner_text("#reader-says") == ""


def test_charts_are_redrawn_with_the_new_amounts_and_say_whose_they_are(browser, page_of):
    with opened(browser, page_of(zoo(3, 8))) as tab:
        tab.select_option("#x-choice", "co2e_g")
        tab.wait_for_selector("#main-chart[data-drawn='co2e_g log']")
        before = tab.text_content("#main-chart svg")
        enter(tab, gco2e_per_kwh=5.6e6)
        tab.wait_for_function("document.querySelector('#main-chart').getAttribute('aria-label').includes('tariff')")
        after = tab.text_content("#main-chart svg")
        assert before != after
        assert "(Mg)" in after
        assert "reader" in tab.locator("figure[data-line=co2e_g]").first.get_attribute("class")
        assert "reader" not in (tab.locator("figure[data-line=energy_j]").first.get_attribute("class") or "")


def test_one_run_without_targets_or_fronts_is_priced_too(browser, page_of):
    run = make_run(quality=[0.5, 0.6], costs={"energy_j": [3.6e6, 7.2e6], "device_s": [3600.0, 7200.0]})
    with opened(browser, page_of([run])) as tab:
        enter(tab, gco2e_per_kwh=50, usd_per_device_h=2)
        shown = rows(tab, ".finals")
        assert shown["co2e_g"][0][0] == human(100.0, "g")
        assert shown["cloud_usd"][0][0] == human(4.0, "usd")


def test_a_page_without_energy_and_device_time_has_no_controls(browser, page_of):
    with opened(browser, page_of([make_run(costs={"train_s": [1.0, 2.0]})])) as tab:
        assert tab.locator("#reader").count() == 0


@pytest.mark.parametrize("unit", ["g", "usd"])
def test_the_script_writes_amounts_as_the_tables_of_the_package_do(browser, page_of, unit):
    amounts = [0.0, 1e-9, 3.2e-5, 0.00042, 0.0421, 0.5, 0.9996, 1.0, 1.005, 9.994, 9.996, 12.345, 99.96, 100.0, 123.4,
               999.4, 999.6, 1000.0, 1234.5, 12345.0, 99999.0, 123456.7, 999999.0, 1.5e6, 2.345e9]  # fmt: skip
    base, scale = ("energy_j", 3.6e6) if unit == "g" else ("device_s", 3600)
    rate = {"gco2e_per_kwh" if unit == "g" else "usd_per_device_h": 1.0}
    runs = [make_run(f"{i}", quality=[0.5], costs={base: [x * scale]}) for i, x in enumerate(amounts)]
    column = "co2e_g" if unit == "g" else "cloud_usd"
    with opened(browser, page_of(runs)) as tab:
        enter(tab, **rate)
        shown = tab.locator(f"#runs td[data-column={column}]").all_text_contents()
        wanted = compare(runs, tariff=Tariff(**rate))
        assert shown == [human(run["final"][column], unit) for run in wanted.runs]


def test_the_page_with_controls_fits_a_phone(browser, page_of):
    with opened(browser, page_of(zoo(3, 6)), width=390) as tab:
        enter(tab, gco2e_per_kwh=1, usd_per_device_h=7)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
