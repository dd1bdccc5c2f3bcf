"""The copy of a model that is measured, on one batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, final

import torch
from torch import nn

from lightning_costs.model_cost.calling import BoundModel, Forward, Loss, call_model, lightning_loss, sum_of_outputs
from lightning_costs.probes import parameters
from lightning_costs.probes.batch import alone
from lightning_costs.probes.clock import now_s
from lightning_costs.probes.device_peaks import wait
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
from lightning_costs.records.formatting import format_amount
from lightning_costs.records.missing import Missing, type_only
from lightning_costs.records.step_profile import StepProfile, classes_of


@final
class Measurement:
    """One model on one batch: each method measures some of `values`, or says in `missing` why not."""

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
        self._forward = forward if forward is not None else call_model
        self.missing: dict[str, str] = {}
        self.methods: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def _step(self, batch: Any) -> bool:
        """Forward, loss, backward; whether there was anything to go backward through."""
        if self._loss is None and callable(getattr(self.model, "training_step", None)):
            total = lightning_loss(self.model, batch)
        else:
            output = self._forward(self.model, batch)
            total = self._loss(output, batch) if self._loss is not None else sum_of_outputs(output)
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
        """Operators and memory of one training step, and whether anything takes gradients."""
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
        """The amounts that a counted step gives."""
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
        """Counts of parameters, as in a run."""
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
        """Time forward passes; by batch size, the samples per second of those asked for."""
        names = ("infer_latency_p50_s", "infer_latency_p95_s", "infer_samples_per_s")
        if not times or self.device.type == "meta":
            why = "times=False" if not times else "on the meta device nothing runs"
            self.missing |= dict.fromkeys(names, why)
            return {}
        run = BoundModel(self.model, self._forward)
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
        """Most memory that a forward pass without gradients needs."""
        try:
            run = BoundModel(self.model, self._forward)
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


def _available_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_allocated(device)
    if device.type == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    return None


#: Training steps before any is timed.
_WARM_UP_STEPS = 3


def time_steps(step: Callable[[], object], device: torch.device, budget_s: float) -> tuple[float, float]:
    """Mean seconds of a step among many queued in a row, and the least that the host takes to queue one alone."""
    for _ in range(_WARM_UP_STEPS):
        step()
    wait(device)
    alone: list[float] = []
    until = now_s() + budget_s / 4
    while len(alone) < 3 or (now_s() < until and len(alone) < 20):
        began = now_s()
        step()
        alone.append(now_s() - began)
        wait(device)
    steps, began = 0, now_s()
    until = began + budget_s * 3 / 4
    while steps < 3 or now_s() < until:
        step()
        steps += 1
        if not steps % 10:  # the host must not run far ahead of what the budget allows
            wait(device)
    wait(device)
    return (now_s() - began) / steps, min(alone)
