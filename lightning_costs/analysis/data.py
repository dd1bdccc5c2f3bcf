"""A comparison as plain data: what a report draws, and what `--json` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lightning_costs.analysis.agreement_schema import Dominance, Families, Matched, Ranks
from lightning_costs.analysis.lifecycle_schema import Lifecycle
from lightning_costs.analysis.schema import (
    Answer,
    Breakdown,
    Caution,
    Contrasts,
    Curve,
    Declaration,
    Groups,
    Leader,
    Mode,
    RunRow,
    Setups,
    Sweep,
    TargetRow,
)
from lightning_costs.records.printable import utf8_encodable
from lightning_costs.run.kept import Curve as CostCurve

#: Version of what `as_dict` and `to_json` hold; a key that goes or changes its meaning raises it.
SCHEMA = 3


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ComparisonData:
    """Runs compared by quality and by every cost at once. Plain data; a report draws it and computes nothing.

    Args:
        monitor: The quality metric.
        mode: Which direction of it is better.
        runs: One row per run, in the order they were given.
        indicators: Declarations of the columns that are compared.
        curves: By run label: `step`, `quality` and every counter and gauge, where the metric was logged. For the eye:
            of very many evaluations some are left out, evenly; no figure is made from them.
        drawn_evaluations: Largest number of evaluations of a run in `curves`; None if they hold all.
        targets: Cost-to-quality per target, hardest last.
        sweep: Cost-to-quality over all targets, and how far each winner's lead holds.
        fronts: Indicator to the labels on the Pareto front of best quality against the final amount.
        dominance: The front in all indicators together; who is efficient by every indicator, who by none.
        ranks: Agreement of indicators about the order of runs.
        families: Who leads, counted by families of indicators that say one thing.
        matched: Pairs of runs that are alike by one indicator, and what that hides of the others.
        groups: Seeds of one method together; None where runs were not grouped.
        breakdowns: Time by account, memory and energy by kind, step times, waiting, money.
        leaders: Indicator to the cheapest of the runs with a quality and a reading of it: for counters, to the last
            target that any run reached; for others, at the end. Absent if fewer than two runs have one.
        best: Labels of the runs with the best quality.
        setups: What runs have in common and what they differ in.
        summary: What was found, in sentences that are limited to the setup that was measured.
        cautions: What limits the claims: in words, with the figures behind them and the paper's section.
        tariff: The one tariff that all runs are priced under; None where each has its own.
        curve: 'spent': costs are all that was spent. 'to_reach': work that restarts lost is left out of them.
        lifecycle: Training and queries together, always by all that training spent; at how many queries runs break
            even.
        answer: Who is best, who is cheapest by which independent costs, and where these disagree.
        contrasts: Every group against one: ratios of costs with intervals; None where runs were not grouped.
    """

    monitor: str
    mode: Mode
    runs: list[RunRow]
    indicators: dict[str, Declaration]
    curves: dict[str, Curve]
    drawn_evaluations: int | None
    targets: list[TargetRow]
    sweep: Sweep
    fronts: dict[str, list[str]]
    dominance: Dominance
    ranks: Ranks
    families: Families
    matched: Matched
    groups: Groups | None
    breakdowns: dict[str, Breakdown]
    leaders: dict[str, Leader]
    best: list[str]
    setups: Setups
    summary: list[str]
    cautions: list[Caution]
    tariff: dict[str, Any] | None
    lifecycle: Lifecycle
    answer: Answer
    contrasts: Contrasts | None
    curve: CostCurve = "spent"

    @property
    def labels(self) -> list[str]:
        """The runs' labels, in the order they were given."""
        return [run["label"] for run in self.runs]

    def __repr__(self) -> str:
        """How many runs, by what, to which target; `print` shows the answer."""
        target = "" if self.answer["target"] is None else f", target {self.answer['target']:.4g}"
        count = len(self.answer["labels"])
        groups = f" in {count} group{'s' if count != 1 else ''}" if self.answer["by"] == "group" else ""
        return f"<{type(self).__name__} of {len(self.runs)} runs{groups} by {self.monitor!r} ({self.mode}){target}>"

    def as_dict(self) -> dict[str, Any]:
        """The comparison as data that JSON can hold: None for what is infinite or not a number.

        A target that was never reached says so in `reached`; docs/comparison-schema.md lists the keys.
        """
        return {"schema": SCHEMA} | {field.name: plain(getattr(self, field.name)) for field in fields(self)}

    def to_json(self, path: str | Path) -> Path:
        """Write `as_dict()` as JSON."""
        path = Path(path)
        path.write_text(json.dumps(self.as_dict(), allow_nan=False, indent=1), encoding="utf-8")
        return path


def plain(value: object) -> Any:
    """Data that strict JSON can hold: None for what is infinite or not a number, texts for what has no other form."""
    if isinstance(value, Mapping):
        return {utf8_encodable(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, int | float | bool):
        return value
    return utf8_encodable(str(value))
