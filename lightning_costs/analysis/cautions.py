"""What a reader must know of runs before believing a comparison: their ends, methods, prices and setups."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from lightning_costs.analysis.method_cautions import estimates, flop_conventions, lower_bounds, methods, several_passes
from lightning_costs.analysis.metric import Metric
from lightning_costs.analysis.schema import Caution, Declaration, Plain, RunRow, Setups, TargetRow
from lightning_costs.analysis.setup import is_outcome
from lightning_costs.analysis.targets import EvaluationCurve
from lightning_costs.analysis.text import caution, list_runs, quote
from lightning_costs.pricing.rates import tariff_text
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.formatting import format_amount, format_number
from lightning_costs.run.record import RunRecord
from lightning_costs.run.summary import describe_lost_work

#: Settings of machine and software: what is measured in seconds, joules, money or bytes depends on them.
_HARDWARE = ("hardware", "device", "devices", "nodes", "processes", "cuda", "precision", "matmul_precision", "compiled")
_HARDWARE_BOUND = ("time", "energy", "money", "memory")

NAMED = 6


def run_cautions(
    records: Sequence[RunRecord],
    runs: Sequence[RunRow],
    courses: Mapping[str, EvaluationCurve],
    metric: Metric,
    setups: Setups,
    declared: Mapping[str, Declaration],
    tariff: Tariff | None,
) -> list[Caution]:
    """What each run's record says that limits claims, the gravest first."""
    return [
        *_unfinished(runs),
        *_stopped(runs, declared),
        *_before_the_end(runs),
        *_quality(runs, courses, metric),
        *methods(runs),
        *flop_conventions(runs),
        *lower_bounds(records, runs),
        *estimates(runs, declared),
        *several_passes(runs),
        *_tariffs(records, runs, tariff),
        *_setups(setups, declared),
        *_trials(runs),
    ]


def _unfinished(runs: Sequence[RunRow]) -> list[Caution]:
    found = [
        caution(
            "unfinished",
            f"run {quote(run['label'])} is {quote(run['status'])}, not finished: what it spent is not "
            "the cost of a whole training",
            [run["label"]],
            status=run["status"],
            planned_fraction=run["planned_fraction"],
        )
        for run in runs
        if run["status"] not in ("finished", "unknown")
    ]
    if silent := [run["label"] for run in runs if run["status"] == "unknown"]:
        found.append(
            caution(
                "unfinished",
                f"whether {list_runs(silent)} finished is not recorded in the source of their costs",
                silent,
                status="unknown",
            )
        )
    return found


def _stopped(runs: Sequence[RunRow], declared: Mapping[str, Declaration]) -> list[Caution]:
    found = []
    for run in runs:
        stop = run["stopped"]
        if stop is None:
            continue
        unit = declared[stop["column"]]["unit"] if stop["column"] in declared else None
        limit = f" of {format_amount(stop['limit'], unit)}" if unit and stop["limit"] is not None else ""
        found.append(
            caution(
                "stopped_by_budget",
                f"run {quote(run['label'])} was ended by its budget{limit} ({stop['column']}): its quality is what "
                "the budget bought, not what its method reaches, and its curve says nothing beyond",
                [run["label"]],
                section="2.1",
                **stop,
            )
        )
    return found


def _before_the_end(runs: Sequence[RunRow]) -> list[Caution]:
    short = {
        run["label"]: share
        for run in runs
        if run["status"] == "finished"
        and run["stopped"] is None
        and (share := run["planned_fraction"]) is not None
        and share < 1.0
    }
    if not short:
        return []
    least = min(short.values())
    return [
        caution(
            "not_at_the_end_of_the_schedule",
            f"{list_runs(short)} ended before the schedule did (after {100 * least:.0f} % of it"
            f"{' at least' if len(short) > 1 else ''}): the learning rate had not come down, and nothing is "
            "claimed past that point",
            short,
            section="2.1",
            planned_fraction=short,
        )
    ]


def _quality(runs: Sequence[RunRow], courses: Mapping[str, EvaluationCurve], metric: Metric) -> list[Caution]:
    found = []
    for run in runs:
        quality = courses[run["label"]].quality
        if not len(quality):
            found.append(
                caution(
                    "no_quality",
                    f"run {quote(run['label'])} never logged {quote(metric.monitor)}: it has no curve, counts "
                    "as one that reached no target, is on no front and leads by nothing",
                    [run["label"]],
                )
            )
        elif lost := int((~np.isfinite(quality)).sum()):
            found.append(
                caution(
                    "diverged",
                    f"run {quote(run['label'])} diverged: some values of its quality are not finite numbers",
                    [run["label"]],
                    evaluations=len(quality),
                    not_finite=lost,
                )
            )
    return found


def _tariffs(records: Sequence[RunRecord], runs: Sequence[RunRow], tariff: Tariff | None) -> list[Caution]:
    if tariff is not None:
        return []
    recorded: dict[str, list[str]] = {}
    for record, run in zip(records, runs, strict=True):
        text = tariff_text(record.header.get("tariff") or {})
        recorded.setdefault(text, []).append(run["label"])
    if len(recorded) < 2:
        return []
    return [
        caution(
            "tariffs_differ",
            "runs were priced under different tariffs, so that carbon and money differ by more than what the "
            "runs used; compare them under one: compare(runs, tariff=Tariff(...))",
            tariffs=[{"runs": labels, "tariff": json.loads(text)} for text, labels in recorded.items()],
        )
    ]


def _setups(setups: Setups, declared: Mapping[str, Declaration], most: int = 12) -> list[Caution]:
    different = [key for key, values in setups["different"].items() if not _all_outcomes(key, values)]
    keys = [key if len(key) <= 60 else f"{key[:59]}…" for key in different]
    if not keys:
        return []
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    found = [
        caution(
            "setups_differ",
            f"setups differ in {', '.join(keys[:most])}{more}: a difference in cost may come from there",
            keys=different,
        )
    ]
    machine = [key for key in different if key.partition(".")[0] in _HARDWARE]
    bound = [name for name, row in declared.items() if row["family"] in _HARDWARE_BOUND and row["role"] == "indicator"]
    if machine and bound:
        found.append(
            caution(
                "hardware_differs",
                f"runs differ in machine or number format ({', '.join(machine[:most])}): by time, energy, money and "
                "memory they compare machines as much as methods",
                keys=machine,
                columns=bound,
            )
        )
    return found


def _all_outcomes(key: str, values: Mapping[str, Plain]) -> bool:
    """Whether all that runs have under a key are outcomes."""
    return all(value is None or is_outcome(key, value) for value in values.values())


def _trials(runs: Sequence[RunRow]) -> list[Caution]:
    trials = {
        run["label"]: run["search"]["trials"] for run in runs if run["search"] and run["search"]["trials"] is not None
    }
    if len(set(trials.values())) < 2:
        return []
    return [
        caution(
            "tuning_budgets_differ",
            f"settings were searched in {min(trials.values())} to {max(trials.values())} trials: a method with "
            "more trials had more chances to look good",
            trials,
            trials=trials,
        )
    ]


def hindsight_cautions(targets: Sequence[TargetRow]) -> list[Caution]:
    """A word on targets that were chosen after seeing results."""
    chosen = [f"{row['target']:.4g}" for row in targets if not row["declared"]]
    if not chosen:
        return []
    return [
        caution(
            "targets_in_hindsight",
            f"no target was declared: {' and '.join(chosen)} "
            f"{'were' if len(chosen) > 1 else 'was'} chosen after seeing the results",
            targets=[row["target"] for row in targets if not row["declared"]],
        )
    ]


def mode_cautions(against: Sequence[str], metric: Metric) -> list[Caution]:
    """A word on the mode that was asked for where runs declare the other one."""
    if not against:
        return []
    other = "min" if metric.mode == "max" else "max"
    return [
        caution(
            "mode_contradicts_runs",
            f"mode {metric.mode} was asked for, and {list_runs(against)} "
            f"{'declares' if len(against) == 1 else 'declare'} "
            f"{other} for {quote(metric.monitor)}: if they are right, the best here is the worst",
            against,
            asked=metric.mode,
            declared=other,
        )
    ]


def below_zero_cautions(removed: Mapping[str, Mapping[int, float]], labels: Sequence[str]) -> list[Caution]:
    """A word on each column whose amounts below 0 were taken for marks of a missing reading."""
    found = []
    for name, places in removed.items():
        runs = [labels[index] for index in places]
        amounts = ", ".join(format_number(amount) for amount in sorted(set(places.values()))[:NAMED])
        found.append(
            caution(
                "below_zero",
                f"{quote(name)} of {list_runs(runs)} is below 0 ({amounts}), which no amount of it is: such "
                "readings are "
                "taken as missing",
                runs,
                column=name,
                amounts=dict(zip(runs, places.values(), strict=True)),
            )
        )
    return found


def clash_cautions(clashing: Sequence[str]) -> list[Caution]:
    """A word on each column that runs declare in different ways."""
    return [
        caution(
            "declarations_clash",
            f"runs declare {quote(name)} with different units, kinds or directions: it is left out",
            column=name,
        )
        for name in clashing
    ]


def restart_cautions(runs: Mapping[str, RunRecord], curve: str) -> list[Caution]:
    """A word on each run, by label and as spent, whose restarts lost work or may have."""
    found = []
    for label, run in runs.items():
        lost = describe_lost_work(run.header, run.final)
        if lost is None:
            continue
        if "unknown" in lost:
            limit = "its costs may hold work that bought nothing" if curve == "spent" else "it has no cost to reach"
        elif curve == "spent":
            limit = "its costs hold work that bought nothing; compare(runs, curve='to_reach') leaves it out"
        else:
            limit = "that is left out here"
        found.append(
            caution(
                "restarts_lost_work",
                f"run {quote(label)} {lost}: {limit}",
                [label],
                lost_s=run.final.get("lost_s"),
                total_s=run.final.get("total_s"),
            )
        )
    return found
