"""The HTML page in a browser: opened, read and pointed at."""

from __future__ import annotations

from contextlib import contextmanager

HOSTILE = "a['b'].c\"]\\</script><img src=x onerror=alert(1)>\n'" + "long " * 60 + "🔥"


@contextmanager
def opened(browser, path, width=1280, **options):
    """The page with its chart of any cost against any other; its complaints and requests are checked as it closes."""
    complaints, requests = [], []
    tab = browser.new_page(viewport={"width": width, "height": options.pop("height", 900)}, **options)
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: (complaints.append("a dialog opened"), dialog.dismiss()))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(path.as_uri())
    try:
        tab.evaluate("document.getElementById('explore').open = true")
        tab.locator("#main-chart").scroll_into_view_if_needed()
        tab.wait_for_selector("#main-chart[data-drawn]", timeout=240_000)
        yield tab
        assert complaints == []
        assert requests == [path.as_uri()]
    finally:
        tab.close()


def lines(tab):
    """Outlines of the runs' lines in the main chart."""
    paths = tab.locator("#main-chart .mark-line path")
    return [paths.nth(index).get_attribute("d") for index in range(paths.count())]


def hovered(tab):
    """What the tooltip says in the middle of the main chart."""
    tab.locator("#main-chart").scroll_into_view_if_needed()
    box = tab.locator("#main-chart svg").bounding_box()
    for shift in (0, 3):
        tab.mouse.move(box["x"] + box["width"] / 2 + shift, box["y"] + box["height"] / 2)
    return tab.wait_for_selector("#vg-tooltip-element.visible", timeout=120_000).inner_text()
