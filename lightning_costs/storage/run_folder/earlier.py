"""What a run's folder holds of its earlier attempts, for one that continues with it: read without loading polars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_costs.pricing.reprice import priced_amounts
from lightning_costs.records.samples import Amount, CurvePoint
from lightning_costs.storage.run_folder.files import JOURNAL, PARQUET, points_apart
from lightning_costs.storage.run_folder.journal import read_journal
from lightning_costs.storage.run_folder.reader import read_header


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierAttempts:
    """The attempts of a run so far.

    Args:
        header: The run's.
        points: Its points, as its journal has them.
    """

    header: Mapping[str, Any]
    points: Sequence[CurvePoint]

    @property
    def final(self) -> dict[str, Amount]:
        """Totals and last gauges, and statics, by column, as `RunRecord.final` has them."""
        costs: dict[str, Amount] = {}
        if self.points:
            costs = dict(self.points[-1].costs)
            if "repriced" in self.header:
                priced = priced_amounts([costs], self.header, first=len(self.points) - 1)
                costs |= {name: amount for name, (amount,) in priced.items()}
        costs |= self.header["statics"]
        return {name: costs.get(name) for name in self.header["indicators"]}


def read_earlier(folder: Path) -> EarlierAttempts:
    """The attempts that a folder holds.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: For files that cannot be read.
    """
    header = read_header(folder)
    alone = not (folder / JOURNAL).is_file() and (folder / PARQUET).is_file()
    return EarlierAttempts(header=header, points=points_apart(folder) if alone else read_journal(folder / JOURNAL))
