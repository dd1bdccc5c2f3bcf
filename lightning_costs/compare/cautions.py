"""What a reader must know before believing a comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_costs.compare.metric import Metric
from lightning_costs.compare.schema import Curve, RunRow, Setups, TargetRow
from lightning_costs.core.rates import PRICED
from lightning_costs.core.records import RunRecord
from lightning_costs.core.summary import lost_words
from lightning_costs.core.tariff import Tariff


def quoted(text: str, most: int = 60) -> str:
    """A user's text on one line within quotation marks, cut where it is long.

    Example:
        >>> quoted("two\\nlines")
        "'two\\\\nlines'"
    """
    return repr(text if len(text) <= most else f"{text[: most - 1]}…")


def cautions(
    records: Sequence[RunRecord],
    runs: Sequence[RunRow],
    curves: Mapping[str, Curve],
    metric: Metric,
    setups: Setups,
    targets: Sequence[TargetRow],
    tariff: Tariff | None,
) -> list[str]:
    """Everything that limits what a comparison can claim, in words, the gravest first."""
    return [
        *_unfinished(runs),
        *_quality(runs, curves, metric),
        *_methods(runs),
        *_tariffs(records, runs, tariff),
        *_setups(setups),
        *_hindsight(targets),
        *_few(runs),
    ]


def _unfinished(runs: Sequence[RunRow]) -> list[str]:
    return [
        f"run {quoted(run['label'])} is {quoted(run['status'])}, not finished: what it spent is not "
        "the cost of a whole training"
        for run in runs
        if run["status"] != "finished"
    ]


def _quality(runs: Sequence[RunRow], curves: Mapping[str, Curve], metric: Metric) -> list[str]:
    found = []
    for run in runs:
        quality = curves[run["label"]]["quality"]
        if not quality:
            found.append(
                f"run {quoted(run['label'])} never logged {quoted(metric.monitor)}: it has no curve and "
                "takes part in no target and no front"
            )
        elif any(value is not None and not math.isfinite(value) for value in quality):
            found.append(f"run {quoted(run['label'])} diverged: some values of its quality are not finite numbers")
    return found


def _methods(runs: Sequence[RunRow]) -> list[str]:
    names = sorted({name for run in runs for name in run["methods"] if name not in PRICED})
    found = []
    for name in names:
        by_method = _grouped(
            {run["label"]: run["methods"].get(name) for run in runs if run["final"].get(name) is not None}
        )
        if len(by_method) > 1:
            ways = "; ".join(f"{method or 'unknown'}: {labels}" for method, labels in by_method.items())
            found.append(f"{name} was got by different methods ({ways}): runs are not comparable by it across methods")
    return found


def _tariffs(records: Sequence[RunRecord], runs: Sequence[RunRow], tariff: Tariff | None) -> list[str]:
    if tariff is not None:
        return []
    recorded = {
        run["label"]: json.dumps(_without_device(record.header.get("tariff") or {}), sort_keys=True)
        for record, run in zip(records, runs, strict=True)
    }
    if len(set(recorded.values())) < 2:
        return []
    return [
        "runs were priced under different tariffs, so that carbon and money differ by more than what the "
        "runs used; compare them under one: compare(runs, tariff=Tariff(...))"
    ]


def _without_device(tariff: Mapping[str, Any]) -> dict[str, Any]:
    """A tariff without the price row that it found: two devices have two prices at one provider."""
    return {name: value for name, value in tariff.items() if name not in ("price_row", "prices", "unpriced")}


def _setups(setups: Setups, most: int = 12) -> list[str]:
    keys = [key if len(key) <= 60 else f"{key[:59]}…" for key in setups["different"]]
    if not keys:
        return []
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return [f"setups differ in {', '.join(keys[:most])}{more}: a difference in cost may come from there"]


def _hindsight(targets: Sequence[TargetRow]) -> list[str]:
    chosen = [f"{row['target']:.4g}" for row in targets if not row["declared"]]
    if not chosen:
        return []
    return [
        f"no target was declared: {' and '.join(chosen)} "
        f"{'were' if len(chosen) > 1 else 'was'} chosen after seeing the results"
    ]


def _few(runs: Sequence[RunRow]) -> list[str]:
    if len(runs) >= 3:
        return []
    count = "one run has" if len(runs) == 1 else "two runs have"
    return [f"{count} no meaningful rank correlation: it takes at least 3 runs, and more to say anything firm"]


def _grouped(methods: Mapping[str, str | None]) -> dict[str | None, str]:
    groups: dict[str | None, list[str]] = {}
    for label, method in methods.items():
        groups.setdefault(method, []).append(quoted(label, 30))
    return {method: ", ".join(labels) for method, labels in groups.items()}


def clash_cautions(clashing: Sequence[str]) -> list[str]:
    """A word on each column that runs declare in different ways."""
    return [
        f"runs declare {quoted(name)} with different units, kinds or directions: it is left out" for name in clashing
    ]


def restart_cautions(runs: Mapping[str, RunRecord], curve: str) -> list[str]:
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
        found.append(f"run {quoted(label)} {lost}: {limit}")
    return found
