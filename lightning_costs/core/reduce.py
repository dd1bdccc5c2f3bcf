"""The job's vector from its ranks': each reading once per owner, then joined. A missing owner is a missing sum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from lightning_costs.core.indicator import Declaration, Scope
from lightning_costs.core.records import Amount, CostVector, Place


def owner(place: Place, scope: Scope) -> tuple[int | str, ...]:
    """Who a reading of `scope` made at `place` speaks for: equal keys are one owner.

    A tensor-parallel group is one owner because torch counts a sharded product at its global shape on every
    rank; a replica is one owner because its stages and shards all see the same samples; a device that several
    ranks train on is one owner because its meter counts the work of all of them.
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
    vectors: Iterable[CostVector], declarations: Mapping[str, Declaration], places: Sequence[Place]
) -> dict[str, Amount]:
    """Join the vectors of a window over ranks.

    Args:
        vectors: [heard ranks]; the order does not matter, and ranks that were not heard are simply absent. Each says
            which device it trains on, so that `places` need not know.
        declarations: By column name.
        places: [ranks]: everyone who takes part, heard or not.

    Returns:
        Column name to the job's amount; None where an owner's reading is missing.

    Example:
        >>> from lightning_costs.core.records import CostVector, Place
        >>> from lightning_costs.indicators.energy import CpuEnergyJ
        >>> places = [Place(rank=0), Place(rank=1)]
        >>> heard = [CostVector(place=places[0], amounts={"cpu_energy_j": 5.0}),
        ...          CostVector(place=places[1], amounts={})]
        >>> reduce_ranks(heard, {"cpu_energy_j": CpuEnergyJ.declaration()}, places)
        {'cpu_energy_j': 5.0}
    """
    ranked = sorted(vectors, key=lambda v: v.place.rank)
    if len(places) == len(ranked) == 1:
        return {name: ranked[0].amounts.get(name) for name in declarations}
    heard = {vector.place.rank: vector.place for vector in ranked}
    places = [heard.get(place.rank, place) for place in places]
    job: dict[str, Amount] = {}
    for name, declared in declarations.items():
        if declared.across == "rank0":
            job[name] = next((v.amounts.get(name) for v in ranked if v.place.rank == 0), None)
            continue
        owners: dict[tuple[int | str, ...], Amount] = {owner(place, declared.scope): None for place in places}
        spoken: set[tuple[int | str, ...]] = set()  # a device's lowest rank speaks for it: nobody steps in
        for vector in ranked:
            key = owner(vector.place, declared.scope)
            if owners.get(key) is None and not (declared.scope == "device" and key in spoken):
                owners[key] = vector.amounts.get(name)
            spoken.add(key)
        readings = [amount for amount in owners.values() if amount is not None]
        if not readings or len(readings) < len(owners):
            job[name] = None
        elif declared.across == "max":
            job[name] = max(readings)
        else:
            total = math.fsum(readings)
            job[name] = total / len(readings) if declared.across == "mean" else total
    return job
