"""What an indicator gets when it opens: its place, what is trained, and the probes shared by all of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, cast, final, runtime_checkable

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.records.inference import Inference
from lightning_costs.records.samples import RankInfo
from lightning_costs.records.time_buckets import TimeBuckets

if TYPE_CHECKING:
    import torch
    from torch import nn


@runtime_checkable
class Probe(Protocol):
    """An instrument that several indicators may read; made once a run, on first use."""

    @classmethod
    def attach(cls, setting: ProbeContext) -> Self:
        """Make the probe; raise `Missing(reason)` if it cannot work."""

    def detach(self) -> None:
        """Release handles and hooks."""


class SampleCounter(Protocol):
    """Counts the samples and tokens of batches (`lightning_costs.probes.batch_counter.BatchCounter`)."""

    #: Why samples are not known, and why tokens are not; None if they are.
    why: str | None
    why_tokens: str | None

    @property
    def how(self) -> str:
        """How samples are counted, for people."""

    @property
    def contradicted(self) -> bool:
        """Whether parts of a batch imply different sizes."""


#: How operators are counted: 'auto'; 'eager' with compiled code run eagerly in counted steps; 'off' not at all.
Count = Literal["auto", "eager", "off"]

P = TypeVar("P", bound=Probe)
_log = logging.getLogger("lightning_costs")


@final
@dataclass(slots=True, kw_only=True)
class ProbeContext:
    """Where and what is trained.

    Args:
        place: This rank.
        places: [ranks]: everyone who takes part.
        device: The device that trains; None if unknown.
        devices: How many accelerators are allocated to the job (on a CPU: how many nodes).
        nodes: How many machines.
        module: What is trained.
        wrapper: The module in the wrapping that a strategy gave it (FSDP's, DeepSpeed's engine), once it has one.
        optimizers: Returns the optimizers at the time of the call: they may be made late, or again.
        dataset_samples: Size of the training set; None if it has no length.
        dataset_why: Why that is not known.
        sizes: Counts the samples and tokens of a batch.
        inference: What a forward pass costs, once it was measured; until then, why it was not.
        accounts: Where the run's time goes; None without accounts.
        count: How operators are counted.
        evaluation_is_reported: Whether every batch of evaluation is reported, as by a framework's adapter.
        trace: Whether a few steps now and then are profiled.
    """

    place: RankInfo = field(default_factory=RankInfo)
    places: Sequence[RankInfo] = field(default_factory=lambda: (RankInfo(),))
    device: torch.device | None = None
    devices: int = 1
    nodes: int = 1
    module: nn.Module | None = None
    wrapper: nn.Module | None = None
    optimizers: Callable[[], Sequence[Any]] = tuple
    dataset_samples: int | None = None
    dataset_why: str = "the training set has no length"
    sizes: SampleCounter | None = None
    inference: Inference | str = "not asked for: infer=False"
    accounts: TimeBuckets | None = None
    count: Count = "auto"
    evaluation_is_reported: bool = False
    trace: bool = False
    _probes: dict[type, Probe] = field(default_factory=dict)

    def probe(self, kind: type[P]) -> P:
        """The run's one instance of a probe, made on first use."""
        if kind not in self._probes:
            self._probes[kind] = kind.attach(self)
        return cast("P", self._probes[kind])

    def attached(self, kind: type[P]) -> P | None:
        """The run's instance of a probe if any indicator asked for it."""
        return cast("P | None", self._probes.get(kind))

    @property
    def on_cuda(self) -> bool:
        """Whether a CUDA device trains."""
        return self.device is not None and self.device.type == "cuda"

    @property
    def first_on_node(self) -> bool:
        """Whether this rank reads for its node: the lowest rank there."""
        return self.place.rank == min(p.rank for p in self.places if p.node == self.place.node)

    def detach(self) -> None:
        """Let every probe go."""
        while self._probes:
            kind, probe = self._probes.popitem()
            try:
                probe.detach()
            except Exception as error:  # noqa: BLE001 - letting go must not fail a finished run
                reraise_from_signal(error)
                _log.warning("%s could not be detached: %r", kind.__name__, error)
