from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_costs.probes.opcount.bytes_accessed import bytes_accessed, footprint_bytes, output_tensors

N = 24


def moved(step) -> int:
    """Bytes over all operators of a function."""

    class Sum(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.total += bytes_accessed(func, args, kwargs or {}, output_tensors(out))
            return out

    mode = Sum()
    mode.total = 0
    with mode:
        step()
    return mode.total


a, b = torch.zeros(N), torch.zeros(N)
VECTOR = 4 * N


@pytest.mark.parametrize(
    ("what", "step", "vectors"),
    [
        ("two read, one written", lambda: a + b, 3),
        ("in place: two read, one written", lambda: a.add_(b), 3),
        ("a scalar is not memory", lambda: a * 2.0, 2),
        ("into a given output", lambda: torch.add(a, b, out=torch.empty(N)), 3),
        ("overwritten, not read", lambda: a.zero_(), 1),
        ("copied", lambda: a.copy_(b), 2),
        ("cloned", lambda: a.clone(), 2),
        ("made and filled", lambda: torch.zeros(N), 1),
        ("made and left", lambda: torch.empty(N), 0),
        ("a view", lambda: a.view(4, 6).t()[1:], 0),
        ("detached", lambda: a.detach(), 0),
        ("lists", lambda: torch._foreach_add_([a, b], [b, a]), 6),
        ("lists of results", lambda: torch._foreach_mul([a, b], 2.0), 4),
    ],
)
def test_vectors_that_an_operator_moves(what, step, vectors):
    assert moved(step) == vectors * VECTOR, what


def test_an_expanded_dimension_is_stored_once():
    assert footprint_bytes(torch.zeros(8, 1).expand(8, 1000)) == 8 * 4
    assert moved(lambda: torch.zeros(1, N).expand(5, N) + torch.zeros(5, N)) == (1 + 5) * VECTOR + (1 + 5 + 5) * VECTOR


def test_a_linear_layer_reads_input_weight_and_bias_and_writes_its_output():
    layer, x = nn.Linear(7, 3), torch.zeros(5, 7)
    assert moved(lambda: layer(x)) == 4 * (5 * 7 + 3 * 7 + 3 + 5 * 3)


def test_an_embedding_reads_the_rows_that_are_asked_for():
    layer, ids = nn.Embedding(1000, 16), torch.tensor([1, 2, 3])
    assert moved(lambda: layer(ids)) == 2 * 4 * 3 * 16 + 8 * 3


def test_rows_that_are_put_into_a_table_are_what_is_written():
    table, ids, rows = torch.zeros(1000, 16), torch.tensor([1, 2, 3]), torch.ones(3, 16)
    assert moved(lambda: table.index_put_((ids,), rows)) == 2 * 4 * 48 + 8 * 3
    assert moved(lambda: table.index_add_(0, ids, rows)) == 3 * 4 * 48 + 8 * 3


def test_a_sparse_tensor_is_its_indices_and_values():
    sparse = torch.eye(6).to_sparse()
    assert footprint_bytes(sparse.coalesce()) == 6 * 4 + 2 * 6 * 8


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_product_moves_its_three_matrices(rows, columns, dtype):
    left, right = torch.zeros(rows, 4, dtype=dtype), torch.zeros(4, columns, dtype=dtype)
    expected = dtype.itemsize * (rows * 4 + 4 * columns + rows * columns)
    assert moved(lambda: left @ right) == expected
