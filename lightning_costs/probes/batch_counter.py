"""How many samples and tokens are in a batch: from what it is made of, its loader, or a function of the user's.

A loader that says how many samples its batches hold decides; what is in a batch confirms it, or shows a shorter one.
What says so is found at the first batch of each signature. If nothing agrees, the count is missing, and its reason says
what to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.probes.batch import (
    BatchInfo,
    Sign,
    Signature,
    agreed,
    alone,
    input_ids_tokens,
    inspect_batch,
    own_size,
    reads,
    signs,
)
from lightning_costs.probes.loaders import Plan, plan_of
from lightning_costs.records.missing import Missing, type_only

_log = logging.getLogger("lightning_costs")

#: What to do about a count of samples that is missing.
HOW = (
    "give batch_size_fn=lambda batch: ..., or `lightning-costs run --batch-size-key KEY` "
    "(in Fabric: set its loader up by setup_dataloaders; with Accelerate: prepare it)"
)
#: Why a batch has no samples.
NOTHING_TELLS = f"no tensor of a batch gives its size: {HOW}"
_AT_ODDS = f"the tensors of a batch give different sizes, and its loader gives none: {HOW}"
_NOT_THE_LOADERS = f"a batch's tensors contradict its loader's batch size, which may not hold for every batch: {HOW}"
_FEWER = f"all tensors of a batch have fewer samples than its loader puts into one: {HOW}"
_TOO_MANY = f"an epoch's batches have more samples than its loader reads: {HOW}"

_AS_LOADER = ", as the loader's batch size"
_LOADERS = "the loader's batch size; nothing in its batches is as long"
_UNCHECKED = "; no loader gives a size to compare with"
_AT_MOST = ", at most the loader's batch size"


@final
class Reading:
    """Batches of one loader, and what gives their samples."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sign: Sign | None = None
        #: Batches and samples since the loader began.
        self.batches = self.samples = 0
        self._short = 0
        self._signature: Signature = ()
        self._last: int | None = None
        #: Whether batches of one signature have as many samples.
        self.shaped = True
        self.words = ""
        self.why: str | None = None

    def begin(self, plan: Plan) -> None:
        """The loader starts a new iteration."""
        self.batches = self.samples = 0
        if plan != self.plan:
            self.plan, self._signature = plan, ()

    def of(self, batch: object, signature: Signature) -> int | None:
        """Samples of the next batch; None if unknown."""
        if signature and signature == self._signature and self.shaped and not self._at_last:
            return self._last
        if batch is None and self.why is None:
            self.why = NOTHING_TELLS
        if self.why is not None:
            return None
        self._last = self._decided(batch)
        self._signature = () if self._at_last else signature
        return self._last

    def add(self, batches: int, samples: int | None) -> None:
        """Add `batches` to those done."""
        plan = self.plan
        if plan.samples is None:
            return
        self.batches += batches
        self.samples += samples or 0
        if self.samples > plan.samples:
            self.why, self._signature = _TOO_MANY, ()
        if plan.batches and self.batches >= plan.batches:  # it may be read in circles
            self.batches = self.samples = 0

    @property
    def _at_last(self) -> bool:
        plan = self.plan
        return plan.exact and plan.last != plan.size and self.batches + 1 == plan.batches

    def _decided(self, batch: object) -> int | None:
        plan = self.plan
        if plan.size is None:
            sign = alone(batch, as_it_is=plan.as_they_are)
            return (
                self._lost(_AT_ODDS if signs(batch) else NOTHING_TELLS) if sign is None else self._by(sign, _UNCHECKED)
            )
        expected = (plan.last if self._at_last else plan.size) or plan.size
        before = self.sign
        reading = reads(batch, before) if before is not None else None
        if reading == expected:
            return reading
        found = signs(batch)
        # A batch with fewer may be a shorter one: a width or a second dimension as long is no better sign.
        kinds = ("own", "first") if reading is not None and reading < expected else ("own", "first", "length", "second")
        if (sign := next((s for s in found if s.size == expected and s.kind in kinds), None)) is not None:
            return self._by(sign, _AS_LOADER)
        every, _ = agreed(batch, found)
        own = next((sign for sign in found if sign.kind == "own"), None)
        return (self._full if plan.exact else self._at_most)(expected, before, reading, every, own)

    def _full(
        self, expected: int, before: Sign | None, reading: int | None, every: Sign | None, own: Sign | None
    ) -> int | None:
        """Of a loader whose batches are known to be full, though nothing in this one is as long."""
        if own is not None and 1 < own.size < expected:  # samples were left out where the batch was made
            return self._by(own, _AT_MOST)
        confirmed = before is not None and (before.kind == "length" or (every is not None and every.size == reading))
        if confirmed and reading is not None and reading < expected:
            self._short += expected - reading
            return reading
        if before is None and every is not None and every.size == self.plan.last:  # resumed within an epoch
            return self._by(every, _AS_LOADER)
        if before is None and not self.words and every is not None and 1 < every.size < expected:
            return self._lost(_FEWER)
        # What agreed before did so by chance, in the shorter batches too.
        samples, self._short = expected + self._short, 0
        self.sign = None
        self._say(_LOADERS)
        return samples

    def _at_most(
        self, expected: int, before: Sign | None, reading: int | None, every: Sign | None, own: Sign | None
    ) -> int | None:
        """Of a loader that may give shorter batches: a stream's, or one that another's sampler fills."""
        bound = expected if self.plan.bounds or before is not None else None
        if before is not None and reading is not None and reading < expected:
            return reading
        for sign in (own, every):
            if sign is not None and (bound is None or sign.size <= bound):
                return self._by(sign, _AT_MOST if bound is not None else _UNCHECKED)
        return self._lost(_NOT_THE_LOADERS)

    def _by(self, sign: Sign, compared: str) -> int:
        self.sign, self.shaped = sign, sign.shaped
        self._say(sign.words + compared)
        return sign.size

    def _say(self, words: str) -> None:
        if not self.words:
            self.words = words
        elif words != self.words and "; in some batches" not in self.words:
            self.words = f"{self.words}; in some batches {words}"

    def _lost(self, why: str) -> int | None:
        self.why = why
        return None


@final
class BatchCounter:
    """Counts a batch's samples, tokens and padding."""

    def __init__(
        self,
        samples_of: Callable[[Any], int] | None,
        tokens_of: Callable[[Any], int] | None,
        notes: dict[str, str],
    ) -> None:
        self._samples_of, self._tokens_of, self._notes = samples_of, tokens_of, notes
        #: What a batch of several loaders is made of, one by one, None from one at its end; None if it is one loader's.
        self.parts: Callable[[Any], Sequence[Any]] | None = None
        self._readings = [Reading(Plan())]
        #: Why samples, or tokens, are not known; None as long as they are.
        self.why: str | None = None
        self.why_tokens: str | None = None

    @property
    def plain(self) -> bool:
        """Whether batches of the same shapes hold as many samples and tokens."""
        if self._samples_of is not None or self._tokens_of is not None or self.parts is not None:
            return False
        return self._readings[0].shaped

    @property
    def contradicted(self) -> bool:
        """Whether parts of a batch imply different sizes."""
        return any(reading.why not in (None, NOTHING_TELLS) for reading in self._readings)

    @property
    def how(self) -> str:
        """How samples are counted, for people."""
        if self._samples_of is not None:
            return str(getattr(self._samples_of, "words", "batch_size_fn"))
        words = list(dict.fromkeys(reading.words for reading in self._readings if reading.words))
        return f"of several loaders: {' | '.join(words)}" if len(self._readings) > 1 else "".join(words)

    def begin(self, loaders: Sequence[Any]) -> None:
        """An epoch of these loaders begins."""
        plans = [_plan_of(loader) for loader in loaders] or [Plan()]
        if len(plans) != len(self._readings):
            self._readings = [Reading(plan) for plan in plans]
        for reading, plan in zip(self._readings, plans, strict=True):
            reading.begin(plan)

    def of(self, batch: object, seen: BatchInfo) -> tuple[int | None, int | None, int | None]:
        """Samples, tokens, and elements of `input_ids` beyond the tokens of a batch that is done; None if not known."""
        if self._samples_of is None and self.parts is None:
            samples = self._plainly(batch, seen.signature)
        else:
            samples = self._samples(batch, seen, done=True)
        if self._tokens_of is None and self.parts is None:
            return samples, input_ids_tokens(batch), None
        return (samples, *self._tokens(batch))

    def repeated(self, batches: int, samples: int | None) -> None:
        """Add `batches` like the last one."""
        self._readings[0].add(batches, None if samples is None else batches * samples)

    def samples(self, batch: object, seen: int | None) -> int | None:
        """Samples of a batch that is about to be worked on."""
        return self._samples(batch, inspect_batch(batch), done=False)

    def _plainly(self, batch: object, signature: Signature) -> int | None:
        """Samples of one loader's batch that is done."""
        reading = self._readings[0]
        try:
            samples = reading.of(batch, signature)
            reading.add(1, samples)
        except Exception as error:  # noqa: BLE001 - a batch that cannot be read costs its count alone
            reraise_from_signal(error)
            reading.why = type_only(f"a batch could not be read: {HOW}", error)
        if reading.why is None:
            return samples
        self.why = reading.why
        return None

    def _samples(self, batch: object, seen: BatchInfo, *, done: bool) -> int | None:
        if self._samples_of is not None and batch is not None:
            samples = self._ask(self._samples_of, batch, "batch_size_fn")
            self.why = self._notes.get("batch_size_fn")
            return samples
        try:
            return self._counted(batch, seen, done=done)
        except Exception as error:  # noqa: BLE001 - a batch that cannot be read costs its count alone
            reraise_from_signal(error)
            self._readings[0].why = self.why = type_only(f"a batch could not be read: {HOW}", error)
            return None

    def _counted(self, batch: object, seen: BatchInfo, *, done: bool) -> int | None:
        total: int | None = 0
        several = self.parts is not None and batch is not None
        parts: Sequence[Any] = self.parts(batch) if self.parts is not None and several else [batch]
        while len(self._readings) < len(parts):
            self._readings.append(Reading(Plan()))
        for reading, part in zip(self._readings, parts, strict=False):
            if part is None and several:
                continue
            samples = reading.of(part, inspect_batch(part).signature if several else seen.signature)
            if done:
                reading.add(1, samples)
            if reading.why is not None:
                self.why, samples = reading.why, None
            total = None if total is None or samples is None else total + samples
        return total

    def _tokens(self, batch: object) -> tuple[int | None, int | None]:
        """Tokens of a batch, and how many elements of `input_ids` beyond them are padding, if both are known."""
        parts = [batch] if self.parts is None or batch is None else [p for p in self.parts(batch) if p is not None]
        seen = [input_ids_tokens(part) for part in parts]
        elements = None if None in seen or not seen else sum(n for n in seen if n is not None)
        if self._tokens_of is None or batch is None:
            return elements, None
        tokens = self._ask(self._tokens_of, batch, "length_fn")
        self.why_tokens = self._notes.get("length_fn")
        return tokens, None if tokens is None or elements is None else max(0, elements - tokens)

    def _ask(self, function: Callable[[Any], int], batch: object, what: str) -> int | None:
        """A user's function of the batch; if it fails, the count is missing and training continues."""
        try:
            count = int(function(batch))
            if count < 0:
                raise Missing(f"expected a count of 0 or more, got {count}")
        except Exception as error:  # noqa: BLE001 - the user's function must not kill the user's training
            reraise_from_signal(error)
            if what not in self._notes:
                self._notes[what] = type_only(f"{what} failed on a batch, so its count is missing", error)
            return None
        return count


def _plan_of(loader: Any) -> Plan:
    try:
        return plan_of(loader)
    except Exception as error:  # noqa: BLE001 - a loader of the user's
        reraise_from_signal(error)
        _log.info("a loader could not be asked for its batch size: %r", error)
        return Plan()


@final
@dataclass(frozen=True, slots=True)
class SizeAt:
    """Samples of a batch by the part of it that has as many: for `lightning-costs run --batch-size-key`.

    Args:
        key: A key, index or attribute; several are joined by dots, from the outside in.

    Example:
        >>> import torch
        >>> SizeAt("1.image")(("id", {"image": torch.zeros(8, 3)}))
        8
    """

    key: str

    @property
    def words(self) -> str:
        """The rule, for people."""
        return f"length of the batch's part {self.key!r} (batch_size_key)"

    def __call__(self, batch: Any) -> int:
        """Samples of a batch."""
        part = batch
        for key in self._keys(batch):
            part = self._inside(part, key)
        stated = own_size(part)
        if stated is not None:
            return stated[0]
        if isinstance(part, int) and not isinstance(part, bool):
            return part
        shape = getattr(part, "shape", None)
        try:
            return int(shape[0]) if shape is not None else len(part)
        except (TypeError, IndexError):
            raise Missing(
                f"batch_size_key {self.key!r} leads to a {type(part).__name__}, which has no length"
            ) from None

    def _keys(self, batch: Any) -> list[str]:
        return [self.key] if isinstance(batch, Mapping) and self.key in batch else self.key.split(".")

    def _inside(self, part: Any, key: str) -> Any:
        ways: tuple[Callable[[], Any], ...] = (lambda: part[key], lambda: part[int(key)], lambda: getattr(part, key))
        for way in ways:
            try:
                return way()
            except Exception:  # noqa: BLE001 - the batch is the user's; another way may lead there
                continue
        raise Missing(f"batch_size_key {self.key!r} does not exist: a {type(part).__name__} has no {key!r}")
