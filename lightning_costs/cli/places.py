"""Paths of the command line: which runs are meant, where results go, and what to type next."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_costs.records.printable import printable
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.paths import why_unwritable
from lightning_costs.storage.run_folder.files import HEADER

#: Most runs of a folder that are listed, and whose headers are read for the next command.
MOST = 20


def no_run_at(path: Path) -> FileNotFoundError:
    """Why a path is no run, with the runs that may be meant: those in it, or those whose names begin like it."""
    inside = _runs_in(path)
    if inside:
        count = f"{len(inside)} runs, and one is shown at a time" if len(inside) > 1 else "1 run"
        return FileNotFoundError(f"{printable(str(path))} holds {count}:\n{_listed(inside)}")
    near = [run for place in dict.fromkeys((path.parent, Path("costs"))) for run in _runs_in(place)]
    near = [run for run in near if path.name and run.name.startswith(path.name)]
    text = f"no run at {printable(str(path))}: expected a folder that holds {HEADER}"
    return FileNotFoundError(f"{text}. There are:\n{_listed(near)}" if near else text)


def _runs_in(folder: Path) -> list[Path]:
    """Run folders in a folder, the newest first."""
    found: list[tuple[float, Path]] = []
    with suppress(OSError):
        found = [(header.stat().st_mtime, header.parent) for header in folder.glob(f"*/{HEADER}")]
    return [run for _, run in sorted(found, reverse=True)]


def _listed(runs: list[Path]) -> str:
    lines = []
    for run in runs[:MOST]:
        header = _header(run)
        about = [str(header[name])[:60] for name in ("name", "status") if isinstance(header.get(name), str)]
        began = str(header.get("created") or "")[:16].replace("T", " ")
        words = ", ".join([*about, *([f"{began} UTC"] if began else [])])
        lines.append(printable(f"  {command('show', run)}  ({words})").replace("\n", "\\n"))
    return "\n".join([*lines, *([f"  and {len(runs) - MOST} more"] if len(runs) > MOST else [])])


def _header(run: Path) -> dict[str, Any]:
    try:
        header = json.loads((run / HEADER).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def command(name: str, *paths: Path | str, options: Iterable[str] = ()) -> str:
    """A command as a shell reads it."""
    texts = [str(path) for path in paths]
    dashes = ["--"] if any(text.startswith("-") for text in texts) else []
    return shlex.join(["lightning-costs", name, *options, *dashes, *texts])


def next_after_show(path: Path, run: RunRecord) -> str:
    """The command to look at next: the comparison with the runs beside it, or what all cost if it has no quality."""
    folder = path.parent if path.name else path
    monitor, mode = run.header.get("monitor"), run.header.get("mode")
    if monitor is None or mode is None or monitor not in run.quality_columns:
        return command("total", folder)
    others = {(h.get("monitor"), h.get("mode")) for h in map(_header, _runs_in(folder)[:MOST])} - {(None, None)}
    options = ["--monitor", str(monitor), "--mode", str(mode)] if others - {(monitor, mode)} else []
    return command("compare", folder, options=options)


def make_writable(*files: Path | None) -> None:
    """Make the folders of files that are to be written, before anything is printed.

    Raises:
        ValueError: For a file that cannot be written.
    """
    for file in files:
        if file is None:
            continue
        why = why_unwritable(file.parent)
        try:
            if why is None:
                file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = str(error.strerror)
        if why is None and file.is_dir():
            why = "it is a folder"
        elif why is None and not os.access(file if file.exists() else file.parent, os.W_OK):
            why = "permission denied"
        if why is not None:
            raise ValueError(printable(f"{file} cannot be written: {why}"))
