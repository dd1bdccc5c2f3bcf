"""Matched comparisons: pairs of runs that are alike by one indicator, and what that hides of the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_FLOOR, Context, Decimal

import numpy as np
from numpy.typing import NDArray

from lightning_costs.analysis.agreement_schema import HiddenDifference, Matched, MatchedPair, MatchedRow
from lightning_costs.analysis.schema import TOLERANCE
from lightning_costs.analysis.windows import count_within, first_pairs, widest_pairs, width
from lightning_costs.records.samples import Amount

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
#: Most pairs that are listed by an indicator; all are counted.
MOST_LISTED = 20
#: Decimal digits that a float holds of any number: what is beyond them is dust of a unit's factor.
_DIGITS = 15
_EXACT, _FLOOR = Context(prec=60), Context(prec=_DIGITS, rounding=ROUND_FLOOR)


def matched_pairs(
    labels: Sequence[str],
    finals: Mapping[str, Sequence[Amount]],
    best: Sequence[Amount],
    tolerance: float = TOLERANCE,
) -> Matched:
    """Find the pairs of runs that every indicator would call alike.

    Args:
        labels: [runs].
        finals: Indicator to amounts [runs].
        best: [runs]: best quality.
        tolerance: Two amounts are alike where the larger is at most 1 + tolerance times the smaller. Amounts of 0
            are like each other; below 0 nothing is.

    Complexity: O(runs x log runs x indicators^2), however many pairs there are.
    """
    names = list(finals)
    columns = [limits(finals[name], tolerance) for name in names]
    table = np.array([amounts for amounts, _ in columns]).reshape(len(names), len(labels))
    highest = np.array([high for _, high in columns]).reshape(len(names), len(labels))
    rows = [_row(index, names, labels, table, highest, best) for index in range(len(names))]
    return {"tolerance": tolerance, "rows": [row for row in rows if row is not None]}


def limits(column: Sequence[Amount], tolerance: float) -> tuple[Floats, Floats]:
    """Amounts in decimal digits, and the highest amount that each one is still alike with.

    An amount and a tolerance are the decimal numbers that they are written as. So 4.0 and 4.2 are alike within
    0.05, and no rounding of binary fractions decides.

    Args:
        column: [runs]; what is missing, infinite or below 0 is like nothing.
        tolerance: At least 0.

    Returns:
        [runs] each: NaN where an amount is like nothing. b >= a is like a where b is at most a's highest.

    Example:
        >>> amounts, highest = limits([4.0, 4.2, None], 0.05)
        >>> bool(amounts[1] <= highest[0]), highest.tolist()
        (True, [4.2, 4.41, nan])
    """
    factor = 1 + Decimal(repr(float(tolerance)))
    amounts, highest = np.full(len(column), np.nan), np.full(len(column), np.nan)
    for index, amount in enumerate(column):
        if amount is not None and 0 <= amount < math.inf:
            number = Decimal(f"{amount:.{_DIGITS}g}")
            amounts[index] = float(number)
            highest[index] = float(_FLOOR.plus(_EXACT.multiply(number, factor)))
    return amounts, highest


def _row(
    index: int,
    names: Sequence[str],
    labels: Sequence[str],
    table: Floats,
    highest: Floats,
    best: Sequence[Amount],
) -> MatchedRow | None:
    """What the pairs that are alike by one indicator hide; None without a pair."""
    order = np.argsort(table[index], kind="stable")
    order = order[~np.isnan(table[index, order])]
    ends = _ends(index, order, table, highest)
    if not width(ends):
        return None
    hides: dict[str, HiddenDifference] = {}
    candidates: dict[tuple[int, int], None] = {}
    for other, name in enumerate(names):
        known = order[table[other, order] > 0]
        if other == index or not width(near := _ends(index, known, table, highest)):
            continue
        widest = _placed(known, widest_pairs(np.log(table[other, known]), near, MOST_LISTED))
        candidates |= dict.fromkeys(widest)
        a, b = (widest or _placed(known, first_pairs(near, 1)))[0]
        n = width(near)
        hides[name] = {
            "differ": n - _alike(other, known, near, table, highest),
            "n": n,
            "most": float(max(table[other, [a, b]]) / min(table[other, [a, b]])),
            "example": [labels[a], labels[b]],
        }
    # Pairs that are none of the widest by any other indicator are equal by all, or nothing else is known of them.
    candidates |= dict.fromkeys(_placed(order, first_pairs(ends, MOST_LISTED + len(candidates))))
    pairs = np.array(list(candidates))
    listed = pairs[np.argsort(-_hidden(pairs, index, table), kind="stable")][:MOST_LISTED].tolist()
    return {
        "column": names[index],
        "pairs": width(ends),
        "listed": [_pair(pair, index, names, labels, table, highest, best) for pair in listed],
        "hides": hides,
    }


def _ends(index: int, order: Indices, table: Floats, highest: Floats) -> Indices:
    """[order]: before which place in the order of an indicator the rows end that are like this one by it."""
    ends: Indices = np.searchsorted(table[index, order], highest[index, order], side="right")
    return ends


def _alike(other: int, known: Indices, ends: Indices, table: Floats, highest: Floats) -> int:
    """How many pairs of the windows are alike by another indicator, too."""
    amounts, upto = table[other, known], highest[other, known]
    # The lowest amount that is like this one is the first whose own highest reaches it.
    from_here = np.sort(amounts)[np.searchsorted(np.sort(upto), amounts, side="left")]
    return count_within(amounts, from_here, upto, ends)


def _placed(rows: Indices, pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of places in an order as pairs of runs."""
    return [(int(rows[a]), int(rows[b])) for a, b in pairs]


def _hidden(pairs: Indices, index: int, table: Floats) -> Floats:
    """[pairs]: how much each hides: its largest ratio by any other indicator, as a logarithm."""
    one, other = table[:, pairs[:, 0]], table[:, pairs[:, 1]]
    known = (one > 0) & (other > 0) & (np.arange(len(table)) != index)[:, None]
    ratios = np.divide(one, other, where=known, out=np.ones_like(one))
    sizes: Floats = np.abs(np.log(ratios)).max(axis=0)
    return sizes


def _pair(
    pair: Sequence[int],
    index: int,
    names: Sequence[str],
    labels: Sequence[str],
    table: Floats,
    highest: Floats,
    best: Sequence[Amount],
) -> MatchedPair:
    a, b = pair
    others = {
        name: float(table[other, b] / table[other, a]) if (table[other, pair] > 0).all() else None
        for other, name in enumerate(names)
        if other != index
    }
    return {
        "a": labels[a],
        "b": labels[b],
        "ratio": float(table[index, b] / table[index, a]) if table[index, a] else 1.0,
        "quality": [best[a], best[b]],
        "others": others,
        "differ": [
            name
            for other, name in enumerate(names)
            if others.get(name) is not None and max(table[other, pair]) > min(highest[other, pair])
        ],
    }
