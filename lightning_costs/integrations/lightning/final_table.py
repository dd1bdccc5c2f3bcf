"""What a fit cost, printed at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_costs.recording.recorder import Recorder
from lightning_costs.records.formatting import MISSING
from lightning_costs.records.limits import describe_budget
from lightning_costs.records.printable import printable, printable_data
from lightning_costs.run.record import RunRecord
from lightning_costs.run.summary import describe_lost_work, summary_rows
from lightning_costs.storage.paths import shown


def print_summary(recorder: Recorder, run: RunRecord | None) -> None:
    """About ten rows in human units, and what to try next; on stderr, since stdout is the script's."""
    from rich.console import Console
    from rich.table import Table

    header: Mapping[str, Any] = printable_data(recorder.header)
    rows = summary_rows(header, recorder.final)
    table = Table(title=f"What {header['name']} cost", title_justify="left", box=None, show_header=False)
    for line in rows:
        if line.text != MISSING:
            table.add_row(line.label, line.text)
    console = Console(stderr=True, markup=False, emoji=False)  # a run's name is no markup
    console.print(table)
    if lost := describe_lost_work(header, recorder.final):
        console.print(lost, highlight=False, soft_wrap=True)
    for told in describe_budget(header, recorder.final):
        console.print(told, highlight=False, soft_wrap=True)
    if lacking := [line.label for line in rows if line.text == MISSING]:
        console.print(f"missing: {', '.join(lacking)}; the command below says why", highlight=False, soft_wrap=True)
    if run is not None and recorder.path is not None:
        path = printable(shown(recorder.path))
        console.print(f"next: lightning-costs show {path}", highlight=False, soft_wrap=True)
