"""Whether a run reached the end of the training that was planned for it."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_costs.analysis.schema import Plain
from lightning_costs.analysis.setup import HYPERPARAMETERS
from lightning_costs.records.samples import Amount

#: Settings that shape the schedule: a difference here is one of when quality comes, not only of how much.
SHAPING = ("max_epochs", "max_steps", "schedulers", "planned_batches_per_epoch", "accumulate_grad_batches")
#: Settings of optimizers that trade early quality for late quality.
DECAYING = ("weight_decay", "lr", "max_lr")


def planned_fraction(setup: Mapping[str, Plain], final: Mapping[str, Amount]) -> float | None:
    """How much of its planned training a run has done, 1.0 at the end; None if none was planned.

    Lightning ends at `max_epochs` or `max_steps`, whichever comes first, so the share is the larger of the two.
    `max_steps` counts calls of optimizers; -1 plans nothing.

    Example:
        >>> planned_fraction({"max_epochs": 10, "max_steps": -1}, {"epochs": 4.0})
        0.4
        >>> planned_fraction({"max_steps": -1}, {"epochs": 4.0}) is None
        True
    """
    shares = []
    for planned, columns in (("max_epochs", ("epochs",)), ("max_steps", ("optimizer_steps", "steps"))):
        end = setup.get(planned)
        if isinstance(end, bool) or not isinstance(end, int | float) or end <= 0:
            continue
        done = next((final[column] for column in columns if final.get(column) is not None), None)
        if done is not None:
            shares.append(min(1.0, done / end))
    return max(shares, default=None)


def shaping_differences(first: Mapping[str, Plain], second: Mapping[str, Plain]) -> list[str]:
    """Settings of schedule, learning rate and weight decay that two setups differ in, in words.

    Example:
        >>> shaping_differences({"max_epochs": 10, "optimizers.0.lr": 0.1}, {"max_epochs": 40, "optimizers.0.lr": 0.1})
        ['max_epochs 10 against 40']
    """
    known = [key for key in dict.fromkeys((*first, *second)) if not key.startswith(HYPERPARAMETERS)]
    keys = [key for key in known if key in SHAPING or key.rpartition(".")[2] in DECAYING]
    return [f"{key} {first.get(key)} against {second.get(key)}" for key in keys if first.get(key) != second.get(key)]
