"""A run in about ten rows for people, from its header and final costs alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, NamedTuple

from lightning_costs.core.units import human


class Row(NamedTuple):
    """One line of a table: what, how much in human units, and how it was got or why it is missing."""

    label: str
    text: str
    note: str


def summary_rows(
    header: Mapping[str, Any], final: Mapping[str, float | None], *, everything: bool = False
) -> list[Row]:
    """The headline costs of a run in human units, missing ones with how to get them.

    Args:
        header: The run's header.
        final: Column name to the final amount.
        everything: All columns rather than the headline ones.
    """
    missing: Mapping[str, str] = header.get("missing", {})
    methods: Mapping[str, str] = header.get("methods", {})
    rows = []
    for name, declared in header["indicators"].items():
        if not (everything or declared["headline"]):
            continue
        amount = final.get(name)
        note = missing.get(name, "") if amount is None else methods.get(name, "")
        rows.append(Row(declared["label"], human(amount, declared["unit"]), note))
    return rows


def html_table(title: str, rows: Iterable[Row]) -> str:
    """The rows as an HTML table for notebooks; every text is escaped."""
    body = "".join(
        f"<tr><th style='text-align:left'>{escape(row.label)}</th><td>{escape(row.text)}</td>"
        f"<td style='text-align:left;opacity:.7'>{escape(row.note)}</td></tr>"
        for row in rows
    )
    return f"<table><caption>{escape(title)}</caption>{body}</table>"


def total_of(finals: Iterable[Mapping[str, float | None]], column: str) -> tuple[float | None, int]:
    """A column's sum over runs that know it, and how many do not; None where none does."""
    amounts = [final.get(column) for final in finals]
    known = [amount for amount in amounts if amount is not None]
    return (math.fsum(known) if known else None), len(amounts) - len(known)
