from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_costs.probes.opcount.formulas.registry import Formulas, OpWork

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Sum(TorchDispatchMode):
    """What runs inside, by formulas; what has none, by name."""

    def __init__(self):
        super().__init__()
        self.formulas = Formulas()
        self.work, self.unknown, self.seen = OpWork(0, 0, 0), set(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        work = self.formulas.work(func, args, kwargs, out)
        if work is not None:
            self.seen.append(str(func._overloadpacket))
            self.work = OpWork(*map(sum, zip(self.work, work, strict=True)))
        elif not self.formulas.plain(func):
            self.unknown.add(str(func._overloadpacket))
        return out


def summed(step):
    total = Sum()
    with total:
        step()
    return total


def work(step):
    total = summed(step)
    assert total.unknown == set()
    return total.work


def flop(step):
    return work(step).flop


def one(func, *args, out=None, **kwargs):
    return Formulas().work(func, args, kwargs, out)


def there(*shape, **options):
    return torch.randn(*shape, requires_grad=True, **options)


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


# Products ------------------------------------------------------------------------------------------------------


def test_a_linear_layer_is_2mnk_forward_and_twice_that_backward():
    layer, x = nn.Linear(5, 3), there(2, 4, 5)
    assert work(lambda: layer(x)) == (2 * 8 * 5 * 3, 8 * 5 * 3, 0)
    assert work(lambda: layer(x).sum().backward()) == (3 * 2 * 8 * 5 * 3, 3 * 8 * 5 * 3, 0)


def test_bias_norm_softmax_activation_and_embedding_are_nothing():
    table, norm = nn.Embedding(7, 4), nn.LayerNorm(4)
    indices = torch.tensor([[1, 2], [3, 3]])
    assert work(lambda: F.gelu(norm(table(indices))).softmax(-1).sum().backward()) == (0, 0, 0)
    bag = nn.EmbeddingBag(7, 4, sparse=True)
    assert work(lambda: bag(indices).sum().backward()) == (0, 0, 0)


@pytest.mark.parametrize(
    ("step", "mac"),
    [
        (lambda: torch.mv(there(3, 5), there(5)), 15),
        (lambda: torch.mv(there(3, 5), there(5)).sum().backward(), 2 * 15),  # the matrix's gradient is an outer product
        (lambda: torch.dot(there(5), there(5)), 5),
        (lambda: torch.vdot(there(5), there(5)), 5),
        (lambda: torch.addmv(there(3), there(3, 5), there(5)), 15),
        (lambda: torch.addmm(there(3, 2), there(3, 5), there(5, 2)), 30),
        (lambda: torch.zeros(3, 2).addmm_(torch.ones(3, 5), torch.ones(5, 2)), 30),
        (lambda: torch.zeros(4, 3, 2).baddbmm_(torch.ones(4, 3, 5), torch.ones(4, 5, 2)), 120),
        (lambda: torch.addbmm(there(3, 2), there(4, 3, 5), there(4, 5, 2)), 120),
        (lambda: torch.mm(torch.ones(3, 5), torch.ones(5, 2), out=torch.empty(3, 2)), 30),
        (lambda: torch._addmm_activation(torch.ones(2), torch.ones(3, 5), torch.ones(5, 2)), 30),
        (lambda: torch._int_mm(torch.ones(32, 16, dtype=torch.int8), torch.ones(16, 8, dtype=torch.int8)), 32 * 16 * 8),
        (lambda: torch.einsum("bij,bkj->bik", there(4, 3, 5), there(4, 2, 5)), 120),
        (lambda: torch.tensordot(there(3, 5), there(3, 5), 2), 15),
        (lambda: torch.linalg.multi_dot([there(3, 5), there(5, 2), there(2, 3)]), 30 + 18),
        (lambda: torch.addr(there(3, 5), there(3), there(5)), 0),
        (lambda: torch.kron(there(3, 5), there(2, 2)), 0),
        (lambda: F.affine_grid(torch.ones(2, 2, 3), [2, 1, 4, 5], align_corners=False), 2 * 4 * 5 * 2 * 3),
    ],
)
def test_products_of_every_form_are_their_multiply_accumulates(step, mac):
    assert work(step) == (2 * mac, mac, 0)


def test_a_complex_product_is_four_real_ones():
    a, b = torch.ones(3, 5, dtype=torch.cfloat), torch.ones(5, 2, dtype=torch.cfloat)
    assert work(lambda: a @ b) == (4 * 60, 4 * 30, 0)


def test_bilinear_is_one_for_each_index_tuple_forward_and_thrice_with_backward():
    layer, x, y = nn.Bilinear(3, 4, 5), there(7, 3), there(7, 4)
    assert flop(lambda: layer(x, y)) == 2 * 7 * 5 * 3 * 4
    assert flop(lambda: layer(x, y).sum().backward()) == 4 * 2 * 7 * 5 * 3 * 4


def grouped_mm(left, right, ends=None):
    if not hasattr(torch, "_grouped_mm"):
        pytest.skip("this torch has no grouped product")
    offsets = None if ends is None else torch.tensor(ends, dtype=torch.int32)
    return torch._grouped_mm(left.bfloat16(), right.bfloat16(), offs=offsets)


@pytest.mark.parametrize(
    ("left", "right", "ends", "mac"),
    [
        ((8, 16), (2, 16, 24), [3, 8], 8 * 16 * 24),
        ((2, 8, 16), (2, 16, 24), None, 2 * 8 * 16 * 24),
        ((16, 8), (8, 24), [3, 8], 16 * 8 * 24),
    ],
)
def test_a_grouped_product_meets_each_row_once(left, right, ends, mac):
    assert work(lambda: grouped_mm(torch.ones(left), torch.ones(right), ends)).mac == mac


def test_a_list_of_products_is_their_sum():
    if not hasattr(aten, "_foreach_mm"):
        pytest.skip("this torch has no list of products")
    pairs = [meta(3, 5), meta(2, 2)], [meta(5, 4), meta(2, 7)]
    assert one(aten._foreach_mm.default, *pairs, out=[meta(3, 4), meta(2, 7)]).mac == 60 + 28


@pytest.mark.parametrize(
    ("name", "args", "out", "mac"),
    [
        ("_scaled_mm_v2", (meta(3, 16), meta(16, 2)), meta(3, 2), 96),
        ("_scaled_grouped_mm", (meta(8, 16), meta(2, 16, 24)), meta(8, 24), 8 * 16 * 24),
        ("_weight_int8pack_mm", (meta(3, 16), meta(2, 16)), meta(3, 2), 96),
        ("_weight_int4pack_mm", (meta(3, 16), meta(1, 1, 32, 4)), meta(3, 2), 96),
        ("_sparse_semi_structured_mm", (meta(4, 8), None, meta(16, 2)), meta(4, 2), 4 * 8 * 2),
        ("_sparse_semi_structured_addmm", (meta(4), meta(4, 8), None, meta(16, 2)), meta(4, 2), 4 * 8 * 2),
        ("_sparse_semi_structured_linear", (meta(3, 16), meta(4, 8), None), meta(3, 4), 3 * 4 * 8),
        ("linear_backward", (meta(3, 16), meta(3, 4), meta(4, 16), [True, True, True]), None, 2 * 3 * 4 * 16),
        ("matmul_backward", (meta(3, 4), meta(3, 16), meta(16, 4), [False, True]), None, 3 * 4 * 16),
    ],
)
def test_products_of_a_gpu_are_their_multiply_accumulates(name, args, out, mac):
    packet = getattr(aten, name, None)
    if packet is None:
        pytest.skip(f"this torch has no {name}")
    assert one(packet.default, *args, out=out) == (2 * mac, mac, 0)


def test_two_numbers_of_four_bits_in_a_byte_are_two():
    four_bits = getattr(torch, "float4_e2m1fn_x2", None)
    if four_bits is None:
        pytest.skip("this torch has no numbers of four bits")
    packed = meta(3, 8, dtype=four_bits), meta(8, 2, dtype=four_bits)
    assert one(aten._scaled_mm.default, *packed, meta(1), meta(1), out=meta(3, 2)).mac == 3 * 16 * 2


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_a_batched_product_grows_with_its_batch(b, m, n, k, times):
    step = lambda batch: lambda: (there(batch, m, k) @ there(batch, k, n)).sum().backward()  # noqa: E731
    assert flop(step(times * b)) == times * flop(step(b)) == times * 3 * 2 * b * m * n * k


# Sparse --------------------------------------------------------------------------------------------------------

#: Six elements of a matrix of 5 x 4.
HELD = torch.tensor([[1.0, 0, 2, 0], [0, 3, 0, 0], [0, 0, 0, 0], [4, 0, 0, 5], [0, 0, 6, 0]])


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    ("step", "mac"),
    [
        (lambda: HELD.to_sparse() @ torch.ones(4, 3), 18),
        (lambda: HELD.to_sparse_csr() @ torch.ones(4, 3), 18),
        (lambda: HELD.to_sparse_csc() @ torch.ones(4, 3), 18),
        (lambda: HELD.to_sparse_csr() @ torch.ones(4), 6),
        (lambda: HELD.to_sparse() @ torch.ones(4), 6),
        (lambda: torch.ones(3, 5) @ HELD.to_sparse(), 18),
        (lambda: torch.sparse.mm(HELD.to_sparse(), torch.ones(4, 3)), 18),
        (lambda: torch.sparse.addmm(torch.ones(5, 3), HELD.to_sparse(), torch.ones(4, 3)), 18),
        (lambda: torch.smm(HELD.to_sparse(), torch.ones(4, 3)), 18),
        (lambda: torch.hspmm(HELD.to_sparse(), torch.ones(4, 3)), 18),
        (lambda: torch.bmm(torch.stack([HELD, HELD]).to_sparse(), torch.ones(2, 4, 3)), 36),
        (lambda: torch.eye(4).to_sparse_bsr((2, 2)) @ torch.ones(4, 3), 2 * 4 * 3),  # blocks are stored whole
        (lambda: torch.sparse.sampled_addmm(HELD.to_sparse_csr(), torch.ones(5, 7), torch.ones(7, 4)), 6 * 7),
    ],
)
def test_a_sparse_operand_counts_what_it_holds(step, mac):
    try:
        total = work(step)
    except RuntimeError as error:
        pytest.skip(f"this build of torch has no such product: {error}")
    assert total == (2 * mac, mac, 0)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_reduced_sparse_product_is_once_forward_and_twice_backward():
    held, dense = HELD.to_sparse_csr().requires_grad_(), there(4, 3)
    assert flop(lambda: torch.sparse.mm(held, dense, "sum").sum().backward()) == 3 * 2 * 6 * 3


def test_a_product_of_two_sparse_matrices_is_not_known():
    held = HELD.to_sparse()
    assert summed(lambda: torch.sparse.mm(held, held.t())).unknown == {"aten._sparse_sparse_matmul"}


# Convolutions --------------------------------------------------------------------------------------------------


def convolution(dims, transposed=False, **options):
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    options = {"kernel_size": 3, **options}
    return kind(4, 8, **options)


CASES = [
    pytest.param(dims, options, id=f"{dims}d-{options}")
    for dims in (1, 2, 3)
    for options in (
        {},
        {"groups": 2},
        {"groups": 4},
        {"stride": 2},
        {"dilation": 2},
        {"padding": 1, "stride": 2, "groups": 2},
        {"transposed": True},
        {"transposed": True, "stride": 2},
        {"transposed": True, "stride": 2, "groups": 2, "output_padding": 1},
        {"transposed": True, "groups": 4, "dilation": 2},
    )
]


@pytest.mark.parametrize(("dims", "options"), CASES)
def test_a_convolution_is_a_filter_at_each_point_forward_and_once_for_each_gradient_backward(dims, options):
    layer, x = convolution(dims, **options), torch.randn(2, 4, *[7] * dims)
    groups, kernel = options.get("groups", 1), 3**dims
    points = 7**dims if options.get("transposed") else layer(x)[0, 0].numel()
    forward = 2 * 2 * points * (4 * 8 // groups) * kernel
    assert flop(lambda: layer(x)) == forward
    assert flop(lambda: layer(x).sum().backward()) == 2 * forward
    x.requires_grad_()
    assert flop(lambda: layer(x).sum().backward()) == 3 * forward
    layer.weight.requires_grad_(False)
    assert flop(lambda: layer(x).sum().backward()) == 2 * forward


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_backward_agrees_with_autograd_of_its_products(groups):
    """Unfolded, a convolution is a product per group: forward once, backward twice."""
    layer, x = nn.Conv1d(4, 8, 3, groups=groups, bias=False), there(2, 4, 7)

    def unfolded():
        patches = x.unfold(2, 3, 1).reshape(2, groups, 4 // groups, 5, 3).permute(1, 0, 3, 2, 4)
        rows, filters = patches.reshape(groups, 10, -1), layer.weight.reshape(groups, 8 // groups, -1)
        return rows @ filters.mT

    assert flop(lambda: layer(x).sum().backward()) == flop(lambda: unfolded().sum().backward())


def test_the_cases_that_torch_gets_wrong_are_ours():
    """Named in formulas_products: when torch mends them, this says so."""
    layer, x = nn.Conv2d(4, 8, 3, groups=4), there(2, 4, 7, 7)
    with flop_counter.FlopCounterMode(display=False) as theirs:
        layer(x).sum().backward()
    ours = flop(lambda: layer(x).sum().backward())
    assert theirs.get_total_flops() in (ours, ours // 3 * (2 + 4))
    slow = (meta(2, 4, 7, 7), meta(8, 4, 3, 3), [3, 3], None, [1, 1], [0, 0])
    assert one(aten._slow_conv2d_forward.default, *slow, out=meta(2, 8, 5, 5)).mac == 2 * 8 * 25 * 4 * 9
    cudnn = (meta(2, 4, 7, 7), meta(8, 4, 3, 3), [0, 0], [1, 1], [1, 1], 1, True, False, False)
    assert one(aten.cudnn_convolution.default, *cudnn, out=meta(2, 8, 5, 5)).mac == 2 * 8 * 25 * 4 * 9


def test_a_temporal_convolution_is_its_taps():
    x, weight = torch.ones(8, 2, 4), torch.ones(3, 4, 6)
    assert work(lambda: torch.conv_tbc(x, weight, torch.ones(6))).mac == 6 * 2 * 6 * 3 * 4


# Attention -----------------------------------------------------------------------------------------------------


def explicit(query, key, value):
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    return (query @ key.mT).softmax(-1) @ value


SHAPES = [
    pytest.param((2, 4, 6, 8), (2, 4, 6, 8), (2, 4, 6, 8), id="self"),
    pytest.param((2, 4, 6, 8), (2, 4, 5, 8), (2, 4, 5, 8), id="cross"),
    pytest.param((2, 4, 6, 8), (2, 2, 5, 8), (2, 2, 5, 8), id="grouped"),
    pytest.param((2, 4, 6, 8), (2, 4, 5, 8), (2, 4, 5, 3), id="other width of values"),
]


@pytest.mark.parametrize(("q", "k", "v"), SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_is_explicit_attention_and_recomputes_one_product(q, k, v, masked):
    three = [there(*shape) for shape in (q, k, v)]
    options = {"enable_gqa": q[1] != k[1], "attn_mask": torch.ones(q[2], k[2], dtype=torch.bool) if masked else None}
    fused = lambda: F.scaled_dot_product_attention(*three, **options)  # noqa: E731
    assert work(fused) == work(lambda: explicit(*three))
    whole = work(lambda: fused().sum().backward())
    assert whole.flop - whole.recomputed_flop == flop(lambda: explicit(*three).sum().backward())


def test_causal_attention_counts_in_full():
    three = [there(2, 4, 6, 8) for _ in range(3)]
    assert flop(lambda: F.scaled_dot_product_attention(*three, is_causal=True)) == 2 * 2 * 2 * 4 * 6 * 6 * 8


FUSED = ["flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention"]


@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize(("q", "k", "v"), SHAPES)
def test_every_fused_kernel_recomputes_the_scores(kind, q, k, v):
    q, k, v = meta(*q), meta(*k), meta(*v)
    scores = q.numel() // q.shape[-1] * k.shape[2]
    forward = one(getattr(aten, f"_scaled_dot_product_{kind}").default, q, k, v, out=(v,))
    assert forward == OpWork(2 * scores * (8 + v.shape[-1]), scores * (8 + v.shape[-1]))
    backward = one(getattr(aten, f"_scaled_dot_product_{kind}_backward").default, v, q, k, v, out=(q, k, v))
    assert backward.flop == 2 * scores * (3 * 8 + 2 * v.shape[-1])
    assert backward.recomputed_flop == 2 * scores * 8


def test_kernels_below_take_length_before_heads():
    q, k, v = meta(2, 6, 4, 8), meta(2, 5, 2, 8), meta(2, 5, 2, 8)
    scores = 2 * 4 * 6 * 5
    assert one(aten._flash_attention_forward.default, q, k, v, None, None, 6, 5).mac == scores * 16
    assert one(aten._efficient_attention_forward.default, q, k, v, None, None, None, 6, 5).mac == scores * 16
    for kind in (aten._flash_attention_backward.default, aten._efficient_attention_backward.default):
        assert one(kind, q, q, k, v, None, None, None, None) == (2 * scores * 40, scores * 40, 2 * scores * 8)


def test_packed_sequences_are_counted_by_their_lengths():
    q, ends = meta(9, 4, 8), torch.tensor([0, 3, 9])
    packed = one(aten._flash_attention_forward.default, q, q, q, ends, ends, 6, 6)
    assert packed.mac == 4 * (9 + 36) * 16
    back = one(aten._flash_attention_backward.default, q, q, q, q, q, None, ends, ends, 6, 6)
    assert (back.mac, back.recomputed_flop) == (4 * (9 + 36) * 40, 2 * 4 * (9 + 36) * 8)


def test_flex_attention_is_attention():
    q, k = meta(2, 4, 16, 8), meta(2, 2, 16, 8)
    ops = torch.ops.higher_order
    if not hasattr(ops, "flex_attention"):
        pytest.skip("this torch has no flex attention")
    scores = 2 * 4 * 16 * 16
    assert one(ops.flex_attention, q, k, k).mac == scores * 16
    assert one(ops.flex_attention_backward, q, k, k, q, None, q) == (2 * scores * 40, scores * 40, 2 * scores * 8)


# Recurrences ---------------------------------------------------------------------------------------------------

GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


def cells(kind, *, layers, ways, projected=0):
    """Multiply-accumulates of one row: 3 inputs, 5 hidden."""
    total, width, back = 0, 3, projected or 5
    for _ in range(layers):
        total += ways * (GATES[kind] * 5 * (width + back) + 5 * projected)
        width = ways * back
    return total


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(("layers", "ways"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_a_recurrent_network_is_rows_times_weights_forward_and_twice_that_backward(kind, layers, ways):
    net, x = kind(3, 5, num_layers=layers, bidirectional=ways == 2), there(7, 2, 3)
    state = torch.ones(layers * ways, 2, 5, requires_grad=True)
    start = (state, state) if kind is nn.LSTM else state
    forward = 2 * 7 * 2 * cells(kind, layers=layers, ways=ways)
    assert flop(lambda: net(x, start)) == forward
    assert flop(lambda: net(x, start)[0].sum().backward()) == 3 * forward
    with torch.no_grad():
        assert flop(lambda: net(x, start)) == forward


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projected_lstm_has_its_projection():
    net, x = nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=4), there(7, 2, 3)
    assert flop(lambda: net(x)) == 2 * 14 * cells(nn.LSTM, layers=2, ways=2, projected=4)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_packed_sequences_count_their_own_steps_alone(kind):
    net, x = kind(3, 5, num_layers=2, bidirectional=True), torch.randn(7, 2, 3)
    packed = pack_padded_sequence(x, [7, 4])
    assert flop(lambda: net(packed)) == 2 * 11 * cells(kind, layers=2, ways=2)


def test_a_cell_is_a_step():
    cell, x, state = nn.LSTMCell(3, 5), there(2, 3), there(2, 5)
    assert flop(lambda: cell(x, (state, state))) == 2 * 2 * cells(nn.LSTM, layers=1, ways=1)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_network_on_a_gpu_is_the_same(kind):
    weights = [meta(*weight.shape) for weight in kind(3, 5, num_layers=2, bidirectional=True).parameters()]
    forward = 2 * 14 * cells(kind, layers=2, ways=2)
    x, state, tail = meta(7, 2, 3), meta(4, 2, 5), (2, 5, 0, 2, False, 0.0, True, True, [], None)
    assert one(aten._cudnn_rnn.default, x, weights, 4, None, state, None, *tail).flop == forward
    assert one(aten.miopen_rnn.default, x, weights, 4, state, None, *tail).flop == forward
    backward = (x, weights, 4, None, state, None, x, x, None, None, *tail, None)
    assert one(aten._cudnn_rnn_backward.default, *backward, [True] * 4).flop == 2 * forward
    assert one(aten._cudnn_rnn_backward.default, *backward, [True, True, True, False]).flop == forward
    assert one(aten.miopen_rnn_backward.default, *backward, [True] * 4).flop == 2 * forward


# Transformer encoder -------------------------------------------------------------------------------------------

ENCODER = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "batch_first": True}


def test_the_fast_path_of_an_encoder_is_the_slow_one():
    layer, x = nn.TransformerEncoderLayer(**ENCODER).eval(), torch.randn(3, 5, 8)
    slow = flop(lambda: layer(x))
    assert slow == 2 * 15 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 2 * 3 * 5 * 5 * 8
    with torch.no_grad():
        fast = summed(lambda: layer(x))
    assert (fast.work.flop, fast.seen) == (slow, ["aten._transformer_encoder_layer_fwd"])


def test_a_masked_layer_computes_the_padding_too():
    layer, x = nn.TransformerEncoderLayer(**ENCODER).eval(), torch.randn(3, 5, 8)
    padding = torch.arange(5) >= torch.tensor([[5], [3], [4]])
    with torch.no_grad():
        assert flop(lambda: layer(x, src_key_padding_mask=padding)) == flop(lambda: layer(x))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_masked_encoder_leaves_padding_out_of_its_layers_but_not_of_attention():
    """The fast path nests the batch: 5 + 3 + 4 rows in the layers; attention is padded to 5 each on a CPU."""
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(**ENCODER), 2).eval()
    x, padding = torch.randn(3, 5, 8), torch.arange(5) >= torch.tensor([[5], [3], [4]])
    with torch.no_grad():
        fast = summed(lambda: net(x, src_key_padding_mask=padding))
    assert fast.seen == 2 * ["aten._transformer_encoder_layer_fwd"]
    assert fast.work.flop == 2 * (2 * 12 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 2 * 3 * 5 * 5 * 8)
    assert fast.unknown == set()


@pytest.mark.parametrize("need_weights", [False, True])
def test_the_fast_path_of_attention_is_the_slow_one(need_weights):
    layer, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(3, 5, 8)
    slow = flop(lambda: layer(x, x, x, need_weights=need_weights))
    with torch.no_grad():
        assert flop(lambda: layer(x, x, x, need_weights=need_weights)) == slow


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_a_linear_layer_on_a_nested_batch_counts_its_rows(layout):
    layer, x = nn.Linear(8, 4), torch.nested.nested_tensor([torch.ones(3, 8), torch.ones(5, 8)], layout=layout)
    assert flop(lambda: layer(x)) == 2 * 8 * 8 * 4


# Distances and Fourier transforms ------------------------------------------------------------------------------


def test_distances_are_one_for_each_pair_and_dimension():
    x, y = there(4, 3), there(5, 3)
    assert flop(lambda: torch.cdist(x, y)) == 2 * 20 * 3
    assert flop(lambda: torch.cdist(x, y).sum().backward()) == 3 * 2 * 20 * 3
    assert flop(lambda: torch.pdist(x)) == 2 * 6 * 3
    assert flop(lambda: torch.pdist(x).sum().backward()) == 2 * 2 * 6 * 3


def test_distances_by_a_matrix_product_have_two_columns_more():
    """Squares and ones join the three dimensions; the gradients are plain products."""
    x, y = there(4, 3), there(5, 3)
    step = lambda: torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist")  # noqa: E731
    assert flop(step) == 2 * 20 * (3 + 2)
    assert flop(lambda: step().sum().backward()) == 2 * 20 * (3 + 2) + 2 * 2 * 20 * 3


@pytest.mark.parametrize(
    ("step", "total"),
    [
        (lambda: torch.fft.fft(torch.ones(3, 8, dtype=torch.cfloat)), 3 * 5 * 8 * 3),
        (lambda: torch.fft.ifft(torch.ones(3, 8, dtype=torch.cfloat)), 3 * 5 * 8 * 3),
        (lambda: torch.fft.rfft(torch.ones(3, 8)), 3 * 5 * 8 * 3 / 2),
        (lambda: torch.fft.irfft(torch.ones(3, 5, dtype=torch.cfloat)), 3 * 5 * 8 * 3 / 2),
        (lambda: torch.fft.rfft2(torch.ones(3, 8, 4)), 3 * 5 * 32 * 5 / 2),
        (lambda: torch.fft.fftn(torch.ones(4, 4, 4, dtype=torch.cfloat)), 5 * 64 * 6),
        (lambda: torch.fft.rfft(torch.ones(6)), round(5 * 6 * math.log2(6) / 2)),
        (lambda: torch.stft(torch.ones(1, 64), 16, return_complex=True, window=torch.ones(16)), 17 * 5 * 16 * 4 / 2),
        (lambda: torch.fft.fftshift(torch.fft.fftfreq(8)), 0),
    ],
)
def test_a_fourier_transform_is_5n_log2_n_and_half_of_it_for_real_points(step, total):
    assert work(step) == (total, 0, 0)


# Linear algebra ------------------------------------------------------------------------------------------------

SQUARE = torch.eye(6) * 4 + torch.ones(6, 6)
TWO = torch.stack([SQUARE, SQUARE])
N3 = 6**3


@pytest.mark.parametrize(
    ("step", "total"),
    [
        (lambda: torch.linalg.cholesky(TWO), 2 * N3 / 3),
        (lambda: torch.cholesky_inverse(SQUARE), 2 * N3 / 3),
        (lambda: torch.cholesky_solve(torch.ones(6, 2), SQUARE), 2 * 36 * 2),
        (lambda: torch.linalg.lu_factor(TWO), 2 * 2 * N3 / 3),
        (lambda: torch.linalg.lu(torch.ones(9, 6)), 36 * (9 - 6 / 3)),
        (lambda: torch.linalg.lu(torch.ones(6, 9)), 36 * (9 - 6 / 3)),
        (lambda: torch.linalg.lu_solve(*torch.linalg.lu_factor(SQUARE), torch.ones(6, 2)), 2 * N3 / 3 + 2 * 36 * 2),
        (lambda: torch.linalg.ldl_solve(*torch.linalg.ldl_factor(SQUARE), torch.ones(6, 2)), N3 / 3 + 2 * 36 * 2),
        (lambda: torch.linalg.solve(TWO, torch.ones(2, 6, 3)), 2 * (2 * N3 / 3 + 2 * 36 * 3)),
        (lambda: torch.linalg.solve(TWO, torch.ones(2, 6)), 2 * (2 * N3 / 3 + 2 * 36)),
        (lambda: torch.linalg.solve(SQUARE, torch.ones(3, 6), left=False), 2 * N3 / 3 + 2 * 36 * 3),
        (lambda: torch.linalg.inv(TWO), 2 * 8 * N3 / 3),
        (lambda: torch.linalg.det(SQUARE), 2 * N3 / 3),
        (lambda: torch.linalg.slogdet(SQUARE), 2 * N3 / 3),
        (lambda: torch.logdet(SQUARE), 2 * N3 / 3),
        (lambda: torch.linalg.solve_triangular(TWO, torch.ones(2, 6, 3), upper=True), 2 * 36 * 3),
        (lambda: torch.linalg.solve_triangular(SQUARE, torch.ones(3, 6), upper=True, left=False), 36 * 3),
        (lambda: torch.linalg.qr(TWO, mode="r"), 2 * 4 * N3 / 3),
        (lambda: torch.linalg.qr(TWO), 2 * (4 * N3 / 3 + 4 * N3 / 3)),
        (lambda: torch.linalg.qr(torch.ones(9, 6)), 2 * 2 * 36 * (9 - 2)),
        (lambda: torch.linalg.qr(torch.ones(9, 6), mode="complete"), 2 * 36 * 7 + 4 * (81 * 6 - 9 * 36 + N3 // 3)),
        (lambda: torch.linalg.householder_product(*torch.geqrf(torch.ones(9, 6))), 2 * 2 * 36 * (9 - 2)),
        (lambda: torch.ormqr(*torch.geqrf(SQUARE), torch.ones(6, 2)), 4 * N3 / 3 + 2 * 6 * 2 * 6),
        (lambda: torch.linalg.solve(SQUARE + 0j, torch.ones(6, 3) + 0j), 4 * (2 * N3 / 3 + 2 * 36 * 3)),
        (lambda: torch.linalg.vector_norm(TWO) + torch.linalg.cross(torch.ones(3), torch.ones(3)), 0),
        (lambda: torch.linalg.diagonal(TWO), 0),
    ],
)
def test_factorisations_and_solvers_are_their_leading_orders(step, total):
    assert work(step).flop == total


@pytest.mark.filterwarnings("ignore:torch.triangular_solve")
def test_the_old_triangular_solver_is_the_new_one():
    assert flop(lambda: torch.triangular_solve(torch.ones(6, 3), SQUARE)) == 36 * 3


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (lambda: torch.linalg.eigh(SQUARE), "aten._linalg_eigh"),
        (lambda: torch.linalg.eig(SQUARE), "aten.linalg_eig"),
        (lambda: torch.linalg.svd(SQUARE), "aten._linalg_svd"),
        (lambda: torch.linalg.lstsq(SQUARE, SQUARE), "aten.linalg_lstsq"),
        (lambda: torch.linalg.pinv(SQUARE), "aten.linalg_pinv"),
        (lambda: torch.matrix_exp(SQUARE), "aten.linalg_matrix_exp"),
    ],
)
def test_what_iterates_has_no_formula_and_is_named(step, name):
    assert summed(step).unknown == {name}


# Inference mode ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(8, 3), (2, 4, 8)),
        (nn.Conv2d(4, 6, 3, groups=2, padding="same"), (2, 4, 7, 7)),
        (nn.Conv2d(4, 6, 3, groups=2), (4, 7, 7)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), (2, 4, 5, 5)),
        (nn.LSTM(8, 5, num_layers=2, bidirectional=True, batch_first=True), (2, 4, 8)),
        (nn.GRU(8, 5), (4, 2, 8)),
    ],
)
def test_a_module_in_inference_mode_counts_as_with_gradients(layer, shape):
    x = torch.randn(*shape)
    expected = work(lambda: layer(x))
    with torch.inference_mode():
        assert work(lambda: layer(x)) == expected


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x @ x[0].mT,
        lambda x: torch.einsum("bij,bkj,k->bi", x, x, x[0, :, 0]),
        lambda x: F.scaled_dot_product_attention(x[None], x[None, :1], x[None, :1], enable_gqa=True),
        lambda x: torch.cdist(x, x),
        lambda x: torch.linalg.solve(x @ x.mT, x),
        lambda x: torch.fft.rfft2(x),
        lambda x: F.bilinear(x, x, torch.ones(2, 8, 8)),
        lambda x: torch.linalg.multi_dot([x[0], x[1].mT, x[0]]),
    ],
)
def test_functions_in_inference_mode_count_as_with_gradients(step):
    x = torch.randn(2, 4, 8)
    expected = work(lambda: step(x))
    assert expected.flop > 0
    with torch.inference_mode():
        assert work(lambda: step(x)) == expected


def test_taking_an_operator_apart_draws_no_random_numbers():
    x = torch.randn(2, 3, 4, 8)
    with torch.inference_mode():
        torch.manual_seed(3)
        alone = F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)
        state = torch.get_rng_state()
        torch.manual_seed(3)
        with Sum():
            counted = F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)
    assert torch.equal(alone, counted)
    assert torch.equal(state, torch.get_rng_state())


# A user's own --------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(flop_counter, "flop_registry", dict(flop_counter.flop_registry))
    return flop_counter.flop_registry


@pytest.fixture(scope="module")
def twice():
    @torch.library.custom_op("lightning_costs_formulas::twice", mutates_args=())
    def twice(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return 2 * (a @ b)

    return twice


def test_a_custom_operator_is_named_until_its_formula_is_registered(registry, twice):
    x = torch.ones(4, 4)
    name = "lightning_costs_formulas.twice"
    assert summed(lambda: twice(x, x)).unknown == {name}

    @flop_counter.register_flop_formula(torch.ops.lightning_costs_formulas.twice)
    def count(a, b, *args, out_shape=None, **kwargs):
        return 3 * a[0] * b[1] + out_shape[0]

    assert work(lambda: twice(x, x)) == (52, 26, 0)


def test_a_users_formula_wins_over_ours_and_over_torchs(registry):
    def count(*args, **kwargs):
        return 11

    del registry[aten.mm]
    flop_counter.register_flop_formula([aten.mm, aten.mv])(count)
    x = torch.ones(4, 4)
    assert flop(lambda: x @ x) == flop(lambda: x @ x[0]) == 11
    flop_counter.register_flop_formula(aten.dot, get_raw=True)(functools.partial(count))
    assert flop(lambda: x[0] @ x[0]) == 11


def broken(*args, **kwargs):
    raise RuntimeError("a formula for other shapes")


def test_a_formula_that_raises_gives_way_to_ours_or_to_none(registry, twice):
    flop_counter.register_flop_formula([aten.mv, torch.ops.lightning_costs_formulas.twice])(broken)
    x = torch.ones(4, 4)
    assert flop(lambda: x @ x[0]) == 2 * 16
    total = summed(lambda: twice(x, x))
    assert (total.work.flop, total.unknown) == (0, {"lightning_costs_formulas.twice"})
    assert one(aten.mm.default, None, None) is None


def test_a_kernel_of_a_users_own_is_found_by_the_kernel(registry):
    table = pytest.importorskip("torch._higher_order_ops.triton_kernel_wrap").kernel_side_table

    class Kernel:
        launch_metadata = None

    kernel = Kernel()
    registry[kernel] = lambda *args, out_val=None, **kwargs: 12
    launch = torch.ops.higher_order.triton_kernel_wrapper_mutation
    index = table.add_kernel(kernel)
    assert one(launch, kernel_idx=index).flop == 12
    assert one(launch, kernel_idx=table.add_kernel(Kernel())) is None
    assert not Formulas().plain(launch)


# Names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("add_", "relu", "native_layer_norm", "sigmoid_", "lgamma", "_fused_sdp_choice", "hamming_window", "dist"),
        *("_thnn_fused_lstm_cell", "lu_unpack", "upsample_bilinear2d", "resolve_conj", "elu", "celu_", "_weight_norm"),
        *("linalg_vector_norm", "linalg_cross", "linalg_diagonal", "slice_inverse", "fft_fftfreq", "_foreach_addmul_"),
        *("grid_sampler_2d", "embedding_bag", "_linalg_check_errors", "multi_margin_loss", "_cudnn_rnn_flatten_weight"),
    ],
)
def test_elementwise_work_and_movement_are_plain(name):
    assert plain(f"aten.{name}")


def test_a_question_to_a_library_is_plain_and_its_products_are_not():
    assert plain("mkldnn._is_mkldnn_fp16_supported")
    assert not plain("mkldnn._linear_pointwise")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "mm",
            "addmm_",
            "sspaddmm",
            "_scaled_mm_v3",
            "mv",
            "vdot",
            "linalg_matmul",
            "slow_conv3d_forward",
            "conv_tbc",
        ),
        *("miopen_rnn", "lstm_mps_backward", "_triton_multi_head_attention", "linalg_matrix_exp", "_linalg_eigh"),
        *(
            "_linalg_svd",
            "linalg_eig",
            "cholesky",
            "lu_solve",
            "qr",
            "triangular_solve",
            "inverse",
            "slogdet",
            "_fft_c2c",
        ),
        *("_cdist_forward", "_euclidean_dist", "geqrf", "mkldnn_linear", "_trilinear", "_spsolve", "linalg_lstsq"),
    ],
)
def test_a_name_that_says_product_is_not_plain(name):
    assert not plain(f"aten.{name}")


def test_collectives_are_plain_and_other_namespaces_are_not():
    assert all(map(plain, ("c10d.allreduce_", "_c10d_functional.all_gather_into_tensor", "prim.device")))
    assert not any(map(plain, ("torchvision.nms", "flash_attn._flash_attn_forward", "flex_attention")))


def plain(name):
    class Named:
        _overloadpacket = name

    return Formulas().plain(Named())


def test_every_operator_with_a_formula_is_one_that_needs_it():
    from lightning_costs.probes.opcount.formulas import registry as module

    covered = {*module._MACS, *module.LINALG, *module.FFT} - {"aten.affine_grid_generator"}
    assert [name for name in covered if plain(name)] == []


def test_where_torch_has_a_formula_too_they_agree():
    cases = [
        (aten.mm, (meta(3, 5), meta(5, 2)), meta(3, 2)),
        (aten.addmm, (meta(2), meta(3, 5), meta(5, 2)), meta(3, 2)),
        (aten.bmm, (meta(4, 3, 5), meta(4, 5, 2)), meta(4, 3, 2)),
        (aten.baddbmm, (meta(4, 3, 2), meta(4, 3, 5), meta(4, 5, 2)), meta(4, 3, 2)),
        (aten._scaled_mm, (meta(3, 5), meta(5, 2), meta(1), meta(1)), meta(3, 2)),
    ]
    for packet, args, out in cases:
        assert one(packet.default, *args, out=out).flop == flop_counter.flop_registry[packet](*args, out_val=out)
