"""The loop of `lightning-costs report --follow`: the page is written again as points come; runs are only read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lightning_costs.comparison import Comparison
from lightning_costs.report.terminal.console import say
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.run_folder.files import replace_file


def follow_page(
    load: Callable[[], list[RunRecord]],
    compare: Callable[[list[RunRecord]], Comparison],
    out: Path,
    *,
    every_s: float,
) -> None:
    """Write the page whenever runs have changed, until all have ended or the user presses Ctrl-C.

    A browser loads only the pages in between again. Errors are for the next look: a metric that was not logged yet, a
    file system that does not answer. Looking takes half of a core at most.

    Args:
        load: Reads the runs.
        compare: Compares them.
        out: The page, which is replaced in one move.
        every_s: Seconds between two looks.

    Raises:
        ValueError: The runs cannot be read at first, or compared at last.
    """
    runs, seen, shown_error = load(), "", ""
    say(f"following {len(runs)} run{'s' if len(runs) != 1 else ''}, every {every_s:g} s until all ended; Ctrl-C stops")
    with suppress(KeyboardInterrupt):
        while any(run.header.get("status") == "running" for run in runs):
            begun_s = time.monotonic()
            try:
                state = repr([(run.id, run.header.get("status"), run.points.height, run.final) for run in runs])
                if state != seen:
                    _write(compare(runs), out, math.ceil(every_s))
                    seen = state
                wait_s = max(every_s, time.monotonic() - begun_s)
                time.sleep(wait_s)
                runs = load()
            except (ValueError, OSError) as error:
                if shown_error != str(error):
                    shown_error = str(error)
                    say(f"lightning-costs: not yet: {error}", error=True)
                time.sleep(every_s)
                with suppress(ValueError, OSError):
                    runs = load()
    _write(compare(runs), out, None)
    say(f"wrote {out}")


def _write(compared: Comparison, out: Path, reload_s: int | None) -> None:
    replace_file(out, lambda fresh: compared.to_html(fresh, reload_s=reload_s))
