"""Which runs of a project cost most, what share of all that is, and which of their settings are unusual."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_costs.analysis.below_zero import without_below_zero
from lightning_costs.analysis.run_data import unique_labels
from lightning_costs.analysis.schema import Plain
from lightning_costs.analysis.setup import run_settings
from lightning_costs.pricing.reprice import reprice
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.certainty import amount_of
from lightning_costs.records.samples import Amount
from lightning_costs.run.record import RunRecord, printable_run

#: What runs are ranked by: the first of these that most runs have, as money is what a project pays with.
_COLUMNS = ("cloud_usd", "electricity_usd", "energy_j", "device_s", "total_s", "flop")
#: Most settings that are named of a run.
_MOST_SETTINGS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CostlyRun:
    """A run with its amount of one column, the share of all runs' sum, and settings unlike those of most runs."""

    label: str
    run_id: str
    status: str
    column: str
    amount: Amount
    text: str
    share: float
    differs: dict[str, Plain]


def costliest_runs(
    runs: Sequence[RunRecord], *, tariff: Tariff | None = None, column: str | None = None, most: int = 5
) -> list[CostlyRun]:
    """The runs that cost most, the costliest first.

    Args:
        runs: All of a project's.
        tariff: Prices all of them; by default each keeps what it recorded.
        column: A counter to rank by; by default money, else energy, else time, whichever most runs have.
        most: How many.
    """
    possible, _ = without_below_zero(runs)
    runs = [printable_run(run if tariff is None else reprice(run, tariff)) for run in possible]
    finals = [run.final for run in runs]
    known = {name: sum(final.get(name) is not None for final in finals) for name in (column, *_COLUMNS) if name}
    by = column or max(known, key=lambda name: known[name], default="")
    if not known.get(by):
        return []
    sizes = [{"params": (run.header.get("statics") or {}).get("params")} for run in runs]
    settings = [run_settings(run.header) | size for run, size in zip(runs, sizes, strict=True)]
    labels = unique_labels(runs)
    total = sum(final.get(by) or 0.0 for final in finals)
    order = sorted(range(len(runs)), key=lambda at: -(finals[at].get(by) or 0.0))
    found = []
    for at in order[:most]:
        amount = finals[at].get(by)
        if amount is None:
            continue
        run = runs[at]
        found.append(
            CostlyRun(
                label=labels[at],
                run_id=run.id,
                status=str(run.header.get("status") or "unknown"),
                column=by,
                amount=amount,
                text=amount_of(run.header, by, amount, run.header["indicators"][by]["unit"]),
                share=amount / total if total else 0.0,
                differs=_unusual(settings, at),
            )
        )
    return found


def differs_text(differs: Mapping[str, Plain]) -> str:
    """Settings in words, as many as fit a line.

    Example:
        >>> differs_text({"optimizers.0.name": "SAM", "hyperparameters.lr": 0.1, "width": 64, "depth": 2})
        'optimizers.0.name SAM, lr 0.1, width 64 and 1 more'
    """
    words = [
        f"{key.removeprefix('hyperparameters.')} {_word(value)}" for key, value in differs.items() if value is not None
    ]
    rest = len(words) - _MOST_SETTINGS
    return ", ".join(words[:_MOST_SETTINGS]) + (f" and {rest} more" if rest > 0 else "")


def _word(value: Plain) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float) and not value.is_integer()
        else str(int(value) if isinstance(value, float) else value)[:30]
    )


def _unusual(settings: Sequence[Mapping[str, Plain]], at: int) -> dict[str, Plain]:
    """A run's settings that fewer than half of the runs have, hyperparameters first."""
    found = {}
    for key, value in settings[at].items():
        same = Counter(repr(each.get(key)) for each in settings)[repr(value)]
        if 2 * same < len(settings) or (2 * same == len(settings) and len(settings) == 2):
            found[key] = value
    return dict(sorted(found.items(), key=lambda item: not item[0].startswith("hyperparameters.")))
