"""How far apart checkpoints should be, after Young and Daly, and what the present interval costs.

Young (1974), CACM 17(9), 530-531: the interval sqrt(2 d M), of a save's cost d and the mean time M between failures.
Daly (2006), Future Generation Computer Systems 22(3), 303-312: its higher-order form (equation 37), and the expected
time of a computation that fails at random (equation 20), with the restart's cost R.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_costs.records.formatting import format_amount
from lightning_costs.records.samples import Amount
from lightning_costs.run.attempts import disruptions


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointAdvice:
    """The best interval between checkpoints, and what it and the present one cost.

    Args:
        save_s: Seconds for which a save held the training up.
        restart_s: Seconds from a process's start to its training.
        mtbf_s: Mean time between failures.
        failures: How many were seen; None if the rate was given.
        interval_s: Seconds of training between two saves now.
        young_s: The best interval after Young.
        daly_s: After Daly.
        daly_range_s: The same for the 95 % interval of the rate, of so few failures; None if the rate was given.
        overhead_fraction: Saves and repeated work of the present interval, as a share of the work, after Daly.
        best_overhead_fraction: Of the best interval.
    """

    save_s: float
    restart_s: float
    mtbf_s: float
    failures: int | None
    interval_s: float
    young_s: float
    daly_s: float
    daly_range_s: tuple[float, float] | None
    overhead_fraction: float
    best_overhead_fraction: float

    def words(self) -> str:
        """The advice as a sentence."""
        rate = f"a failure every {format_amount(self.mtbf_s, 's')}"
        if self.daly_range_s is not None:
            low, high = (format_amount(end, "s") for end in self.daly_range_s)
            rate += f" ({self.failures} seen, so that {low} to {high} would do as well)"
        return (
            f"checkpoints every {format_amount(self.interval_s, 's')} of training, "
            f"{format_amount(self.save_s, 's')} each, cost {_percent(self.overhead_fraction)} with the work they save "
            f"repeated; every {format_amount(self.daly_s, 's')} would cost {_percent(self.best_overhead_fraction)} "
            f"(Daly 2006), at {rate}"
        )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def young_interval_s(save_s: float, mtbf_s: float) -> float:
    """Young's interval.

    Example:
        >>> young_interval_s(5.0, 1000.0)
        100.0
    """
    return math.sqrt(2 * save_s * mtbf_s)


def daly_interval_s(save_s: float, mtbf_s: float) -> float:
    """Daly's interval (equation 37).

    Example:
        >>> round(daly_interval_s(5.0, 1000.0), 2), daly_interval_s(5000.0, 1000.0)
        (96.69, 1000.0)
    """
    if save_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = save_s / (2 * mtbf_s)
    return math.sqrt(2 * save_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_s


def overhead_fraction(interval_s: float, save_s: float, restart_s: float, mtbf_s: float) -> float:
    """What saves, repeated work and restarts add to the work, as a share of it (Daly's equation 20).

    Example:
        >>> round(overhead_fraction(100.0, 5.0, 0.0, 1000.0), 4)
        0.1071
    """
    try:
        return mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1((interval_s + save_s) / mtbf_s) / interval_s - 1
    except OverflowError:
        return math.inf


def _poisson_range(count: int) -> tuple[float, float]:
    """The 95 % interval of a mean of which one count was seen, after Wilson and Hilferty."""

    def bound(n: float, z: float) -> float:
        return n * (1 - 1 / (9 * n) + z / (3 * math.sqrt(n))) ** 3

    return max(bound(count, -1.96), 1e-9), bound(count + 1, 1.96)


def advise_checkpoints(
    header: Mapping[str, Any], final: Mapping[str, Amount], *, mtbf_s: float | None = None
) -> CheckpointAdvice | None:
    """Advice of a run's own saves and failures; None if nothing failed and no rate was given, or no save was seen.

    Raises:
        ValueError: For a time that is not above 0.
    """
    if mtbf_s is not None and not mtbf_s > 0:
        raise ValueError(f"the mean time between failures must be above 0 s, got {mtbf_s}")
    attempts: Sequence[Mapping[str, Any]] = header.get("attempts") or ()
    saves = int((header.get("saves") or {}).get("count", 0))
    failures = disruptions(attempts) if mtbf_s is None else None
    total_s, train_s, spent_s = (final.get(name) for name in ("total_s", "train_s", "checkpoint_s"))
    if not saves or failures == 0 or total_s is None or train_s is None or spent_s is None:
        return None
    if not (0 < total_s < math.inf and 0 < train_s < math.inf and 0 < spent_s < math.inf):
        return None
    between_s = mtbf_s if mtbf_s is not None else total_s / (failures or 1)
    save_s, restart_s = spent_s / saves, (final.get("setup_s") or 0.0) / max(1, len(attempts))
    best_s, interval_s = daly_interval_s(save_s, between_s), train_s / saves
    ends = None
    if failures:
        least, most = _poisson_range(failures)
        ends = daly_interval_s(save_s, total_s / most), daly_interval_s(save_s, total_s / least)
    return CheckpointAdvice(
        save_s=save_s,
        restart_s=restart_s,
        mtbf_s=between_s,
        failures=failures,
        interval_s=interval_s,
        young_s=young_interval_s(save_s, between_s),
        daly_s=best_s,
        daly_range_s=ends,
        overhead_fraction=overhead_fraction(interval_s, save_s, restart_s, between_s),
        best_overhead_fraction=overhead_fraction(best_s, save_s, restart_s, between_s),
    )
