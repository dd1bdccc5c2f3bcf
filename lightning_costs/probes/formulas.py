"""Products of one operator: floating-point operations and multiply-accumulates, from the shapes that it was given.

Matrix products and convolutions count, a multiply-accumulate as 2 FLOP; elementwise work (bias, softmax, norms) does
not. Causal attention counts in full, as torch counts it. A formula that somebody registered with
`torch.utils.flop_counter.register_flop_formula` comes first, then those here, then torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, final

import torch
from torch.utils.flop_counter import flop_registry


class Work(NamedTuple):
    """Products of one operator.

    Args:
        flop: Executed floating-point operations.
        mac: Multiply-accumulates among them.
        recomputed_flop: The part of `flop` that computes anew what the forward pass had.
    """

    flop: int
    mac: int
    recomputed_flop: int = 0


def _products(macs: float) -> Work:
    return Work(2 * round(macs), round(macs))


# Attention ---------------------------------------------------------------------------------------------------


def _pairs(query: torch.Tensor, key: torch.Tensor) -> int:
    """Query-key pairs over batch and heads: [..., heads, length, width] each; grouped keys serve several heads."""
    return math.prod(query.shape[:-1]) * key.shape[-2]


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> Work:
    """Query x key and scores x value."""
    return _products(_pairs(query, key) * (query.shape[-1] + value.shape[-1]))


def _attention_backward(
    _grad: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> Work:
    """The scores again, then gradients of value, scores, query and key.

    Dao et al. 2022 (FlashAttention), section 3.1.
    """
    pairs, wide = _pairs(query, key), query.shape[-1]
    work = _products(pairs * (3 * wide + 2 * value.shape[-1]))
    return work._replace(recomputed_flop=2 * pairs * wide)


# Convolutions ------------------------------------------------------------------------------------------------


def _convolution(x: torch.Tensor, weight: torch.Tensor, *args: Any, out: Any, **_: Any) -> Work:
    """Every output point (of a transposed one: every input point) meets every element of the weight of its group."""
    transposed = bool(args[4]) if len(args) > 4 else False
    return _products(_meetings(x, weight, x if transposed else out))


def _convolution_backward(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *args: Any, **_: Any) -> Work:
    """As many products for the input's gradient as forward, and as many for the weight's, of those that are asked for.

    torch's own formula (2.13) counts the weight's gradient of a grouped convolution as if it had one group.
    """
    transposed, mask = bool(args[4]), args[7]
    return _products(_meetings(x, weight, x if transposed else grad) * (bool(mask[0]) + bool(mask[1])))


def _meetings(x: torch.Tensor, weight: torch.Tensor, points: torch.Tensor) -> int:
    return x.shape[0] * math.prod(points.shape[2:]) * weight.numel()


# Recurrent layers --------------------------------------------------------------------------------------------


def _recurrent(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> int:
    """Every weight matrix meets every step of every sequence once."""
    steps = x.numel() // x.shape[-1]
    return steps * sum(weight.numel() for weight in weights if weight.ndim > 1)


def _mkldnn_rnn(x: torch.Tensor, *args: Any, **_: Any) -> Work:
    """One layer, one direction: input and hidden matrices of all gates."""
    return _products(_recurrent(x, args[:2]))


def _mkldnn_rnn_backward(x: torch.Tensor, *args: Any, **_: Any) -> Work:
    """Gradients of inputs and of weights: each as many products as forward."""
    return _products(2 * _recurrent(x, args[:2]))


def _cudnn_rnn(x: torch.Tensor, weights: Sequence[torch.Tensor], *_: Any, **__: Any) -> Work:
    """All layers and directions; packed sequences hold their real steps."""
    return _products(_recurrent(x, weights))


def _cudnn_rnn_backward(x: torch.Tensor, weights: Sequence[torch.Tensor], *_: Any, **__: Any) -> Work:
    """Gradients of inputs and of weights: each as many products as forward."""
    return _products(2 * _recurrent(x, weights))


# The encoder's fast path -------------------------------------------------------------------------------------


def _lengths(x: torch.Tensor) -> list[int]:
    """Lengths of the sequences in [batch, length, width]; a nested one leaves its padding out."""
    if x.is_nested:
        return [int(size[0]) for size in x._nested_tensor_size()]
    return [x.shape[1]] * x.shape[0]


def _encoder_layer(x: torch.Tensor, width: int, _heads: int, *args: Any, **_: Any) -> Work:
    """Projections and feed-forward layers over all tokens, two attention products over each sequence."""
    lengths = _lengths(x)
    weights = sum(args[place].numel() for place in (0, 2, 11, 13))
    return _products(sum(lengths) * weights + 2 * width * sum(n * n for n in lengths))


def _native_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, width: int, _heads: int, *args: Any, **_: Any
) -> Work:
    """Four projections, two attention products."""
    queries, keys = _lengths(query), _lengths(key)
    inputs, projection = args[0].numel() // 3, args[2].numel()
    projected = inputs * (sum(queries) + 2 * sum(keys)) + projection * sum(queries)
    return _products(projected + 2 * width * sum(q * k for q, k in zip(queries, keys, strict=True)))


# Other products ----------------------------------------------------------------------------------------------


def _kept(matrix: torch.Tensor) -> int:
    """Elements that a sparse matrix stores."""
    values = matrix._values() if matrix.layout == torch.sparse_coo else matrix.values()
    return values.numel()


def _matrix_product(a: torch.Tensor, b: torch.Tensor, *_: Any, **__: Any) -> Work:
    """[m, k] x [k, n]; of a sparse operand only what it stores is multiplied."""
    if a.layout != torch.strided:
        return _products(_kept(a) * b.shape[-1])
    if b.layout != torch.strided:
        return _products(_kept(b) * a.shape[-2])
    return _products(a.numel() * b.shape[-1])


def _added_matrix_product(_added: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *_: Any, **__: Any) -> Work:
    return _matrix_product(a, b)


def _grouped_product(a: torch.Tensor, b: torch.Tensor, *_: Any, **__: Any) -> Work:
    """Groups of rows, each with a matrix of its own: every row meets one matrix.

    Where both are flat ([m, k] and [k, n] with the groups along k) every column of k meets its own group.
    """
    return _products(a.numel() * b.shape[-1])


def _matrix_vector(matrix: torch.Tensor, _vector: torch.Tensor, *_: Any, **__: Any) -> Work:
    return _products(_kept(matrix) if matrix.layout != torch.strided else matrix.numel())


def _added_matrix_vector(_added: torch.Tensor, matrix: torch.Tensor, vector: torch.Tensor, *_: Any, **__: Any) -> Work:
    return _matrix_vector(matrix, vector)


def _dot(a: torch.Tensor, *_: Any, **__: Any) -> Work:
    return _products(a.numel())


def _trilinear(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, *args: Any, **_: Any) -> Work:
    """Bilinear layers: one multiply-accumulate for every index; joining the two inputs is elementwise."""
    expanded = []
    for tensor, places in zip((a, b, c), args[:3], strict=True):
        shape = list(tensor.shape)
        for place in sorted(places):
            shape.insert(place, 1)
        expanded.append(shape)
    return _products(math.prod(max(sizes) for sizes in zip(*expanded, strict=True)))


def _distances(a: torch.Tensor, b: torch.Tensor, *_: Any, **__: Any) -> Work:
    """One accumulation for every pair and dimension; the difference itself is elementwise."""
    return _products(a.numel() * b.shape[-2])


def _distances_backward(_grad: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *_: Any, **__: Any) -> Work:
    return _distances(a, b)


def _distances_by_product(a: torch.Tensor, b: torch.Tensor, *_: Any, **__: Any) -> Work:
    """A product of vectors that are two elements longer: they carry the squares."""
    return _products(math.prod(a.shape[:-1]) * b.shape[-2] * (a.shape[-1] + 2))


def _own_distances(a: torch.Tensor, *_: Any, **__: Any) -> Work:
    return _products(a.shape[0] * (a.shape[0] - 1) // 2 * a.shape[1])


def _own_distances_backward(_grad: torch.Tensor, a: torch.Tensor, *_: Any, **__: Any) -> Work:
    return _own_distances(a)


def _fourier(a: torch.Tensor, dims: Sequence[int], *_: Any, out: torch.Tensor, **__: Any) -> Work:
    """5 N log2 N for a complex transform of N points, half of it for a real one (FFTW's benchFFT convention,
    https://www.fftw.org/speed/method.html). No multiply-accumulates are claimed."""
    whole = a if not a.is_complex() else out if not out.is_complex() else a
    points = math.prod(whole.shape[dim] for dim in dims)
    share = 1.0 if a.is_complex() and out.is_complex() else 0.5
    return Work(round(share * 5 * whole.numel() * math.log2(points)) if points > 1 else 0, 0)


def _factored(per_matrix: Callable[[int, int], float]) -> Callable[..., Work]:
    """A factorisation of [..., m, n] matrices, by Golub and Van Loan (Matrix Computations, 4th edition)."""

    def work(a: torch.Tensor, *_: Any, **__: Any) -> Work:
        m, n = a.shape[-2:]
        flop = round(math.prod(a.shape[:-2]) * per_matrix(m, n))
        return Work(flop, flop // 2)

    return work


def _solved(per_column: Callable[[int], float], fixed: Callable[[int], float] = lambda n: 0.0) -> Callable[..., Work]:
    """Systems of n equations with k right-hand sides, by the same book."""

    def work(a: torch.Tensor, b: torch.Tensor, *_: Any, **__: Any) -> Work:
        n = a.shape[-1]
        flop = round(math.prod(a.shape[:-2]) * fixed(n) + b.numel() / n * per_column(n))
        return Work(flop, flop // 2)

    return work


def _swapped(formula: Callable[..., Work]) -> Callable[..., Work]:
    return lambda b, a, *args, **kwargs: formula(a, b, *args, **kwargs)


def _lu(m: int, n: int) -> float:
    """Section 3.2: n^2 (m - n/3) for m >= n."""
    m, n = max(m, n), min(m, n)
    return n * n * (m - n / 3)


def _qr(m: int, n: int) -> float:
    """Section 5.2: Householder vectors 2 n^2 (m - n/3), and as much again for Q itself."""
    m, n = max(m, n), min(m, n)
    return 4 * n * n * (m - n / 3)


_triangular, _twice_triangular = _solved(lambda n: n * n), _solved(lambda n: 2 * n * n)
_OURS: Final[Mapping[str, Callable[..., Work]]] = {
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), _convolution),
    "convolution_backward": _convolution_backward,
    **{
        f"_scaled_dot_product_{kind}": _attention
        for kind in (
            "flash_attention_for_cpu",
            "flash_attention",
            "efficient_attention",
            "cudnn_attention",
            "fused_attention_overrideable",
        )
    },
    **{
        f"_scaled_dot_product_{kind}_backward": _attention_backward
        for kind in (
            "flash_attention_for_cpu",
            "flash_attention",
            "efficient_attention",
            "cudnn_attention",
            "fused_attention_overrideable",
        )
    },
    "mkldnn_rnn_layer": _mkldnn_rnn,
    "mkldnn_rnn_layer_backward": _mkldnn_rnn_backward,
    **dict.fromkeys(("_cudnn_rnn", "miopen_rnn"), _cudnn_rnn),
    **dict.fromkeys(("_cudnn_rnn_backward", "miopen_rnn_backward"), _cudnn_rnn_backward),
    "_transformer_encoder_layer_fwd": _encoder_layer,
    "_native_multi_head_attention": _native_attention,
    **dict.fromkeys(("mm", "_sparse_mm", "_int_mm", "_sparse_sparse_matmul"), _matrix_product),
    **dict.fromkeys(("addmm", "addmm_", "_sparse_addmm", "_addmm_activation"), _added_matrix_product),
    **dict.fromkeys(("_grouped_mm", "_scaled_grouped_mm", "_scaled_grouped_mm_v2"), _grouped_product),
    "addbmm": lambda _, a, b, *__, **___: _products(a.numel() * b.shape[-1]),
    "baddbmm_": lambda _, a, b, *__, **___: _products(a.numel() * b.shape[-1]),
    "mv": _matrix_vector,
    **dict.fromkeys(("addmv", "addmv_"), _added_matrix_vector),
    **dict.fromkeys(("dot", "vdot"), _dot),
    "_trilinear": _trilinear,
    "_cdist_forward": _distances,
    "_cdist_backward": _distances_backward,
    "_euclidean_dist": _distances_by_product,
    "_pdist_forward": _own_distances,
    "_pdist_backward": _own_distances_backward,
    **dict.fromkeys(("_fft_c2c", "_fft_r2c", "_fft_c2r"), _fourier),
    "linalg_cholesky_ex": _factored(lambda m, n: n**3 / 3),  # section 4.2
    **dict.fromkeys(("linalg_lu_factor_ex", "linalg_lu", "_linalg_det", "_linalg_slogdet"), _factored(_lu)),
    "linalg_inv_ex": _factored(lambda m, n: 2 * n**3),
    "linalg_qr": _factored(_qr),
    "_linalg_solve_ex": _solved(lambda n: 2 * n * n, lambda n: 2 * n**3 / 3),
    "linalg_solve_triangular": _triangular,
    "triangular_solve": _swapped(_triangular),
    "linalg_lu_solve": lambda lu, _, b, *__, **___: _twice_triangular(lu, b),
    "cholesky_solve": _swapped(_twice_triangular),
    "_cholesky_solve_helper": _swapped(_twice_triangular),
}

#: Namespaces whose operators are elementwise, data movement or communication, unless their name says otherwise.
_PLAIN: Final = frozenset(("aten", "prim", "prims", "c10d", "_c10d_functional", "profiler", "fsdp", "rngprims"))
#: Words in the name of an operator that does products.
_HEAVY: Final = frozenset(
    """mm bmm addmm baddbmm addbmm matmul mv addmv dot vdot convolution conv1d conv2d conv3d conv depthwise rnn lstm gru
    attention linear linalg cholesky lu qr geqrf orgqr ormqr svd eig eigh eigvals solve inverse lstsq fft cdist pdist
    trilinear einsum encoder""".split()
)
#: Operators that have such a word in their name and do no products.
_LIGHT: Final = frozenset(
    """_linalg_check_errors linalg_vector_norm linalg_cross linalg_diagonal linalg__powsum linalg_vander lu_unpack
    slice_inverse _use_cudnn_rnn_flatten_weight _cudnn_rnn_flatten_weight fft_fftfreq fft_rfftfreq fft_fftshift
    fft_ifftshift _thnn_fused_lstm_cell _thnn_fused_gru_cell _thnn_fused_lstm_cell_backward
    _thnn_fused_lstm_cell_backward_impl _thnn_fused_gru_cell_backward _thnn_differentiable_lstm_cell_backward
    _thnn_differentiable_gru_cell_backward mkldnn_reorder_conv2d_weight mkldnn_reorder_conv3d_weight""".split()
)


@final
class Formulas:
    """Formulas by operator, as they stand when this is made: formulas registered later count in the next census."""

    def __init__(self) -> None:
        self._registered = dict(flop_registry)

    def work(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Work | None:
        """Products of an operator that ran; None where no formula covers it, or the formula failed on its arguments.

        Args:
            func: The operator, `torch._ops.OpOverload` or one of higher order.
            args: What it was given.
            kwargs: What it was given by name.
            out: What it returned.
        """
        packet = getattr(func, "_overloadpacket", func)
        registered = self._registered.get(packet)
        ours = _OURS.get(_name(func)) if getattr(func, "namespace", "") == "aten" else None
        if registered is None and ours is None:
            return None
        try:
            if ours is not None and (registered is None or _is_torchs(registered)):
                return ours(*args, **{**kwargs, "out": out})
            assert registered is not None
            flop = int(registered(*args, **kwargs, out_val=out))
        except Exception:  # noqa: BLE001 - a formula (perhaps the user's) that fails must not end the user's step
            return None
        again = flop // 5 if _is_torchs(registered) and _name(func).endswith("attention_backward") else 0
        return Work(flop, flop // 2, again)

    def plain(self, func: Any) -> bool:
        """Whether an operator needs no formula: elementwise, data movement, communication."""
        if getattr(func, "namespace", "") not in _PLAIN:
            return False
        name = _name(func)
        return name in _LIGHT or not _HEAVY & set(name.strip("_").split("_"))


def _name(func: Any) -> str:
    return str(getattr(func, "_overloadpacket", func)).rpartition(".")[2]


def _is_torchs(formula: Any) -> bool:
    return getattr(formula, "__module__", "") == "torch.utils.flop_counter"
