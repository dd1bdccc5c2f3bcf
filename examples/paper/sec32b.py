"""Section 3.2: an encoder-decoder against a decoder alone, at equal parameters and at equal FLOPs.

All predict the second half of a window of text from the first half. A decoder alone reads the whole window through all
of its blocks. Of an encoder-decoder, each half of the window sees half of the blocks.

To make it yours, change `DecoderAlone` and `EncoderDecoder` (what is trained) and `STUDY.arms` (what is matched).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Attention, Decoder, feed_forward, stack
from .claims import Alike, Better, Claim, Less, Warns, final
from .data import Text, as_bytes, sources
from .learning import LanguageModel, Training, with_lightning
from .matching import Finds, cost_of, fit
from .study import Job, Settings, Study

#: A byte is a token.
_VOCABULARY = 256


class DecoderAlone(Decoder):
    """[samples, 2 half - 1] tokens to scores [samples, half, vocabulary]: of each token after the first half."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions
        for block in self.blocks:
            x = block(x)
        half = (tokens.shape[1] + 1) // 2
        scores: Tensor = self.head(self.norm(x[:, -half:]))
        return scores


class CrossAttention(nn.Module):
    """Multi-head attention from one sequence to another (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        samples, _, width = x.shape
        q = self.q(x).view(samples, -1, self.heads, width // self.heads).transpose(1, 2)
        k, v = self.kv(memory).view(samples, -1, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        found: Tensor = self.out(mixed.transpose(1, 2).reshape(samples, -1, width))
        return found


class CrossBlock(nn.Module):
    """Causal attention to what is before, attention to what was encoded, and a feed-forward part."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, causal=True)
        self.norm2, self.cross = nn.LayerNorm(width), CrossAttention(width, heads)
        self.norm3, self.feed_forward = nn.LayerNorm(width), feed_forward(width, hidden)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.cross(self.norm2(x), memory)
        return x + self.feed_forward(self.norm3(x))


class EncoderDecoder(nn.Module):
    """[samples, 2 half - 1] tokens to scores [samples, half, vocabulary]: of each token after the first half.

    The encoder reads the first half, in both directions. The decoder reads from its last token on, causally. One
    table embeds the tokens of both.

    Args:
        width: Of all blocks.
        depth: Blocks of the encoder, and of the decoder.
        heads: Of each attention.
        hidden: Width of the feed-forward parts.
        half: Tokens that are encoded, and that are predicted.
    """

    def __init__(self, *, width: int, depth: int, heads: int, hidden: int, half: int) -> None:
        super().__init__()
        self.half = half
        self.embedding = nn.Embedding(_VOCABULARY, width)
        self.positions = nn.Parameter(torch.randn(2, half, width) * 0.02)
        self.encoder = nn.Sequential(*stack(width, depth, heads, hidden=hidden), nn.LayerNorm(width))
        self.decoder = nn.ModuleList(CrossBlock(width, heads, hidden) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, _VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        memory = self.encoder(x[:, : self.half] + self.positions[0])
        x = x[:, self.half - 1 :] + self.positions[1]
        for block in self.decoder:
            x = block(x, memory)
        scores: Tensor = self.head(self.norm(x))
        return scores


class SecondHalf(LanguageModel):
    """The second half of each window of text; its quality is the `val/bits_per_byte` of that half."""

    def nats(self, tokens: Tensor) -> Tensor:
        scores = self(tokens[:, :-1])
        return nn.functional.cross_entropy(scores.flatten(0, 1), tokens[:, -scores.shape[1] :].flatten())


def alone(settings: Settings) -> nn.Module:
    width, context = settings["width"], 2 * settings["half"] - 1
    blocks = stack(width, settings["depth"], settings["heads"], causal=True)
    return DecoderAlone(blocks, width=width, context=context, vocabulary=_VOCABULARY)


def network(settings: Settings) -> nn.Module:
    """A decoder alone, or an encoder-decoder that is as wide, whose feed-forward parts take what `match` leaves them.

    Args:
        settings: `depth`, blocks of the decoder alone; `sides`, as how many blocks for each of them an encoder-decoder
            has on either side (None: a decoder alone); `match`, its column to match.
    """
    if settings["sides"] is None:
        return alone(settings)
    shape: dict[str, Any] = {name: settings[name] for name in ("width", "heads", "half")}
    shape["depth"] = max(1, int(settings["sides"] * settings["depth"]))

    def cost(make: Any) -> float:
        return cost_of(settings["match"], make, 2 * settings["half"] - 1)

    target = cost(lambda: alone(settings))
    return EncoderDecoder(
        hidden=fit(lambda hidden: cost(lambda: EncoderDecoder(hidden=hidden, **shape)), target), **shape
    )


def build(job: Job) -> Training:
    settings = {**job.settings, "context": 2 * job.settings["half"] - 1}
    train, held_out = sources()
    data = Text(as_bytes(train[: settings["text"]]), as_bytes(held_out), settings)
    return Training(module=SecondHalf(network(settings), settings), data=data)


STUDY = Study(
    name="sec32b",
    title="An encoder-decoder against a decoder alone, matched by parameters and by FLOPs",
    part="Section 3.2",
    monitor="val/bits_per_byte",
    mode="min",
    arms={
        "decoder": {"sides": None, "match": None},
        "encdec-params": {"sides": 0.5, "match": "params"},
        "encdec-flops": {"sides": 1.0, "match": "forward_flop"},
    },
    sizes={
        "tiny": {
            "text": 100_000,
            "half": 16,
            "width": 16,
            "depth": 2,
            "heads": 2,
            "batch": 8,
            "steps": 4,
            "evaluations": 2,
            "held_out": 16,
            "lr": 2e-3,
        },
        "cpu": {
            "text": None,
            "half": 64,
            "width": 64,
            "depth": 4,
            "heads": 4,
            "batch": 16,
            "steps": 200,
            "evaluations": 5,
            "held_out": 256,
            "lr": 2e-3,
        },
    },
    train=with_lightning(build, monitor="val/bits_per_byte", mode="min"),
    claims=(
        Claim(
            "One encoder-decoder has the parameters of the decoder alone",
            (Alike(final("params"), "encdec-params", "decoder", 0.01),),
        ),
        Claim(
            "At equal parameters, the encoder-decoder spends little more than half of the FLOPs: at most 0.6",
            (Less(final("flop"), "encdec-params", "decoder", 0.6),),
        ),
        Claim(
            "At equal parameters, it trains in little more than half of the time: at most 0.6",
            (Less(final("train_s"), "encdec-params", "decoder", 0.6),),
        ),
        Claim("At equal parameters, the decoder alone is the better one", (Better("decoder", "encdec-params"),)),
        Claim(
            "Another encoder-decoder spends the FLOPs of the decoder alone",
            (Alike(final("flop"), "encdec-flops", "decoder"),),
        ),
        Claim(
            "At equal FLOPs, the encoder-decoder has about twice the parameters: at least 1.8 times",
            (Less(final("params"), "decoder", "encdec-flops", 1 / 1.8),),
        ),
        Claim(
            "At equal FLOPs, its optimizer holds as much more",
            (Less(final("opt_state_bytes"), "decoder", "encdec-flops", 1 / 1.8),),
        ),
        Claim("At equal FLOPs, it trains for as long, to 5 %", (Alike(final("train_s"), "encdec-flops", "decoder"),)),
        Claim("At equal FLOPs, the encoder-decoder is the better one", (Better("encdec-flops", "decoder"),)),
        Claim(
            "A comparison finds the pair of equal parameters by itself, and the FLOPs it hides",
            (Finds("params", "flop", "encdec-params", "decoder", 1 / 0.6), Warns("parameters_matched")),
        ),
        Claim(
            "A comparison finds the pair of equal FLOPs by itself, and the parameters it hides",
            (Finds("flop", "params", "decoder", "encdec-flops", 1.8), Warns("compute_matched")),
        ),
    ),
    columns=("params", "flop", "train_s", "samples_per_s", "op_calls", "opt_state_bytes", "train_energy_j"),
)
