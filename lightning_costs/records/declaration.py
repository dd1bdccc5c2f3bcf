"""What a run's header declares of a column: its unit, how it adds up, which direction of it is cheaper."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["counter", "gauge", "static"]
Fold = Literal["sum", "last", "max"]
Scope = Literal["rank", "device", "node", "shard_group", "replica", "job"]
Across = Literal["sum", "max", "mean", "rank0"]
Better = Literal["lower", "higher"]
Family = Literal["time", "compute", "memory", "energy", "money", "data", "size"]
Role = Literal["indicator", "diagnostic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a run's header says of a column, so that the loader needs no code of the indicator's."""

    name: str
    unit: str
    kind: Kind = "counter"
    fold: Fold = "sum"
    scope: Scope = "job"
    across: Across = "sum"
    better: Better = "lower"
    family: Family
    role: Role = "indicator"
    label: str
    headline: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the header."""
        return asdict(self)
