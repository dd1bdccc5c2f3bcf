"""A cost regression gate: did a run get more expensive than its baseline, and can the two be compared at all?"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from lightning_costs.analysis.metric import agree_on_metric
from lightning_costs.analysis.setup import is_outcome, run_settings
from lightning_costs.records.certainty import certainty
from lightning_costs.records.samples import Amount
from lightning_costs.run.record import RunRecord, printable_run

Outcome = Literal["regression", "ok", "reported", "unknown"]

#: What is gated by default: what does not depend on other users of the machine. (column, most it may grow)
DEFAULTS = (
    ("flop", 0.02),
    ("param_bytes", 0.02),
    ("grad_bytes", 0.02),
    ("opt_state_bytes", 0.02),
    ("opt_peak_bytes", 0.02),
    ("activation_bytes", 0.02),
    ("peak_mem_bytes", 0.02),
)
#: Samples until a target, which come in whole evaluations.
SAMPLES, SAMPLES_GROWTH = "samples", 0.1
#: Parts of the setup that may differ: a newer release is what a gate is there to catch, and a seed changes no cost.
FREE = ("software.*", "hyperparameters.seed", "hyperparameters.*[._]seed")
_LIMIT = re.compile(
    r"\s*(?P<column>[^@<>\s]+)(?:@(?P<target>[-+\d.eE]+))?\s*(?P<way>[<>])\s*(?P<amount>[\d.eE+-]+)\s*(?P<percent>%?)\s*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How far a column may move from the baseline.

    Args:
        column: The cost.
        target: Quality to reach: the counter until then; None takes the run's end.
        way: '>' where growing fails, '<' where shrinking does.
        amount: The most it may move: a fraction of the baseline, or an amount in the column's unit.
        relative: Whether it is a fraction.
        asked: Whether the user asked for it; a default one passes if the column was not measured.
    """

    column: str
    target: float | None = None
    way: str = ">"
    amount: float
    relative: bool = True
    asked: bool = True

    @classmethod
    def parse(cls, text: str) -> Limit:
        """A limit from its text.

        Raises:
            ValueError: Says what was expected.

        Example:
            >>> limit = Limit.parse("samples@0.9>10%")
            >>> limit.column, limit.target, limit.amount, limit.relative
            ('samples', 0.9, 0.1, True)
            >>> Limit.parse("samples_per_s<5%").way, Limit.parse("peak_mem_bytes>1e9").relative
            ('<', False)
        """
        found = _LIMIT.fullmatch(text)
        try:
            if found is None:
                raise ValueError
            amount = float(found["amount"]) / (100.0 if found["percent"] else 1.0)
            target = float(found["target"]) if found["target"] else None
            if not (math.isfinite(amount) and amount >= 0 and math.isfinite(target or 0.0)):
                raise ValueError
        except ValueError:
            raise ValueError(
                f"a limit must be COLUMN>AMOUNT or COLUMN@TARGET>AMOUNT, the amount in % or in the column's unit, "
                f"such as 'flop>2%' or 'samples_per_s<5%', got {text!r}"
            ) from None
        return cls(
            column=found["column"],
            target=target,
            way=found["way"],
            amount=amount,
            relative=bool(found["percent"]),
        )

    def __str__(self) -> str:
        amount = f"{100 * self.amount:.4g}%" if self.relative else f"{self.amount:.4g}"
        return f"{self.name}{self.way}{amount}"

    @property
    def name(self) -> str:
        """The column, with the target that it is taken to."""
        return self.column if self.target is None else f"{self.column}@{self.target:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """One column: what the baseline spent, what the run did, and what follows.

    `change` is a fraction of the baseline; infinity if that is 0 and the run's is not. Amounts to a target that was
    not reached are infinite. `modelled` amounts come from a model or a constant, in either run.
    """

    name: str
    label: str
    unit: str
    baseline: Amount
    run: Amount
    change: Amount
    limit: str | None
    outcome: Outcome
    why: str = ""
    modelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check found.

    Args:
        rows: Gated columns first.
        differs: Setup keys that forbid the comparison, each with the baseline's value and the run's.
        unfit: Why else the runs cannot be compared.
    """

    rows: tuple[CheckRow, ...]
    differs: Mapping[str, tuple[Any, Any]]
    unfit: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """2 where the runs cannot be compared, 1 for a regression, 0 for none."""
        if self.differs or self.unfit or any(row.outcome == "unknown" for row in self.rows):
            return 2
        return int(any(row.outcome == "regression" for row in self.rows))

    def as_dict(self) -> dict[str, Any]:
        """Plain data that JSON holds; None for what is infinite."""
        rows = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(row).items()}
            for row in self.rows
        ]
        differs = {key: list(pair) for key, pair in self.differs.items()}
        return {"exit_code": self.exit_code, "rows": rows, "differs": differs, "unfit": list(self.unfit)}


def check_regression(
    run: RunRecord,
    baseline: RunRecord,
    *,
    limits: Sequence[Limit] = (),
    targets: Sequence[float] = (),
    allow: Sequence[str] = (),
) -> CheckResult:
    """Check a run against its baseline.

    Args:
        run: The run that may have become more expensive.
        baseline: What it is held against.
        limits: What fails; by default FLOPs and memory that grow by 2 %, and samples to a target by 10 %.
        targets: Qualities to reach; by default those that the baseline declares.
        allow: Patterns of setup keys that may differ, beside `FREE`.
    """
    run, baseline = printable_run(run), printable_run(baseline)
    wanted = list(limits) or [
        *(Limit(column=column, amount=most, asked=False) for column, most in DEFAULTS),
        *(
            Limit(column=SAMPLES, target=target, amount=SAMPLES_GROWTH, asked=False)
            for target in (targets or baseline.header.get("targets") or ())
        ),
    ]
    rows = [_row(limit, run, baseline) for limit in wanted]
    rows = [row for row in rows if row is not None]
    gated = {limit.column for limit in wanted if limit.target is None}
    return CheckResult(
        rows=(*(row for row in rows if row is not None), *_reported(run, baseline, gated)),
        differs=_differences(run, baseline, allow),
        unfit=tuple(_unfit(run, "the run") + _unfit(baseline, "the baseline")),
    )


def _row(limit: Limit, run: RunRecord, baseline: RunRecord) -> CheckRow | None:
    declared = run.header["indicators"].get(limit.column) or baseline.header["indicators"].get(limit.column)
    if declared is None:
        if not limit.asked:
            return None
        known = list(run.header["indicators"])
        near = difflib.get_close_matches(limit.column, known, n=4, cutoff=0.4)
        near += [name for name in known if limit.column in name and name not in near][: 4 - len(near)]
        raise ValueError(f"{limit.column!r} is no column of these runs; choose one of {', '.join(near or known)}")
    now, then = _amount(limit, run), _amount(limit, baseline)
    label = declared["label"] if limit.target is None else f"{declared['label']} to reach {limit.target:g}"
    about = {"name": limit.name, "label": label, "unit": declared["unit"], "baseline": then, "run": now}
    about["modelled"] = _is_modelled(limit.column, run, baseline)
    if now is None or then is None:
        if then is None and now is None and not limit.asked:
            return None
        which, lacking = ("the run", run) if now is None else ("the baseline", baseline)
        why = lacking.header.get("missing", {}).get(limit.column, "it was not measured")
        outcome: Outcome = "reported" if now is not None and not limit.asked else "unknown"
        return CheckRow(**about, change=None, limit=str(limit), outcome=outcome, why=f"missing in {which}: {why}")
    if math.isinf(now) and math.isinf(then):
        outcome = "unknown" if limit.asked else "reported"
        return CheckRow(**about, change=None, limit=str(limit), outcome=outcome, why="neither run reaches the target")
    moved = (now - then) if limit.way == ">" else (then - now)
    most = limit.amount * abs(then) if limit.relative and math.isfinite(then) else limit.amount
    failed = moved > most
    return CheckRow(
        **about, change=_change(then, now), limit=str(limit), outcome="regression" if failed else "ok", why=""
    )


def _amount(limit: Limit, run: RunRecord) -> Amount:
    """The column at the run's end, or at the first evaluation at or past the target; infinity if it was not reached."""
    if limit.target is None:
        return run.final.get(limit.column)
    metric = agree_on_metric([run])
    if metric.monitor not in run.points.columns or limit.column not in run.points.columns:
        return None
    quality = run.points.get_column(metric.monitor).alias("quality")  # polars takes names such as '*' for patterns
    past = quality >= limit.target if metric.mode == "max" else quality <= limit.target
    hits = run.points.filter(past & quality.is_finite())
    if not hits.height:
        return math.inf
    spent: Amount = hits[limit.column][0]
    return spent


def _is_modelled(column: str, run: RunRecord, baseline: RunRecord) -> bool:
    return "modelled" in (certainty(run.header, column), certainty(baseline.header, column))


def _change(then: float, now: float) -> Amount:
    if math.isinf(then):
        return -1.0
    if then == 0:
        return 0.0 if now == 0 else math.copysign(math.inf, now)
    return (now - then) / abs(then)


def _reported(run: RunRecord, baseline: RunRecord, gated: set[str]) -> list[CheckRow]:
    """The headline columns that are not gated, for people."""
    now, then = run.final, baseline.final
    return [
        CheckRow(
            name=name,
            label=declared["label"],
            unit=declared["unit"],
            baseline=before,
            run=after,
            change=_change(before, after),
            limit=None,
            outcome="reported",
            modelled=_is_modelled(name, run, baseline),
        )
        for name, declared in run.header["indicators"].items()
        if declared["headline"]
        and name not in gated
        and (before := then.get(name)) is not None
        and (after := now.get(name)) is not None
    ]


def _differences(run: RunRecord, baseline: RunRecord, allow: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    now, then = run_settings(run.header), run_settings(baseline.header)
    free = (*FREE, *allow)
    if "hyperparameters" not in run.header or "hyperparameters" not in baseline.header:
        free = (*free, "hyperparameters.*")  # written before headers had them
    return {
        key: (then.get(key), now.get(key))
        for key in sorted({*now, *then})
        if json.dumps(now.get(key)) != json.dumps(then.get(key))
        and not any(fnmatchcase(key, p) for p in free)
        and not (is_outcome(key, now.get(key)) and is_outcome(key, then.get(key)))
    }


def _unfit(run: RunRecord, which: str) -> list[str]:
    found = []
    status = run.header.get("status")
    if status != "finished":
        found.append(
            f"{which} is {status or 'unknown'}, not finished: what it spent is not the cost of a whole training"
        )
    if stopped := run.header.get("stopped"):
        found.append(f"{which} was stopped by {stopped.get('by', 'a budget')} before its end")
    return found
