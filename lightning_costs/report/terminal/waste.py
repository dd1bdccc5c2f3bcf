"""The waste of a project in the terminal: the most wasteful runs, by cause, and what they might have cost."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from lightning_costs.analysis.waste import CAUSES, ProjectWaste, RunWaste, Spent
from lightning_costs.records.formatting import format_amount

_HEADS = {"cloud_usd": ("cloud cost", "usd"), "energy_j": ("energy", "j"), "s": ("time", "s")}


def _shown(spent: Spent, by: str) -> str:
    amount = getattr(spent, by)
    return "unknown" if amount is None else format_amount(amount, _HEADS[by][1])


def _all_of(spent: Spent) -> list[str]:
    return [_shown(spent, by) for by in _HEADS]


def _share(part: Spent, whole: Spent, by: str) -> str:
    amount, of = getattr(part, by), getattr(whole, by)
    return f"{100 * amount / of:.3g} %" if amount is not None and of else ""


def waste_table(found: ProjectWaste, most: int) -> Table:
    """A row for each of the most wasteful runs: what it wasted, most of it by cause."""
    table = Table("run", "status", box=None, pad_edge=False)
    for head in ("wasted", "share", *(head for by, (head, _) in _HEADS.items() if by != found.rank_by)):
        table.add_column(head, justify="right")
    table.add_column("mostly")
    for run in _wasteful(found, most):
        others = [_shown(run.wasted, by) for by in _HEADS if by != found.rank_by]
        share = _share(run.wasted, run.spent, found.rank_by)
        table.add_row(
            run.label, run.status, _shown(run.wasted, found.rank_by), share, *others, _mostly(run, found.rank_by)
        )
    return table


def _wasteful(found: ProjectWaste, most: int) -> list[RunWaste]:
    return [run for run in found.runs[:most] if getattr(run.wasted, found.rank_by)]


def _mostly(run: RunWaste, by: str) -> str:
    amounts = {cause: getattr(spent, by) or 0.0 for cause, spent in run.by_cause.items() if cause != "throttled"}
    ranked = sorted(amounts, key=lambda cause: -amounts[cause])[:2]
    return ", ".join(f"{CAUSES[c]} {format_amount(amounts[c], _HEADS[by][1])}" for c in ranked if amounts[c])


def groups_table(found: ProjectWaste) -> Table | None:
    """A row a group; None if there is none."""
    if set(found.groups) <= {None}:
        return None
    table = Table("group", box=None, pad_edge=False)
    for head, _ in _HEADS.values():
        table.add_column(f"wasted {head}", justify="right")
    for group, spent in found.groups.items():
        table.add_row("(none)" if group is None else group, *_all_of(spent))
    return table


def waste_notes(found: ProjectWaste, most: int) -> Iterator[str]:
    """The sum, and of each listed run what it might have cost, with the caution that belongs to it."""
    by = found.rank_by
    share = _share(found.wasted, found.spent, by)
    yield f"{_shown(found.wasted, by)} of {_shown(found.spent, by)} bought nothing{f' ({share})' if share else ''}"
    hindsight = False
    for run in _wasteful(found, most):
        after = run.by_cause.get("after_best")
        if run.at_best is not None and after is not None and getattr(after, by):
            hindsight = True
            yield f"{run.label}: stopped at its best it would have cost {_shown(run.at_best, by)}"
        if run.cheapest is not None:
            unlike = ", ".join(f"{name} {ours!r} there {theirs!r}" for name, (ours, theirs) in run.differs.items())
            yield f"{run.label}: {run.cheapest} reached the same quality for less" + (f"; {unlike}" if unlike else "")
    if hindsight:
        yield "the best evaluation is known in hindsight only: a training cannot stop there for certain"
    yield "failed and killed runs count whole; of others, causes are counted up to the best evaluation and add up"
