"""What a comparison found in a few sentences, limited to the setup that was measured."""

from __future__ import annotations

from lightning_costs.compare.comparison import Comparison
from lightning_costs.compare.summary import joined as joined
from lightning_costs.core.verdict import verdict


def summary(cmp: Comparison) -> list[str]:
    """Sentences: how many runs, who was best, who leads by which indicators, what it holds for."""
    return list(cmp.summary)


def waits(cmp: Comparison) -> dict[str, str]:
    """Run label to whether it waited for its data; runs without a reading are absent."""
    said = {run["label"]: "; ".join(verdict(run["setup"], run["final"])) for run in cmp.runs}
    return {label: text for label, text in said.items() if text}
