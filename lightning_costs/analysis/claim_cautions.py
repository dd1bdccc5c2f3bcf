"""What a reader must know of results before believing them: early leads, noise, rounding, matching, one indicator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import numpy as np

from lightning_costs.analysis.agreement_schema import Families, Matched, Ranks
from lightning_costs.analysis.leads import Field
from lightning_costs.analysis.metric import Metric
from lightning_costs.analysis.schedule import shaping_differences
from lightning_costs.analysis.schema import Caution, Declaration, Groups, Leader, RunRow, Spread, Sweep
from lightning_costs.analysis.text import NAMED, caution, list_runs, quote

#: An early lead counts if it covers this share of the range of qualities.
EARLY_SHARE = 0.1
_EARLY_TOLD = 3
#: 'Almost as good': within this share of the better quality. 'Much cheaper': at most this share of its cost.
ALMOST, CHEAPER = 0.01, 0.5
#: From this number of runs on, an order shared by chance is rare: two of n! orders are the same or reversed.
ENOUGH_RUNS = 5
#: Columns that are matched by, what else of a model matching hides, and the paper's section that warns of it.
_SIZE = ("params", "trainable_params")
_WORK = ("forward_flop", "forward_mac", "flop", "mac", "model_flop")
_MATCHED = (
    (_SIZE, _WORK, "3.2.1", "parameters", "compute"),
    (_WORK, _SIZE, "3.2.2", "compute", "capacity"),
)
_HIDES = 1.25


def early_leads(
    runs: Sequence[RunRow], sweep: Sweep, metric: Metric, best: Sequence[str], better: Mapping[str, str]
) -> list[Caution]:
    """Runs that reach easy targets at less cost than the run with the best quality, and end behind it.

    A short schedule, a learning rate that decays soon and a low weight decay lead early and lose late (the paper's
    figures 2 and 3). An early lead is reported if it covers `EARLY_SHARE` of the range of qualities, by some counter.
    A row of a table, evaluated once, has no course in which it could lead.
    """
    rows = {run["label"]: run for run in runs}
    if not best or len(sweep["targets"]) < 2:
        return []
    late = rows[best[0]]
    if late["evaluations"] < 2:
        return []
    targets = np.array(sweep["targets"])
    widths = np.abs(np.diff(targets, prepend=targets[0]))
    whole = float(widths.sum())
    leads: dict[str, dict[str, tuple[float, float]]] = {}
    for name, costs in sweep["costs"].items():
        sign = 1.0 if better[name] == "lower" else -1.0
        table = np.array([[math.nan if c is None else c for c in costs[label]] for label in rows])
        table = np.where(np.isfinite(table), sign * table, table)
        theirs = table[list(rows).index(late["label"])]
        ahead = table < theirs
        for label, row, share in zip(rows, ahead, (ahead @ widths) / whole, strict=True):
            if share >= EARLY_SHARE and label not in best and rows[label]["evaluations"] > 1:
                leads.setdefault(label, {})[name] = (float(share), float(targets[np.flatnonzero(row)[-1]]))
    found = []
    # A difference in schedule explains a lead: such runs come first, then those that lead furthest.
    shaped = {label: shaping_differences(rows[label]["setup"], late["setup"]) for label in leads}
    ordered = sorted(leads, key=lambda label: (not shaped[label], -max(share for share, _ in leads[label].values())))
    for label in ordered[:_EARLY_TOLD]:
        early, by = rows[label], leads[label]
        upto = max((upto for _, upto in by.values()), key=lambda value: value if metric.mode == "max" else -value)
        there = [name for name, (_, own) in by.items() if own == upto]
        differences = shaped[label]
        why = f"; they differ in {', '.join(differences[:4])}" if differences else ""
        found.append(
            caution(
                "early_lead",
                f"{quote(label)} leads early and loses late: to reach {metric.monitor} {upto:.4g} it needs less than "
                f"{quote(late['label'])} by {_listed(there)}, and its best is {early['best_quality']:.4g} against "
                f"{late['best_quality']:.4g}{why}",
                [label, late["label"]],
                section="2.1",
                share_of_range={name: share for name, (share, _) in by.items()},
                upto={name: upto for name, (_, upto) in by.items()},
                best_quality=[early["best_quality"], late["best_quality"]],
                differences=differences,
            )
        )
    if others := ordered[_EARLY_TOLD:]:
        found.append(
            caution(
                "early_lead",
                f"so {'do' if len(others) > 1 else 'does'} {list_runs(others)} against {quote(late['label'])}",
                [*others, late["label"]],
                section="2.1",
            )
        )
    return found


def single_family_leads(families: Families) -> list[Caution]:
    """Runs that lead by one family of indicators alone, where several are contested."""
    if families["contested"] < 2:
        return []
    found = []
    for label, led in families["leads"].items():
        others = {
            row["family"]: row["leaders"]
            for row in families["rows"]
            if row["leaders"] and row["family"] not in led and label not in row["leaders"]
        }
        if len(led) == 1 and others:
            found.append(
                caution(
                    "one_indicator",
                    f"that {quote(label)} is the efficient one is supported by {led[0]} alone, of "
                    f"{families['contested']} families of indicators that differ: "
                    + "; ".join(
                        f"by {family} {list_runs(who, 2)} lead{'s' if len(who) == 1 else ''}"
                        for family, who in list(others.items())[:3]
                    ),
                    [label],
                    family=led[0],
                    others=others,
                    contested=families["contested"],
                )
            )
    return found[:NAMED]


def matched_pairs(matched: Matched) -> list[Caution]:
    """Pairs that are alike in parameters and not in compute, and the other way round."""
    rows = {row["column"]: row for row in matched["rows"]}
    found = []
    for by, hidden, section, alike, other in _MATCHED:
        pairs = [
            (rows[column]["hides"][name], column, name)
            for column in by
            if column in rows
            for name in hidden
            if name in rows[column]["hides"]
        ]
        pairs = [row for row in pairs if row[0]["most"] >= _HIDES]
        if pairs:
            hides, column, name = max(pairs, key=lambda row: row[0]["most"])
            found.append(
                caution(
                    f"{alike}_matched",
                    f"{list_runs(hides['example'])} are matched by {column} and differ {hides['most']:.2g} times in "
                    f"{name}:"
                    f" a comparison at equal {alike} hides {other} ({hides['differ']} of {hides['n']} pairs)",
                    hides["example"],
                    section=section,
                    column=column,
                    hides=name,
                    **hides,
                )
            )
    return found


def nearly_as_good_cheaper(
    runs: Sequence[RunRow], metric: Metric, best: Sequence[str], declared: Mapping[str, Declaration]
) -> list[Caution]:
    """Runs that are almost as good as the best and much cheaper, where the best one was not tuned for cost."""
    rows = {run["label"]: run for run in runs}
    if not best:
        return []
    top = rows[best[0]]
    under = top["search"]["under"] if top["search"] else None
    found = []
    for run in runs:
        own, theirs = run["best_quality"], top["best_quality"]
        if run["label"] in best or own is None or theirs is None or abs(own - theirs) > ALMOST * abs(theirs):
            continue
        cheaper = {}
        for name, row in declared.items():
            a, b = run["final"].get(name), top["final"].get(name)
            counts = row["role"] == "indicator" and row["kind"] == "counter" and row["better"] == "lower"
            if counts and name != under and a is not None and b and 0 < b < math.inf and a <= CHEAPER * b:
                cheaper[name] = a / b
        if cheaper:
            least = min(cheaper, key=lambda name: cheaper[name])
            found.append(
                caution(
                    "almost_as_good",
                    f"{quote(run['label'])} is almost as good as {quote(top['label'])} ({own:.4g} against "
                    f"{theirs:.4g}) at {100 * cheaper[least]:.2g} % of its {least}; nothing says that the latter was "
                    "tuned for cost: trained shorter or made smaller it might be as cheap",
                    [run["label"], top["label"]],
                    section="2.1",
                    share_of_cost=cheaper,
                    best_quality=[own, theirs],
                )
            )
    return sorted(found, key=lambda row: min(row["evidence"]["share_of_cost"].values()))[:NAMED]


def searched_under(runs: Sequence[RunRow], leaders: Mapping[str, Leader], fields: Mapping[str, Field]) -> list[Caution]:
    """Runs that lead by the very indicator that their settings were searched under."""
    return [
        caution(
            "searched_under_the_indicator",
            f"{quote(run['label'])} leads by {under}, the cost that its settings were searched under: by the others "
            "it was not optimised, and the others not by this",
            [run["label"]],
            column=under,
            trials=run["search"]["trials"],
        )
        for run in runs
        if run["search"]
        and (under := run["search"]["under"]) is not None
        and under in leaders
        and run["label"] in leaders[under]["labels"]
        and len(leaders[under]["labels"]) < fields[under].taking
    ]


def seed_noise(groups: Groups | None, metric: Metric) -> list[Caution]:
    """Groups whose quality cannot be told apart from the best one's, given the spread of their seeds."""
    if groups is None:
        return []
    known = {group: spread for group, spread in groups["quality"].items() if spread["median"] is not None}
    if len(known) < 2:
        return []
    sign = 1.0 if metric.mode == "max" else -1.0
    top = max(known, key=lambda group: sign * (known[group]["median"] or 0.0))
    single = [group for group, spread in known.items() if spread["n"] == 1]
    # The extremes of both overlap: some seed of the worse method is at least as good as some of the better one. One
    # run has no spread, and two of them are merely equal.
    close = [
        group
        for group, spread in known.items()
        if group != top and not {group, top} <= set(single) and _overlap(spread, known[top])
    ]
    found = []
    if close:
        several = [group for group in close if group not in single]
        alone = [group for group in close if group in single]
        seeds = "the spread of seeds of"
        if top in single:
            sentences = [f"{quote(top)}, one run, lies within {seeds} {list_runs(close)}"]
        else:
            sentences = [f"{list_runs(several)} overlaps with {seeds} {quote(top)}"] if several else []
            sentences += [f"{list_runs(alone)}, one run each, lies within {seeds} {quote(top)}"] if alone else []
        found.append(
            caution(
                "within_seed_noise",
                f"{metric.monitor} of {' and that of '.join(sentences)}: these runs do not show which is better",
                [label for group in (top, *close) for label in groups["members"][group]],
                spreads={group: dict(known[group]) for group in (top, *close)},
            )
        )
    if single and len(single) < len(known):
        rated = " with a quality" if any(len(groups["members"][group]) > 1 for group in single) else ""
        found.append(
            caution(
                "single_seed",
                f"{list_runs(single)} {'has' if len(single) == 1 else 'have'} one run{rated} each: the "
                "variation by chance is unknown",
                [label for group in single for label in groups["members"][group]],
            )
        )
    return found


def few_runs(runs: Sequence[RunRow], ranks: Ranks) -> list[Caution]:
    """Correlations over few runs, and those that printed digits decide."""
    found = []
    if len(runs) < 3:
        count = "one run has" if len(runs) == 1 else "two runs have"
        found.append(
            caution(
                "few_runs",
                f"{count} no meaningful rank correlation: it takes at least 3 runs, and more to say anything firm",
                n=len(runs),
            )
        )
    else:
        firm = [pair for pair in ranks["pairs"] if pair["spearman"] is not None and abs(pair["spearman"]) == 1.0]
        short = [pair for pair in firm if pair["n"] < ENOUGH_RUNS]
        if short:
            n = max(pair["n"] for pair in short)
            chance = min(1.0, 2 / math.factorial(n))
            found.append(
                caution(
                    "few_runs",
                    f"{n} runs are too few to say whether costs agree: {100 * chance:.2g} % of unrelated costs would "
                    "agree or disagree perfectly",
                    n=n,
                    chance=chance,
                    pairs=[[pair["first"], pair["second"]] for pair in short],
                )
            )
    decided = [pair for pair in ranks["pairs"] if pair["rounded"] is not None and pair["spearman"] is not None]
    if decided:
        widest = max(decided, key=lambda pair: pair["rounded"][1] - pair["rounded"][0])  # type: ignore[index]
        low, high = widest["rounded"] or (-1.0, 1.0)
        can = "can be anything" if widest["rounded_exactly"] else "is somewhere, whatever was rounded away,"
        found.append(
            caution(
                "decided_by_rounding",
                "figures are printed with few digits, and runs that are equal or one digit apart may be in any order: "
                f"Spearman of {widest['first']} and {widest['second']} is {widest['spearman']:.2g} as printed and "
                f"{can} from {_outwards(low, ROUND_FLOOR)} to {_outwards(high, ROUND_CEILING)} ({len(decided)} of "
                f"{len(ranks['pairs'])} pairs of indicators)",
                pairs=[
                    {key: dict(pair)[key] for key in ("first", "second", "spearman", "rounded", "rounded_exactly")}
                    for pair in decided
                ],
            )
        )
    return found


def _outwards(bound: float, rounding: str) -> str:
    """A bound with two decimal places, rounded so that it still is one."""
    return f"{float(Decimal(f'{bound:.12f}').quantize(Decimal('0.01'), rounding)):g}"


def _overlap(one: Spread, other: Spread) -> bool:
    ends = (one["least"], other["most"], other["least"], one["most"])
    return None not in ends and ends[0] <= ends[1] and ends[2] <= ends[3]  # type: ignore[operator]


def _listed(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
