"""A statement in tables and single lines: plain text, which each format escapes in its own way."""

from __future__ import annotations

from typing import NamedTuple

from lightning_costs.core.versions import version_of
from lightning_costs.report.scale import display
from lightning_costs.report.statement.amounts import exact, three
from lightning_costs.report.statement.facts import INFERENCE, TOTALS, Figure, Statement
from lightning_costs.report.statement.phrases import (
    components_told,
    counted,
    devices_told,
    grids_told,
    pue_told,
    span,
    statuses_told,
    sum_told,
)
from lightning_costs.report.tables import quality_text

#: Columns of the table of runs: what stands over them, and their unit.
_PER_RUN = ("total_s", "device_s", "energy_j", "co2e_g", "cloud_usd", "electricity_usd", "flop")


class Table(NamedTuple):
    """A table of plain texts; `weights` says how wide columns are beside each other, those of prose 2 or more."""

    caption: str
    heads: list[str]
    rows: list[list[str]]
    weights: tuple[float, ...]


def written_by() -> str:
    """Who wrote a statement."""
    return f"lightning-costs {version_of('lightning-costs')}"


def totals_table(said: Statement) -> Table:
    """Every total for people and to ten digits, with how it was got or why it is missing."""
    rows = []
    restarted = any(run.attempts > 1 for run in said.runs)
    for name, (label, _) in TOTALS.items():
        figure = said.totals[name]
        if figure.amount is None or (name.startswith("lost_") and not restarted):
            continue
        rows.append([label, sum_told(said, name), f"{name} = {exact(figure.amount)}", _how(figure)])
    for name, (label, unit) in INFERENCE.items():
        figure = said.inference[name]
        if figure.least is not None and figure.most is not None:
            bounds = dict.fromkeys((figure.least, figure.most))
            exactly = " to ".join(exact(amount) for amount in bounds)
            rows.append([label, span(figure, unit), f"{name} = {exactly}", _how(figure)])
    over = "the run" if len(said.runs) == 1 else f"the {len(said.runs)} runs"
    return Table(
        f"Costs of {over}: for reading, and exactly, in the unit that the column's name ends in.",
        ["cost", "amount", "exactly", "how it was got"],
        rows,
        (2, 1.5, 2.5, 4),
    )


def runs_table(said: Statement) -> Table | None:
    """A row per run in units that all rows share; None for a single run, whose totals say the same."""
    if len(said.runs) == 1 and said.metric is None:
        return None
    mixed = len(said.hardware) > 1
    alone = all(run.amounts["device_s"] == run.amounts["total_s"] for run in said.runs)
    names = [name for name in _PER_RUN if said.totals[name].amount is not None and not (alone and name == "device_s")]
    units = {name: display(TOTALS[name][1], max(abs(run.amounts[name] or 0.0) for run in said.runs)) for name in names}
    heads = ["run", "status", *(["hardware"] if mixed else [])]
    heads += [f"{TOTALS[name][0]} ({units[name].suffix})" for name in names]
    heads += [f"best {said.metric.monitor}"] if said.metric is not None else []
    rows = []
    for run in said.runs:
        row = [run.label, run.status + (f", {run.attempts} attempts" if run.attempts > 1 else "")]
        row += [devices_told(run.hardware)] if mixed else []
        for name in names:
            amount = run.amounts[name]
            row.append("missing" if amount is None else three(amount / units[name].factor))
        if said.metric is not None:
            row.append(quality_text(run.quality))
        rows.append(row)
    caption = "The runs one by one." if len(said.runs) > 1 else "The run."
    if alone and said.totals["device_s"].amount is not None:
        caption += " Each had one device: device time is total time."
    numbers = [1.9 if name == "electricity_usd" else 1.4 for name in names]
    weights = (2.5, 2, *([2.5] if mixed else []), *numbers, *([1.4] if said.metric is not None else []))
    return Table(caption, heads, rows, weights)


def summary_line(said: Statement) -> str:
    """The main figures in a sentence, for a field that holds one text."""
    parts = [counted(len(said.runs), "run")]
    if list(said.statuses) != ["finished"]:
        parts[0] += f" ({statuses_told(said)})"
    energy = said.totals["energy_j"]
    if energy.amount is not None:
        parts.append(
            f"{sum_told(said, 'energy_j')} of IT energy: {components_told(said) or 'how it was got was not recorded'}"
        )
    parts += [*grids_told(said), pue_told(said)]
    return f"{written_by()}: {'; '.join(parts)}"


def hardware_line(said: Statement) -> str | None:
    """How much compute and what kind; None where no run recorded it."""
    known = [devices_told(hardware) for hardware in said.hardware if hardware.device is not None]
    return "; ".join(dict.fromkeys(known)) or None


def place_line(said: Statement) -> str | None:
    """Where it ran, as the tariffs say; None where they name no place."""
    return "; ".join(dict.fromkeys(grid.place for grid in said.grids if grid.place)) or None


def _how(figure: Figure) -> str:
    parts = [
        text if count == figure.runs else f"{text} (in {counted(count, 'run')})"
        for text, count in figure.methods.items()
    ]
    if figure.unknown:
        parts.append(f"unknown in {figure.unknown} of {counted(figure.runs, 'run')}")
    return "; ".join(parts)
