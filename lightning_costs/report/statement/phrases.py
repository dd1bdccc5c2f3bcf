"""Parts of sentences that a statement says in several places."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_costs.core.certainty import noted
from lightning_costs.report.statement.amounts import device_time, told
from lightning_costs.report.statement.facts import COMPONENTS, TOTALS, Figure, Hardware, Statement

_WAYS = {
    "counter": "measured by hardware counters",
    "power": "measured as power and integrated over time",
    "model": "estimated by a model",
    "constant": "estimated from a constant power",
    "none": "none by definition",
}


_UNKNOWN_WAY = "in a way that was not recorded"


def components_told(said: Statement) -> str:
    """GPU, CPU and RAM energy, each with how it was got; those that are zero by definition left out."""
    parts = []
    for part, label in COMPONENTS.items():
        figure = said.totals[f"{part}_energy_j"]
        ways = said.components[part]
        if figure.amount is None or (figure.amount == 0 and set(ways) == {"none"} and not figure.unknown):
            continue
        words = {
            way: _WAYS.get(way, "by a way that was not recorded") for way in ways if way != "none" or len(ways) == 1
        }
        how = (
            next(iter(words.values()))
            if len(words) == 1
            else listed([f"{text} in {counted(ways[way], 'run')}" for way, text in words.items()])
        )
        error_j = said.errors_j[part]
        bound = f", its reading off by {told(error_j, 'j')} at most" if error_j else ""
        parts.append(f"{label} {sum_told(said, f'{part}_energy_j')} ({how}{bound})")
    return listed(parts)


def grids_told(said: Statement) -> list[str]:
    """Carbon intensities with their sources."""
    several = len(said.grids) > 1
    return [
        f"{grid.gco2e_per_kwh:g} g/kWh ({grid.source})" + (f" in {counted(runs, 'run')}" if several else "")
        for grid, runs in said.grids.items()
    ]


def pue_told(said: Statement) -> str:
    """The PUE, or that none was given."""
    if not said.pues or set(said.pues) == {None}:
        return "no PUE was given, so that carbon and electricity are those of the IT energy alone"
    if len(said.pues) == 1:
        return f"PUE {next(iter(said.pues)):g}, as given, is in carbon and electricity"
    parts = [
        f"{'none' if pue is None else format(pue, 'g')} in {counted(runs, 'run')}" for pue, runs in said.pues.items()
    ]
    return f"PUE in carbon and electricity, as given: {listed(parts)}"


def on_nodes(said: Statement) -> bool:
    """Whether CPUs train in every run: devices are nodes then."""
    return all(hardware.cpu for hardware in said.hardware)


def devices_told(hardware: Hardware) -> str:
    """How many of which device on how many nodes, attempt by attempt where that changed."""
    name = hardware.device or "hardware that was not recorded"
    counts = ", then ".join(str(count) for count in hardware.devices)
    nodes = ", then ".join(str(count) for count in hardware.nodes)
    if hardware.cpu:
        return f"{counts or 1} node{'s' if hardware.devices not in ((), (1,)) else ''} with CPU {name}"
    where = f" ({nodes} node{'s' if hardware.nodes != (1,) else ''})" if nodes else ""
    return f"{counts} × {name}{where}" if counts else f"{name}{where}"


def span(figure: Figure, unit: str) -> str:
    """Smallest and largest amount of a run; one where they read alike."""
    assert figure.least is not None
    assert figure.most is not None
    low, high = told(figure.least, unit), told(figure.most, unit)
    return low if low == high else f"{low} to {high}"


def at_least(figure: Figure) -> str:
    """Two words before a sum that some run does not add to."""
    return "at least " if figure.unknown and figure.amount is not None else ""


def sum_told(said: Statement, name: str, figure: Figure | None = None) -> str:
    """A column's sum over runs, with 'at least' where some do not know it; by default over all of them."""
    figure = figure or said.totals[name]
    assert figure.amount is not None
    if name == "device_s":
        return at_least(figure) + device_time(figure.amount, node=on_nodes(said))
    text = told(figure.amount, TOTALS[name][1])
    return at_least(figure) + noted(text, figure.amount, figure.certainty, figure.error)


def out_of(figure: Figure) -> str:
    """Words behind such a sum."""
    return f" (known in {figure.runs - figure.unknown} of {figure.runs} runs)" if figure.unknown else ""


def statuses_told(said: Statement) -> str:
    """How many runs ended how."""
    if len(said.statuses) == 1 and len(said.runs) > 1:
        return f"all {next(iter(said.statuses))}"
    return listed([f"{count} {status}" for status, count in said.statuses.items()])


def counted(count: int, what: str) -> str:
    """A number and what it counts."""
    return f"{count} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"


def capital(text: str) -> str:
    """A text that begins a sentence."""
    return text[:1].upper() + text[1:]


def listed(words: Sequence[str], *, mark: str = ",") -> str:
    """Words as a list in a sentence."""
    return " and ".join(filter(None, (f"{mark} ".join(words[:-1]), *words[-1:])))
