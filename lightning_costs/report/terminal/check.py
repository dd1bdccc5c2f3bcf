"""What a check found, in the terminal or as Markdown: the verdict, what forbids the comparison, then every column."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_costs.analysis.regression_check import CheckResult, CheckRow
from lightning_costs.records.certainty import Certainty, noted
from lightning_costs.records.formatting import format_amount
from lightning_costs.report.statement.escape import markdown, redact

_VERDICTS = {
    0: ("no regression", "bold green"),
    1: ("regression: {}", "bold red"),
    2: ("the run and its baseline cannot be compared", "bold yellow"),
}
_STYLES = {"regression": "bold red", "ok": "green", "unknown": "yellow", "reported": ""}
#: A change below this share is written as '<0.001 %'.
_LEAST_CHANGE = 1e-5


def check_text(found: CheckResult, width: int = 140) -> str:
    """The verdict first, why, and every column, gated ones first; as plain text."""
    out = StringIO()
    console = Console(file=out, width=width, color_system=None, legacy_windows=False, markup=False)
    for part in check_parts(found):
        console.print(part, soft_wrap=isinstance(part, Text))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def check_parts(found: CheckResult) -> list[RenderableType]:
    """The parts of `check_text`, for a rich console."""
    parts: list[RenderableType] = [Text(_verdict(found), style=_VERDICTS[found.exit_code][1])]
    parts += [Text(f"- {reason}") for reason in _reasons(found)]
    if found.differs:
        allowed = " ".join(f"--allow {shlex.quote(key)}" for key in found.differs)
        parts.append(Text(f"- if that is meant, add: {allowed}"))
    table = Table(box=None, pad_edge=False)
    table.add_column("cost")
    for head in ("baseline", "run", "change", "fails at"):
        table.add_column(head, justify="right")
    table.add_column("")
    for row in found.rows:
        table.add_row(*map(Text, _cells(row)), Text(_outcome(row), style=_STYLES[row.outcome]))
    return [*parts, table]


def check_markdown(found: CheckResult, run: str, baseline: str) -> str:
    """The same for the comment of a pull request: gated columns in a table, the others folded away."""
    lines = [f"### Training costs: {_plain(_verdict(found))}", "", f"{_plain(run)}, against {_plain(baseline)}", ""]
    reasons = [f"- {_plain(reason)}" for reason in _reasons(found)]
    gated = [row for row in found.rows if row.outcome != "reported"]
    lines += [*reasons, *([""] if reasons else []), *_table(gated)]
    if len(gated) < len(found.rows):
        others = _table(row for row in found.rows if row.outcome == "reported")
        lines += ["", "<details><summary>Other costs, without a limit</summary>", "", *others, "", "</details>"]
    return "\n".join(lines) + "\n"


def unchecked_markdown(reason: str) -> str:
    """What stands in the comment if there was nothing to check."""
    return f"### Training costs: not checked\n\n{_plain(reason)}\n"


def _table(rows: Iterable[CheckRow]) -> Iterator[str]:
    yield "| cost | baseline | run | change | fails at | |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for row in rows:
        mark = "**" if row.outcome == "regression" else ""
        yield f"| {' | '.join(map(_plain, _cells(row)))} | {mark}{_plain(_outcome(row))}{mark} |"


def _plain(text: str) -> str:
    return markdown(redact(text))


def _verdict(found: CheckResult) -> str:
    worse = ", ".join(row.name for row in found.rows if row.outcome == "regression")
    return _VERDICTS[found.exit_code][0].format(worse)


def _reasons(found: CheckResult) -> list[str]:
    return [*found.unfit, *(f"setup differs in {key}: {_shown(pair)}" for key, pair in found.differs.items())]


def _cells(row: CheckRow) -> list[str]:
    kind: Certainty = "modelled" if row.modelled else "exact"
    amounts = [noted(format_amount(value, row.unit), value, kind) for value in (row.baseline, row.run)]
    return [row.label, *amounts, _change(row), (row.limit or "").removeprefix(row.name)]


def _change(row: CheckRow) -> str:
    if row.change is None:
        return ""
    if math.isinf(row.change):
        return "from nothing" if row.baseline == 0 else "not reached any more"
    if row.baseline is not None and math.isinf(row.baseline):
        return "reached now"
    if row.change and abs(row.change) < _LEAST_CHANGE:
        return "<0.001 %"
    return f"{100 * row.change:+.3g} %" if row.change else "none"


def _outcome(row: CheckRow) -> str:
    word = {"regression": "REGRESSION", "ok": "ok", "unknown": "unknown", "reported": ""}[row.outcome]
    return ", ".join(part for part in (word, row.why) if part)


def _shown(pair: Sequence[Any]) -> str:
    return " is now ".join(repr(value)[:60] for value in pair)
