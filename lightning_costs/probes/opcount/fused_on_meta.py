"""Attention and LSTMs on the meta device as a GPU would run them: fused, where torch would take them apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch.overrides import TorchFunctionMode

#: The widest head that flash attention takes on a GPU (torch 2.6 to 2.13).
_WIDEST_HEAD = 256


@final
class FusedOnMeta(TorchFunctionMode):
    """Calls of `scaled_dot_product_attention` on the meta device become flash attention, or memory-efficient attention.

    torch chooses between them by dtype and mask (`torch/nn/attention`, `sdp_utils.cpp`); what neither takes stays as it
    is. An LSTM becomes an operator a layer and direction, instead of a dozen a time step; packed sequences do not.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else kwargs.get("query")
        fused = _FUSED.get(getattr(func, "__name__", ""))
        if fused is not None and isinstance(first, torch.Tensor) and first.device.type == "meta":
            try:
                return fused(*args, **kwargs)
            except (RuntimeError, NotImplementedError, TypeError, ValueError):  # what no fused kernel takes
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


class _Held(torch.autograd.Function):
    """What the backward pass of a fused LSTM needs beside its output: gates and cells of every time step."""

    @staticmethod
    def forward(ctx: Any, out: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(out.new_empty((5, *out.shape)))
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


def _lstm(
    x: torch.Tensor,
    state: tuple[torch.Tensor, torch.Tensor],
    weights: list[torch.Tensor],
    biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    ways, size = 1 + bidirectional, state[0].shape[-1]
    each = len(weights) // (layers * ways)
    if each != 2 + 2 * biases:
        raise ValueError("an LSTM with projections is no fused layer")
    out, ends = x.transpose(0, 1) if batch_first else x, []
    for layer in range(layers):
        made = []
        for way in range(layer * ways, (layer + 1) * ways):
            own = weights[way * each : (way + 1) * each]
            own += [] if biases else [own[0].new_zeros(own[0].shape[0])] * 2
            both, how = (state[0][way], state[1][way]), (biases, bidirectional, False, train)
            run = torch.ops.aten.mkldnn_rnn_layer(out, *own, *both, bool(way % ways), [], 2, size, layers, *how)
            made.append(_Held.apply(run[0]))  # type: ignore[no-untyped-call]
            ends.append(run[1:3])
        out = torch.cat(made, -1) if bidirectional else made[0]
    hidden, cell = (torch.stack(found) for found in zip(*ends, strict=True))
    return out.transpose(0, 1) if batch_first else out, hidden, cell


_FUSED: dict[str, Callable[..., Any]] = {"scaled_dot_product_attention": _fused, "lstm": _lstm}
