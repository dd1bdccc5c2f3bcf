"""What runs are told apart by where their costs are added up: how they ended, whose they are, when they ran, how."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_costs.analysis.setup import HYPERPARAMETERS, run_settings, setting_named
from lightning_costs.run.record import RunRecord

#: Where runs stand of which nothing is known.
NONE = "(none)"
#: What every run can be told apart by; any setting of the setup and any hyperparameter are names, too.
PARTS = ("status", "group", "tag", "month", "owner", "commit", "script")
#: Characters of a commit that people read.
SHORT = 12


def parts_of(runs: Sequence[RunRecord], by: str) -> list[list[str]]:
    """The parts that each run is in: one, or those of all its tags.

    Args:
        runs: The runs.
        by: One of `PARTS`, a hyperparameter, or a setting of the setup such as 'optimizers.0.name'.

    Raises:
        ValueError: For a name that no run knows, with near ones.

    Example:
        >>> import polars
        >>> runs = [RunRecord(header={"run_id": str(d), "hyperparameters": {"depth": d}}, points=polars.DataFrame())
        ...         for d in (2, 4)]
        >>> parts_of(runs, "depth")
        [['2'], ['4']]
    """
    if by in PARTS:
        return [_of(run.header, by) for run in runs]
    setups = [run_settings(run.header) for run in runs]
    found = [setting_named(setup, by) for setup in setups]
    if runs and all(value is None for value in found):
        settings = {name.removeprefix(HYPERPARAMETERS) for setup in setups for name in setup}
        known = [*PARTS, *sorted(settings)]
        near = (
            difflib.get_close_matches(by, known, n=3, cutoff=0.7)
            or difflib.get_close_matches(by, known, cutoff=0.4)
            or known[:12]
        )
        raise ValueError(f"no run has a setting {by!r} to be told apart by; did you mean {', '.join(near)}?")
    return [[NONE if value is None else str(value)] for value in found]


def _of(header: Mapping[str, Any], by: str) -> list[str]:
    if by == "tag":
        return list(dict.fromkeys(map(str, header.get("tags") or ()))) or [NONE]
    if by == "status":
        return [str(header.get("status") or "unknown")]
    if by == "month":
        return [str(header.get("created") or "")[:7] or NONE]
    if by == "commit":
        return [commit_in_words(header) or NONE]
    return [str(header.get(by) or NONE)]


def commit_in_words(header: Mapping[str, Any]) -> str | None:
    """The commit that a run's script was of, and whether its files were changed since; None if that is unknown.

    Example:
        >>> commit_in_words({"git": {"commit": "0123456789abcdef", "dirty": True}})
        '0123456789ab + changes'
    """
    git = header.get("git") or {}
    commit = git.get("commit") if isinstance(git, Mapping) else None
    return None if not commit else str(commit)[:SHORT] + (" + changes" if git.get("dirty") else "")
