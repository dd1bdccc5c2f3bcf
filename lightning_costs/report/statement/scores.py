"""Software carbon intensity of trainings: operational and embodied carbon together, per functional unit.

Formula: SCI = (O + M) per R, ISO/IEC 21031. Functional units and what a report states beside them: SCI for AI, sections
8.2 (FLOP, training token, parameter: the provider's score) and 8.1 (inference: the consumer's).
"""

from __future__ import annotations

from typing import NamedTuple

from lightning_costs.records.formatting import format_for_paper
from lightning_costs.records.samples import Amount
from lightning_costs.report.statement.data import Statement, Total

#: Functional units: how many of them the score is given for, and in words.
_PER = {
    "flop": (1e15, "per 10¹⁵ executed FLOPs"),
    "tokens": (1e6, "per million tokens trained on"),
    "samples": (1e3, "per 1,000 samples trained on"),
    "params": (1e9, "per billion parameters"),
}


class Score(NamedTuple):
    """Grams of CO2e per functional unit, and for people."""

    g: float
    per: str
    text: str


def sci_g(operational_g: float, embodied_g: float, functional_units: float, per: float = 1.0) -> float:
    """Grams of CO2 equivalent per `per` functional units.

    Example:
        SCI for AI, section 9.1.2: 180,000 kg and 20,000 kg over 5 × 10²² FLOPs are 4 g per 10¹⁵ FLOPs.

        >>> sci_g(180_000e3, 20_000e3, 5e22, 1e15)
        4.0
    """
    return (operational_g + embodied_g) * per / functional_units


def carbon_together_g(statement: Statement) -> Amount:
    """Operational and embodied carbon of all runs; None if either is unknown in some run."""
    operational, embodied = (_of_all(statement.totals[name]) for name in ("co2e_g", "embodied_co2e_g"))
    return None if operational is None or embodied is None else operational + embodied


def scores(statement: Statement) -> list[Score]:
    """The provider's scores of a statement, one for each functional unit that is known of all runs."""
    operational, embodied = (_of_all(statement.totals[name]) for name in ("co2e_g", "embodied_co2e_g"))
    if operational is None or embodied is None:
        return []
    found = []
    for name, (many, per) in _PER.items():
        figure = statement.model[name] if name in statement.model else statement.totals[name]
        units = _of_all(figure)
        if name in statement.model:  # a model's size is no sum over runs
            units = figure.least if units is not None and figure.least == figure.most else None
        if units:
            g = sci_g(operational, embodied, units, many)
            sure = {
                statement.totals["co2e_g"].certainty,
                statement.totals["embodied_co2e_g"].certainty,
                figure.certainty,
            }
            least = name == "flop" and statement.uncounted
            text = ("at most " if least else "") + ("" if sure == {"exact"} else "≈ ") + format_for_paper(g, "g")
            found.append(Score(g, per, f"{text} {per}"))
    return found


def _of_all(figure: Total) -> Amount:
    return None if figure.unknown else figure.amount
