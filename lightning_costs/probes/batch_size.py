"""How many samples and tokens are in a batch: from its tensors, its parts, or a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

from lightning_costs.core.missing import type_only
from lightning_costs.probes.batch import Look, input_ids_tokens, look


@final
class BatchSize:
    """Tells a batch's samples, tokens and padding.

    Args:
        samples_of: The user's count of samples, where tensors do not tell.
        tokens_of: The user's count of tokens.
        notes: Where it is noted why a user's function gave no count.
    """

    def __init__(
        self,
        samples_of: Callable[[Any], int] | None,
        tokens_of: Callable[[Any], int] | None,
        notes: dict[str, str],
    ) -> None:
        self._samples_of, self._tokens_of, self._notes = samples_of, tokens_of, notes
        #: What a batch of several loaders is made of; None where it is one loader's.
        self.parts: Callable[[Any], Sequence[Any]] | None = None

    @property
    def plain(self) -> bool:
        """Whether a batch's own tensors tell."""
        return self._samples_of is None and self._tokens_of is None and self.parts is None

    def of(self, batch: object, seen: Look) -> tuple[int | None, int | None, int | None]:
        """Samples, tokens, and elements of `input_ids` beyond the tokens; each None where it is not known."""
        if self.plain:
            return seen.samples, input_ids_tokens(batch), None
        return (self.samples(batch, seen.samples), *self._tokens(batch))

    def samples(self, batch: object, seen: int | None) -> int | None:
        """Samples of a batch, where the user's function tells or its tensors do."""
        if batch is None:
            return seen
        if self._samples_of is not None:
            return self._ask(self._samples_of, batch, "batch_size_fn")
        if self.parts is None:
            return seen
        sizes = [look(part).samples for part in self.parts(batch)]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def _tokens(self, batch: object) -> tuple[int | None, int | None]:
        """Tokens of a batch, and how many elements of `input_ids` beyond them are padding, where both are known."""
        parts = [batch] if self.parts is None or batch is None else self.parts(batch)
        seen = [input_ids_tokens(part) for part in parts]
        elements = None if None in seen or not seen else sum(n for n in seen if n is not None)
        if self._tokens_of is None or batch is None:
            return elements, None
        tokens = self._ask(self._tokens_of, batch, "length_fn")
        return tokens, None if tokens is None or elements is None else max(0, elements - tokens)

    def _ask(self, function: Callable[[Any], int], batch: object, what: str) -> int | None:
        """A user's function of the batch; where it fails, the count is missing and training goes on."""
        try:
            return int(function(batch))
        except Exception as error:  # noqa: BLE001 - the user's function must not kill the user's training
            if what not in self._notes:
                self._notes[what] = type_only(f"{what} failed on a batch, so its count is missing", error)
            return None
