"""Which runs are seeds of one method: as asked, or found by header groups, seeds in names and seeds among settings."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lightning_costs.analysis.schema import Plain
from lightning_costs.analysis.setup import is_outcome, run_settings, setting_named
from lightning_costs.analysis.text import quote
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


#: A seed in a run's name: 'sam-seed3', 'seed=3_sam', 'sam.seed_3', and 'sam_s3' at the end.
_IN_NAME = re.compile(r"(?:^|[-_. /,(\[])(?:random[-_]?)?seed[-_ =:]*(\d+)(?![\d.])|(?<=[^-_. /])[-_. /]s(\d+)$", re.I)
_SEED_KEY = re.compile(
    r"(?:^|[._\-/])(?:(?:global|random|data|torch|np|numpy|py|manual)_?)?(?:seed|random_state)$", re.I
)
_MOMENTARY = re.compile(r"optimizers\.\d+\.lr")
#: What a name may be left with at its ends after its seed was taken out.
_EDGES = "-_. /,()[]"


class SeedGroups(NamedTuple):
    """What was found: the group of each run, None if runs are not grouped, by what, and the sentence that says so."""

    groups: list[str] | None
    by: str
    sentence: str


def find_seed_groups(runs: Sequence[RunRecord]) -> SeedGroups:
    """Group runs that differ by nothing but their seed; runs of no other seed are groups of one.

    Header groups are tried first, then seeds in names, then seeds among hyperparameters and settings. A way is taken
    if at least one of its groups has two runs and no group holds runs of unlike setups.
    """
    refused = ""
    for by, words, option, way in _WAYS:
        groups = way(runs)
        if groups is None or max(Counter(groups).values()) < 2:
            continue
        unlike = _unlike(runs, groups)
        if not unlike:
            return SeedGroups(groups, by, f"Runs were grouped by {words}; --group none compares single runs.")
        refused = (
            refused
            or f"Runs were not grouped by {words}: {unlike}{f'; {option} groups them anyway' if option else ''}."
        )
    return SeedGroups(None, "", refused)


def seed_of(run: RunRecord) -> str | None:
    """The seed of a run: of its hyperparameters or settings, else the one in its name.

    Example:
        >>> import polars
        >>> [seed_of(RunRecord(header={"run_id": n}, points=polars.DataFrame()))
        ...  for n in ("sam-seed3", "sam_s12", "seed=4,sam", "resnet50", "vit-s", "proseed7")]
        ['3', '12', '4', None, None, None]
    """
    settings = run_settings(run.header)
    for key in sorted(settings):
        if _SEED_KEY.search(key) and settings[key] is not None:
            return str(settings[key])
    found = _IN_NAME.search(run.name)
    return next(filter(None, found.groups())) if found else None


def _by_header(runs: Sequence[RunRecord]) -> list[str] | None:
    if not any(run.header.get("group") for run in runs):
        return None
    return [str(run.header.get("group") or run.name) for run in runs]


def _by_name(runs: Sequence[RunRecord]) -> list[str] | None:
    if not any(_IN_NAME.search(run.name) for run in runs):
        return None
    return [_without_seed(run.name) for run in runs]


def _by_setting(runs: Sequence[RunRecord]) -> list[str] | None:
    """Runs whose recorded seeds differ and whose other hyperparameters and settings are the same."""
    settings = [run_settings(run.header) for run in runs]
    seeded = [any(_SEED_KEY.search(key) for key in each) for each in settings]
    if not any(seeded):
        return None
    names: dict[str, str] = {}
    groups = []
    for run, with_seed in zip(runs, seeded, strict=True):
        setup = _setup(run)
        if _is_published(run):  # of its setup the name may be all that is known
            setup |= {"": _without_seed(run.name)}
        key = repr(sorted(setup.items(), key=lambda item: item[0])) if with_seed else f"run {run.id}"
        if key not in names:
            name, number = _without_seed(run.name), 2
            while name in names.values():
                name = f"{_without_seed(run.name)} #{number}"
                number += 1
            names[key] = name
        groups.append(names[key])
    return groups


_Way = Callable[[Sequence[RunRecord]], list[str] | None]
#: What runs of a group have in common, in a sentence, the option that groups whatever their setups, and how.
_WAYS: tuple[tuple[str, str, str, _Way], ...] = (
    ("group", "the group in their headers", "--group group", _by_header),
    ("name but for its seed", "the seed in their names", "--group name~PATTERN", _by_name),
    ("setup but for its seed", "the seed among their settings", "", _by_setting),
)


def _is_published(run: RunRecord) -> bool:
    """Whether a run is a row of a published table."""
    return "published" in str((run.header.get("setup") or {}).get("origin"))


def _without_seed(name: str) -> str:
    return _IN_NAME.sub("", name).strip(_EDGES) or name


def _setup(run: RunRecord) -> dict[str, Plain]:
    """What runs of one group have in common: all settings but seeds, and the number of parameters.

    Outcomes that are recorded among settings are none: those of two seeds differ. The learning rate of a schedule is
    that of the moment at which the setup was recorded, and no setting.
    """
    settings = {
        key: value
        for key, value in run_settings(run.header).items()
        if not _SEED_KEY.search(key) and not is_outcome(key, value)
    }
    if settings.get("schedulers") not in (None, "", "[]"):
        settings = {key: value for key, value in settings.items() if not _MOMENTARY.fullmatch(key)}
    return {**settings, "params": (run.header.get("statics") or {}).get("params")}


def _unlike(runs: Sequence[RunRecord], groups: Sequence[str]) -> str:
    """The first two runs of one group that differ by more than their seed, and in what; '' if none do."""
    first: dict[str, RunRecord] = {}
    for run, group in zip(runs, groups, strict=True):
        other = first.setdefault(group, run)
        one, two = _setup(other), _setup(run)
        differ = [key for key in sorted({*one, *two}) if repr(one.get(key)) != repr(two.get(key))]
        if differ:
            more = f" and {len(differ) - 2} more" if len(differ) > 2 else ""
            return f"{quote(other.name, 30)} and {quote(run.name, 30)} differ in {', '.join(differ[:2])}{more}"
    return ""
