"""Multiply-accumulates of fused attention and of the transformer encoder's fast path.

Causal attention counts in full, as torch counts it. Shapes are [batch, heads, length, width] unless stated
otherwise; formulas take an operator's args and its result.
"""

from __future__ import annotations

from math import prod
from typing import Any

from lightning_costs.probes.opcount.formulas.products import MacFormula

#: By operator.
ATTENTION: dict[str, MacFormula] = {}


def _scores(query: Any, key: Any, length_dim: int) -> int:
    """Batch x query heads x queries x keys: shared key heads are met by every query head of their group."""
    return int(prod(query.shape[:-1]) * key.shape[length_dim])


def _attention(query: Any, key: Any, value: Any, *, length_dim: int = 2) -> int:
    """Query x key and scores x value."""
    return _scores(query, key, length_dim) * int(query.shape[-1] + value.shape[-1])


def _attention_backward(query: Any, key: Any, value: Any, *, length_dim: int = 2) -> int:
    """Five products: query x key again, and the gradients of scores, value, query, key.

    After Dao et al. 2022 (FlashAttention), section 3.1 and algorithm 4.
    """
    return _scores(query, key, length_dim) * int(3 * query.shape[-1] + 2 * value.shape[-1])


_FUSED = (
    *("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention"),
    "fused_attention_overrideable",
)
for _name in _FUSED:
    ATTENTION[f"aten._scaled_dot_product_{_name}"] = lambda args, out: _attention(*args[:3])
    ATTENTION[f"aten._scaled_dot_product_{_name}_backward"] = lambda args, out: _attention_backward(*args[1:4])
ATTENTION["flex_attention"] = lambda args, out: _attention(*args[:3])
ATTENTION["flex_attention_backward"] = lambda args, out: _attention_backward(*args[:3])


def _dense(lengths: Any) -> None:
    if lengths is not None:
        raise ValueError("packed sequences: torch's own formula knows their lengths")


def _flash_kernel(args: Any, out: Any) -> int:
    """Laid out [batch, length, heads, dimension]: torch's own (2.13) takes lengths for heads there."""
    _dense(args[3])
    return _attention(*args[:3], length_dim=1)


def _efficient_kernel(args: Any, out: Any) -> int:
    """As above; the bias comes before the lengths."""
    _dense(args[4])
    return _attention(*args[:3], length_dim=1)


def _kernel_attention_backward(args: Any, out: Any) -> int:
    """As above."""
    _dense(args[6])
    return _attention_backward(*args[1:4], length_dim=1)


#: Fused attention's backward operators: where query and value are among the arguments.
ATTENTION_BACKWARD: dict[str, tuple[int, int]] = {
    "flex_attention_backward": (0, 2),
    "aten._flash_attention_backward": (1, 3),
    "aten._efficient_attention_backward": (1, 3),
    "torch_attn._varlen_attn_backward": (1, 3),
    **{f"aten._scaled_dot_product_{name}_backward": (1, 3) for name in _FUSED},
}


def _encoder_rows(x: Any, heads: int) -> tuple[int, int]:
    """Rows, and the squares of lengths summed.

    A nested batch holds no padding; its attention is padded to the longest, but for the fused kernel on a GPU
    (torch's native/transformers/attention.cpp and cuda/attention.cu, native_multi_head_attention).
    """
    if not x.is_nested:
        batch, length = x.shape[:2]
        return int(batch * length), int(batch * length**2)
    lengths = [piece.shape[0] for piece in x.unbind()]
    if x.is_cuda and lengths and x.size(-1) // heads % 8 == 0:
        return sum(lengths), sum(length**2 for length in lengths)
    return sum(lengths), len(lengths) * max(lengths, default=0) ** 2


def _encoder_layer(args: Any, out: Any) -> int:
    """Rows x elements of the four weights, and attention's 2 embedding x length²: nn.TransformerEncoderLayer."""
    rows, squares = _encoder_rows(args[0], args[2])
    return int(rows * sum(args[n].numel() for n in (3, 5, 14, 16)) + 2 * squares * args[1])


def _native_attention(args: Any, out: Any) -> int:
    """Query, key and value projected, attention, the result projected: nn.MultiheadAttention."""
    query, key, value, embedding = args[:4]
    rows, squares = _encoder_rows(query, args[4])
    if not query.is_nested:
        squares = rows * int(key.shape[1])
    projected = 2 * rows + sum(_encoder_rows(tensor, args[4])[0] for tensor in (key, value))
    return int(projected * embedding**2 + 2 * squares * embedding)


#: The kernels below the operators above, and the modules that run as one operator in eval mode without gradients.
ATTENTION |= {
    "aten._flash_attention_forward": _flash_kernel,
    "aten._efficient_attention_forward": _efficient_kernel,
    "aten._flash_attention_backward": _kernel_attention_backward,
    "aten._efficient_attention_backward": _kernel_attention_backward,
    "aten._transformer_encoder_layer_fwd": _encoder_layer,
    "aten._native_multi_head_attention": _native_attention,
}
