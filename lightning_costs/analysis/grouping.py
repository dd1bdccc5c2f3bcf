"""Which runs are seeds of one method: by name, by a pattern in it, or by a setting."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from lightning_costs.analysis.schema import Plain
from lightning_costs.analysis.setup import run_settings, setting_named
from lightning_costs.run.record import RunRecord


def group_of_each(runs: Sequence[RunRecord], by: str) -> list[str]:
    r"""The group of every run.

    Args:
        runs: At least one.
        by: 'name' puts runs of one name together. 'name~PATTERN' groups those whose names hold the same text at the
            match of the regular expression (its first bracket, if it has one). 'group' goes by the header's. Anything
            else is a setting of the setup or a hyperparameter, such as 'module' or 'depth'.

    Raises:
        ValueError: For an invalid pattern, a name that it does not match, or a setting that a run does not have.

    Example:
        >>> import polars
        >>> names = ("sam-1", "sam-2", "sgd-1")
        >>> runs = [RunRecord(header={"run_id": n, "name": n}, points=polars.DataFrame()) for n in names]
        >>> group_of_each(runs, r"name~(.+)-\d+")
        ['sam', 'sam', 'sgd']
    """
    if by == "name":
        return [run.name for run in runs]
    key, tilde, pattern = by.partition("~")
    if tilde:
        if key != "name":
            raise ValueError(f"group must be 'name~PATTERN', 'name', 'group' or a setting, got {by!r}")
        return [_matched(run.name, pattern) for run in runs]
    setups: list[Mapping[str, Plain]] = [{"group": run.header.get("group"), **run_settings(run.header)} for run in runs]
    for run, setup in zip(runs, setups, strict=True):
        if setting_named(setup, by) is None:
            known = sorted({name for each in setups for name, value in each.items() if value is not None})
            near = ", ".join(difflib.get_close_matches(by, known, n=4, cutoff=0.4) or known[:8]) or "none at all"
            raise ValueError(f"group={by!r}: run {run.name!r} has no such setting; runs have {near}")
    return [str(setting_named(setup, by)) for setup in setups]


def members(labels: Sequence[str], groups: Sequence[str]) -> dict[str, list[str]]:
    """Group to the labels of its runs, in the order they were given."""
    found: dict[str, list[str]] = {}
    for label, group in zip(labels, groups, strict=True):
        found.setdefault(group, []).append(label)
    return found


def _matched(name: str, pattern: str) -> str:
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise ValueError(f"group pattern {pattern!r} is no regular expression: {error}") from error
    if found is None:
        raise ValueError(f"group pattern {pattern!r} matches nothing in the name of run {name!r}")
    return found.group(1 if found.re.groups else 0)
