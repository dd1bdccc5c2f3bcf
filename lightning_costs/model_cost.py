"""What a model costs before any training: `lightning_costs.measure(model, batch)`."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any, final

import torch
from torch import nn

from lightning_costs.patching.patches import Patches
from lightning_costs.probes import parameters
from lightning_costs.probes.batch import alone
from lightning_costs.probes.device_peaks import DevicePeak, find_peak, measured_peak
from lightning_costs.probes.example_batch import resize_batch, to_device
from lightning_costs.probes.inference import Trial, forward_peak_bytes
from lightning_costs.probes.memory.storage_tracker import StepMemory, StorageTracker
from lightning_costs.probes.memory.tensors import memory_breakdown, tensors_by_kind, tensors_in
from lightning_costs.probes.model_copy import ModelCopy
from lightning_costs.probes.opcount.counter import allocator
from lightning_costs.probes.opcount.counting import force_eager
from lightning_costs.probes.opcount.fused_on_meta import FusedOnMeta
from lightning_costs.probes.opcount.mode import OpCounterMode
from lightning_costs.probes.opcount.module_calls import ModuleCallRecorder
from lightning_costs.probes.side_effects import without_side_effects
from lightning_costs.probes.train_time import time_steps
from lightning_costs.records.formatting import MISSING, format_amount
from lightning_costs.records.missing import Missing, type_only
from lightning_costs.records.roofline import Roofline, roofline
from lightning_costs.records.step_profile import StepProfile, classes_of
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
Loss = Callable[[Any, Any], torch.Tensor]
Forward = Callable[[nn.Module, Any], Any]


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
        it = _Measurement(model, batch, loss, forward, samples)
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


class _Measurement:
    """One model on one batch."""

    def __init__(
        self, model: nn.Module, batch: Any, loss: Loss | None, forward: Forward | None, samples: int | None
    ) -> None:
        first = next(tensors_in(batch), None)
        if first is None:
            raise ValueError(f"batch holds no tensor: expected tensors in tuples or mappings, got {type(batch)}")
        # On a CUDA device weights are shared: `largest_batch` finds as much memory as the model alone leaves.
        self._twin = ModelCopy({"cuda": 0})
        try:
            self.model, batch, loss, forward = self._twin.of((model, batch, loss, forward))
            self._twin.hooks(model)
        except Missing as missing:
            raise ValueError(f"the model cannot be measured on a copy: {missing}") from missing
        sign = alone(batch) if samples is None else None
        found = sign.size if sign is not None else samples
        if not found:
            raise ValueError(
                "the batch's number of samples is unknown (its tensors may be of different lengths): give samples=..."
            )
        self.samples = found
        self.device = next(self.model.parameters(), first).device
        self.batch = to_device(batch, self.device)
        self._loss = loss
        self._forward = forward if forward is not None else _call
        self.missing: dict[str, str] = {}
        self.methods: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def _step(self, batch: Any) -> bool:
        """Forward, loss, backward; whether there was anything to go backward through."""
        if self._loss is None and callable(getattr(self.model, "training_step", None)):
            total = _lightning_loss(self.model, batch)
        else:
            output = self._forward(self.model, batch)
            total = self._loss(output, batch) if self._loss is not None else _sum(output)
        if total is None or not total.requires_grad:
            return False
        total.backward()
        return True

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Train mode, and no gradients before and after."""
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        yield
        self.model.zero_grad(set_to_none=True)

    def watched(self, batch: Any, *, calls: ModuleCallRecorder | None = None) -> tuple[OpCounterMode, StepMemory, bool]:
        model = self.model
        follows = StorageTracker(self.device, allocator(self.device))
        with self._training():
            follows.track("other", [*model.buffers(), *tensors_in(batch)])
            for kind, tensors in tensors_by_kind(model, ()):
                follows.track(kind, tensors)
            watch = OpCounterMode(
                weights=model.parameters(),
                lifetimes=follows,
                first_backward=calls.stop if calls is not None else None,
            )
            try:
                with (
                    torch.enable_grad(),
                    force_eager(),
                    calls or nullcontext(),
                    self._twin.guard(),
                    FusedOnMeta(),
                    watch,
                ):
                    trained = self._step(batch)
                for kind, tensors in tensors_by_kind(model, ()):
                    follows.track(kind, tensors)
                self._grad_bytes = memory_breakdown(model, ()).grad_bytes
            finally:
                memory = follows.close()
        if watch.failed is not None:
            raise ValueError(watch.failed)
        return watch, memory, trained

    def count_operators(self, watch: OpCounterMode, memory: StepMemory, trained: bool) -> None:
        forward = watch.forward if watch.forward is not None else watch.step
        of_step = {
            "flop": watch.step.flop,
            "model_flop": watch.step.flop - watch.step.recomputed_flop,
            "mac": watch.step.mac,
            "mem_access_bytes": watch.step.access_bytes,
            "op_calls": watch.step.calls,
            "activation_bytes": memory.activation_bytes,
            "grad_bytes": self._grad_bytes,
            "peak_forward_bytes": memory.peak_bytes["forward"],
            "peak_backward_bytes": memory.peak_bytes["backward"],
        }
        if trained:
            self.values |= {name: float(amount) for name, amount in of_step.items()}
        else:
            self.missing |= dict.fromkeys(of_step, "nothing takes gradients: there is no training step to measure")
        self.values |= {
            "forward_flop": forward.flop / self.samples,
            "forward_mac": forward.mac / self.samples,
            "activation_elements": forward.elements / self.samples,
            "param_bytes": float(memory_breakdown(self.model, ()).param_bytes),
        }
        if watch.uncounted:
            lower = f"lower bound: no formula for {', '.join(sorted(watch.uncounted))}"
            self.methods |= dict.fromkeys(("flop", "model_flop", "mac", "forward_flop", "forward_mac"), lower)

    def count_parameters(self, calls: ModuleCallRecorder) -> None:
        model = self.model
        counts: dict[str, Callable[[], float]] = {
            "params": lambda: parameters.count_parameters(model),
            "trainable_params": lambda: parameters.count_parameters(model, trainable_only=True),
            "shared_params": lambda: parameters.count_shared(model, calls.counts),
            "embedding_params": lambda: parameters.count_embedding(model),
            "active_params": lambda: parameters.count_active(model, calls.counts, calls.rows),
            "nonzero_params": lambda: parameters.count_nonzero(model),
        }
        for name, count in counts.items():
            try:
                self.values[name] = float(count())
            except Missing as missing:
                self.missing[name] = str(missing)

    def profile(
        self, watch: OpCounterMode, memory: StepMemory, update: OpCounterMode | None, calls: ModuleCallRecorder
    ) -> StepProfile:
        """The step by class of operator; the optimizer's update as its copy on the meta device ran it."""
        classes = watch.classes + (update.classes if update is not None else Counter())
        state = int(self.values.get("opt_state_bytes") or 0)
        held: dict[str, dict[str, float]] = memory.phases_by_name()
        if update is not None and (last := held.get("backward")):
            held["optimizer"] = {**last, "grad": self._grad_bytes, "activation": 0, "other": memory.resting_bytes}
        return StepProfile(
            classes=classes_of(classes),
            samples=self.samples,
            memory={phase: {**kinds, "opt_state": state} for phase, kinds in held.items()},
            resting_bytes=memory.resting_bytes,
            batch_bytes=sum(tensor.nbytes for tensor in tensors_in(self.batch)),
            device=self.device.type,
            **parameters.repeated_blocks(self.model, calls.given_bytes),
        )

    def train_times(
        self, profile: StepProfile, make: Callable[[Iterable[nn.Parameter]], Any] | None, budget_s: float
    ) -> StepProfile:
        """Time training steps of the copy; the optimizer updates copies of the parameters, so that it stays as it is.

        A step is timed with all that is queued, and for the host alone: queueing into an empty queue.
        """
        optimizer = None
        with self._training():
            if make is not None:
                copies = [nn.Parameter(p.detach().clone()) for p in self.model.parameters() if p.requires_grad]
                optimizer = make(copies)
            trained = [p for p in self.model.parameters() if p.requires_grad]

            def step() -> None:
                self._step(self.batch)
                if optimizer is not None:
                    for copy, p in zip(copies, trained, strict=True):
                        copy.grad = p.grad
                    optimizer.step()
                for p in trained:
                    p.grad = None

            try:
                step_s, host_s = time_steps(step, self.device, budget_s)
            except Exception as error:  # noqa: BLE001 - an optimizer that wants a closure, memory that does not suffice
                self.missing["step_s"] = type_only("training steps could not be repeated", error)
                return profile
        self.values["step_s"] = step_s
        self.methods["step_s"] = "training steps of a copy, all of the batch's on the device"
        return replace(profile, host_s=host_s if self.device.type == "cuda" else None)

    def optimizer_state(self, make: Callable[[Iterable[nn.Parameter]], Any] | None) -> OpCounterMode | None:
        """Measure the state after one update of a copy on the meta device; return what the second one did."""
        if make is None:
            self.missing["opt_state_bytes"] = (
                "no optimizer was given: optimizer=lambda params: torch.optim.AdamW(params)"
            )
            return None
        copies = []
        for p in self.model.parameters():
            copy = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
            copy.grad = torch.empty_like(copy) if p.requires_grad else None
            copies.append(copy)
        try:
            made = make([copy for copy in copies if copy.requires_grad])
            made.step()
            if self.device.type != "cpu":  # on a GPU torch updates many parameters at once by default
                for group in made.param_groups:
                    if group.get("foreach", False) is None and not group.get("fused"):
                        group["foreach"] = True
            watch = OpCounterMode(weights=copies)
            watch.update_alone()
            with watch:
                made.step()
        except Exception as error:  # noqa: BLE001 - an optimizer that wants more than a gradient (SAM, LBFGS)
            self.missing["opt_state_bytes"] = type_only("one update on the meta device failed", error)
            return None
        self.values["opt_state_bytes"] = float(memory_breakdown(nn.ParameterList(copies), [made]).opt_state_bytes)
        self.methods["opt_state_bytes"] = "state after one update of a copy on the meta device"
        return watch

    def latency_and_throughput(
        self, times: bool, batch_sizes: Sequence[int], budget_s: float
    ) -> dict[int, float | None]:
        names = ("infer_latency_p50_s", "infer_latency_p95_s", "infer_samples_per_s")
        if not times or self.device.type == "meta":
            why = "times=False" if not times else "on the meta device nothing runs"
            self.missing |= dict.fromkeys(names, why)
            return {}
        run = _Bound(self.model, self._forward)
        throughput: dict[int, float | None] = {}
        for size in dict.fromkeys([self.samples, *batch_sizes]):
            batch = resize_batch(self.batch, self.samples, size)
            found = Trial(run, self.device, size, budget_s).run(((batch,), {}))
            if size in batch_sizes:
                throughput[size] = found.samples_per_s
            for name in names if size == self.samples else ():
                if (plain := name.removeprefix("infer_")) in found.missing:
                    self.missing[name] = found.missing[plain]
                else:
                    self.values[name], self.methods[name] = getattr(found, plain), found.method
        return throughput

    def inference_memory(self) -> None:
        try:
            run = _Bound(self.model, self._forward)
            self.values["infer_peak_mem_bytes"] = float(forward_peak_bytes(run, (self.batch,), self.device))
        except Exception as error:  # noqa: BLE001 - a model that only trains
            self.missing["infer_peak_mem_bytes"] = type_only("a forward pass in eval mode failed", error)

    def largest_batch(self, memory: StepMemory, memory_bytes: int | None) -> None:
        """By the memory of two batch sizes: fixed and per-sample parts; on a CUDA device, then tried."""
        available = memory_bytes if memory_bytes is not None else _available_bytes(self.device)
        if available is None:
            self.missing["largest_batch_samples"] = "how much memory is there? give memory_bytes=..."
            return
        other = 2 * self.samples
        _, twice, _ = self.watched(resize_batch(self.batch, self.samples, other))
        each = (twice.most_bytes - memory.most_bytes) / (other - self.samples)
        fixed = memory.most_bytes - each * self.samples
        if each <= 0:
            self.missing["largest_batch_samples"] = "memory does not grow with the batch"
            return
        most = int((available - fixed) / each)
        self.methods["largest_batch_samples"] = (
            f"computed: {format_amount(fixed, 'bytes')} and {format_amount(each, 'bytes')} a sample, of "
            f"{format_amount(available, 'bytes')}"
        )
        if self.device.type == "cuda" and memory_bytes is None:
            most = self._tried(max(most, 1))
            self.methods["largest_batch_samples"] = "tried: training steps on the device, in steps of 3 %"
        if most < 1:
            self.missing["largest_batch_samples"] = "not even one sample fits"
            return
        self.values["largest_batch_samples"] = most

    def _tried(self, guess: int) -> int:
        size = guess
        while size >= 1:
            try:
                with self._training():
                    self._step(resize_batch(self.batch, self.samples, size))
            except torch.OutOfMemoryError:
                self.model.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
                size = min(size - 1, int(size * 0.97))
            else:
                break
        return size


@final
class _Bound(nn.Module):
    """A model with the way to call it on a batch."""

    def __init__(self, model: nn.Module, call: Forward) -> None:
        super().__init__()
        self.model, self._call = model, call

    def forward(self, batch: Any) -> Any:
        return self._call(self.model, batch)


def _call(model: nn.Module, batch: Any) -> Any:
    """The model on a batch, by as many of its parts as its forward takes."""
    takes = inspect.signature(model.forward).parameters.values()
    if isinstance(batch, Mapping):
        anything = any(p.kind is p.VAR_KEYWORD for p in takes)
        names = {p.name for p in takes}
        chosen = {name: value for name, value in batch.items() if anything or name in names}
        return model(**chosen) if chosen else model(batch)
    if isinstance(batch, tuple | list):
        needed = [p for p in takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
        if any(p.kind is p.VAR_POSITIONAL for p in takes) and not needed:
            return model(*batch[:1])
        return model(*batch[: max(1, len(needed))])
    return model(batch)


def _lightning_loss(model: Any, batch: Any) -> torch.Tensor | None:
    shadows = Patches()
    # It would say that there is no trainer. Ignoring warnings instead makes Python show all earlier ones once more.
    shadows.wrap(model, "log", lambda _: lambda *args, **kwargs: None)
    try:
        takes_index = len(inspect.signature(model.training_step).parameters) > 1
        result = model.training_step(batch, 0) if takes_index else model.training_step(batch)
    finally:
        shadows.restore()
    found = result.get("loss") if isinstance(result, Mapping) else result
    return found if isinstance(found, torch.Tensor) else None


def _sum(output: Any) -> torch.Tensor | None:
    parts = [tensor.sum() for tensor in tensors_in(output) if tensor.requires_grad]
    return sum(parts[1:], parts[0]) if parts else None


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


def _available_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_allocated(device)
    if device.type == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    return None
