"""What a model costs, as data: numbers by the names of a run's columns, and a table of them for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, final

from lightning_costs.records.formatting import MISSING, format_amount
from lightning_costs.records.roofline import Roofline
from lightning_costs.records.step_profile import StepProfile
from lightning_costs.records.units import unit_of_name
from lightning_costs.run.summary import SummaryRow, html_table


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """What a model costs, by the names of the columns of a run. None is missing, and `missing` says why.

    Args:
        samples: Samples in the batch that it was measured with.
        params: Unique parameters; the other counts of parameters are as in a run.
        forward_flop: Floating-point operations of one forward pass, per sample; `forward_mac` likewise.
        flop: Of one training step on the batch: forward, loss, backward; `model_flop` without recomputation.
        mac: Multiply-accumulates of that step.
        mem_access_bytes: Bytes that its operators read and write: an estimate.
        op_calls: Operators that it launches.
        activation_elements: Output elements of products with a weight, forward, per sample.
        activation_bytes: Made by the forward pass and held for the backward pass.
        param_bytes: Memory of parameters; `grad_bytes` of their gradients; `opt_state_bytes` of the optimizer's state
            after an update, where an optimizer is given.
        peak_forward_bytes: Most memory held in the forward pass; `peak_backward_bytes` in the backward pass.
        infer_latency_p50_s: Median time of a forward pass of one sample; `infer_latency_p95_s` its 95th percentile.
        infer_samples_per_s: Throughput of the forward pass at the batch.
        infer_peak_mem_bytes: Most memory that a forward pass without gradients needs at the batch.
        samples_per_s: Forward throughput by batch size, for the sizes asked for.
        largest_batch_samples: Most samples whose training step fits into memory, where asked for.
        roofline: Where the training step lies under the device's peaks.
        memory_at_peak: Bytes by kind at the moment of the training step when most is held.
        step_s: Seconds of a training step on the batch, with the optimizer's update if one is given.
        profile: The step by class of operator, from which `predict` predicts.
        device: Name of the device that it was measured on, 'meta' for a count alone.
        uncounted: Calls of operators that no formula covers, by operator: the counts are lower bounds if there are any.
        missing: Field to the reason why it is None.
        methods: Field to how it was got.
    """

    samples: int
    params: float | None = None
    trainable_params: float | None = None
    shared_params: float | None = None
    embedding_params: float | None = None
    active_params: float | None = None
    nonzero_params: float | None = None
    forward_flop: float | None = None
    forward_mac: float | None = None
    flop: float | None = None
    model_flop: float | None = None
    mac: float | None = None
    mem_access_bytes: float | None = None
    op_calls: float | None = None
    activation_elements: float | None = None
    activation_bytes: float | None = None
    param_bytes: float | None = None
    grad_bytes: float | None = None
    opt_state_bytes: float | None = None
    peak_forward_bytes: float | None = None
    peak_backward_bytes: float | None = None
    infer_latency_p50_s: float | None = None
    infer_latency_p95_s: float | None = None
    infer_samples_per_s: float | None = None
    infer_peak_mem_bytes: float | None = None
    step_s: float | None = None
    samples_per_s: Mapping[int, float | None] = field(default_factory=dict)
    largest_batch_samples: int | None = None
    roofline: Roofline | None = None
    memory_at_peak: Mapping[str, int] = field(default_factory=dict)
    uncounted: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    methods: Mapping[str, str] = field(default_factory=dict)
    profile: StepProfile | None = None
    device: str = "meta"

    def __getitem__(self, column: str) -> float | None:
        """A cost by its column's name."""
        if column not in _COSTS:
            raise KeyError(f"{column!r} is no cost of a model; there are {', '.join(_COSTS)}")
        amount: float | None = getattr(self, column)
        return amount

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON or a table."""
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _APART}
        plain["profile"] = None if self.profile is None else self.profile.as_dict()
        plain["roofline"] = None if self.roofline is None else self.roofline.words()
        return plain

    def _note(self, name: str) -> str:
        return self.missing.get(name, "") or self.methods.get(name, "")

    def _rows(self) -> list[SummaryRow]:
        rows = [SummaryRow(name, format_amount(self[name], unit_of_name(name)), self._note(name)) for name in _COSTS]
        rows += [
            SummaryRow(f"throughput at {size}", format_amount(amount, "samples_per_s"), "")
            for size, amount in self.samples_per_s.items()
        ]
        if self.largest_batch_samples is not None or "largest_batch_samples" in self.missing:
            most = format_amount(self.largest_batch_samples, "samples")
            rows.append(SummaryRow("largest batch", most, self._note("largest_batch_samples")))
        if self.roofline is not None:
            rows.append(SummaryRow("roofline", self.roofline.words(), ""))
        return rows

    def __str__(self) -> str:
        """A table in human units, missing costs with their reasons."""
        rows = self._rows()
        wide = max(len(row.label) for row in rows)
        lines = [
            f"{row.label:<{wide}}  {row.text}" + (f"  ({row.note})" if row.text == MISSING else "") for row in rows
        ]
        return "\n".join([f"cost of a model, measured with {self.samples} samples", *lines])

    def _repr_html_(self) -> str:
        return html_table(f"cost of a model, measured with {self.samples} samples", self._rows())


#: Fields that are more than numbers and texts.
_APART = ("roofline", "profile")
#: The costs that are one number each; their names end in their units.
_COSTS = tuple(field.name for field in fields(ModelCost) if field.type == "float | None")
