"""What a reader must know of how costs were got and counted: methods, FLOP conventions, passes in a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from lightning_costs.analysis.schema import Caution, Declaration, RunRow
from lightning_costs.analysis.text import NAMED, caution, list_runs, quote
from lightning_costs.pricing.rates import PRICED
from lightning_costs.records.certainty import convention
from lightning_costs.records.samples import Amount
from lightning_costs.run.record import RunRecord

#: A sample that takes this many times the work of another run's is a step of another kind.
_MORE_WORK = 1.4


def methods(runs: Sequence[RunRow]) -> list[Caution]:
    """A word on each indicator whose readings were got in different ways, and one on runs that say it of none."""
    # A run without any reading has nothing to be compared by, however it was measured.
    known = [run for run in runs if any(amount is not None for amount in run["final"].values())]
    silent = [run["label"] for run in known if not run["methods"]]
    telling = [run for run in runs if run["methods"]]
    found = []
    if silent and telling:
        found.append(
            caution(
                "methods_differ",
                f"how the costs of {list_runs(silent)} were measured is not recorded: they are compared with "
                "measured ones as they are",
                silent,
            )
        )
    runs = telling
    names = sorted({name for run in runs for name in run["methods"] if name not in PRICED and not _is_flop(name)})
    for name in names:
        by_method = _by_method(runs, name, convention)
        if len(by_method) > 1:
            ways = _ways(by_method)
            found.append(
                caution(
                    "methods_differ",
                    f"{name} was measured by different methods ({ways}): runs are not comparable by it across methods",
                    [run["label"] for run in runs if run["final"].get(name) is not None],
                    column=name,
                    methods=by_method,
                )
            )
    return found


def flop_conventions(runs: Sequence[RunRow]) -> list[Caution]:
    """FLOPs beside multiply-accumulates, and counts that were made in other ways."""
    found = []
    telling = [run for run in runs if run["methods"]]
    for name in sorted({name for run in telling for name in run["methods"] if _is_flop(name)}):
        # A lower bound is a caution of its own; what comes before it is the convention.
        by_method = _by_method(telling, name, lambda text: convention(text).partition("; lower bound")[0])
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
                    f"{flop} of {list_runs(ones)} are as many as {mac}, those of the others twice: the former look "
                    "like "
                    "multiply-accumulates",
                    ones,
                    flop_per_mac=per_mac,
                )
            )
        if only[flop] and only[mac]:
            found.append(
                caution(
                    "flop_conventions",
                    f"{list_runs(only[mac])} state multiply-accumulates ({mac}) and {list_runs(only[flop])} state "
                    "operations "
                    f"({flop}), twice as many for the same work: they share no column",
                    [*only[flop], *only[mac]],
                    columns=only,
                )
            )
    return found


def estimates(runs: Sequence[RunRow], declared: Mapping[str, Declaration]) -> list[Caution]:
    """A word on columns by which runs are ordered though their 95 % intervals overlap."""
    overlapping: dict[tuple[str, ...], list[str]] = {}
    for name, row in declared.items():
        if row["role"] != "indicator":
            continue
        known = [(run["label"], run["final"][name], run["intervals"].get(name)) for run in runs]
        ends = sorted(
            (interval[0], interval[1], label) if interval else (amount, amount, label)
            for label, amount, interval in known
            if amount is not None
        )
        near = _overlapping(ends)
        if near:
            overlapping.setdefault(tuple(run["label"] for run in runs if run["label"] in near), []).append(name)
    return [
        caution(
            "estimates_overlap",
            f"{', '.join(names)} of {list_runs(labels)}: estimates over sampled steps whose 95 % intervals overlap, "
            "so the "
            "order of these runs by it is not sure",
            list(labels),
            columns=names,
        )
        for labels, names in overlapping.items()
    ]


def _overlapping(ends: Sequence[tuple[float, float, str]]) -> set[str]:
    """Labels whose interval shares a point with another one's, of intervals in ascending order of their lower ends."""
    near: set[str] = set()
    furthest: tuple[float, float, str] | None = None
    for low, high, label in ends:
        if furthest is not None and low <= furthest[1] and (high > low or furthest[1] > furthest[0]):
            near |= {label, furthest[2]}
        if furthest is None or high > furthest[1]:
            furthest = low, high, label
    return near


def lower_bounds(records: Sequence[RunRecord], runs: Sequence[RunRow]) -> list[Caution]:
    """A word on runs whose FLOPs miss operators without a formula."""
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
            f"FLOPs of {list_runs(calls)} are a lower bound, no formula for {', '.join(names[:NAMED])}: who leads by "
            "them may not",
            calls,
            uncounted_calls=calls,
        )
    ]


def several_passes(runs: Sequence[RunRow]) -> list[Caution]:
    """Runs whose samples take more forward and backward passes than others' (SAM's two, a GAN's several)."""
    work = {run["label"]: passes for run in runs if (passes := _forward_passes(run["final"])) is not None}
    found = []
    if work and max(work.values()) >= _MORE_WORK * min(work.values()):
        least = min(work.values())
        more = {label: passes for label, passes in work.items() if passes >= _MORE_WORK * least}
        found.append(
            caution(
                "steps_hide_passes",
                f"a sample takes the work of {max(more.values()):.3g} forward passes in {list_runs(more)} and of "
                f"{least:.3g} elsewhere: equal steps, epochs or samples are not equal work",
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
                f"a step is {max(several.values()):.1f} calls of optimizers in {list_runs(several)} and "
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


def _is_flop(name: str) -> bool:
    return name.endswith(("flop", "mac"))


def _by_method(runs: Sequence[RunRow], name: str, shorten: Callable[[str], str] = str) -> dict[str, list[str]]:
    """Method to the runs whose reading was got by it."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        if run["final"].get(name) is not None:
            groups.setdefault(shorten(run["methods"].get(name) or "unknown"), []).append(run["label"])
    return groups


def _ways(by_method: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(
        f"{method}: {', '.join(quote(label, 30) for label in labels[:NAMED])}"
        + (f" and {len(labels) - NAMED} more" if len(labels) > NAMED else "")
        for method, labels in by_method.items()
    )
