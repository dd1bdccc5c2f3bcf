"""Which money bought nothing: by run and by cause, and what a cheaper run of the same quality did otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightning_costs.analysis.run_data import unique_labels
from lightning_costs.analysis.schema import Plain
from lightning_costs.analysis.setup import is_outcome, run_settings
from lightning_costs.records.samples import Amount
from lightning_costs.run.goodput import goodput
from lightning_costs.run.record import RunRecord

#: Causes, with what people call them. All but the last are apart from each other and add up.
CAUSES = {
    "failed": "in a run that failed",
    "after_best": "after the best evaluation",
    "lost": "lost to restarts",
    "device_idle": "device idle",
    "data_wait": "waiting for data",
    "repeated_evaluations": "repeated evaluations",
    "checkpoint": "saving checkpoints",
    "throttled": "throttled (in training time, not in the sum)",
}
#: A run that ended so bought nothing.
FAILED = ("failed", "killed")
#: What is counted, by what `rank_by` may be: the column behind it.
UNITS = {"cloud_usd": "cloud_usd", "energy_j": "energy_j", "s": "total_s"}
#: Most settings that are named of a run.
_MOST_SETTINGS = 3

_Costs = Mapping[str, Amount]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Seconds, joules and dollars; None if unknown."""

    s: Amount = None
    energy_j: Amount = None
    cloud_usd: Amount = None

    def __add__(self, other: Spent) -> Spent:
        """The sum of what is known of either."""
        own, theirs = asdict(self), asdict(other)
        return Spent(**{u: _sum([own[u], theirs[u]]) for u in UNITS})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWaste:
    """What a run spent, what of it bought nothing, and what a cheaper run of the same quality did otherwise.

    Args:
        label: The run's.
        run_id: Its identity.
        group: Its group.
        status: How it ended.
        spent: All that it spent.
        wasted: What bought nothing.
        by_cause: By key of `CAUSES`.
        best: Its best quality; None if it logged none.
        at_best: What it had spent at its best evaluation.
        cheapest: The cheapest run that reached its best quality, if that is another one.
        differs: Settings in which that one is unlike this one: this one's value and that one's.
        missing: Why a cause is unknown.
    """

    label: str
    run_id: str
    group: str | None
    status: str
    spent: Spent
    wasted: Spent
    by_cause: dict[str, Spent]
    best: float | None
    at_best: Spent | None
    cheapest: str | None
    differs: dict[str, tuple[Plain, Plain]]
    missing: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectWaste:
    """The waste of a project.

    Args:
        rank_by: What runs are ranked by: 'cloud_usd', 'energy_j' or 's', the first that most runs know.
        runs: The most wasteful first.
        groups: Group to what its runs wasted, the most first; runs without a group are under None.
        spent: By all runs.
        wasted: By all runs.
    """

    rank_by: str
    runs: tuple[RunWaste, ...]
    groups: dict[str | None, Spent]
    spent: Spent
    wasted: Spent

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        groups = [{"group": group, **asdict(spent)} for group, spent in self.groups.items()]
        return {**asdict(self), "runs": [asdict(run) for run in self.runs], "groups": groups}


def _sum(amounts: Iterable[Amount]) -> Amount:
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known else None


def _spent(costs: _Costs) -> Spent:
    return Spent(**{unit: costs.get(column) for unit, column in UNITS.items()})


def _less(whole: Spent, part: Spent) -> Spent:
    ours, theirs = asdict(whole), asdict(part)
    known = {u: (ours[u], theirs[u]) for u in UNITS}
    return Spent(**{u: None if a is None or b is None else max(0.0, a - b) for u, (a, b) in known.items()})


def _better(mode: object, one: float, other: float) -> bool:
    """Whether a quality is at least as good as another one."""
    return one >= other if mode == "max" else one <= other


def _best_row(run: RunRecord) -> tuple[int, float] | None:
    """Where the best quality was logged first, and what it was."""
    monitor, mode = run.header.get("monitor"), run.header.get("mode")
    if monitor is None or mode not in ("max", "min") or str(monitor) not in run.points.columns:
        return None
    values = run.points.get_column(str(monitor)).to_list()
    known = [(value, at) for at, value in enumerate(values) if value is not None and math.isfinite(value)]
    if not known:
        return None
    value, at = min(known, key=lambda found: (-found[0] if mode == "max" else found[0], found[1]))
    return at, float(value)


def _header_at(header: Mapping[str, Any], row: int) -> Mapping[str, Any]:
    """The header as it was at a row of the points: with the attempts up to there."""
    attempts = list(header.get("attempts") or ())
    return {**header, "attempts": [a for n, a in enumerate(attempts) if not n or a.get("row", 0) <= row]}


def _repeated(run: RunRecord, last: int) -> Spent:
    """Evaluations of weights that an evaluation had seen already: no step lay between the two."""
    needs = ("steps", "evaluate_s", "trigger")
    if any(name not in run.points.columns for name in needs):
        return Spent()
    rows = run.points.head(last + 1).to_dicts()
    seconds, joules, before, steps = 0.0, 0.0, None, None
    knows_energy = True
    for row in rows:
        if row["trigger"] == "evaluate" and row["steps"] is not None:
            if steps == row["steps"] and before is not None:
                seconds += (row["evaluate_s"] or 0.0) - (before["evaluate_s"] or 0.0)
                ends = row.get("evaluate_energy_j"), before.get("evaluate_energy_j")
                knows_energy = knows_energy and None not in ends
                joules += (ends[0] or 0.0) - (ends[1] or 0.0)
            steps = row["steps"]
        before = row
    return Spent(s=seconds, energy_j=joules if knows_energy else None)


def _at_price_of_time(spent: Spent, costs: _Costs) -> Spent:
    """The same with dollars by its share of the run's time."""
    total_s, usd = costs.get("total_s"), costs.get("cloud_usd")
    if spent.s is None or not total_s or usd is None:
        return spent
    return Spent(s=spent.s, energy_j=spent.energy_j, cloud_usd=usd * spent.s / total_s)


def _causes(run: RunRecord, final: _Costs) -> tuple[dict[str, Spent], dict[str, str], tuple[int, float] | None]:
    """What a run wasted by cause, why a cause is unknown, and the place of its best quality."""
    best = _best_row(run)
    missing: dict[str, str] = {}
    whole = _spent(final)
    if run.header.get("status") in FAILED:
        return {"failed": whole}, missing, best
    found: dict[str, Spent] = {}
    costs, row = final, run.points.height - 1
    if best is None:
        missing["after_best"] = "the run logged no quality, or not which direction is better"
    else:
        row = best[0]
        costs = {**final, **run.points.row(row, named=True)}
        found["after_best"] = _less(whole, _spent(costs))
    buckets = goodput(_header_at(run.header, row), costs)
    for name in ("lost", "device_idle", "data_wait", "checkpoint"):
        bucket = buckets.bucket(name)
        found[name] = Spent(s=bucket.s, energy_j=bucket.energy_j, cloud_usd=bucket.cloud_usd)
        if bucket.s is None:
            missing[name] = bucket.how
    found["repeated_evaluations"] = _at_price_of_time(_repeated(run, row), final)
    throttled_s, total_s = costs.get("throttled_s"), costs.get("total_s")
    if throttled_s is not None and total_s:
        devices = max(1.0, (costs.get("device_s") or 0.0) / total_s)
        found["throttled"] = _at_price_of_time(Spent(s=throttled_s / devices), final)
    return found, missing, best


def project_waste(runs: Sequence[RunRecord]) -> ProjectWaste:
    """What of a project's costs bought nothing."""
    finals = [run.final for run in runs]
    known = {u: sum(final.get(column) is not None for final in finals) for u, column in UNITS.items()}
    rank_by = max(known, key=lambda unit: known[unit])
    labels = unique_labels(runs)
    causes = [_causes(run, final) for run, final in zip(runs, finals, strict=True)]
    bests = [best for _, _, best in causes]
    wasteful = []
    for at, run in enumerate(runs):
        by_cause, missing, best = causes[at]
        wasted = sum((spent for cause, spent in by_cause.items() if cause != "throttled"), Spent())
        cheapest = _cheapest(runs, finals, bests, at, rank_by)
        wasteful.append(
            RunWaste(
                label=labels[at],
                run_id=run.id,
                group=None if run.header.get("group") is None else str(run.header["group"]),
                status=str(run.header.get("status") or "unknown"),
                spent=_spent(finals[at]),
                wasted=wasted,
                by_cause=by_cause,
                best=None if best is None else best[1],
                at_best=None if best is None else _spent(run.points.row(best[0], named=True)),
                cheapest=None if cheapest is None else labels[cheapest],
                differs={} if cheapest is None else _differs(run, runs[cheapest]),
                missing=missing,
            )
        )
    wasteful.sort(key=lambda run: -(getattr(run.wasted, rank_by) or 0.0))
    groups: dict[str | None, Spent] = {}
    for one in wasteful:
        groups[one.group] = groups.get(one.group, Spent()) + one.wasted
    ranked = sorted(groups.items(), key=lambda item: -(getattr(item[1], rank_by) or 0.0))
    return ProjectWaste(
        rank_by=rank_by,
        runs=tuple(wasteful),
        groups=dict(ranked),
        spent=sum((run.spent for run in wasteful), Spent()),
        wasted=sum((run.wasted for run in wasteful), Spent()),
    )


def _cheapest(
    runs: Sequence[RunRecord],
    finals: Sequence[_Costs],
    bests: Sequence[tuple[int, float] | None],
    at: int,
    rank_by: str,
) -> int | None:
    """The cheapest other run of the same metric that reached this one's best quality for less than this one spent."""
    own, cost = bests[at], finals[at].get(UNITS[rank_by])
    if own is None or cost is None:
        return None
    header = runs[at].header
    found, least = None, cost
    for other, run in enumerate(runs):
        best, amount = bests[other], finals[other].get(UNITS[rank_by])
        same = all(run.header.get(key) == header.get(key) for key in ("monitor", "mode"))
        if other == at or best is None or amount is None or not same or run.header.get("status") in FAILED:
            continue
        if _better(header.get("mode"), best[1], own[1]) and amount < least:
            found, least = other, amount
    return found


def _differs(run: RunRecord, other: RunRecord) -> dict[str, tuple[Plain, Plain]]:
    """Settings in which two runs differ, hyperparameters first."""
    ours, theirs = run_settings(run.header), run_settings(other.header)
    settings = {name for name in (*ours, *theirs) if not is_outcome(name, ours.get(name, theirs.get(name)))}
    names = sorted(settings, key=lambda name: (not name.startswith("hyperparameters."), name))
    unlike = {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}
    return dict(list(unlike.items())[:_MOST_SETTINGS])
