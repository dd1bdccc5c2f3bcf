"""Claims about methods, held against what was measured: held, not held, or undecided, with the interval that says so.

Two methods are compared seed by seed: runs of one seed saw the same batches, and trained one after the other. What is
told of the seeds is the median of their ratios (or differences) and its 95 % bootstrap interval, as
`lightning_costs.compare` tells it of groups. A claim is held where the whole interval is on its side, not held where
all of it is on the other side, and undecided between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lightning_costs import Comparison, compare
from lightning_costs.analysis.paired import Verdict, interval_verdict, paired_spread, ratio
from lightning_costs.analysis.schema import RunRow, Spread
from lightning_costs.analysis.seeds import seed_spread
from lightning_costs.records.samples import Amount
from lightning_costs.run.record import RunRecord

from .study import Study


@dataclass(frozen=True)
class Results:
    """A study's runs, compared, and where each method's seeds are in the comparison."""

    compared: Comparison
    #: Method to seed to the run's row.
    rows: dict[str, dict[int, RunRow]]

    @classmethod
    def of(cls, study: Study, runs: Sequence[RunRecord]) -> Results:
        """Compare finished runs of a study.

        Args:
            study: The study.
            runs: At least one, each of a job of the study.
        """
        compared = compare(runs, monitor=study.monitor, mode=study.mode, group="group")
        jobs = {run.id: run.header["job"] for run in runs}
        rows: dict[str, dict[int, RunRow]] = {arm: {} for arm in study.arms}
        for row in compared.runs:
            job = jobs[row["id"]]
            rows.setdefault(job["arm"], {})[job["seed"]] = row
        return cls(compared, {arm: seeds for arm, seeds in rows.items() if seeds})

    def paired(self, quantity: Quantity, a: str, b: str, by: Callable[[float, float], float | None]) -> Spread:
        """`by` of a's amount and b's, over the seeds that both have."""
        ours, theirs = self.rows.get(a, {}), self.rows.get(b, {})
        pairs = [
            (quantity.read(self.compared, ours[seed]), quantity.read(self.compared, theirs[seed]))
            for seed in sorted(ours.keys() & theirs.keys())
        ]
        return paired_spread(pairs, by, counted=quantity.counted)

    def over_seeds(self, quantity: Quantity, arm: str) -> Spread:
        return seed_spread([quantity.read(self.compared, row) for row in self.rows.get(arm, {}).values()])


@dataclass(frozen=True)
class Quantity:
    """What is read of a run.

    Args:
        label: What it is called.
        read: The amount of a run.
        counted: Whether it is counted from the model and the steps, and not measured: where all seeds have the same,
            however few they are, there is nothing to estimate.
    """

    label: str
    read: Callable[[Comparison, RunRow], Amount]
    counted: bool = False


#: Columns that are counts of what the model is and does: the same on every machine.
COUNTED = ("params", "active_params", "shared_params", "embedding_params", "forward_flop", "flop", "op_calls")


def final(column: str) -> Quantity:
    """A column at the end of training."""
    return Quantity(f"`{column}`", lambda _, row: row["final"].get(column), counted=column in COUNTED)


def quality() -> Quantity:
    """The best quality that was reached."""
    return Quantity("best quality", lambda _, row: row["best_quality"])


def to_target(column: str, which: int = -1) -> Quantity:
    """A counter at the first evaluation at or past a declared target, infinite where it was not reached.

    Args:
        column: The counter.
        which: Place of the target, from the easiest; the hardest by default.
    """

    def read(compared: Comparison, row: RunRow) -> Amount:
        if not compared.targets:
            return None
        spend = compared.targets[which]["costs"].get(column, {}).get(row["label"])
        return None if spend is None else spend["cost"]

    return Quantity(f"`{column}` to the target", read)


def quotient(above: str, below: str, label: str) -> Quantity:
    """A column at the end of training over another one: missing where either is, and over nothing."""

    def read(_: Comparison, row: RunRow) -> Amount:
        one, other = row["final"].get(above), row["final"].get(below)
        return None if one is None or not other else one / other

    return Quantity(label, read)


@dataclass(frozen=True)
class Finding:
    """What came out, the figures behind it, and of what they are, where that is not among them."""

    verdict: Verdict
    evidence: str
    of: str = ""


class Condition(Protocol):
    """Something that can be held against results."""

    def __call__(self, results: Results) -> Finding: ...


def judged(
    found: Spread, said: str, of: str, *, holds: Callable[[float, float], bool], fails: Callable[[float, float], bool]
) -> Finding:
    """The verdict of an interval over seeds, with the interval as evidence.

    Args:
        found: What is judged.
        said: What it is, to stand before the interval.
        of: The quantity.
        holds: Whether all from the first to the second is on the claim's side.
        fails: Whether all of it is on the other side.
    """
    few = "" if found["low"] is not None else f" ({found['n']} seeds: too few for an interval)"
    return Finding(interval_verdict(found, holds=holds, fails=fails), f"{said} {interval(found)}{few}", of)


@dataclass(frozen=True)
class Less:
    """Method a has less of a quantity than b: less than `share` of b's."""

    quantity: Quantity
    a: str
    b: str
    share: float = 1.0

    def __call__(self, results: Results) -> Finding:
        return judged(
            results.paired(self.quantity, self.a, self.b, ratio),
            f"{self.a} / {self.b} =",
            self.quantity.label,
            holds=lambda low, high: high < self.share,
            fails=lambda low, high: low >= self.share,
        )


@dataclass(frozen=True)
class Alike:
    """Methods a and b differ by at most the share `within` in a quantity."""

    quantity: Quantity
    a: str
    b: str
    within: float = 0.05

    def __call__(self, results: Results) -> Finding:
        least, most = 1 / (1 + self.within), 1 + self.within
        return judged(
            results.paired(self.quantity, self.a, self.b, ratio),
            f"{self.a} / {self.b} =",
            self.quantity.label,
            holds=lambda low, high: least <= low and high <= most,
            fails=lambda low, high: low > most or high < least,
        )


@dataclass(frozen=True)
class Better:
    """Method a reaches a better quality than b."""

    a: str
    b: str

    def __call__(self, results: Results) -> Finding:
        sign = 1 if results.compared.mode == "max" else -1
        return judged(
            results.paired(quality(), self.a, self.b, lambda one, two: sign * (one - two)),
            f"{self.a} better than {self.b} by",
            f"`{results.compared.monitor}`",
            holds=lambda low, high: low > 0,
            fails=lambda low, high: high <= 0,
        )


@dataclass(frozen=True)
class Warns:
    """The comparison warns of something by itself.

    Args:
        kind: The caution's.
    """

    kind: str

    def __call__(self, results: Results) -> Finding:
        found = [caution for caution in results.compared.cautions if caution["kind"] == self.kind]
        if not found:
            return Finding("not held", f"no caution `{self.kind}` in the comparison")
        return Finding("held", found[0]["text"], f"`{self.kind}`")


def flips(first: Quantity, second: Quantity, a: str, b: str) -> tuple[Less, Less]:
    """Method a is cheaper than b by the first quantity, and dearer by the second."""
    return Less(first, a, b), Less(second, b, a)


@dataclass(frozen=True)
class Claim:
    """A sentence, and what must hold for it: all of the tests."""

    text: str
    tests: Sequence[Condition]

    def against(self, results: Results) -> Finding:
        """Held where every test is, not held where one is not, else undecided."""
        found = [test(results) for test in self.tests]
        verdicts = {finding.verdict for finding in found}
        verdict: Verdict = "held" if verdicts == {"held"} else "not held" if "not held" in verdicts else "undecided"
        said: dict[str, list[str]] = {}
        for finding in found:
            said.setdefault(finding.of, []).append(finding.evidence)
        return Finding(
            verdict, "; ".join(f"{of}: {', '.join(all_)}" if of else ", ".join(all_) for of, all_ in said.items())
        )


def interval(found: Spread) -> str:
    """The median over seeds and its interval, where there is one."""
    if found["median"] is None:
        return "unknown"
    if found["low"] is None or found["high"] is None:
        return number(found["median"])
    if found["low"] == found["high"]:
        return f"{number(found['median'])} at every seed"
    return f"{number(found['median'])} [{number(found['low'])}, {number(found['high'])}]"


def number(amount: float) -> str:
    """Three significant digits, five just beside 1; infinity in words.

    Example:
        >>> number(0.98765), number(0.99951), number(12345.0), number(float("inf"))
        ('0.988', '0.99951', '12,300', 'never')
    """
    if math.isinf(amount):
        return "never"
    digits = 5 if abs(amount - 1) < 0.005 else 3
    return f"{float(f'{amount:.{digits}g}'):,.10g}"
