"""Section 3.2: bytes against subwords, at equal parameters and at equal FLOPs.

A model of subwords has a large part of its parameters in tables of them: one to look up, one to score. A model of bytes
has none to speak of. At equal parameters it is a wider one, and there are more tokens in the same text.

To make it yours, change `SameText` (the text, and how it is cut), `network` (what is trained) and `STUDY.arms` (what
is matched).
"""

from __future__ import annotations

import io
import math

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from .blocks import Decoder, stack
from .claims import Alike, Better, Claim, Less, Warns, final
from .data import as_bytes, seeded, sources, windows
from .learning import LanguageModel, Training, with_lightning
from .matching import Finds, cost_of, fit
from .study import Job, Settings, Study

#: What a target is where there is no text any more.
_NOTHING = -100


class Bytes:
    """A byte is a token."""

    size = 256

    def tokens(self, text: str) -> Tensor:
        return as_bytes(text.encode())


class Subwords:
    """Byte-pair encoding (Sennrich et al. 2016), learned from a text by sentencepiece (Kudo and Richardson 2018).

    Nothing of the text is lost: it is not normalised, and characters that have no piece are cut into bytes.

    Args:
        text: To learn from.
        size: How many tokens there are: more than the 256 bytes and the characters of the text.
    """

    def __init__(self, text: str, size: int) -> None:
        import sentencepiece

        learned = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text.splitlines()),
            model_writer=learned,
            model_type="bpe",
            vocab_size=size,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
        self.size = size
        self.pieces = sentencepiece.SentencePieceProcessor(model_proto=learned.getvalue())

    def tokens(self, text: str) -> Tensor:
        return torch.tensor(self.pieces.encode(text))


class SameText(pl.LightningDataModule):
    """One text, however it is cut into tokens: windows of as many bytes to train on, the same bytes to validate on.

    Settings that it reads: `tokens`, 'bytes' or 'subwords'; `vocabulary`, how many subwords there are; `window`, bytes
    in a sample (of subwords: on average over the training text); `batch`; `text`, how many characters of the training
    text are used (None: all); `held_out`, how many of the text held out.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        seen, unseen = (text.decode(errors="replace") for text in sources())
        seen, self.unseen = seen[: settings["text"]], spread(unseen, settings["held_out"])
        self.cut = Subwords(seen, settings["vocabulary"]) if settings["tokens"] == "subwords" else Bytes()
        self.seen = self.cut.tokens(seen)
        self.bytes_per_token = len(seen.encode()) / len(self.seen)
        self.context = round(settings["window"] / self.bytes_per_token)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        seen = TensorDataset(windows(self.seen, self.context))
        return DataLoader(seen, self.settings["batch"], shuffle=True, drop_last=True, generator=seeded())

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """[samples, context] tokens read, and those to predict: each of the text once, behind the end of a line."""
        begin, tokens = self.cut.tokens("\n")[-1:], self.cut.tokens(self.unseen)
        read = nn.functional.pad(torch.cat([begin, tokens[:-1]]), (0, -len(tokens) % self.context))
        predict = nn.functional.pad(tokens, (0, -len(tokens) % self.context), value=_NOTHING)
        unseen = TensorDataset(read.view(-1, self.context), predict.view(-1, self.context))
        return DataLoader(unseen, self.settings["batch"])


def spread(text: str, characters: int, pieces: int = 16) -> str:
    """So many characters of a text, in pieces from all over it.

    Example:
        >>> spread("abcdefghijkl", 6, pieces=3)
        'abefij'
    """
    starts = [at * len(text) // pieces for at in range(pieces)]
    return "".join(text[start : start + characters // pieces] for start in starts)


class BitsOfText(LanguageModel):
    """Its quality, `val/bits_per_byte`, is the information of the held-out text over its bytes."""

    def __init__(self, net: nn.Module, settings: Settings, text: str) -> None:
        super().__init__(net, settings)
        self.text_bytes = len(text.encode())

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        read, predict = batch
        nats = nn.functional.cross_entropy(
            self(read).flatten(0, 1), predict.flatten(), ignore_index=_NOTHING, reduction="sum"
        )
        bits = nats / math.log(2) / self.text_bytes
        self.log("val/bits_per_byte", bits, on_step=False, on_epoch=True, reduce_fx="sum", batch_size=len(read))


def shape(settings: Settings, data: SameText) -> tuple[int, int]:
    """Width of the model, and of its feed-forward parts.

    That of subwords is as wide as the settings say, its feed-forward parts four times that. That of bytes is as wide as
    its match lets it be, in steps of 8, and its feed-forward parts take what is left.

    Args:
        settings: `match` is the column of the model of subwords to match; it has none itself.
        data: As the model sees it.
    """
    width, column = settings["width"], settings["match"]
    if column is None:
        return width, 4 * width

    def cost(width: int, hidden: int, data: SameText = data) -> float:
        return cost_of(column, lambda: network(settings, width, hidden, data), data.context)

    target = cost(width, 4 * width, SameText({**settings, "tokens": "subwords"}))
    fitted = fit(lambda width: cost(width, 4 * width), target, step=8)
    return fitted, fit(lambda hidden: cost(fitted, hidden), target)


def network(settings: Settings, width: int, hidden: int, data: SameText) -> nn.Module:
    blocks = stack(width, settings["depth"], settings["heads"], hidden=hidden, causal=True)
    return Decoder(blocks, width=width, context=data.context, vocabulary=data.cut.size)


def build(job: Job) -> Training:
    settings = job.settings
    data = SameText(settings)
    net = network(settings, *shape(settings, data), data)
    return Training(module=BitsOfText(net, settings, data.unseen), data=data)


STUDY = Study(
    name="sec32",
    title="Bytes against subwords, matched by parameters and by FLOPs",
    part="Section 3.2",
    monitor="val/bits_per_byte",
    mode="min",
    arms={
        "subword": {"tokens": "subwords", "match": None},
        "byte-params": {"tokens": "bytes", "match": "params"},
        "byte-flops": {"tokens": "bytes", "match": "forward_flop"},
    },
    sizes={
        "tiny": {
            "vocabulary": 512,
            "text": 100_000,
            "window": 64,
            "width": 16,
            "depth": 1,
            "heads": 2,
            "batch": 8,
            "steps": 4,
            "evaluations": 2,
            "held_out": 2_048,
            "lr": 2e-3,
        },
        "cpu": {
            "vocabulary": 2048,
            "text": None,
            "window": 192,
            "width": 96,
            "depth": 2,
            "heads": 4,
            "batch": 16,
            "steps": 200,
            "evaluations": 5,
            "held_out": 32_768,
            "lr": 2e-3,
        },
    },
    train=with_lightning(build, monitor="val/bits_per_byte", mode="min"),
    claims=(
        Claim(
            "One byte-level model has the parameters of the subword model",
            (Alike(final("params"), "byte-params", "subword", 0.01),),
        ),
        Claim(
            "At equal parameters, the byte-level model has less than a quarter of the parameters in embeddings",
            (Less(final("embedding_params"), "byte-params", "subword", 0.25),),
        ),
        Claim(
            "At equal parameters, the byte-level model spends more than twice the FLOPs on the same text",
            (Less(final("flop"), "subword", "byte-params", 0.5),),
        ),
        Claim(
            "At equal parameters, it trains for more than twice as long on the same text",
            (Less(final("train_s"), "subword", "byte-params", 0.5),),
        ),
        Claim("At equal parameters, it is the better one", (Better("byte-params", "subword"),)),
        Claim(
            "Another byte-level model spends the FLOPs of the subword model",
            (Alike(final("flop"), "byte-flops", "subword"),),
        ),
        Claim(
            "At equal FLOPs, the byte-level model has less than half of the parameters",
            (Less(final("params"), "byte-flops", "subword", 0.5),),
        ),
        Claim("At equal FLOPs, it trains for as long, to 5 %", (Alike(final("train_s"), "byte-flops", "subword"),)),
        Claim("At equal FLOPs, the subword model is the better one", (Better("subword", "byte-flops"),)),
        Claim(
            "A comparison finds the pair of equal parameters by itself, and the FLOPs it hides",
            (Finds("params", "flop", "subword", "byte-params", 2.0), Warns("parameters_matched")),
        ),
        Claim(
            "A comparison finds the pair of equal FLOPs by itself, and the parameters it hides",
            (Finds("flop", "params", "byte-flops", "subword", 2.0), Warns("compute_matched")),
        ),
    ),
    columns=("params", "embedding_params", "flop", "train_s", "samples_per_s", "activation_bytes", "train_energy_j"),
)
