"""The summary that stands in the terminal when a fit is over, below whatever drew there until then."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from itertools import dropwhile
from typing import Any, final

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.patching.patches import Patches
from lightning_costs.recording.recorder import Recorder
from lightning_costs.records.formatting import MISSING
from lightning_costs.records.limits import describe_budget
from lightning_costs.records.printable import printable_data
from lightning_costs.run.plan import describe_plan
from lightning_costs.run.record import RunRecord
from lightning_costs.run.summary import SummaryRow, describe_lost_work, summary_rows
from lightning_costs.run.verdict import verdict
from lightning_costs.storage.paths import show_command

_log = logging.getLogger("lightning_costs")


@final
class AfterProgressBar:
    """Does something once the progress bar has drawn for the last time.

    Rich's bar draws until its own `teardown`, which comes after those of the callbacks before it: what is printed in
    between is overwritten. So a bar that comes later has its `teardown` shadowed, once.
    """

    def __init__(self, trainer: Any, owner: object, do: Callable[[], None]) -> None:
        self._do: Callable[[], None] | None = do
        self._shadows = Patches()
        after_ours = list(dropwhile(lambda each: each is not owner, trainer.callbacks))
        bar = next((each for each in after_ours if each is getattr(trainer, "progress_bar_callback", None)), None)
        if bar is not None:
            self._shadows.wrap(bar, "teardown", self._then)
        if not self._shadows:
            self.now()

    def _then(self, teardown: Callable[..., Any]) -> Callable[..., Any]:
        def torn_down(*args: Any, **kwargs: Any) -> Any:
            try:
                return teardown(*args, **kwargs)
            finally:
                self.now()

        return torn_down

    def now(self) -> None:
        """Do it, if it was not done yet, and leave the bar as it was."""
        do, self._do = self._do, None
        self._shadows.restore()
        if do is not None:
            do()


def try_print_summary(recorder: Recorder, run: RunRecord | None) -> None:
    """Print the summary; what a terminal refuses goes to the log."""
    try:
        print_summary(recorder, run)
    except Exception as error:  # noqa: BLE001 - a closed terminal, or one with ASCII only
        reraise_from_signal(error)
        _log.warning("the summary of costs could not be printed: %r", error)


def print_summary(recorder: Recorder, run: RunRecord | None) -> None:
    """About ten rows in human units, and what to try next; on stderr, since stdout is the script's."""
    drawn = random.getstate()
    from rich.console import Console
    from rich.table import Table

    random.setstate(drawn)  # rich draws a number when it is imported, from the generator that is the script's
    header: Mapping[str, Any] = printable_data(recorder.header)
    rows = summary_rows(header, recorder.final)
    table = Table(title=f"What {header['name']} cost", title_justify="left", box=None, show_header=False)
    for line in rows:
        if line.text != MISSING:
            table.add_row(line.label, line.text)
    # A live display that still draws takes what is written to sys.stderr, and puts it above itself.
    live = hasattr(sys.stderr, "rich_proxied_file")
    console = Console(file=StringIO() if live else None, stderr=True, markup=False, emoji=False)  # a name is no markup
    with console.capture() as captured:  # if stderr's pipe is closed, rich itself would end the process
        _print_lines(console, table, rows, header, recorder, run)
    if sys.stderr is not None:
        sys.stderr.write(captured.get())
        sys.stderr.flush()


def _print_lines(
    console: Any,
    table: Any,
    rows: Sequence[SummaryRow],
    header: Mapping[str, Any],
    recorder: Recorder,
    run: RunRecord | None,
) -> None:
    console.print(table)
    command = None
    if run is not None and recorder.path is not None:
        command = show_command(recorder.path)
    if lost := describe_lost_work(header, recorder.final):
        console.print(lost, highlight=False, soft_wrap=True)
    console.print(verdict(header, recorder.final).words(), highlight=False, soft_wrap=True)
    for sentence in (*describe_budget(header, recorder.final), *describe_plan(header, recorder.final)):
        console.print(sentence, highlight=False, soft_wrap=True)
    if lacking := [line.label for line in rows if line.text == MISSING]:
        why = "; the command below says why" if command is not None else ""
        console.print(f"missing: {', '.join(lacking)}{why}", highlight=False, soft_wrap=True)
    if command is not None:
        console.print(f"next: {command}", highlight=False, soft_wrap=True)
