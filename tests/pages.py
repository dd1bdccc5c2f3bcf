"""The HTML page in a browser: opened, read and pointed at."""

from __future__ import annotations

from contextlib import contextmanager

from synthetic import declaration, zoo

HOSTILE = "a['b'].c\"]\\</script><img src=x onerror=alert(1)>\n'" + "long " * 60 + "🔥"

BYTES = ("param_bytes", "grad_bytes", "opt_state_bytes", "activation_bytes")
SECONDS = ("evaluate_s", "setup_s", "step_p50_s", "step_p95_s", "step_max_s", "idle_s", "idle_data_s")


def whole(count=4, points=16):
    """A zoo whose runs also say what their time, memory and energy are made of."""
    extra = {name: declaration(name, "bytes", "gauge", "memory") for name in BYTES}
    extra |= {name: declaration(name, "s", "gauge" if "step" in name else "counter", "time") for name in SECONDS}
    extra |= {name: declaration(name, "j", "counter", "energy") for name in ("gpu_energy_j", "cpu_energy_j")}
    found = []
    for number, run in enumerate(zoo(count, points)):
        run.header["indicators"].update(extra)
        total, energy = run.points["total_s"], run.points["energy_j"]
        columns = {name: total * 0 + (index + 1) * 1e9 * (number + 1) for index, name in enumerate(BYTES)}
        columns |= {
            "evaluate_s": total * 0.05,
            "setup_s": total * 0 + 41.0,
            "idle_s": total * 0.1,
            "idle_data_s": total * 0.04,
        }
        columns |= {"step_p50_s": total * 0 + 0.1, "step_p95_s": total * 0 + 0.12, "step_max_s": total * 0 + 0.5}
        columns |= {"gpu_energy_j": energy * 0.7, "cpu_energy_j": energy * 0.3}
        found.append(type(run)(header=run.header, points=run.points.with_columns(**columns)))
    return found


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
