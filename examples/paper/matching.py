"""Models made alike in a cost, and the test that a comparison finds such pairs by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from lightning_costs import measure

from .claims import Finding, Results, number


def fit(cost: Callable[[int], float], target: float, step: int = 1) -> int:
    """The largest multiple of `step` whose cost is at most the target.

    Args:
        cost: Rises with its argument.
        target: In the cost's unit.
        step: At least 1.

    Raises:
        ValueError: Where even one `step` costs more.

    Example:
        >>> fit(lambda width: width**2, 1000.0), fit(lambda width: width**2, 1000.0, step=8)
        (31, 24)
    """
    if cost(step) > target:
        raise ValueError(f"the smallest, {step}, costs {cost(step):,.0f}: more than the {target:,.0f} to match")
    fits, over = 1, 2
    while cost(over * step) <= target:
        fits, over = over, 2 * over
    while over - fits > 1:
        middle = (fits + over) // 2
        fits, over = (middle, over) if cost(middle * step) <= target else (fits, middle)
    return fits * step


def cost_of(column: str, build: Callable[[], nn.Module], tokens: int) -> float:
    """A column of a network on one sample of that many tokens, as `lightning_costs.measure` tells it.

    Nothing is allocated, and no random number is drawn: the network is made on torch's meta device.

    Example:
        >>> cost_of("params", lambda: nn.Embedding(256, 8), 4)
        2048.0
    """
    with torch.device("meta"):
        found = measure(build(), torch.zeros(1, tokens, dtype=torch.long), times=False)
    amount: float = getattr(found, column)
    return amount


@dataclass(frozen=True)
class Finds:
    """The comparison itself lists two methods as matched by a column, and that they differ by another.

    Args:
        matched: Column that they are alike in, within the comparison's tolerance.
        hidden: Column that they differ in.
        a: Method with less of it.
        b: Method with more of it.
        times: How many times more at least, in each pair that is listed.
    """

    matched: str
    hidden: str
    a: str
    b: str
    times: float

    def __call__(self, results: Results) -> Finding:
        of_run = {row["label"]: arm for arm, seeds in results.rows.items() for row in seeds.values()}
        rows = [row for row in results.compared.matched["rows"] if row["column"] == self.matched]
        apart = []
        for pair in rows[0]["listed"] if rows else ():
            more = pair["others"].get(self.hidden)
            if more and {of_run[pair["a"]], of_run[pair["b"]]} == {self.a, self.b}:
                apart.append(more if of_run[pair["a"]] == self.a else 1 / more)
        if not apart:
            return Finding(
                "not held", f"the comparison lists no pair of {self.a} and {self.b} matched by `{self.matched}`"
            )
        least, most = min(apart), max(apart)
        times = number(least) if number(least) == number(most) else f"{number(least)} to {number(most)}"
        said = (
            f"{len(apart)} pairs of {self.a} and {self.b} are listed as matched by `{self.matched}`,"
            f" with {times} times the `{self.hidden}` in {self.b}"
        )
        return Finding("held" if least >= self.times else "not held", said)
