"""Transformers small enough to read: blocks, a vision transformer, a language model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), causal or not."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        samples, tokens, width = x.shape
        q, k, v = self.qkv(x).view(samples, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        found: Tensor = self.out(mixed.transpose(1, 2).reshape(samples, tokens, width))
        return found


class Block(nn.Module):
    """Attention and a feed-forward part, each normalised before."""

    def __init__(self, width: int, heads: int, feed_forward: nn.Module, *, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, causal=causal)
        self.norm2, self.feed_forward = nn.LayerNorm(width), feed_forward

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


def feed_forward(width: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def stack(width: int, depth: int, heads: int, *, hidden: int | None = None, causal: bool = False) -> list[nn.Module]:
    """Blocks of a plain transformer; `hidden` is the feed-forward part's width, by default four times `width`."""
    return [Block(width, heads, feed_forward(width, hidden or 4 * width), causal=causal) for _ in range(depth)]


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021): patches, a class token, learned positions, blocks, a linear head.

    Args:
        blocks: The blocks, in the order they are called in; one that is in it twice is shared.
        width: Theirs.
        image: Pixels along a side.
        patch: Pixels along a side of a patch.
        classes: How many.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], *, width: int, image: int = 8, patch: int = 2, classes: int = 10
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, kernel_size=patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (image // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(self.norm(x)[:, 0])
        return scores


class Decoder(nn.Module):
    """A language model: [samples, tokens] to scores [samples, tokens, vocabulary], each from the tokens up to it.

    Args:
        blocks: Causal blocks, in the order they are called in; one that is in it twice is shared over depth.
        width: Theirs.
        context: Most tokens.
        vocabulary: How many tokens there are.
    """

    def __init__(self, blocks: Sequence[nn.Module], *, width: int, context: int, vocabulary: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(1, context, width) * 0.02)
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions[:, : tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(self.norm(x))
        return scores
