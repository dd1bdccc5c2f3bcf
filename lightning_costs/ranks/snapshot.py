"""A snapshot: what one rank has spent so far, in a few hundred bytes that another process reads."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lightning_costs.records.samples import Amount, RankInfo

#: crc of the columns' names, rank, node, replica, stage, shard, points, batches, final, blocks, bytes of the device's
#: name.
_HEAD: Final = struct.Struct("<I5iqq?BH")
#: Of a snapshot between points.
NO_BLOCKS: Final = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSnapshot:
    """A rank's totals so far: who misses one snapshot has everything with the next; after a final one nothing follows.

    `amounts` are [columns]: totals of counters and last readings of gauges, NaN if there is none; `missing` are
    [columns]: whether the rank will have no reading any more; `blocks` are the rank's own work since the last point
    (`lightning_costs.ranks.stragglers.own_blocks`), if a point is made.
    """

    place: RankInfo
    points: int
    batches: int
    final: bool
    amounts: NDArray[np.float64]
    missing: NDArray[np.bool_]
    blocks: NDArray[np.float32] = field(default_factory=lambda: NO_BLOCKS)


def encode(snapshot: RankSnapshot, columns: Sequence[str]) -> bytes:
    """The snapshot as bytes: 44, 9 a column, 4 a number of its own work, and the device's name.

    Example:
        >>> amounts, missing = np.array([8.0, np.nan]), np.array([False, True])
        >>> snapshot = RankSnapshot(
        ...     place=RankInfo(rank=3), points=1, batches=2, final=False, amounts=amounts, missing=missing
        ... )
        >>> decode(encode(snapshot, ["samples", "flop"]), ["samples", "flop"]).place.rank
        3
    """
    place = snapshot.place
    device = b"" if place.device is None else place.device.encode()
    head = _HEAD.pack(
        _signature(columns),
        *(place.rank, place.node, place.replica, place.stage, place.shard),
        *(snapshot.points, snapshot.batches, snapshot.final, len(snapshot.blocks), len(device)),
    )
    numbers = (snapshot.amounts.astype("<f8"), snapshot.missing, snapshot.blocks.astype("<f4"))
    return b"".join((head, device, *(array.tobytes() for array in numbers)))


def decode(sealed: bytes, columns: Sequence[str]) -> RankSnapshot:
    """The snapshot in these bytes; ValueError if it is of other columns than these, or none."""
    n = len(columns)
    if len(sealed) < _HEAD.size:
        raise ValueError(f"a snapshot has {_HEAD.size} bytes and more, got {len(sealed)}")
    signature, rank, node, replica, stage, shard, points, batches, final, blocks, length = _HEAD.unpack_from(sealed)
    begin = _HEAD.size + length
    if signature != _signature(columns) or len(sealed) != begin + 9 * n + 4 * blocks:
        raise ValueError(f"rank {rank} measures other columns than this rank: pass the same indicators on every rank")
    device = sealed[_HEAD.size : begin].decode() if length else None
    return RankSnapshot(
        place=RankInfo(rank=rank, node=node, replica=replica, stage=stage, shard=shard, device=device),
        points=points,
        batches=batches,
        final=final,
        amounts=np.frombuffer(sealed, "<f8", n, begin),
        missing=np.frombuffer(sealed, np.bool_, n, begin + 8 * n),
        blocks=np.frombuffer(sealed, "<f4", blocks, begin + 9 * n),
    )


def _signature(columns: Iterable[str]) -> int:
    return zlib.crc32(",".join(columns).encode())


class RankTotals:
    """What this rank's snapshots say: its windows added up."""

    def __init__(self, columns: Mapping[str, bool]) -> None:
        self.columns = list(columns)
        self._counters = list(columns.values())
        self._so_far: list[float] = [0.0 if counter else np.nan for counter in self._counters]

    def add(self, window: Mapping[str, Amount]) -> None:
        """Fold a window: a counter without an amount is missing from then on, a gauge keeps its last reading."""
        amount_of, so_far = window.get, self._so_far
        for index, (name, counter) in enumerate(zip(self.columns, self._counters, strict=True)):
            amount = amount_of(name)
            if counter:
                so_far[index] = np.nan if amount is None else so_far[index] + amount
            elif amount is not None:
                so_far[index] = amount

    def snapshot(
        self,
        place: RankInfo,
        *,
        points: int,
        batches: int,
        final: bool,
        missing: Iterable[str],
        blocks: NDArray[np.float32] = NO_BLOCKS,
    ) -> RankSnapshot:
        """As of now."""
        lacking = set(missing)
        return RankSnapshot(
            place=place,
            points=points,
            batches=batches,
            final=final,
            amounts=np.array(self._so_far),
            missing=np.array([name in lacking for name in self.columns], dtype=np.bool_),
            blocks=blocks,
        )
