"""What a progress bar says of costs: so far, and at the end of training."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_costs.records.declaration import Declaration
from lightning_costs.records.forecast import Forecast
from lightning_costs.records.formatting import format_amount
from lightning_costs.records.samples import Amount

#: What a wide bar shows; a narrow one the last of these that is known.
SHOWN = ("total_s", "energy_j", "cloud_usd")
#: Columns of a terminal from which a bar is wide.
WIDE = 120


def progress_text(
    costs: Mapping[str, Amount],
    ahead: Mapping[str, Forecast],
    declared: Mapping[str, Declaration],
    *,
    limits: Mapping[str, float],
    width: int,
) -> str:
    """Cost so far and, while it is not reached, the one at the end as planned, in human units.

    A narrow bar shows one cost: that of the budget of which most is used, else money, energy or time.

    Example:
        >>> from lightning_costs.indicators import default_indicators
        >>> declared = {each.name: each.declaration() for each in default_indicators()}
        >>> costs = {"total_s": 12.7, "energy_j": 82.3, "cloud_usd": 0.00354}
        >>> ahead = {"total_s": Forecast(middle=17.1), "energy_j": Forecast(middle=111.0)}
        >>> progress_text(costs, ahead, declared, limits={}, width=80)
        '$0.00354'
        >>> progress_text(costs, ahead, declared, limits={"energy_j": 100.0}, width=80)
        '82.3 J → 111 J'
        >>> progress_text(costs, ahead, declared, limits={"energy_j": 100.0}, width=120)
        '12.7 s · 82.3 J · $0.00354 → 17.1 s · 111 J (82.3 % of the budget)'
    """
    known = {name: amount for name in SHOWN if name in declared and (amount := costs.get(name)) is not None}
    used = {name: amount / limit for name, limit in limits.items() if (amount := costs.get(name)) is not None}
    nearest = max(used, key=lambda name: used[name], default=None)
    if width < WIDE:
        shown = [name for name in [nearest or next(reversed(known), None)] if name is not None and name in declared]
    else:
        shown = list(known)
    units = {name: declared[name].unit for name in shown}
    so_far = {name: format_amount(costs.get(name), unit) for name, unit in units.items()}
    at_end = {name: format_amount(ahead[name].middle, unit) for name, unit in units.items() if name in ahead}
    text = " · ".join(so_far.values())
    if any(at_end[name] != so_far[name] and ahead[name].middle > (costs.get(name) or 0.0) for name in at_end):
        text += f" → {' · '.join(at_end.values())}"
    if nearest is not None and width >= WIDE:
        text += f" ({format_amount(used[nearest], 'fraction')} of the budget)"
    return text
