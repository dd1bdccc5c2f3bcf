"""The job's vector from its ranks': each reading once per owner, then joined. A missing owner is a missing sum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from lightning_costs.records.declaration import Declaration, Scope
from lightning_costs.records.samples import Amount, CostVector, RankInfo


def reading_owner(place: RankInfo, scope: Scope) -> tuple[int | str, ...]:
    """Who a reading of `scope` made at `place` speaks for: equal keys are one owner.

    A replica is one owner because its stages and shards all see the same samples; a device that several ranks train on
    is one owner because its meter counts the work of all of them. What a tensor-parallel rank executes is its own.
    """
    match scope:
        case "rank":
            return (place.rank,)
        case "device":
            return (place.node, place.rank if place.device is None else place.device)
        case "node":
            return (place.node,)
        case "shard_group":
            return (place.replica, place.stage)
        case "replica":
            return (place.replica,)
        case "job":
            return ()


def reduce_ranks(
    vectors: Iterable[CostVector], declarations: Mapping[str, Declaration], places: Sequence[RankInfo]
) -> dict[str, Amount]:
    """Join the vectors of a window over ranks.

    Args:
        vectors: [ranks with a snapshot]; the order does not matter, and other ranks are absent. Each names the device
            that it trains on, so `places` does not need it.
        declarations: By column name.
        places: [ranks]: all participants, with or without a snapshot.

    Returns:
        Column name to the job's amount; None if an owner's reading is missing.

    Example:
        >>> from lightning_costs.records.samples import CostVector, RankInfo
        >>> from lightning_costs.indicators.energy import CpuEnergyJ
        >>> places = [RankInfo(rank=0), RankInfo(rank=1)]
        >>> reporting = [CostVector(place=places[0], amounts={"cpu_energy_j": 5.0}),
        ...          CostVector(place=places[1], amounts={})]
        >>> reduce_ranks(reporting, {"cpu_energy_j": CpuEnergyJ.declaration()}, places)
        {'cpu_energy_j': 5.0}
    """
    vectors = list(vectors)
    if len(places) == len(vectors) == 1:
        amounts = vectors[0].amounts
        return {name: amounts.get(name) for name in declarations}
    by_rank = {vector.place.rank: vector for vector in vectors}
    joint = RankReducer(declarations, [by_rank[p.rank].place if p.rank in by_rank else p for p in places])
    reporting = np.array([place.rank in by_rank for place in joint.places], dtype=bool)
    readings = np.full((len(joint.places), len(declarations)), np.nan)
    for row, place in enumerate(joint.places):
        if place.rank in by_rank:
            amount_of = by_rank[place.rank].amounts.get
            readings[row] = [np.nan if (amount := amount_of(name)) is None else amount for name in declarations]
    return dict(zip(declarations, joint.reduce(readings, reporting), strict=True))


@final
class RankReducer:
    """Joins the readings of many ranks, all columns of a scope at once."""

    def __init__(self, declarations: Mapping[str, Declaration], places: Sequence[RankInfo]) -> None:
        #: [ranks], ascending: the order of the rows.
        self.places = sorted(places, key=lambda place: place.rank)
        self._across = [declared.across for declared in declarations.values()]
        columns: dict[Scope, list[int]] = {}
        for column, declared in enumerate(declarations.values()):
            columns.setdefault(declared.scope, []).append(column)
        self._scopes = [(scope, np.array(of_scope), self._members(scope)) for scope, of_scope in columns.items()]
        self._rank0 = next((row for row, place in enumerate(self.places) if place.rank == 0), None)

    def _members(self, scope: Scope) -> list[list[int]]:
        """[owners][members]: the rows of each owner's ranks."""
        members: dict[tuple[int | str, ...], list[int]] = {}
        for row, place in enumerate(self.places):
            members.setdefault(reading_owner(place, scope), []).append(row)
        return list(members.values())

    def owners(self, readings: NDArray[np.float64], reporting: NDArray[np.bool_]) -> Iterator[_OfOwners]:
        """By scope what owners read, of `readings` [ranks, columns], NaN if none of the `reporting` ranks has any."""
        for scope, columns, members in self._scopes:
            of_scope = readings[:, columns]
            if len(members) == len(self.places):
                yield _OfOwners(columns, of_scope, members)
                continue
            spoken = np.full((len(members), len(columns)), np.nan)
            for owned, rows in enumerate(members):
                for row in rows:
                    lacks = np.isnan(spoken[owned])
                    if not lacks.any():
                        break
                    spoken[owned, lacks] = of_scope[row, lacks]
                    if scope == "device" and reporting[row]:
                        break  # the lowest available rank of a device reports for it, without a substitute
            yield _OfOwners(columns, spoken, members)

    def reduce(self, readings: NDArray[np.float64], reporting: NDArray[np.bool_]) -> list[Amount]:
        """[columns]: the job's amounts; None if an owner's reading is missing."""
        job: list[Amount] = [None] * readings.shape[1]
        for column, across in enumerate(self._across):
            if across == "rank0" and self._rank0 is not None:
                own = float(readings[self._rank0, column])
                job[column] = None if math.isnan(own) else own
        for columns, spoken, _ in self.owners(readings, reporting):
            whole = ~np.isnan(spoken).any(axis=0)
            for index in np.flatnonzero(whole).tolist():
                across = self._across[columns[index]]
                if across == "rank0":
                    continue
                amounts = spoken[:, index].tolist()
                if across == "max":
                    job[columns[index]] = max(amounts)
                else:
                    total = math.fsum(amounts)
                    job[columns[index]] = total / len(amounts) if across == "mean" else total
        return job


class _OfOwners(NamedTuple):
    columns: NDArray[np.intp]
    #: [owners, columns], NaN if no rank of an owner has a reading.
    spoken: NDArray[np.float64]
    #: [owners][members]: rows of the ranks that may speak for each.
    members: list[list[int]]
