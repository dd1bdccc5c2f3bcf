from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.probes.batch import input_ids_tokens, inspect_batch

X, Y = torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64)
Pair = namedtuple("Pair", "x y")


@dataclass
class Graph:
    nodes: torch.Tensor
    label: str
    edges: torch.Tensor


SHAPES = (((8, 3), torch.float32), ((8,), torch.int64))


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, Y],
        Pair(X, Y),
        {"x": X, "y": Y},
        UserDict(x=X, y=Y),
        ({"x": X}, {"y": Y}),
        [(X,), [{"deep": [Y]}]],
        Graph(X, "g", Y),
        {"g": Graph(X, "g", Y), "name": "n", "scale": 0.5, "flag": True, "none": None, "raw": b"1"},
    ],
    ids=lambda b: type(b).__name__,
)
def test_a_batch_tells_its_shapes_and_samples_in_any_container(batch):
    assert inspect_batch(batch) == (SHAPES, 8)


def test_a_single_tensor_is_a_batch():
    assert inspect_batch(X) == (SHAPES[:1], 8)


@pytest.mark.parametrize("batch", [None, (), [], {}, "text", b"raw", 3, 0.5, object(), ["a", "b"], (1, 2), {"a": None}])
def test_a_batch_without_a_tensor_has_no_shape_and_no_size(batch):
    assert inspect_batch(batch) == ((), None)


def test_a_scalar_has_a_signature_and_no_size():
    assert inspect_batch(torch.tensor(3.0)) == ((((), torch.float32),), None)


def test_the_size_is_the_first_dimension_of_the_first_tensor_that_has_one():
    assert inspect_batch((torch.tensor(0.5), X)).samples == 8
    assert inspect_batch({"scale": torch.tensor(0.5), "x": torch.zeros(5, 8)}).samples == 5


def test_an_empty_batch_has_no_samples_and_that_is_known():
    assert inspect_batch(torch.zeros(0, 3)).samples == 0


def test_a_pair_and_a_list_of_the_same_tensors_look_alike():
    assert inspect_batch((X, Y)).signature == inspect_batch([X, Y]).signature == inspect_batch([X, Y, None]).signature


def test_dtype_and_shape_are_told_apart():
    assert inspect_batch(X).signature != inspect_batch(X.double()).signature
    assert inspect_batch(X).signature != inspect_batch(X.T).signature
    assert len({inspect_batch(X).signature, inspect_batch(X.clone()).signature}) == 1


def test_a_signature_is_hashable_and_a_look_keeps_no_tensor():
    seen = inspect_batch({"x": X, "y": Y})
    hash(seen)
    assert not any(isinstance(part, torch.Tensor) for shape in seen.signature for part in shape)


def test_a_batch_that_contains_itself_comes_to_an_end():
    batch: list = [X]
    batch.append(batch)
    assert inspect_batch(batch).samples == 8


tensors = st.lists(st.integers(0, 3), max_size=3).map(lambda shape: torch.zeros(shape))
batches = st.recursive(
    tensors | st.none() | st.text(max_size=3) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


def shapes(value):
    if isinstance(value, torch.Tensor):
        return [tuple(value.shape)]
    if isinstance(value, dict):
        value = list(value.values())
    return [s for item in value for s in shapes(item)] if isinstance(value, list | tuple) else []


def depth(value):
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list | tuple) else 0


@given(batches.filter(lambda b: depth(b) <= 6))
def test_every_tensor_is_in_the_signature_in_order(batch):
    seen = inspect_batch(batch)
    assert [tuple(shape) for shape, _ in seen.signature] == shapes(batch)
    assert seen.samples == next((s[0] for s in shapes(batch) if s), None)


def test_tokens_of_a_hugging_face_batch_are_the_elements_of_its_input_ids():
    ids = torch.zeros(4, 7, dtype=torch.int64)
    assert input_ids_tokens({"input_ids": ids}) == 28
    assert input_ids_tokens(UserDict(input_ids=ids)) == 28
    for other in ((ids,), {"ids": ids}, {"input_ids": [1, 2]}, None):
        assert input_ids_tokens(other) is None


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_strided_nested_tensor_has_as_many_samples_as_parts_and_a_signature_of_their_lengths():
    def nested(*lengths):
        return torch.nested.nested_tensor([torch.zeros(length, 3) for length in lengths])

    assert inspect_batch(nested(2, 4)).samples == 2
    assert inspect_batch((nested(2, 4), Y[:2])).samples == 2
    assert inspect_batch(nested(2, 4)) == inspect_batch(nested(2, 4)) != inspect_batch(nested(3, 3))
