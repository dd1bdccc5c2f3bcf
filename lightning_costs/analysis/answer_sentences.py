"""At most three sentences: who is best, who is cheapest by what, and where costs disagree by more than noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from lightning_costs.analysis.contrasts import GroupedRuns, cost_verdict
from lightning_costs.analysis.metric import Metric
from lightning_costs.analysis.paired import excludes, ratio
from lightning_costs.analysis.schema import TOLERANCE, Answer, AnswerCost, Spread, TargetRow
from lightning_costs.analysis.text import quote
from lightning_costs.records.formatting import format_number, list_words

#: Most labels that a sentence names.
_MOST = 4
_ALL = {2: "both"}


class _Flip(NamedTuple):
    """Two costs that order two labels differently: `one` needs less of `first`, `two` less of `second`."""

    first: AnswerCost
    second: AnswerCost
    one: str
    two: str
    size: tuple[int, float]


def sentences(found: Answer, metric: Metric, target: TargetRow | None, runs: GroupedRuns) -> list[str]:
    """The sentences of an answer."""
    rated = [label for label in found["labels"] if found["quality"][label] is not None]
    if not rated:
        return [f"No run logged {quote(metric.monitor)}: only costs can be shown."]
    first = _best(found, metric, runs, rated)
    if len(found["labels"]) < 2 or not found["costs"]:
        return [first]
    return [first, _cheapest(found, metric), _disagreement(found, target, runs)]


def _best(found: Answer, metric: Metric, runs: GroupedRuns, rated: Sequence[str]) -> str:
    value = found["quality"][rated[0]]
    best = [label for label in rated if found["quality"][label] == value]
    of = ", the median of its runs" if found["by"] == "group" and len(best) == 1 else ""
    verb = "reached" if len(best) == 1 else "share"
    text = f"{_named(best)} {verb} the best {metric.monitor}, {value:.4g}{of}"
    if len(best) > 1 or len(rated) < 2:
        return f"{text}."
    if found["by"] == "run":
        return f"{text}."
    close = [label for label in rated[1:] if not excludes(runs.quality_difference(metric.mode, best[0], label), 0.0)]
    if not close:
        return f"{text}: better than every other by more than noise."
    gap = runs.quality_difference(metric.mode, best[0], close[0])
    return f"{text}; whether it is better than {_named(close)} is undecided (by {_interval(gap, signed=True)})."


def _cheapest(found: Answer, metric: Metric) -> str:
    """Who needs least, by which costs."""
    won: dict[str, list[AnswerCost]] = {}
    for cost in found["costs"]:
        if cost["winner"] is not None:
            won.setdefault(cost["winner"], []).append(cost)
    where = "At the end of training" if found["target"] is None else f"To reach {metric.monitor} {found['target']:.4g}"
    if found["target"] is None:
        where += ", as no two reach a common target"
    if not won:
        return f"{where}, no cost has a single cheapest {found['by']}."
    leads = sorted(won.items(), key=lambda item: -len(item[1]))
    differing = [cost for cost in found["costs"] if _differs(cost)]
    sure = found["by"] == "run" or not any(cost["undecided"] for cost in differing)
    if sure and len(leads) == 1 and len(leads[0][1]) == len(differing) and _complete(found, leads[0][0]):
        count = len(differing)
        every = "the one cost that differs" if count == 1 else f"{_ALL.get(count, f'all {count}')} costs that differ"
        text = f"{where}, {quote(leads[0][0], 30)} is cheapest by {every} ({list_words(_labels(leads[0][1]))})"
    else:
        clauses = [f"{quote(label, 30)} {_by(found, costs)}" for label, costs in leads]
        text = f"{where}, the cheapest is {'; '.join(clauses)}"
    never = [
        label
        for label in found["labels"]
        if found["quality"][label] is not None
        and any(cost["basis"] == "target" and cost["amounts"][label] == math.inf for cost in found["costs"])
    ]
    whom = "most runs of " if found["by"] == "group" else ""
    return f"{text}; {whom}{_named(never)} never reached it." if never else f"{text}."


def _disagreement(found: Answer, target: TargetRow | None, runs: GroupedRuns) -> str:
    """The clearest disagreement of two costs about two labels, and whether it is more than noise."""
    all_flips = _flips(found)
    flips = [flip for flip in all_flips if flip.size[1] >= math.log(1 + TOLERANCE)]
    if not flips:
        differ = any(_differs(cost) for cost in found["costs"])
        text = "No two costs disagree about the cheapest" if differ else "No cost tells them apart"
        text += f" by more than {100 * TOLERANCE:.0f} %" if all_flips else ""
        few = "; one run each is too few to say whether that is more than noise"
        return f"{text}{few if found['by'] == 'run' and differ else ''}."
    if found["by"] == "run":
        return f"{_flip_text(flips[0], None)}; one run each is too few to say whether that is more than noise."
    for flip in flips:
        less, more = _ratios(flip, target, runs)
        if cost_verdict(less) == "less" and cost_verdict(more) == "more":
            return f"{_flip_text(flip, (less, more))}: more than noise (95 % intervals over seeds)."
    return f"{_flip_text(flips[0], _ratios(flips[0], target, runs))}: undecided (95 % intervals over seeds)."


def _flips(found: Answer) -> list[_Flip]:
    """Disagreements about who is cheapest by a cost, those of two winners first, then by size.

    Of several that tie for the cheapest, each is one: another cost may contradict any of them.
    """
    costs = [cost for cost in found["costs"] if _differs(cost)]
    flips = []
    for first, second in combinations(costs, 2):
        leading = dict.fromkeys(label for cost in (first, second) for label in _cheapest_by(cost))
        for one in leading:
            for two in found["labels"]:
                by_first, by_second = _size(first, one, two), _size(second, one, two)
                if by_first is None or by_second is None or by_first * by_second >= 0:
                    continue
                less, more = (first, second) if by_first < 0 else (second, first)
                won = (less["winner"] == one) + (more["winner"] == two)
                flips.append(_Flip(less, more, one, two, (won, min(abs(by_first), abs(by_second)))))
    return sorted(flips, key=lambda flip: flip.size, reverse=True)


def _cheapest_by(cost: AnswerCost) -> list[str]:
    """All labels of the least rank."""
    least = min(rank for rank in cost["ranks"].values() if rank is not None)
    return [label for label, rank in cost["ranks"].items() if rank == least]


def _size(cost: AnswerCost, one: str, two: str) -> float | None:
    """The logarithm of how many times as much one costs; None if either has no rank."""
    ranks = cost["ranks"][one], cost["ranks"][two]
    if None in ranks:
        return None
    a, b = cost["amounts"][one], cost["amounts"][two]
    apart = (ranks[0] or 0) - (ranks[1] or 0)
    if a is None or b is None or a < 0 or b < 0:  # no number of times
        return float(apart) * 1e-9
    if a == 0 or b == 0:
        return math.copysign(math.inf, apart) if apart else 0.0
    return math.copysign(abs(math.log(a / b)), apart)


def _flip_text(flip: _Flip, ratios: tuple[Spread, Spread] | None) -> str:
    """The costs of one label as a multiple of the other's, with intervals over seeds if there are any."""
    shares = []
    for place, cost in enumerate((flip.first, flip.second)):
        a, b = cost["amounts"][flip.one], cost["amounts"][flip.two]
        times = None if a is None or b is None else ratio(a, b)
        if times and (times > 1) == (place == 0):  # more of it is better: the first is what `one` is cheaper by
            times = 1 / times
        number = "unknown" if times is None else "infinitely many" if times == math.inf else format_number(times)
        shares.append(_interval(ratios[place]) if ratios else number)
    return (
        f"Costs disagree: {quote(flip.one, 30)} costs {shares[0]} times what {quote(flip.two, 30)} does by "
        f"{flip.first['label']}, and {shares[1]} times by {flip.second['label']}"
    )


def _ratios(flip: _Flip, target: TargetRow | None, runs: GroupedRuns) -> tuple[Spread, Spread]:
    less, more = (
        runs.ratio(cost["column"], target if cost["basis"] == "target" else None, flip.one, flip.two)
        for cost in (flip.first, flip.second)
    )
    return less, more


def _interval(found: Spread, *, signed: bool = False) -> str:
    """A median and its interval.

    Example:
        >>> _interval({"n": 3, "reached": 3, "share_reached": 1.0, "median": 0.5, "low": 0.25, "high": 0.75,
        ...            "least": 0.25, "most": 0.75, "missing": 0})
        '0.500 [0.250, 0.750]'
    """

    def number(value: float | None) -> str:
        if value is None:
            return "unknown"
        if math.isinf(value):  # never reached, or over a cost of 0
            return "infinitely many" if not signed else f"{'-' if value < 0 else '+'}∞"
        return f"{value:+.3g}" if signed else format_number(value)

    if found["low"] is None or found["high"] is None:
        return f"{number(found['median'])} [too few seeds]"
    if found["low"] == found["high"]:
        return number(found["median"])
    return f"{number(found['median'])} [{number(found['low'])}, {number(found['high'])}]"


def _by(found: Answer, costs: Sequence[AnswerCost]) -> str:
    """The costs that some run is cheapest by, with those apart that seeds leave open."""
    sure = [cost for cost in costs if found["by"] == "run" or not cost["undecided"]]
    unsure = [cost for cost in costs if cost not in sure]
    by = f"by {list_words(_labels(sure))}" if sure else ""
    open_ = f"(undecided: by {list_words(_labels(unsure))})" if unsure else ""
    return f"{by} {open_}".strip()


def _labels(costs: Sequence[AnswerCost]) -> list[str]:
    return [cost["label"] for cost in costs]


def _differs(cost: AnswerCost) -> bool:
    """Whether not all that are ranked by it tie."""
    return len(set(cost["ranks"].values()) - {None}) > 1


def _complete(found: Answer, label: str) -> bool:
    """Whether it has a reading of every cost that any has."""
    return all(cost["amounts"][label] is not None for cost in found["costs"])


def _named(labels: Sequence[str]) -> str:
    return list_words([quote(label, 30) for label in labels], _MOST)
