"""What a check found, in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_costs.analysis.regression_check import CheckResult, CheckRow
from lightning_costs.records.formatting import format_amount

_VERDICTS = {
    0: "no regression",
    1: "regression: {}",
    2: "the run and its baseline cannot be compared",
}


def check_text(found: CheckResult, width: int = 140) -> str:
    """The verdict, why, and every column, gated ones first."""
    table = Table("cost", "baseline", "run", "change", "fails at", "", box=None, pad_edge=False)
    for row in found.rows:
        amounts = (format_amount(row.baseline, row.unit), format_amount(row.run, row.unit), _change(row))
        table.add_row(*map(Text, (row.label, *amounts, row.limit or "", _outcome(row))))
    out = StringIO()
    Console(file=out, width=width, color_system=None, legacy_windows=False, markup=False).print(table)
    worse = ", ".join(row.name for row in found.rows if row.outcome == "regression")
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    lines += [f"- {reason}" for reason in found.unfit]
    lines += [f"- setup differs in {key}: {_shown(pair)}" for key, pair in found.differs.items()]
    if found.differs:
        lines.append(f"- where that is meant, say so: --allow {next(iter(found.differs))}")
    return "\n".join([*lines, _VERDICTS[found.exit_code].format(worse)]) + "\n"


def _change(row: CheckRow) -> str:
    if row.change is None:
        return ""
    if math.isinf(row.change):
        return "from nothing" if row.baseline == 0 else "not reached any more"
    if row.baseline is not None and math.isinf(row.baseline):
        return "reached now"
    return f"{100 * row.change:+.3g} %" if row.change else "none"


def _outcome(row: CheckRow) -> str:
    word = {"regression": "REGRESSION", "ok": "ok", "unknown": "unknown", "reported": ""}[row.outcome]
    return ", ".join(part for part in (word, row.why) if part)


def _shown(pair: Sequence[Any]) -> str:
    return " is now ".join(repr(value)[:60] for value in pair)
