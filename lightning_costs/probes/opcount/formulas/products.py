"""Multiply-accumulates of single operators: products, convolutions, recurrences, distances, Fourier transforms.

Formulas take an operator's args and its result, and return multiply-accumulates (those of FFT: operations). An
operator is found by its name, without the underscore of the form that works in place: looked up so, one that this
this torch does not have breaks nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2, prod
from typing import Any

import torch

MacFormula = Callable[[Any, Any], int]

#: By operator.
PRODUCTS: dict[str, MacFormula] = {}

_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
#: Two numbers to an element of its tensors; missing before torch 2.8.
_FOUR_BITS = getattr(torch, "float4_e2m1fn_x2", None)


# Products ------------------------------------------------------------------------------------------------------


def _stored(matrix: Any) -> int:
    """Elements that a sparse matrix holds, those of its blocks too."""
    values = matrix._values() if matrix.layout is torch.sparse_coo else matrix.values()
    return int(values.numel())


def _is_sparse(matrix: Any) -> bool:
    return matrix.layout in _SPARSE


def _product(left: Any, right: Any, out: Any) -> int:
    """Elements of the result x inner dimension; stored elements x columns where an operand is sparse.

    Counted from the result, so that packed weights need not be unpacked and matrix, vector and batch are one case.
    """
    if left.is_nested:
        rights = right.unbind() if right.is_nested else [right] * left.size(0)
        return sum(a.numel() * b.shape[-1] for a, b in zip(left.unbind(), rights, strict=True))
    if _is_sparse(left) and _is_sparse(right):
        raise ValueError("a product of two sparse matrices depends on where their elements lie")
    if _is_sparse(left):
        return _stored(left) * (right.shape[-1] if right.dim() > 1 else 1)
    if _is_sparse(right):
        return _stored(right) * int(left.shape[-2])
    return int(out.numel() * left.shape[-1] * (2 if left.dtype == _FOUR_BITS else 1))


for _name in (
    *("mm", "bmm", "mv", "dot", "vdot", "matmul", "inner", "_int_mm", "_scaled_mm", "_scaled_mm_v2", "hspmm"),
    *("_weight_int8pack_mm", "_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu"),
    *("_weight_int4pack_mm_with_scales_and_zeros", "_dyn_quant_matmul_4bit", "_sparse_mm", "_sparse_mm_reduce_impl"),
):
    PRODUCTS[f"aten.{_name}"] = lambda args, out: _product(args[0], args[1], out)
for _name in ("addmm", "addmv", "baddbmm", "_addmm_activation", "_sparse_addmm", "sspaddmm"):
    PRODUCTS[f"aten.{_name}"] = lambda args, out: _product(args[1], args[2], out)


def _foreach_mm(args: Any, out: Any) -> int:
    return sum(_product(*three) for three in zip(args[0], args[1], out, strict=True))


def _grouped_mm(args: Any, out: Any) -> int:
    """Every row meets one group's matrix; with two plain matrices the groups share out the inner dimension instead."""
    left, right = args[:2]
    if left.dim() == right.dim() == 2:
        return int(left.numel() * right.shape[-1] * (2 if left.dtype == _FOUR_BITS else 1))
    return _product(left, right, out)


def _linear(x: Any, weight: Any) -> int:
    """Rows x elements of the weight: half of them where a 2:4 sparse one holds half."""
    return int(x.numel() // x.size(-1) * weight.numel())  # `shape` raises for a nested one


def _trilinear(args: Any, out: Any) -> int:
    """One for each index tuple of the three expanded factors: b o i j for nn.Bilinear and each of its gradients.

    The multiplication that joins the two inputs is left out as elementwise. After torch's Linear.cpp, _trilinear.
    """
    shapes = []
    for factor, expanded in zip(args[:3], args[3:6], strict=True):
        sizes = iter(factor.shape)
        shapes.append([1 if dim in expanded else next(sizes) for dim in range(factor.dim() + len(expanded))])
    return prod(max(sizes) for sizes in zip(*shapes, strict=True))


for _name in ("aten._grouped_mm", "aten._scaled_grouped_mm", "aten._scaled_grouped_mm_v2"):
    PRODUCTS[_name] = _grouped_mm
for _name in ("aten.linear", "aten.mkldnn_linear", "aten._sparse_semi_structured_linear"):
    PRODUCTS[_name] = lambda args, out: _linear(*args[:2])
PRODUCTS |= {
    "aten._foreach_mm": _foreach_mm,
    "aten._trilinear": _trilinear,
    # The products of a batch, summed: b m k n.
    "aten.addbmm": lambda args, out: int(args[1].numel() * args[2].shape[-1]),
    # Of backward operators, a product of the forward's size for each gradient wanted: input and weight, left and
    # right, sparse and dense.
    "aten.linear_backward": lambda args, out: _linear(args[0], args[2]) * int(sum(args[3][:2])),
    "aten.matmul_backward": lambda args, out: _product(args[1], args[2], args[0]) * int(sum(args[3])),
    "aten._sparse_mm_reduce_impl_backward": lambda args, out: (
        _stored(args[0]) * int(args[2].shape[-1]) * int(sum(args[5]))
    ),
    # Half of the dense product: the left matrix holds two of four.
    "aten._sparse_semi_structured_mm": lambda args, out: int(args[0].numel() * args[2].shape[-1]),
    "aten._sparse_semi_structured_addmm": lambda args, out: int(args[1].numel() * args[3].shape[-1]),
    # Elements kept x inner dimension.
    "aten.sparse_sampled_addmm": lambda args, out: _stored(args[0]) * int(args[1].shape[-1]),
    # Points x an affine map: a matrix of d rows and d + 1 columns (torch's AffineGridGenerator.cpp: a bmm).
    "aten.affine_grid_generator": lambda args, out: int(out.numel() * (out.shape[-1] + 1)),
}


# Convolutions --------------------------------------------------------------------------------------------------


def _conv(x: Any, weight: Any, out: Any, transposed: bool) -> int:
    """Outputs x elements of one filter; for a transposed one inputs x elements: groups are in the weight's shape.

    torch's own (2.13) are wrong in three cases: convolution_backward multiplies the gradient of a grouped weight by
    the groups; _slow_conv2d_forward raises; cudnn_convolution reads its `benchmark` flag as `transposed`.
    """
    return int((x if transposed else out).numel() * prod(weight.shape[1:]))


for _name in (
    *("conv1d", "conv2d", "conv3d", "cudnn_convolution", "cudnn_convolution_relu", "miopen_convolution", "thnn_conv2d"),
    *("miopen_convolution_relu", "miopen_depthwise_convolution", "mkldnn_convolution", "_mps_convolution"),
    *("_conv_depthwise2d", "conv_depthwise3d", "_slow_conv2d_forward", "slow_conv3d_forward", "slow_conv_dilated2d"),
    *(
        "slow_conv_dilated3d",
        "_nnpack_spatial_convolution",
        "cudnn_convolution_add_relu",
        "miopen_convolution_add_relu",
    ),
):
    PRODUCTS[f"aten.{_name}"] = lambda args, out: _conv(args[0], args[1], out, False)
for _name in (
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "cudnn_convolution_transpose"),
    *("miopen_convolution_transpose", "slow_conv_transpose2d", "slow_conv_transpose3d"),
):
    PRODUCTS[f"aten.{_name}"] = lambda args, out: _conv(args[0], args[1], out, True)
for _name in ("convolution", "_convolution", "convolution_overrideable"):
    PRODUCTS[f"aten.{_name}"] = lambda args, out: _conv(args[0], args[1], out, args[6])


PRODUCTS |= {
    # The forward's count for each gradient wanted: input, weight.
    "aten.convolution_backward": lambda args, out: _conv(args[1], args[2], args[0], args[7]) * int(sum(args[10][:2])),
    "aten.convolution_backward_overrideable": lambda args, out: (
        _conv(args[1], args[2], args[0], args[6]) * int(sum(args[9][:2]))
    ),
    # Outputs x elements of one filter; the weight is [kernel, in, out].
    "aten.conv_tbc": lambda args, out: int(out.numel() * prod(args[1].shape[:2])),
}


# Recurrences ---------------------------------------------------------------------------------------------------


def _recurrent(x: Any, weights: Any) -> int:
    """Rows (steps x batch, or those packed) x elements of the weight matrices; biases and gates are elementwise."""
    return int(prod(x.shape[:-1]) * sum(weight.numel() for weight in weights if weight.dim() > 1))


PRODUCTS |= {
    # One layer and direction of an LSTM on a CPU; backward, gradients of the input and of the weights are always made.
    "aten.mkldnn_rnn_layer": lambda args, out: _recurrent(args[0], args[1:3]),
    "aten.mkldnn_rnn_layer_backward": lambda args, out: 2 * _recurrent(args[0], args[1:3]),
    "aten._lstm_mps": lambda args, out: _recurrent(args[0], args[2]),
}
for _name in ("aten._cudnn_rnn", "aten.miopen_rnn"):
    # All layers and directions, projections too; backward, gradients of the data are always made, those of the weights
    # if they are wanted.
    PRODUCTS[_name] = lambda args, out: _recurrent(args[0], args[1])
    PRODUCTS[f"{_name}_backward"] = lambda args, out: _recurrent(args[0], args[1]) * (2 if args[-1][3] else 1)


# Distances -----------------------------------------------------------------------------------------------------


PRODUCTS |= {
    # One for each pair and dimension: a difference, accumulated; backward as forward.
    "aten._cdist_forward": lambda args, out: int(out.numel() * args[0].shape[-1]),
    "aten._pdist_forward": lambda args, out: int(out.numel() * args[0].shape[-1]),
    "aten._cdist_backward": lambda args, out: int(args[4].numel() * args[1].shape[-1]),
    "aten._pdist_backward": lambda args, out: int(args[3].numel() * args[1].shape[-1]),
    # As a matrix product: two columns are added, of squares and of ones (torch's Distance.cpp).
    "aten._euclidean_dist": lambda args, out: int(out.numel() * (args[0].shape[-1] + 2)),
}


# Fourier transforms --------------------------------------------------------------------------------------------


def _transform(points: Any, dims: Any) -> float:
    """5 N log2 N for N complex points, transforms of several dimensions as one of N points.

    FFTW's convention, whatever the algorithm (https://www.fftw.org/speed/method.html).
    """
    length = prod(points.shape[dim] for dim in dims)
    return 5 * points.numel() * log2(length) if length else 0.0


#: Floating-point operations of Fourier transforms; half as many if one side is real.
FFT: dict[str, Callable[[Any, Any], int]] = {
    "aten._fft_c2c": lambda args, out: round(_transform(args[0], args[1])),
    "aten._fft_r2c": lambda args, out: round(_transform(args[0], args[1]) / 2),
    "aten._fft_c2r": lambda args, out: round(_transform(out, args[1]) / 2),
}
