"""What one forward pass costs: a copy of the model is run shortly, after training."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, final

import torch
from torch import nn

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.probes.clock import now_s
from lightning_costs.probes.device_peaks import wait
from lightning_costs.probes.example_batch import resize_batch, to_device
from lightning_costs.probes.memory.storage_tracker import StorageTracker
from lightning_costs.probes.memory.tensors import tensors_in
from lightning_costs.probes.model_copy import MOST_COPY_BYTES, ModelCopy
from lightning_costs.probes.opcount.counting import compiled_parts, force_eager
from lightning_costs.probes.opcount.mode import OpCounterMode
from lightning_costs.probes.side_effects import without_modes, without_side_effects
from lightning_costs.records.inference import Inference
from lightning_costs.records.missing import Missing, by_type, type_only

_WARM_UP: Final = 3
_LEAST_PASSES, _MOST_PASSES = 5, 200
#: NVML's counter moves about every 100 ms (`probes/nvml.py`): either end of a loop may miss as much.
_METER_STEP_S: Final = 0.1
#: A loop of this length bounds the edge error of its energy at a tenth; a shorter one gives none.
LEAST_ENERGY_S: Final = 1.0
#: Work that the host queues ahead of a CUDA device: enough to keep it busy, too little for the budget to slip.
_AHEAD_S: Final = 0.02
_COLD: Final = "; too slow to leave warm-up out"
_NO_METER: Final = "energy is missing in this run"
#: Copying may take a quarter of the budget, and this long if that is less.
_LEAST_COPY_S: Final = 0.5
_FIELDS: Final = ("latency_p50_s", "latency_p95_s", "samples_per_s", "energy_j", "peak_mem_bytes")


def benchmark_inference(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    device: torch.device,
    samples: int | None = None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    meter: Callable[[], float] | None = None,
    budget_s: float = 5.0,
) -> Inference:
    """Measure `module(*args, **kwargs)` in eval mode without gradients: one sample, then the batch.

    A copy of the module is run, so that what its forward pass changes of itself stays as it was. Random numbers
    continue as if nothing had run. Whatever a pass raises makes the figures concerned missing. Compiled modules run
    eagerly: new shapes would compile for longer than the budget. A pass that has begun is not interrupted. Of
    `budget_s` about a third is for one sample, half for the batch; `meter` gives joules since its last call.
    """
    began_s = now_s()
    twin = ModelCopy(_room_bytes(device), most_s=max(_LEAST_COPY_S, budget_s / 4))
    with without_side_effects(), without_modes():
        try:
            copied, *call = twin.of((module, args, dict(kwargs)))
            twin.hooks(module)
        except Exception as error:  # noqa: BLE001 - a model that cannot be copied must not end the user's run
            reraise_from_signal(error)
            why = str(error) if isinstance(error, Missing) else f"the model cannot be copied: {type(error).__name__}"
            return Inference(batch_samples=samples or 0, missing=dict.fromkeys(_FIELDS, why))
        if samples is None:
            samples = next((t.shape[0] for t in tensors_in(call) if t.ndim), 1)
        spent_s = min(budget_s / 2, now_s() - began_s)
        notes = [
            *(["eagerly although compiled"] if compiled_parts(module) else []),
            *(["without the hooks of others"] if twin.hooks_left_out else []),
        ]
        trial = Trial(copied, device, samples, budget_s, context=context, spent_s=spent_s)
        return trial.run((call[0], call[1]), meter, guard=twin.guard if twin.shared else None, notes=notes)


def _room_bytes(device: torch.device) -> dict[str, int]:
    """Copies on the device must not raise the peak of the run's memory, which is a column of its own."""
    if device.type != "cuda":
        return {}
    below = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    return {"cuda": min(MOST_COPY_BYTES, max(0, below))}


@final
class Trial:
    """Passes of a module, a copy, within a budget: what they gave, how, and why the rest is missing."""

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        samples: int,
        budget_s: float,
        *,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        spent_s: float = 0.0,
    ) -> None:
        self._module, self._device, self._samples, self._context = module, device, samples, context
        self._budget_s = budget_s
        self._began_s = now_s() - spent_s
        self._passes, self._pass_s = 0, 0.0
        self._values: dict[str, Any] = {}
        self._missing: dict[str, str] = {}
        self._notes: list[str] = []
        self._cold = ""

    def run(
        self,
        call: tuple[tuple[Any, ...], dict[str, Any]],
        meter: Callable[[], float] | None = None,
        *,
        guard: Callable[[], AbstractContextManager[Any]] | None = None,
        notes: Sequence[str] = (),
    ) -> Inference:
        """What passes on these arguments cost. A first pass under `guard` that raises is not repeated."""
        with torch.no_grad(), force_eager():
            if self._begin(call, guard):
                self._attempt(("latency_p50_s", "latency_p95_s"), lambda: self._single(call))
                self._attempt(("samples_per_s", "energy_j"), lambda: self._serve(call, meter))
                self._attempt(("peak_mem_bytes",), lambda: self._memory(call))
        remarks = "".join(f"{note}, " for note in notes)
        return Inference(
            batch_samples=self._samples,
            **self._values,
            passes=self._passes,
            took_s=now_s() - self._began_s,
            method=f"eval mode, no gradients, {remarks}latency of 1 sample with each pass waited for, "
            f"throughput and energy at {self._samples} with passes queued{self._cold}",
            detail="; ".join(self._notes) or "nothing was measured",
            missing=self._missing,
        )

    def _attempt(self, names: tuple[str, ...], measure: Callable[[], None]) -> None:
        """Measure these fields; those that it leaves open are missing with its reason."""
        try:
            if self._spent(1.0):
                raise Missing(f"the budget of {self._budget_s:g} s was used up (forward passes so far: {self._passes})")
            measure()
        except Missing as missing:
            why = str(missing)
        except Exception as error:  # noqa: BLE001 - a model that cannot run so must not end the user's run
            reraise_from_signal(error)
            what = "a forward pass in eval mode failed"
            why = f"{what}: {by_type(error)}"
            if why not in self._missing.values():  # the log needs its text once
                why = type_only(what, error)
        else:
            return
        for name in names:
            if name not in self._values:
                self._missing.setdefault(name, why)

    def _begin(self, call: tuple[Any, Any], guard: Callable[[], AbstractContextManager[Any]] | None) -> bool:
        """Eval mode, and a guarded pass if there is a guard; returns whether passes may follow."""

        def first() -> None:
            self._module.eval()
            if guard is not None:
                run = self._runs(call)
                self._passes += 1
                with guard():
                    run()

        self._attempt(_FIELDS, first)
        return not self._missing

    def _single(self, call: tuple[Any, Any]) -> None:
        """Latency of one sample: each pass is waited for, the first ones are left out."""
        if self._samples > 1 and not any(t.ndim and t.shape[0] == self._samples for t in tensors_in(call)):
            raise Missing(f"no tensor's first dimension is {self._samples}: one sample cannot be taken from the batch")
        run = self._runs(resize_batch(call, self._samples, 1))
        times_s: list[float] = []
        while len(times_s) < _WARM_UP + _MOST_PASSES:
            times_s.append(self._timed(run))
            # Past its share a latency may finish its least passes, but half of the budget is the batch's.
            if self._spent(0.5) or (self._spent(0.3) and len(times_s) >= _WARM_UP + _LEAST_PASSES):
                break
        steady_s = times_s[_WARM_UP:]
        self._values["latency_p50_s"] = statistics.median(steady_s or times_s[-1:])
        if not steady_s:
            self._notes.append(f"latency of 1 sample: pass {len(times_s)}")
            self._cold = _COLD
        else:
            self._notes.append(f"latency of 1 sample: {len(steady_s)} passes after {_WARM_UP} left out")
        if len(steady_s) < _LEAST_PASSES:
            raise Missing(
                f"a percentile needs {_LEAST_PASSES} passes after warm-up; {len(steady_s)} fitted into half of the "
                f"budget of {self._budget_s:g} s"
            )
        self._values["latency_p95_s"] = statistics.quantiles(steady_s, n=20, method="inclusive")[-1]

    def _serve(self, call: tuple[Any, Any], meter: Callable[[], float] | None) -> None:
        """Throughput and energy at the batch: passes one after the other, the device never left without work."""
        run = self._runs(call)
        first_s = self._timed(run)
        if self._spent(0.8):
            self._values["samples_per_s"] = self._samples / first_s
            self._notes.append(f"throughput at {self._samples}: one pass")
            self._cold = _COLD
            raise Missing("one pass used up the time: too short to read energy from" if meter else _NO_METER)
        started = meter is not None and self._metered(meter) is not None
        before, began_s = self._passes, now_s()
        self._queue(run, max(1, min(16, int(_AHEAD_S / first_s))))
        took_s = now_s() - began_s
        served = (self._passes - before) * self._samples
        self._values["samples_per_s"] = served / took_s
        self._notes.append(f"throughput at {self._samples}: {self._passes - before} passes in {took_s:.3g} s")
        if meter is None:
            raise Missing(_NO_METER)
        if took_s < LEAST_ENERGY_S:
            raise Missing(
                f"{took_s:.2g} s of passes are too short to read energy from (meters move in steps): "
                f"{LEAST_ENERGY_S:g} s are needed, a larger budget (infer=True) gives them"
            )
        if started and (energy_j := self._metered(meter)) is not None:
            self._values["energy_j"] = energy_j / served
            self._notes.append(f"energy over the same passes, edge error up to {_METER_STEP_S / took_s:.0%}")

    def _memory(self, call: tuple[Any, Any]) -> None:
        """Most memory at the batch: one more pass, followed."""
        if self._pass_s > self._budget_s / 2:
            raise Missing(f"a pass takes {self._pass_s:.2g} s: another does not fit the budget of {self._budget_s:g} s")
        self._passes += 1
        self._values["peak_mem_bytes"] = float(_peak_bytes(self._module, self._runs(call), self._device))

    def _runs(self, call: tuple[Any, Any]) -> Callable[[], Any]:
        args, kwargs = to_device(call, self._device)

        def run() -> Any:
            with self._context():
                return self._module(*args, **kwargs)

        return run

    def _timed(self, run: Callable[[], Any]) -> float:
        wait(self._device)
        began_s = now_s()
        self._passes += 1
        run()
        wait(self._device)
        self._pass_s = now_s() - began_s
        return self._pass_s

    def _queue(self, run: Callable[[], Any], ahead: int) -> None:
        """Run until the batch's share is spent; every `ahead` passes, wait for the ones before those."""
        behind: torch.cuda.Event | None = None
        queued = 0
        while not queued or not self._spent(0.8):
            run()
            self._passes += 1
            queued += 1
            if self._device.type == "cuda" and queued % ahead == 0:
                event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(self._device))
                if behind is not None:
                    behind.synchronize()
                behind = event
        wait(self._device)

    def _metered(self, meter: Callable[[], float]) -> float | None:
        """Joules since the last call; where the meter fails, energy alone is missing."""
        try:
            return meter()
        except Exception as error:  # noqa: BLE001 - a meter that fails takes no throughput with it
            reraise_from_signal(error)
            self._missing["energy_j"] = type_only("the energy meter failed", error)
            return None

    def _spent(self, share: float) -> bool:
        return now_s() - self._began_s >= share * self._budget_s


def _peak_bytes(module: nn.Module, run: Callable[[], Any], device: torch.device) -> int:
    follows = StorageTracker(device)
    follows.track("param", module.parameters())
    follows.track("other", module.buffers())
    try:
        with OpCounterMode(lifetimes=follows, counts=False) as watch:
            run()
    finally:
        memory = follows.close()
    if watch.failed is not None:
        raise ValueError(watch.failed)
    return memory.most_bytes


def forward_peak_bytes(module: nn.Module, args: tuple[Any, ...], device: torch.device) -> int:
    """Most memory, by storages, that a forward pass in eval mode without gradients needs, in bytes."""
    module.eval()
    with torch.no_grad(), force_eager():
        return _peak_bytes(module, lambda: module(*args), device)
