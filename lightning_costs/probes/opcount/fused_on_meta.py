"""Attention on the meta device as a GPU would run it: fused, where torch would take it apart and hold all scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

#: The widest head that flash attention takes on a GPU (torch 2.6 to 2.13).
_WIDEST_HEAD = 256


@final
class FusedOnMeta(TorchFunctionMode):
    """Calls of `scaled_dot_product_attention` on the meta device become flash attention, or memory-efficient attention.

    torch chooses between them by dtype and mask (`torch/nn/attention`, `sdp_utils.cpp`); what neither takes stays as it
    is.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        query = args[0] if args else kwargs.get("query")
        if func is scaled_dot_product_attention and isinstance(query, torch.Tensor) and query.device.type == "meta":
            try:
                return _fused(*args, **kwargs)
            except (RuntimeError, NotImplementedError, TypeError):  # shapes that no fused kernel takes
                pass
        return func(*args, **kwargs)


def _fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    if enable_gqa and key.shape[-3] != query.shape[-3]:
        key, value = (_shared_heads(heads, query.shape[-3]) for heads in (key, value))
    half = query.dtype in (torch.float16, torch.bfloat16)
    if half and attn_mask is None and query.shape[-1] <= _WIDEST_HEAD:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        out: torch.Tensor = flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
        return out
    bias = None if attn_mask is None else attn_mask.expand(*query.shape[:-1], key.shape[-2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    out = efficient(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]
    return out  # noqa: RET504 - it has a type here


def _shared_heads(heads: torch.Tensor, wanted: int) -> torch.Tensor:
    """Heads that several queries share, without copies of them."""
    each = wanted // heads.shape[-3]
    return heads.unsqueeze(-3).expand(*heads.shape[:-2], each, *heads.shape[-2:]).flatten(-4, -3)
