"""The page's answer in a real browser: on the first screen of a desktop and of a phone, on paper, for every reader."""

from __future__ import annotations

import pytest
from pages import HOSTILE
from synthetic import make_run, zoo

from lightning_costs import compare

pytestmark = pytest.mark.browser

#: The box of what is shown of the answer, on the page.
ANSWER = """() => [...document.querySelectorAll('#answer .lead p, #answer .picture svg')]
    .map((one) => one.getBoundingClientRect()).filter((box) => box.width)
    .map((box) => [box.left, box.top, box.right, box.bottom])"""
UNDRAWN = """() => [...document.querySelectorAll('.chart[data-plot]')]
    .filter((one) => !one.querySelector('svg')).map((one) => one.outerHTML.slice(0, 120))"""


def seeds(methods=("adam", "sam", "sgd"), count=5):
    """Methods that differ in cost and, less, in quality, several seeds each; names say which seed."""
    return [
        make_run(
            f"{method}-seed{seed}",
            quality=[0.3 + 0.01 * seed, 0.6 + 0.01 * seed, 0.8 + 0.01 * at + 0.004 * seed],
            costs={
                "energy_j": [step * (at + 1) * (1 + 0.02 * seed) for step in (10.0, 20.0, 30.0)],
                "total_s": [step * (3 - at) * (1 + 0.03 * seed) for step in (5.0, 10.0, 15.0)],
            },
        )
        for at, method in enumerate(methods)
        for seed in range(count)
    ]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    many = [
        make_run(
            f"run {i}",
            quality=[0.5, 0.5 + i / 1000],
            costs={"energy_j": [1.0, 2.0 + i % 37], "total_s": [1.0, 3.0 + i % 11]},
        )
        for i in range(60)
    ]
    grouped = compare(seeds(), group=r"name~(.+)-seed\d", targets=[0.8])
    return {
        "few": compare(zoo(4, 20), group="none").to_html(folder / "few.html"),
        "seeds": grouped.to_html(folder / "seeds.html"),
        "many": compare(many).to_html(folder / "many.html"),
    }


def shown(browser, path, width=1440, height=900, **options):
    tab = browser.new_page(viewport={"width": width, "height": height}, **options)
    tab.goto(path.as_uri())
    return tab


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
@pytest.mark.parametrize("name", ["few", "seeds", "many"])
def test_the_figure_and_its_sentences_are_on_the_first_screen(browser, pages, name, width, height):
    tab = shown(browser, pages[name], width, height)
    boxes = tab.evaluate(ANSWER)
    assert 2 <= len(boxes) <= 4  # one figure and at most three sentences
    assert all(bottom <= height for *_, bottom in boxes)
    assert all(left >= 0 and right <= width for left, _, right, _ in boxes)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


def test_a_page_of_four_runs_is_a_few_screens_long(browser, pages):
    for width, most in ((1440, 9000), (390, 18000)):
        tab = shown(browser, pages["few"], width)
        assert tab.evaluate("document.documentElement.scrollHeight") < most
        tab.close()


def test_no_text_needs_a_pointer_and_every_table_has_a_caption(browser, pages):
    tab = shown(browser, pages["seeds"])
    assert tab.locator("main [title]").count() == 0
    assert tab.locator("main table").count() > 5
    assert tab.evaluate("[...document.querySelectorAll('main table')].every((one) => one.caption?.textContent)")
    tab.close()


def test_the_reason_of_a_missing_column_is_said_once(browser, pages):
    tab = shown(browser, pages["few"])
    text = tab.evaluate("document.querySelector('main').textContent")
    reason = "length_fn=lambda batch"
    assert text.count(reason) == 1
    tab.locator("#missing > summary").focus()
    tab.keyboard.press("Enter")
    assert tab.get_by_text(reason).is_visible()
    tab.close()


@pytest.mark.parametrize("name", ["few", "seeds"])
def test_a_page_that_nobody_scrolled_prints_all_of_its_charts(browser, pages, name):
    tab = shown(browser, pages[name])
    assert len(tab.pdf(format="A4")) > 50_000
    assert tab.evaluate(UNDRAWN) == []
    assert tab.locator("details.drawer[open]").count() == 0  # as it was before
    tab.close()


def test_points_are_named_by_run_for_a_screen_reader(browser, pages):
    tab = shown(browser, pages["few"])
    tab.wait_for_selector("#cost-energy_j [data-plot=quality][data-drawn]", timeout=240_000)
    labels = tab.evaluate(
        "[...document.querySelectorAll('#cost-energy_j .chart [aria-label]:is(path)')].map((one) => one.ariaLabel)"
    )
    runs = set(compare(zoo(4, 20), group="none").labels)
    assert labels
    assert all(any(label.startswith(run) for run in runs) for label in labels)
    tab.close()


def test_seeds_share_the_color_of_their_group_under_its_median_and_band(browser, pages):
    tab = shown(browser, pages["seeds"])
    tab.wait_for_selector("#cost-energy_j [data-plot=quality][data-drawn]", timeout=240_000)
    chart = "#cost-energy_j [data-plot=quality]"
    colors = tab.evaluate(
        f"[...document.querySelectorAll('{chart} .mark-line path')].map((one) => one.getAttribute('stroke'))"
    )
    assert len(colors) == 3 + 15  # a line a group, and its seeds
    assert len(set(colors)) == 3 == tab.locator("[data-run]").count()
    assert tab.locator(f"{chart} .mark-area path").count() == 3
    tab.click("[data-run='0']")
    tab.wait_for_function(f"document.querySelectorAll('{chart} .mark-line path').length === 12")
    tab.close()


def test_texts_of_charts_are_legible_and_what_is_touched_is_large_enough(browser, pages):
    tab = shown(browser, pages["few"], 390, 844, has_touch=True)
    tab.evaluate("document.querySelectorAll('details.drawer').forEach((one) => { one.open = true; })")
    tab.wait_for_function(
        """() => [...document.querySelectorAll(".chart[data-plot]")]
            .every((one) => !one.clientWidth || one.dataset.drawn)""",
        timeout=240_000,
    )
    sizes = tab.evaluate(
        """[...document.querySelectorAll('main .chart svg text')]
            .map((one) => parseFloat(getComputedStyle(one).fontSize))"""
    )
    assert min(sizes) >= 12
    low = tab.evaluate(
        """[...document.querySelectorAll('main button, main select, main summary, main input')]
            .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 24
                && getComputedStyle(one).display !== 'inline')
            .map((one) => one.outerHTML.slice(0, 90))"""
    )
    assert low == []
    tab.close()


def test_a_hostile_name_is_a_text_of_the_figure_and_nothing_else(browser, tmp_path):
    runs = [
        make_run(f"{HOSTILE}{i}", monitor=HOSTILE, quality=[0.5, 0.6 + i / 10], costs={"energy_j": [1.0, 2.0 + i]})
        for i in range(3)
    ]
    tab = shown(browser, compare(runs).to_html(tmp_path / "page.html"), 390, 844)
    assert tab.locator("#answer svg text", has_text="img src").count() > 0
    assert tab.locator("img").count() == 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.close()
