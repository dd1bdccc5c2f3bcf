"""Goodput in the terminal: a sentence, the buckets of the wall clock, and the definitions side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lightning_costs.records.formatting import format_amount, list_words
from lightning_costs.records.samples import Amount
from lightning_costs.run.goodput import Goodput

#: Shares of the wall clock below which a bucket is not named in the sentence, and how many are.
_LEAST_SHARE, _MOST_NAMED = 0.01, 4


def goodput_sentence(found: Goodput) -> str | None:
    """Goodput, and where most of the rest went; None of a run that has no accounts of its training.

    Example:
        >>> from lightning_costs.run.goodput import goodput
        >>> goodput_sentence(goodput({"attempts": [{}]}, {"total_s": 60.0, "train_s": 45.0, "setup_s": 15.0}))
        'goodput 75 % of 60 s wall clock; the rest: start-up 25 %'
    """
    if found.wall_s is None or found.goodput_fraction is None or not found.wall_s:
        missing = found.definitions[0].missing
        return f"goodput is unknown: {missing}" if found.disruptions and missing else None
    shares = [(b.s / found.wall_s, b.label) for b in found.buckets[1:] if b.s is not None]
    named = [f"{label} {_percent(share)}" for share, label in sorted(shares, reverse=True) if share >= _LEAST_SHARE]
    sentence = f"goodput {_percent(found.goodput_fraction)} of {format_amount(found.wall_s, 's')} wall clock"
    if named:
        sentence += f"; the rest: {list_words(named, _MOST_NAMED)}"
    if found.disruptions:
        sentence += f"; {found.disruptions} disruption{'s' if found.disruptions > 1 else ''}"
    return sentence


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def goodput_tables(found: Goodput) -> Sequence[Table]:
    """The buckets with what each cost, and the definitions with their formulas."""
    buckets = Table("where the wall clock went", box=None, pad_edge=False)
    for head in ("time", "share", "energy", "CO2e", "cloud cost"):
        buckets.add_column(head, justify="right")
    buckets.add_column("note")
    for bucket in found.buckets:
        if bucket.s == 0:
            continue
        share = "" if bucket.s is None or not found.wall_s else _percent(bucket.s / found.wall_s)
        units = ((bucket.energy_j, "j"), (bucket.co2e_g, "g"), (bucket.cloud_usd, "usd"))
        amounts = [_amount(amount, unit) for amount, unit in units]
        buckets.add_row(bucket.label, _amount(bucket.s, "s"), share, *amounts, bucket.how)
    for account, seconds in found.lost_s.items():
        buckets.add_row(f"  lost of {account}", _amount(seconds, "s"), "", "", "", "", "")
    definitions = Table("definition", box=None, pad_edge=False)
    definitions.add_column("share", justify="right")
    definitions.add_column("formula, or why it is missing")
    definitions.add_column("source")
    for each in found.definitions:
        known = each.fraction is not None
        text = _percent(each.fraction) if each.fraction is not None else "missing"
        definitions.add_row(each.label, text, each.formula if known else each.missing, each.source)
    return buckets, definitions


def _amount(amount: Amount, unit: str) -> str:
    return "" if amount is None else format_amount(amount, unit)
