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
from lightning_models import namespace, trainer
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    WeightedRandomSampler,
)

from lightning_costs import CostMonitor
from lightning_costs.probes.batch_counter import SizeAt
from lightning_costs.run.record import RunRecord

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
#: Their batches have no tensor, and so no operators that are counted by shape.
NO_TENSORS = ("arrays of NumPy", "no tensor at all")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("container", CONTAINERS)
def test_samples_are_items_of_the_dataset_in_any_container(tmp_path: Path, container: str) -> None:
    run = fit(tmp_path, DataLoader(range(SAMPLES), SIZE, collate_fn=CONTAINERS[container]))
    assert (run.final["samples"], run.final["dataset_samples"]) == (2 * SAMPLES, SAMPLES)
    assert run.header["methods"]["samples"]
    if container not in NO_TENSORS:
        assert run.final["forward_flop"] == pytest.approx(2 * 2 * 16 * 4 / SIZE)
        assert run.final["steady_samples"] is not None


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ("tuple of tensors", "first dimension of tensor 1 of 2 (batch[0]), as the loader's batch size"),
        ("negatives first", "first dimension of tensor 2 of 3 (batch['anchor']), as the loader's batch size"),
        ("sequence first", "second dimension of tensor 1 of 2 (batch[0]), as the loader's batch size"),
        ("detection", "length of batch[0], as the loader's batch size"),
        ("PyG batch", "num_graphs of the GeometricBatch, as the loader's batch size"),
        ("PackedSequence", "sequences of the PackedSequence, as the loader's batch size"),
        ("two views joined", "the loader's batch size; nothing in its batches is as long"),
    ],
)
def test_the_header_says_what_told_the_samples(tmp_path: Path, container: str, words: str) -> None:
    run = fit(tmp_path, DataLoader(range(SAMPLES), SIZE, collate_fn=CONTAINERS[container]))
    assert run.header["methods"]["samples"] == words


# Loaders ----------------------------------------------------------------------------------------------------


class Buckets:
    """A sampler of batches of the user's: of no fixed size."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes

    def __iter__(self) -> Iterator[list[int]]:
        at = 0
        for size in self.sizes:
            yield [i % SAMPLES for i in range(at, at + size)]
            at += size

    def __len__(self) -> int:
        return len(self.sizes)


def loader_of(container: str, dataset: Any = range(SAMPLES), size: Any = SIZE, **options: Any) -> DataLoader[Any]:
    return DataLoader(dataset, size, collate_fn=CONTAINERS[container], **options)


class Fetches(Dataset[list[int]]):
    """Items by lists of indices."""

    def __getitem__(self, indices: list[int]) -> list[int]:
        return indices

    def __len__(self) -> int:
        return SAMPLES


class Ready:
    """Batches as they are; a list of them would be taken for a list of loaders."""

    def __init__(self, *batches: Any) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


FIRST, ODD = "sequence first", "graph dict without targets"


@pytest.mark.parametrize("container", ["tuple of tensors", "sequence first", "two views joined", "detection"])
@pytest.mark.parametrize(
    ("options", "samples"),
    [
        ({"drop_last": True}, 16),
        ({"dataset": Subset(range(SAMPLES), range(11))}, 11),
        ({"sampler": WeightedRandomSampler(torch.ones(SAMPLES), 13)}, 13),
        ({"sampler": RandomSampler(range(SAMPLES), num_samples=30, replacement=True)}, 30),
        ({"batch_sampler": BatchSampler(range(SAMPLES), 6, False), "size": 1}, 20),
        ({"dataset": Fetches(), "sampler": BatchSampler(range(SAMPLES), 6, False), "size": None}, 20),
        ({"num_workers": 0, "size": 1, "dataset": range(3)}, 3),
    ],
    ids=["drop_last", "subset", "weighted", "replacement", "batch_sampler", "sampler of batches", "one by one"],
)
def test_an_epoch_has_as_many_samples_as_its_sampler_draws(
    tmp_path: Path, container: str, options: dict[str, Any], samples: int
) -> None:
    run = fit(tmp_path, loader_of(container, **options))
    assert run.final["samples"] == 2 * samples


class Twice(IterableDataset[int]):
    """A stream of the numbers, without a length."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(SAMPLES))


@pytest.mark.parametrize(
    "container", ["tuple of tensors", "PackedSequence", "PyG batch", "detection", "list of dicts", "negatives first"]
)
def test_streams_have_what_their_batches_hold(tmp_path: Path, container: str) -> None:
    assert fit(tmp_path, loader_of(container, Twice())).final["samples"] == 2 * SAMPLES


@pytest.mark.parametrize("container", ["tuple of tensors", "PackedSequence", "PyG batch", "list of dicts", "chemprop"])
def test_batches_of_a_sampler_of_the_users_have_what_they_hold(tmp_path: Path, container: str) -> None:
    run = fit(tmp_path, loader_of(container, batch_sampler=Buckets(3, 9, 8), size=1))
    assert run.final["samples"] == 2 * SAMPLES


@pytest.mark.parametrize(
    "batches",
    [
        [{"image": torch.zeros(8, 3), "text": ["a"] * 8, "label": np.zeros(8)}] * 3,  # webdataset's `batched`
        [(torch.zeros(8, 3), [b"a"] * 8)] * 3,
        [torch.nn.utils.rnn.pack_sequence([torch.zeros(3, 2)] * 8)] * 3,
        [[{"image": torch.zeros(3, 9, 9), "label": i} for i in range(8)]] * 3,
        [[(f"{i}.png", torch.zeros(3, 9, 9)) for i in range(8)]] * 3,
        [[(f"{i}.png", {"image": torch.zeros(9, 9), "label": i}) for i in range(8)]] * 3,
    ],
    ids=["dict", "texts", "packed", "samples", "named images", "named samples"],
)
def test_batches_that_come_ready_made_tell_by_themselves(tmp_path: Path, batches: Any) -> None:
    assert fit(tmp_path, Ready(*batches)).final["samples"] == 48
    run = fit(tmp_path, DataLoader(batches, batch_size=None))
    assert run.final["samples"] == 48
    assert run.final["dataset_samples"] is None
    assert "makes no batches" in run.header["missing"]["dataset_samples"]


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (loader_of(ODD, Twice()), "may not hold for every batch"),
        (loader_of("two views joined", Twice()), "contradict its loader's batch size"),
        (loader_of(ODD, batch_sampler=Buckets(8, 8, 4), size=1), "give different sizes"),
        (loader_of(FIRST, batch_sampler=Buckets(8, 8, 4), size=1), "more samples than its loader reads"),
        (DataLoader([(torch.zeros(16), torch.tensor(1))] * 6, batch_size=None), "give different sizes"),
        (Ready(*[images([0, 0, 0])] * 4), "give different sizes"),
        (Ready(*[[("edge", {"x": x([1, 2])}), ("inside", {"x": x([1, 2, 3])})]] * 4), "give different sizes"),  # pina's
        (DataLoader(range(SAMPLES), SIZE, collate_fn=lambda b: x(b[:3])), "fewer samples than its loader puts"),
    ],
    ids=[
        "stream of graphs",
        "stream of views",
        "buckets of graphs",
        "too many",
        "one sample",
        "images",
        "named",
        "fewer",
    ],
)
def test_samples_that_nothing_confirms_are_missing_and_say_what_to_do(tmp_path: Path, loader: Any, why: str) -> None:
    run = fit(tmp_path, loader)
    for column in ("samples", "samples_per_s", "sample_energy_j", "forward_flop"):
        assert run.final[column] is None, column
    assert why in run.header["missing"]["samples"]
    assert "batch_size_fn" in run.header["missing"]["samples"]
    assert "--batch-size-key" in run.header["missing"]["samples"]
    assert run.final["batches"]
    told = fit(tmp_path, loader, batch_size_fn=lambda _: 7)
    assert told.final["samples"] == 7 * run.final["batches"]
    assert told.header["methods"]["samples"] == "batch_size_fn"


def test_samples_that_were_left_out_of_a_batch_are_not_counted(tmp_path: Path) -> None:
    def collate(batch: list[int]) -> Any:
        kept = [i for i in batch if i != 9]  # one of the second batch cannot be read
        return x(kept), torch.tensor(kept)

    assert fit(tmp_path, DataLoader(range(SAMPLES), SIZE, collate_fn=collate)).final["samples"] == 2 * (SAMPLES - 1)


def test_what_agreed_by_chance_does_not_stand(tmp_path: Path) -> None:
    def collate(batch: list[int]) -> Tensor:
        return torch.zeros((8, 5, 13)[batch[0] // SIZE], 6)  # atoms: as many as samples, fewer, more

    run = fit(tmp_path, DataLoader(range(24), SIZE, collate_fn=collate))
    assert run.final["samples"] == 48
    assert "in some batches the loader's batch size" in run.header["methods"]["samples"]


def test_a_loader_that_is_exchanged_between_epochs_tells_anew(tmp_path: Path) -> None:
    class Changes(Works):
        def train_dataloader(self) -> Any:
            return loader_of("sequence first", size=4 + 4 * self.current_epoch)

    monitor = CostMonitor(save_dir=tmp_path, infer=False)
    trainer(pl, monitor, max_epochs=2, reload_dataloaders_every_n_epochs=1).fit(Changes())
    assert monitor.run is not None
    assert (monitor.run.final["batches"], monitor.run.final["samples"]) == (5 + 3, 40)


@pytest.mark.parametrize("limit", [2, 3, 0.5])
def test_an_epoch_that_is_limited_has_the_samples_of_its_batches(tmp_path: Path, limit: float) -> None:
    monitor = CostMonitor(save_dir=tmp_path, infer=False)
    fitting = trainer(pl, monitor, max_epochs=2, limit_train_batches=limit)
    fitting.fit(Works(), loader_of("two views joined"))
    assert monitor.run is not None
    assert monitor.run.final["samples"] == 2 * {2: 16, 3: 20, 0.5: 8}[limit]


def test_loaders_side_by_side_are_compared_each_with_its_own(tmp_path: Path) -> None:
    loaders = {"a": loader_of("sequence first"), "b": loader_of("graph dict", range(9), 3)}
    run = fit(tmp_path, pl.utilities.CombinedLoader(loaders, "max_size_cycle"), epochs=1)
    assert run.final["samples"] == 20 + 9
    assert run.header["methods"]["samples"].startswith("of several loaders: second dimension of tensor 1 of 2")


class Around(DataLoader[Any]):
    """As scvi-tools' ConcatDataLoader: its dataset is a loader."""

    def __init__(self, inner: DataLoader[Any]) -> None:
        super().__init__(inner)  # type: ignore[arg-type]

    def __iter__(self) -> Any:
        return ((batch, batch) for batch in self.dataset)


def test_the_training_set_below_a_loader_around_a_loader_is_the_inner_ones(tmp_path: Path) -> None:
    run = fit(tmp_path, Around(loader_of("tuple of tensors")))
    assert (run.final["dataset_samples"], run.header["setup"]["dataset"]) == (SAMPLES, "range")
    assert run.final["samples"] == 2 * SAMPLES


def test_a_training_set_that_two_loaders_read_is_one(tmp_path: Path) -> None:
    dataset = range(SAMPLES)
    loaders = [loader_of("tensor", dataset), loader_of("tensor", dataset, 5)]
    assert fit(tmp_path, loaders).final["dataset_samples"] == SAMPLES


def test_steps_that_repeat_have_their_last_short_batch(tmp_path: Path) -> None:
    for container in ("tensor", "two views joined", "no tensor at all"):
        run = fit(tmp_path, loader_of(container, range(8 * 60 + 3)))
        assert run.final["samples"] == 2 * (8 * 60 + 3), container


def test_a_length_fn_that_fails_is_why_there_are_no_tokens(tmp_path: Path) -> None:
    run = fit(tmp_path, loader_of("tensor"), length_fn=lambda batch: batch["nothing"])
    assert run.final["tokens"] is None
    assert "length_fn failed on a batch" in run.header["missing"]["tokens"]


# A key -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "samples"),
    [("pos", 51), ("edge_index", 6), ("energy", 20)],
)
def test_a_key_names_what_has_the_samples(tmp_path: Path, key: str, samples: int) -> None:
    run = fit(tmp_path, loader_of("graph dict"), epochs=1, batch_size_fn=SizeAt(key))
    expected = {"pos": sum(3 + i % 5 for i in range(SAMPLES))}.get(key, samples)
    assert run.final["samples"] == expected
    assert repr(key) in run.header["methods"]["samples"]


def test_a_key_leads_through_containers() -> None:
    batch = ("id", {"image": torch.zeros(8, 3), "n.m": [1, 2], "size": 5}, GeometricBatch(4))
    assert [SizeAt(key)(batch) for key in ("1.image", "2", "1.size", "2.num_graphs", "0")] == [8, 4, 5, 4, 2]
    assert SizeAt("n.m")(batch[1]) == 2


@pytest.mark.parametrize(("key", "why"), [("image", "has no 'image'"), ("7", "has no '7'"), ("energy.1", "no length")])
def test_a_wrong_key_is_why_samples_are_missing(tmp_path: Path, key: str, why: str) -> None:
    run = fit(tmp_path, loader_of("graph dict"), batch_size_fn=SizeAt(key))
    assert run.final["samples"] is None
    assert why in run.header["missing"]["samples"]
    assert run.final["steps"] == 6


def test_a_width_as_large_as_the_batch_size_is_not_taken_for_it(tmp_path: Path) -> None:
    def collate(batch: list[int]) -> Any:
        return torch.zeros(len(batch), SIZE), torch.tensor(batch)

    assert fit(tmp_path, DataLoader(Twice(), SIZE, collate_fn=collate)).final["samples"] == 2 * SAMPLES
