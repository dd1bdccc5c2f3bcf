"""What a data loader says of its batches before it gives one: their size, and how many samples an epoch has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

#: Loaders around loaders, at most so deep.
_DEPTH = 4


class Plan(NamedTuple):
    """What a loader says of its batches; nothing by default.

    Args:
        size: Samples in a full batch, at most.
        exact: Whether every batch but an epoch's last one is full: one of a map-style dataset and torch's own
            `BatchSampler`.
        samples: Samples that the loader goes through in an epoch, or can at most if not `exact`.
        batches: Batches of an epoch, if `exact`.
        bounds: Whether no batch holds more than `size`; a sampler of another library may call anything `batch_size`.
        as_they_are: Whether it gives the items of its dataset one by one: samples, or batches.
    """

    size: int | None = None
    exact: bool = False
    samples: int | None = None
    batches: int | None = None
    bounds: bool = False
    as_they_are: bool = False

    @property
    def last(self) -> int | None:
        """Samples in an epoch's last batch."""
        if not self.exact or self.size is None or self.samples is None or not self.batches:
            return self.size
        return self.samples - (self.batches - 1) * self.size


def plan_of(loader: Any) -> Plan:
    """What a loader says of its batches: torch's DataLoader and its like; of all else nothing is known.

    Example:
        >>> plan_of(DataLoader(range(20), batch_size=8)).last
        4
    """
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, DataLoader):  # its items are batches, and what becomes of them is the outer one's
        return Plan()
    size = _whole(getattr(loader, "batch_size", None))
    if not isinstance(loader, DataLoader):
        return Plan(size=size)
    own = type(loader).__iter__ is not DataLoader.__iter__
    if isinstance(dataset, IterableDataset):
        return Plan(size=size, bounds=size is not None and not own)
    sampler = _batches_of(loader)
    if sampler is None:
        return Plan(as_they_are=True)
    if type(sampler) is not BatchSampler:
        return Plan(size=_whole(getattr(sampler, "batch_size", None)), samples=_length(dataset))
    size, samples = _whole(sampler.batch_size), _length(sampler.sampler)
    if own or size is None or samples is None:
        return Plan(size=size, samples=None if own else samples)
    batches = samples // size if sampler.drop_last else -(-samples // size)
    samples = batches * size if sampler.drop_last else samples
    return Plan(size=size, exact=True, samples=samples, batches=batches, bounds=True)


def _batches_of(loader: DataLoader[Any]) -> Any:
    """What draws a batch's indices; one may be given as `sampler`, with `batch_size=None`."""
    if loader.batch_sampler is not None:
        return loader.batch_sampler
    return loader.sampler if isinstance(loader.sampler, BatchSampler) or hasattr(loader.sampler, "batch_size") else None


def _whole(size: object) -> int | None:
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None


def _length(of: Any) -> int | None:
    try:
        return len(of)
    except Exception:  # noqa: BLE001 - a length of the user's may be unknown, or fail
        return None


class TrainingSet(NamedTuple):
    """What loaders read."""

    name: str | None
    samples: int | None
    why: str = "the training set has no length"


def training_set(loaders: Sequence[Any]) -> TrainingSet:
    """The dataset below loaders, as the user made them, whatever loaders are around it; of several, all together."""
    inner = [_innermost(loader) for loader in loaders]
    found = [getattr(loader, "dataset", None) for loader in inner]
    datasets = {id(dataset): dataset for dataset in found if dataset is not None}.values()
    names = ", ".join(type(dataset).__name__ for dataset in datasets) or None
    sizes = [_length(dataset) for dataset in datasets]
    if None in found or None in sizes:
        return TrainingSet(names, None)
    if any(isinstance(loader, DataLoader) and makes_no_batches(loader) for loader in inner):
        return TrainingSet(names, None, "the loader makes no batches (batch_size=None): the training set may hold them")
    return TrainingSet(names, sum(size for size in sizes if size is not None) or None)


def makes_no_batches(loader: DataLoader[Any]) -> bool:
    """Whether a loader gives the items of a map-style dataset as they are: samples, or batches."""
    return not isinstance(loader.dataset, IterableDataset) and _batches_of(loader) is None


def _innermost(loader: Any) -> Any:
    for _ in range(_DEPTH):
        inner = getattr(loader, "dataset", None)
        if not isinstance(inner, DataLoader):
            break
        loader = inner
    return loader
