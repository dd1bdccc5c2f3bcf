"""The loops of `watch` and `report --follow`: run folders are read again and again, and drawn; they only read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live

from lightning_costs.comparison import Comparison
from lightning_costs.report.terminal.console import say
from lightning_costs.report.terminal.watch import running_first, watch_view
from lightning_costs.run.record import RunRecord, printable_run
from lightning_costs.storage.run_folder.files import HEADER, replace_file
from lightning_costs.storage.run_folder.lock import writer_status
from lightning_costs.storage.run_folder.reader import read_folder

#: Most runs that are printed at once.
_MOST = 20
#: How far below a folder its runs are looked for: `costs/`, and a folder of such.
_PATTERNS = (HEADER, f"*/{HEADER}", f"*/*/{HEADER}")


def watch_runs(place: Path, console: Console, *, once: bool, every_s: float) -> bool:
    """Draw runs until a single one is over, or the user presses Ctrl-C; once if the output is a pipe.

    Returns:
        Whether there was a run.
    """
    folders = _Folders(place)
    runs = folders.read()
    if not runs:
        return False
    if once or not console.is_terminal:
        console.print(watch_view(running_first(runs, most=_MOST), marks=_draws(console)))
        return True
    alone = (place / HEADER).is_file()
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            shown = running_first(runs, most=1 if alone else max(1, console.height // 8))
            live.update(watch_view(shown, marks=_draws(console)), refresh=True)
            if alone and runs[0].header.get("status") != "running":
                break
            time.sleep(every_s)
            runs = folders.read() or runs
    return True


def _draws(console: Console) -> bool:
    """Whether what the console writes to knows blocks."""
    return console.encoding.lower().startswith("utf")


class _Folders:
    """Run folders of a place; one that did not change is not read again.

    Args:
        place: A run folder, or a folder of some.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._known: dict[Path, tuple[tuple[int, ...], RunRecord]] = {}

    def read(self) -> list[RunRecord]:
        """The runs that can be read now; one whose files are just being written is there the next time."""
        headers = {header for pattern in _PATTERNS for header in self._place.glob(pattern)}
        runs = []
        for folder in sorted(header.parent for header in headers):
            with suppress(OSError, ValueError):
                runs.append(self._read(folder))
        return runs

    def _read(self, folder: Path) -> RunRecord:
        stamp = tuple(file.stat().st_mtime_ns for file in sorted(folder.iterdir()) if file.is_file())
        known = self._known.get(folder)
        if known is not None and known[0] == stamp and known[1].header.get("status") != "running":
            return known[1]
        run = printable_run(read_folder(folder))
        if run.header.get("status") == "running" and writer_status(folder) is None:
            run = RunRecord(header={**run.header, "unsure": True}, points=run.points, source=run.source)
        self._known[folder] = stamp, run
        return run


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
