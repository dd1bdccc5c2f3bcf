"""Samples of the containers that batches come in, through a real Trainer: right, or missing with what to do.

Packages that the development environment lacks (PyTorch Geometric, DGL, TensorDict) are stood in for by classes with
their attributes.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning_models import Stream, namespace, trainer
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, Subset, WeightedRandomSampler

from lightning_costs import CostMonitor
from lightning_costs.core.records import RunRecord

pl = namespace("lightning.pytorch")

Collate = Callable[[list[int]], Any]
#: Features of a sample, channels of an image, steps of a sequence, boxes of an image.
FEATURES, SIDE, LENGTH = 16, 8, 5


class Works(pl.LightningModule):
    """A step that is the same whatever its batch is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(16, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(torch.ones(2, 16)).square().mean()

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(tmp_path: Path, loader: Any, *, epochs: int = 2, **options: Any) -> RunRecord:
    monitor = CostMonitor(save_dir=tmp_path, infer=False, **options)
    trainer(pl, monitor, max_epochs=epochs).fit(Works(), loader)
    assert monitor.run is not None
    return monitor.run


# Containers -------------------------------------------------------------------------------------------------


def x(indices: list[int]) -> Tensor:
    return torch.stack([torch.full((FEATURES,), float(i)) for i in indices])


def edges(indices: list[int]) -> Tensor:
    return torch.zeros(2, sum(2 + i % 4 for i in indices), dtype=torch.int64)


def atoms(indices: list[int]) -> Tensor:
    return torch.zeros(sum(3 + i % 5 for i in indices), 6)


class Store(MutableMapping[str, Any]):
    """As PyTorch Geometric's storage: a mapping of what a graph has."""

    def __init__(self, **held: Any) -> None:
        self._mapping = held

    def __getitem__(self, key: str) -> Any:
        return self._mapping[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._mapping[key] = value

    def __delitem__(self, key: str) -> None:
        del self._mapping[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._mapping)

    def __len__(self) -> int:
        return len(self._mapping)


class GeometricBatch:
    """As PyTorch Geometric's `Batch`."""

    def __init__(self, graphs: int, **held: Any) -> None:
        self._store, self._num_graphs = Store(**held), graphs

    @property
    def stores(self) -> list[Store]:
        return [self._store]

    @property
    def num_graphs(self) -> int:
        return self._num_graphs


class GeometricSubgraph(GeometricBatch):
    """As `Data` of a NeighborLoader: its seeds are `batch_size`, kept with the tensors."""

    num_graphs = property()  # type: ignore[assignment]

    def __init__(self, seeds: int, **held: Any) -> None:
        self._store = Store(batch_size=seeds, **held)

    def __getattr__(self, name: str) -> Any:
        try:
            return vars(self)["_store"][name]
        except KeyError:
            raise AttributeError(name) from None


class DglGraph:
    """As DGL's batched graph."""

    def __init__(self, graphs: int, nodes: Tensor) -> None:
        self._graphs, self._nodes = graphs, nodes

    @property
    def batch_size(self) -> int:
        return self._graphs

    @property
    def ndata(self) -> dict[str, Tensor]:
        return {"h": self._nodes}

    @property
    def edata(self) -> dict[str, Tensor]:
        return {}


class TensorDictLike(UserDict[str, Tensor]):
    """As a TensorDict."""

    def __init__(self, held: dict[str, Tensor], size: int) -> None:
        super().__init__(held)
        self.batch_size = torch.Size([size])


@dataclass
class Molecules:
    """As chemprop's BatchMolGraph: atoms first, and a length."""

    atoms: Tensor
    edge_index: Tensor
    size: int

    def __len__(self) -> int:
        return self.size


class TrainingBatch(NamedTuple):
    molecules: Molecules
    targets: Tensor


def images(indices: list[int]) -> list[Tensor]:
    return [torch.zeros(3, SIDE + i % 3, SIDE) for i in indices]


def boxes(indices: list[int]) -> list[dict[str, Tensor]]:
    return [{"boxes": torch.zeros(1 + i % 3, 4), "labels": torch.zeros(1 + i % 3)} for i in indices]


def sequences(indices: list[int]) -> list[Tensor]:
    return [torch.zeros(9 - i % 4, 3) for i in sorted(indices, key=lambda i: i % 4)]


CONTAINERS: dict[str, Collate] = {
    "tensor": x,
    "tuple of tensors": lambda b: (x(b), torch.tensor(b)),
    "dict of tensors": lambda b: {"x": x(b), "y": torch.tensor(b)},
    "BatchEncoding": lambda b: UserDict(input_ids=torch.zeros(len(b), 7 + b[0] % 3).long(), labels=torch.tensor(b)),
    "padding-free input_ids": lambda b: {"input_ids": torch.zeros(1, 30 + b[0]).long(), "cu_seqlens": torch.zeros(99)},
    "patches before input_ids": lambda b: {"pixel_values": torch.zeros(40, 3), "input_ids": torch.zeros(len(b), 5)},
    "sequence first": lambda b: (torch.zeros(50, len(b), 4), torch.zeros(50, len(b))),
    "sequence first with targets": lambda b: (torch.zeros(50, len(b), 4), torch.tensor(b)),
    "sequence as long as a batch": lambda b: (torch.zeros(8, len(b), 4), torch.zeros(8, len(b))),
    "PackedSequence": lambda b: pack_sequence(sequences(b)),
    "PackedSequence and targets": lambda b: (pack_sequence(sequences(b), enforce_sorted=False), torch.tensor(b)),
    "nested, strided": lambda b: torch.nested.nested_tensor(sequences(b)),
    "nested, jagged": lambda b: (torch.nested.nested_tensor(sequences(b), layout=torch.jagged), torch.tensor(b)),
    "list of images": images,
    "detection": lambda b: (images(b), boxes(b)),
    "detection by zip": lambda b: tuple(zip(images(b), boxes(b), strict=True)),
    "list of dicts": lambda b: [{"image": torch.zeros(1, 4, 4, 4), "label": i} for i in b],
    "list of tuples": lambda b: [(torch.zeros(FEATURES), torch.tensor(i)) for i in b],
    "texts and labels": lambda b: {"texts": [str(i) for i in b], "labels": torch.tensor(b)},
    "arrays of NumPy": lambda b: (np.zeros((len(b), 4)), [bytes([i]) for i in b]),
    "no tensor at all": lambda b: {"texts": tuple(str(i) for i in b)},
    "negatives first": lambda b: {"negatives": torch.zeros(10 * len(b), 4), "anchor": x(b), "positive": x(b)},
    "one element first": lambda b: {"flag": torch.zeros(1), "x": x(b), "y": torch.tensor(b)},
    "two views joined": lambda b: torch.cat([x(b), x(b)]),
    "two views": lambda b: [x(b), x(b)],
    "graph dict": lambda b: {"edge_index": edges(b), "pos": atoms(b), "energy": torch.tensor(b)},
    "graph dict without targets": lambda b: {"edge_index": edges(b), "pos": atoms(b)},
    "PyG batch": lambda b: GeometricBatch(len(b), x=atoms(b), edge_index=edges(b), ptr=torch.zeros(len(b) + 1)),
    "PyG subgraph": lambda b: GeometricSubgraph(len(b), x=atoms(b), edge_index=edges(b)),
    "DGL graph and labels": lambda b: (DglGraph(len(b), atoms(b)), torch.zeros(len(b))),
    "TensorDict": lambda b: TensorDictLike({"a": x(b), "b": torch.zeros(len(b), 3)}, len(b)),
    "chemprop": lambda b: TrainingBatch(Molecules(atoms(b), edges(b), len(b)), torch.zeros(len(b), 1)),
}
#: A sample more or less would be seen: two full batches of 8 and one of 4.
SAMPLES, SIZE = 20, 8


@pytest.mark.parametrize("container", CONTAINERS)
def test_samples_are_items_of_the_dataset_in_any_container(tmp_path: Path, container: str) -> None:
    run = fit(tmp_path, DataLoader(range(SAMPLES), SIZE, collate_fn=CONTAINERS[container]))
    assert (run.final["samples"], run.final["dataset_samples"]) == (2 * SAMPLES, SAMPLES)
    assert run.header["methods"]["samples"]
    assert run.final["forward_flop"] == pytest.approx(2 * 2 * 16 * 4 / SIZE)
