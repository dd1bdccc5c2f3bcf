"""What a comparison found in a few sentences, limited to the setup that was measured."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_costs.compare.cautions import quoted
from lightning_costs.compare.comparison import Comparison
from lightning_costs.compare.schema import Plain
from lightning_costs.core.verdict import verdict
from lightning_costs.report.tables import ordered_names, quality_text

#: Settings that tell what a claim holds for, in reading order; the page lists all of them.
_TOLD = (
    "hardware.device",
    "hardware.accelerator",
    "hardware.cpu",
    "devices",
    "hardware.devices",
    "nodes",
    "precision",
    "dataset",
)


def summary(cmp: Comparison) -> list[str]:
    """Sentences: how many runs, who was best, who leads by which headline indicators, what it holds for."""
    return [_runs(cmp), *_best(cmp), *_leaders(cmp), *_curve(cmp), _limits(cmp)]


def waits(cmp: Comparison) -> dict[str, str]:
    """Run label to whether it waited for its data; runs without a reading are absent."""
    said = {run["label"]: "; ".join(verdict(run["setup"], run["final"])) for run in cmp.runs}
    return {label: text for label, text in said.items() if text}


def joined(words: Sequence[str], most: int = 6) -> str:
    """Words as a list in a sentence.

    Example:
        >>> joined(["a", "b", "c"]), joined(["a", "b", "c"], most=2)
        ('a, b and c', 'a, b and 1 more')
    """
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most} more"
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _runs(cmp: Comparison) -> str:
    count = "1 run is" if len(cmp.runs) == 1 else f"{len(cmp.runs)} runs are"
    direction = "higher" if cmp.mode == "max" else "lower"
    return f"{count} compared by {quoted(cmp.monitor)}, where {direction} is better."


def _best(cmp: Comparison) -> list[str]:
    if not cmp.best:
        return ["None of them logged it, so that only their costs can be shown."]
    best = next(run["best_quality"] for run in cmp.runs if run["label"] == cmp.best[0])
    names = joined([quoted(label) for label in cmp.best])
    return [f"The best value, {quality_text(best)}, was reached by {names}."]


def _leaders(cmp: Comparison) -> list[str]:
    if len(cmp.runs) < 2:
        return []
    by_lead: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name in ordered_names(cmp, headline=True, role="indicator"):
        lead = cmp.leaders.get(name)
        # Where all runs tie nobody leads.
        if lead is not None and len(lead["labels"]) < len(cmp.runs):
            by_lead.setdefault((lead["basis"], tuple(lead["labels"])), []).append(cmp.indicators[name]["label"])
    clauses: dict[str, list[str]] = {}
    for (basis, labels), indicators in by_lead.items():
        who = joined([quoted(label) for label in labels])
        verb = "needed least" if basis.startswith("to reach") else "had the best"
        clauses.setdefault(basis, []).append(f"{who} {verb} {joined(indicators, most=12)}")
    return [f"{basis[0].upper()}{basis[1:]}, {'; '.join(said)}." for basis, said in clauses.items()]


def _curve(cmp: Comparison) -> list[str]:
    if cmp.curve == "spent":
        return []
    return ["Costs are those to reach each state: what restarts lost was spent too and is left out."]


def _limits(cmp: Comparison) -> str:
    same = cmp.setups["same"]
    told = [f"{key.rpartition('.')[2]} {_value(same[key])}" for key in _TOLD if same.get(key) not in (None, "")]
    where = f" ({', '.join(told)})" if told else ""
    return (
        f"All of this holds for the setup that was measured{where} and says nothing about other hardware, "
        "software or data."
    )


def _value(value: Plain) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
