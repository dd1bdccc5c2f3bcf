"""`lightning_costs.measure(model, batch)`: what a model costs, before any training and without Lightning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from lightning_costs.model_cost.calling import Forward, Loss
from lightning_costs.model_cost.cost import ModelCost
from lightning_costs.model_cost.measurement import Measurement
from lightning_costs.probes.device_peaks import DevicePeak, find_peak, measured_peak
from lightning_costs.probes.opcount.mode import OpCounterMode
from lightning_costs.probes.opcount.module_calls import ModuleCallRecorder
from lightning_costs.probes.side_effects import without_side_effects
from lightning_costs.records.roofline import Roofline, roofline


def measure(
    model: nn.Module,
    batch: Any,
    *,
    loss: Loss | None = None,
    forward: Forward | None = None,
    optimizer: Callable[[Iterable[nn.Parameter]], Any] | None = None,
    samples: int | None = None,
    times: bool = True,
    batch_sizes: Sequence[int] = (),
    largest_batch: bool = False,
    memory_bytes: int | None = None,
    measured_peaks: bool = False,
    budget_s: float = 5.0,
) -> ModelCost:
    """What a model costs, before any training and without Lightning.

    The model is left unchanged: a copy runs, and random number generators are restored. On the meta device, everything
    except timing is computed, without allocating any weights.

    Args:
        model: The model, on the device to measure on.
        batch: A batch as a data loader gives it: a tensor, or tuples, lists and mappings of tensors.
        loss: From the model's output and the batch; by default a LightningModule's `training_step`, else the sum of
            the outputs, which adds no product.
        forward: Runs the model on a batch; by default `model(batch)`, `model(**batch)` for mappings and
            `model(*batch)` for tuples, as far as the model's forward takes arguments.
        optimizer: Makes an optimizer from parameters, for `opt_state_bytes`:
            `lambda params: torch.optim.AdamW(params)`. It updates a copy on the meta device.
        samples: Number of samples in the batch, if it is not the first dimension of its first tensor.
        times: Whether latency and throughput are measured.
        batch_sizes: Batch sizes to measure the throughput of the forward pass at.
        largest_batch: Whether to find the largest batch whose training step fits into memory: tried on a CUDA
            device, else computed from the memory of two batch sizes.
        memory_bytes: How much memory there is, for `largest_batch`; by default the device's, or the host's.
        measured_peaks: Whether to measure the device's peak rates for the roofline, where the table has none.
        budget_s: Seconds that latency and throughput may take together, for each batch size.

    Returns:
        The costs.

    Raises:
        ValueError: If the batch holds no tensor, or the model cannot be copied, or called on the batch.

    Examples:
        >>> cost = measure(nn.Linear(30, 10), torch.zeros(8, 30), times=False)
        >>> cost.params, cost.forward_mac, cost.flop
        (310.0, 300.0, 9600.0)
    """
    with without_side_effects():
        it = Measurement(model, batch, loss, forward, samples)
        calls = ModuleCallRecorder(it.model)
        watch, memory, trained = it.watched(it.batch, calls=calls)
        it.count_operators(watch, memory, trained)
        it.count_parameters(calls)
        update = it.optimizer_state(optimizer)
        profile = it.profile(watch, memory, update, calls) if trained else None
        if profile is not None and times and it.device.type != "meta":
            profile = it.train_times(profile, optimizer, budget_s)
        elif profile is not None:
            it.missing["step_s"] = "times=False" if not times else "on the meta device nothing runs"
        throughput = it.latency_and_throughput(times, batch_sizes, budget_s)
        it.inference_memory()
        if largest_batch:
            it.largest_batch(memory, memory_bytes)
        peak = find_peak(it.device)
        if measured_peaks and peak is None and it.device.type != "meta":
            peak = measured_peak(it.device, watch.flop_by_dtype)
    return ModelCost(
        samples=it.samples,
        **it.values,
        samples_per_s=throughput,
        roofline=_placed(watch, peak),
        memory_at_peak={
            **{f"{kind}_bytes": nbytes for kind, nbytes in memory.at_peak_bytes.items()},
            "total_bytes": memory.most_bytes,
        },
        uncounted=dict(watch.uncounted),
        missing=it.missing,
        methods=it.methods,
        profile=profile,
        device=_name_of(it.device),
    )


def _placed(watch: OpCounterMode, peak: DevicePeak | None) -> Roofline | None:
    if not watch.step.access_bytes:
        return None
    return roofline(
        flop=watch.step.flop,
        access_bytes=watch.step.access_bytes,
        peak_flop_per_s=peak.mixed_precision_peak(watch.flop_by_dtype) if peak is not None else None,
        peak_bytes_per_s=peak.bytes_per_s if peak is not None else None,
    )


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_properties(device).name if device.type == "cuda" else device.type
