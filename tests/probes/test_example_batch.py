"""Arguments elsewhere, or with fewer samples: containers keep their types."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, fields
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from lightning_costs.probes.example_batch import example_of, resize_batch, to_device
from lightning_costs.probes.inference import benchmark_inference
from lightning_costs.records.missing import Missing

META = torch.device("meta")
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("ticking")
X = torch.arange(6.0).reshape(3, 2)

Pair = namedtuple("Pair", "x note")


@dataclass(frozen=True)
class Record:
    x: Tensor
    note: str = "kept"


@attrs.frozen
class Attrs:
    x: Tensor
    note: str = "kept"


class Bag(dict[str, Any]):
    """A dictionary with attributes."""

    def __init__(self, *, note: str, **items: Any) -> None:
        super().__init__(**items)
        self.note = note


class Encoding(UserDict[str, Any]):
    """As BatchEncoding of Transformers: its `to` changes the object that it is called on."""

    def to(self, device: Any) -> Encoding:
        self.data = {key: item.to(device) for key, item in self.data.items()}
        return self


@dataclass
class Output(OrderedDict[str, Any]):
    """As ModelOutput of Transformers: items and fields are the same."""

    x: Tensor

    def __post_init__(self) -> None:
        for part in fields(self):
            super().__setitem__(part.name, getattr(self, part.name))

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self) -> Any:
        make, _, *more = super().__reduce__()
        return make, (self.x,), *more


class Tensors(MutableMapping[str, Tensor]):
    """As TensorDict: a mapping that is no dict, with a batch size and a `to`."""

    def __init__(self, items: dict[str, Tensor]) -> None:
        self.items_ = dict(items)
        self.batch_size = len(next(iter(items.values())))

    def __getitem__(self, key: str) -> Tensor:
        return self.items_[key]

    def __setitem__(self, key: str, value: Tensor) -> None:
        self.items_[key] = value

    def __delitem__(self, key: str) -> None:
        del self.items_[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_)

    def __len__(self) -> int:
        return len(self.items_)

    def to(self, device: Any) -> Tensors:
        return Tensors({key: item.to(device) for key, item in self.items()})


class Graph:
    """An object with a `to` that gives nothing back."""

    def __init__(self) -> None:
        self.x = X.clone()

    def to(self, device: Any) -> None:
        self.x = self.x.to(device)


def read(value: Any) -> Tensor:
    return value.x if hasattr(value, "x") else value["x"] if isinstance(value, MutableMapping | dict) else value[0]


CONTAINERS = [
    [X],
    (X, "kept"),
    {"x": X},
    OrderedDict(x=X),
    defaultdict(list, x=X),
    Pair(X, "kept"),
    Record(X),
    Attrs(X),
    Bag(x=X, note="kept"),
    Encoding({"x": X}),
    Output(X),
]


@pytest.mark.parametrize("value", [*CONTAINERS, Tensors({"x": X}), Graph()], ids=lambda value: type(value).__name__)
def test_containers_keep_their_types_on_the_way_to_the_host_and_back(value: Any) -> None:
    kept = example_of(nn.Linear(1, 1), (value,), {"named": value})
    assert kept is not None
    for held in (*kept.args, *kept.kwargs.values()):
        assert type(held) is type(value)
        assert held is not value
        assert torch.equal(read(held), X)
        assert read(held).data_ptr() != read(value).data_ptr()
        there = to_device(held, META)
        assert type(there) is type(value)
        assert read(there).is_meta
    assert read(value).device == CPU, "the user's own stays where it was"
    assert getattr(kept.args[0], "note", "kept") == "kept"


@pytest.mark.parametrize("value", CONTAINERS, ids=lambda value: type(value).__name__)
def test_containers_keep_their_types_with_fewer_samples(value: Any) -> None:
    small = resize_batch(value, 3, 1)
    assert type(small) is type(value)
    assert read(small).tolist() == [[0.0, 1.0]]
    assert read(value).shape == (3, 2)
    if isinstance(small, Output):
        assert small["x"] is small.x


@pytest.mark.parametrize("value", [Tensors({"x": X}), Graph(), pack_sequence([X[:2, 0], X[:1, 0]])])
def test_what_only_its_own_class_can_cut_is_missing_with_its_name(value: Any) -> None:
    with pytest.raises(Missing, match=f"how to take samples out of a {type(value).__name__} is not known"):
        resize_batch([value], 3, 1)
    assert resize_batch([value], 3, 3)[0] is value


def test_what_a_user_passes_beside_tensors_stays_itself() -> None:
    net, note = nn.Linear(1, 1), object()
    assert to_device([net, note, None, torch.float32], META) == [net, note, None, torch.float32]
    assert resize_batch([net, note, 3], 3, 1) == [net, note, 3]


def test_a_batch_of_a_class_of_its_own_has_its_throughput() -> None:
    class Reads(nn.Module):
        def forward(self, batch: Tensors) -> Tensor:
            assert isinstance(batch, Tensors)
            batch["y"] = batch["x"] + batch.batch_size
            return batch["y"]

    batch = Tensors({"x": X})
    found = benchmark_inference(Reads(), (batch,), {}, device=CPU, budget_s=0.1)
    assert found.samples_per_s is not None
    assert found.missing["latency_p50_s"] == "how to take samples out of a Tensors is not known"
    assert list(batch) == ["x"]
