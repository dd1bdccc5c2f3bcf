"""What a reader must know of runs before believing a comparison: their ends, methods, prices and setups."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lightning_costs.compare.metric import Metric
from lightning_costs.compare.schema import Caution, DeclarationRow, RunRow, Setups, TargetRow
from lightning_costs.compare.targets import Course
from lightning_costs.core.rates import PRICED
from lightning_costs.core.records import Amount, RunRecord
from lightning_costs.core.summary import lost_words
from lightning_costs.core.tariff import Tariff
from lightning_costs.core.units import human

#: Settings of machine and software: what is measured in seconds, joules, money or bytes depends on them.
_HARDWARE = ("hardware", "device", "devices", "nodes", "processes", "cuda", "precision", "matmul_precision", "compiled")
_HARDWARE_BOUND = ("time", "energy", "money", "memory")
#: A sample that takes so many times more work than another run's is a step of another kind.
_MORE_WORK = 1.4
#: Most runs that a caution names.
NAMED = 6


def quoted(text: str, most: int = 60) -> str:
    """A user's text on one line within quotation marks, cut where it is long.

    Example:
        >>> quoted("two\\nlines")
        "'two\\\\nlines'"
    """
    return repr(text if len(text) <= most else f"{text[: most - 1]}…")


def named(labels: Iterable[str], most: int = NAMED) -> str:
    """Runs in a sentence.

    Example:
        >>> named(["a", "b", "c"], most=2)
        "'a', 'b' and 1 more"
    """
    words = [quoted(label, 30) for label in labels]
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most} more"
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def caution(kind: str, text: str, runs: Iterable[str] = (), *, section: str | None = None, **evidence: Any) -> Caution:
    """A caution; `evidence` are the figures behind its words."""
    return {"kind": kind, "text": text, "section": section, "runs": list(runs), "evidence": evidence}


def run_cautions(
    records: Sequence[RunRecord],
    runs: Sequence[RunRow],
    courses: Mapping[str, Course],
    metric: Metric,
    setups: Setups,
    declared: Mapping[str, DeclarationRow],
    tariff: Tariff | None,
) -> list[Caution]:
    """What each run's record says that limits claims, the gravest first."""
    return [
        *_unfinished(runs),
        *_stopped(runs, declared),
        *_before_the_end(runs),
        *_quality(runs, courses, metric),
        *_methods(runs),
        *_flop_conventions(runs),
        *_lower_bounds(records, runs),
        *_several_passes(runs),
        *_tariffs(records, runs, tariff),
        *_setups(setups, declared),
        *_trials(runs),
    ]


def _unfinished(runs: Sequence[RunRow]) -> list[Caution]:
    return [
        caution(
            "unfinished",
            f"run {quoted(run['label'])} is {quoted(run['status'])}, not finished: what it spent is not "
            "the cost of a whole training",
            [run["label"]],
            status=run["status"],
            planned_fraction=run["planned_fraction"],
        )
        for run in runs
        if run["status"] != "finished"
    ]


def _stopped(runs: Sequence[RunRow], declared: Mapping[str, DeclarationRow]) -> list[Caution]:
    found = []
    for run in runs:
        stop = run["stopped"]
        if stop is None:
            continue
        unit = declared[stop["column"]]["unit"] if stop["column"] in declared else None
        limit = f" of {human(stop['limit'], unit)}" if unit and stop["limit"] is not None else ""
        found.append(
            caution(
                "stopped_by_budget",
                f"run {quoted(run['label'])} was ended by its budget{limit} ({stop['column']}): its quality is what "
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
            f"{named(short)} ended before the schedule did (after {100 * least:.0f} % of it"
            f"{' at least' if len(short) > 1 else ''}): the learning rate had not come down, and nothing is "
            "claimed past that point",
            short,
            section="2.1",
            planned_fraction=short,
        )
    ]


def _quality(runs: Sequence[RunRow], courses: Mapping[str, Course], metric: Metric) -> list[Caution]:
    found = []
    for run in runs:
        quality = courses[run["label"]].quality
        if not len(quality):
            found.append(
                caution(
                    "no_quality",
                    f"run {quoted(run['label'])} never logged {quoted(metric.monitor)}: it has no curve and "
                    "takes part in no target and no front",
                    [run["label"]],
                )
            )
        elif lost := int((~np.isfinite(quality)).sum()):
            found.append(
                caution(
                    "diverged",
                    f"run {quoted(run['label'])} diverged: some values of its quality are not finite numbers",
                    [run["label"]],
                    evaluations=len(quality),
                    not_finite=lost,
                )
            )
    return found


def _methods(runs: Sequence[RunRow]) -> list[Caution]:
    names = sorted({name for run in runs for name in run["methods"] if name not in PRICED and not _is_flop(name)})
    found = []
    for name in names:
        by_method = _by_method(runs, name)
        if len(by_method) > 1:
            ways = _ways(by_method)
            found.append(
                caution(
                    "methods_differ",
                    f"{name} was got by different methods ({ways}): runs are not comparable by it across methods",
                    [run["label"] for run in runs if run["final"].get(name) is not None],
                    column=name,
                    methods=by_method,
                )
            )
    return found


def _flop_conventions(runs: Sequence[RunRow]) -> list[Caution]:
    """FLOPs beside multiply-accumulates, and counts that were made in other ways."""
    found = []
    for name in sorted({name for run in runs for name in run["methods"] if _is_flop(name)}):
        # A lower bound is a caution of its own; what comes before it is the convention.
        by_method = _by_method(runs, name, lambda text: text.partition("; lower bound")[0])
        if len(by_method) > 1:
            found.append(
                caution(
                    "flop_conventions",
                    f"{name} was counted in different ways ({_ways(by_method)}): a multiply-accumulate is one "
                    "operation to some and two to others",
                    [run["label"] for run in runs if run["final"].get(name) is not None],
                    column=name,
                    methods=by_method,
                )
            )
    for flop, mac in (("flop", "mac"), ("forward_flop", "forward_mac")):
        per_mac = {
            run["label"]: flops / macs
            for run in runs
            if (flops := run["final"].get(flop)) and (macs := run["final"].get(mac))
        }
        ones = [label for label, ratio in per_mac.items() if ratio < 1.5]
        only = {
            name: [run["label"] for run in runs if run["final"].get(name) and run["final"].get(other) is None]
            for name, other in ((flop, mac), (mac, flop))
        }
        if ones and len(ones) < len(per_mac):
            found.append(
                caution(
                    "flop_conventions",
                    f"{flop} of {named(ones)} are as many as {mac}, those of the others twice: the former look like "
                    "multiply-accumulates",
                    ones,
                    flop_per_mac=per_mac,
                )
            )
        if only[flop] and only[mac]:
            found.append(
                caution(
                    "flop_conventions",
                    f"{named(only[mac])} state multiply-accumulates ({mac}) and {named(only[flop])} state operations "
                    f"({flop}), twice as many for the same work: they share no column",
                    [*only[flop], *only[mac]],
                    columns=only,
                )
            )
    return found


def _lower_bounds(records: Sequence[RunRecord], runs: Sequence[RunRow]) -> list[Caution]:
    calls = {
        run["label"]: dict(uncounted)
        for record, run in zip(records, runs, strict=True)
        if (uncounted := (record.header.get("census") or {}).get("uncounted_calls"))
    }
    if not calls:
        return []
    names = sorted({name for uncounted in calls.values() for name in uncounted})
    return [
        caution(
            "flop_lower_bound",
            f"FLOPs of {named(calls)} are a lower bound, no formula for {', '.join(names[:NAMED])}: who leads by "
            "them may not",
            calls,
            uncounted_calls=calls,
        )
    ]


def _several_passes(runs: Sequence[RunRow]) -> list[Caution]:
    """Runs whose samples take more forward and backward passes than others' (SAM's two, a GAN's several)."""
    work = {run["label"]: passes for run in runs if (passes := _forward_passes(run["final"])) is not None}
    found = []
    if work and max(work.values()) >= _MORE_WORK * min(work.values()):
        least = min(work.values())
        more = {label: passes for label, passes in work.items() if passes >= _MORE_WORK * least}
        found.append(
            caution(
                "steps_hide_passes",
                f"a sample takes the work of {max(more.values()):.1f} forward passes in {named(more)} and of "
                f"{least:.1f} elsewhere: equal steps, epochs or samples are not equal work",
                more,
                forward_passes_per_sample=work,
            )
        )
    calls = {
        run["label"]: run["final"]["optimizer_steps"] / run["final"]["steps"]  # type: ignore[operator]
        for run in runs
        if run["final"].get("optimizer_steps") and run["final"].get("steps")
    }
    several = {label: ratio for label, ratio in calls.items() if ratio >= _MORE_WORK * min(calls.values())}
    if several:
        found.append(
            caution(
                "steps_hide_passes",
                f"a step is {max(several.values()):.1f} calls of optimizers in {named(several)} and "
                f"{min(calls.values()):.1f} elsewhere: equal steps are not equal work",
                several,
                optimizer_calls_per_step=calls,
            )
        )
    return found


def _forward_passes(final: Mapping[str, Amount]) -> float | None:
    """Work of a sample in forward passes: 3 where a backward pass costs two forward ones, about 6 with SAM."""
    for total, forward in (("model_flop", "forward_flop"), ("flop", "forward_flop"), ("mac", "forward_mac")):
        amounts = (final.get(total), final.get("samples"), final.get(forward))
        if all(amount is not None and 0 < amount < math.inf for amount in amounts):
            work, samples, one = amounts
            return work / samples / one  # type: ignore[operator]
    return None


def _tariffs(records: Sequence[RunRecord], runs: Sequence[RunRow], tariff: Tariff | None) -> list[Caution]:
    if tariff is not None:
        return []
    recorded: dict[str, list[str]] = {}
    for record, run in zip(records, runs, strict=True):
        text = json.dumps(_without_device(record.header.get("tariff") or {}), sort_keys=True, default=str)
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


def _without_device(tariff: Mapping[str, Any]) -> dict[str, Any]:
    """A tariff without the price row that it found: two devices have two prices at one provider."""
    return {name: value for name, value in tariff.items() if name not in ("price_row", "prices", "unpriced")}


def _setups(setups: Setups, declared: Mapping[str, DeclarationRow], most: int = 12) -> list[Caution]:
    keys = [key if len(key) <= 60 else f"{key[:59]}…" for key in setups["different"]]
    if not keys:
        return []
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    found = [
        caution(
            "setups_differ",
            f"setups differ in {', '.join(keys[:most])}{more}: a difference in cost may come from there",
            keys=list(setups["different"]),
        )
    ]
    machine = [key for key in setups["different"] if key.partition(".")[0] in _HARDWARE]
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


def _trials(runs: Sequence[RunRow]) -> list[Caution]:
    trials = {
        run["label"]: run["search"]["trials"] for run in runs if run["search"] and run["search"]["trials"] is not None
    }
    if len(set(trials.values())) < 2:
        return []
    return [
        caution(
            "tuning_budgets_differ",
            f"settings were searched in {min(trials.values())} to {max(trials.values())} trials: who was tuned "
            "longer had more chances to look good",
            trials,
            trials=trials,
        )
    ]


def _is_flop(name: str) -> bool:
    return name.endswith(("flop", "mac"))


def _by_method(runs: Sequence[RunRow], name: str, told: Callable[[str], str] = str) -> dict[str, list[str]]:
    """Method to the runs whose reading was got by it."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        if run["final"].get(name) is not None:
            groups.setdefault(told(run["methods"].get(name) or "unknown"), []).append(run["label"])
    return groups


def _ways(by_method: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(
        f"{method}: {', '.join(quoted(label, 30) for label in labels[:NAMED])}"
        + (f" and {len(labels) - NAMED} more" if len(labels) > NAMED else "")
        for method, labels in by_method.items()
    )


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


def clash_cautions(clashing: Sequence[str]) -> list[Caution]:
    """A word on each column that runs declare in different ways."""
    return [
        caution(
            "declarations_clash",
            f"runs declare {quoted(name)} with different units, kinds or directions: it is left out",
            column=name,
        )
        for name in clashing
    ]


def restart_cautions(runs: Mapping[str, RunRecord], curve: str) -> list[Caution]:
    """A word on each run, by label and as spent, whose restarts lost work or may have."""
    found = []
    for label, run in runs.items():
        lost = lost_words(run.header, run.final)
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
                f"run {quoted(label)} {lost}: {limit}",
                [label],
                lost_s=run.final.get("lost_s"),
                total_s=run.final.get("total_s"),
            )
        )
    return found
