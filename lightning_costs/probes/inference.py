"""What one forward pass costs: run shortly on the live model after training, which is left as it was."""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Final, final

import torch
from torch import nn

from lightning_costs.core.indicator import Missing
from lightning_costs.core.missing import by_type, type_only
from lightning_costs.probes.census import eager
from lightning_costs.probes.lifetimes import Lifetimes
from lightning_costs.probes.operators import Watch
from lightning_costs.probes.tensors import tensors_in

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


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """What forward passes cost. None is missing, and `missing` says why.

    Args:
        batch_samples: Samples in the batch of throughput and energy.
        latency_p50_s: Median time of a pass of one sample; `latency_p95_s` its 95th percentile.
        samples_per_s: Throughput at the batch.
        energy_j: Energy of one sample, at the batch.
        peak_mem_bytes: Most memory that a pass needs at the batch.
        passes: Forward passes that were run in all.
        took_s: Time of all of it.
        method: How all this was got; the same words wherever it was got alike.
        detail: How many passes, in what time.
        missing: Field to reason.
    """

    batch_samples: int
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    samples_per_s: float | None = None
    energy_j: float | None = None
    peak_mem_bytes: float | None = None
    passes: int = 0
    took_s: float = 0.0
    method: str = ""
    detail: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)


def infer(
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

    Whatever a pass raises makes the figures concerned missing. Compiled modules run eagerly: new shapes would compile
    for longer than the budget. A pass that has begun is not interrupted.

    Args:
        module: What to run.
        args: What to run it on, on any device.
        kwargs: What to run it on, by name.
        device: Where to run it.
        samples: Samples in the arguments; by default the first dimension of their first tensor.
        context: Entered around each pass.
        meter: Joules since its last call; None for no energy.
        budget_s: Seconds for all of it: about a third for one sample, half for the batch.
    """
    call = (args, dict(kwargs))
    if samples is None:
        samples = next((t.shape[0] for t in tensors_in(call) if t.ndim), 1)
    trial = _Trial(module, device, samples, context, budget_s)
    compiled = "eagerly although compiled, " if _compiled(module) else ""
    with undisturbed(module), torch.no_grad(), eager():
        module.eval()
        trial.attempt(("latency_p50_s", "latency_p95_s"), lambda: trial.single(call))
        trial.attempt(("samples_per_s", "energy_j"), lambda: trial.serve(call, meter))
        trial.attempt(("peak_mem_bytes",), lambda: trial.memory(call))
    return Inference(
        batch_samples=samples,
        **trial.values,
        passes=trial.passes,
        took_s=time.perf_counter() - trial.began_s,
        method=f"eval mode, no gradients, {compiled}latency of 1 sample with each pass waited for, "
        f"throughput and energy at {samples} with passes queued{trial.cold}",
        detail="; ".join(trial.notes) or "nothing was measured",
        missing=trial.missing,
    )


@final
class _Trial:
    """Passes within a budget: what they gave, how, and why the rest is missing."""

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        samples: int,
        context: Callable[[], AbstractContextManager[Any]],
        budget_s: float,
    ) -> None:
        self._module, self._device, self._samples, self._context = module, device, samples, context
        self._budget_s = budget_s
        self._pass_s = 0.0
        self.began_s = time.perf_counter()
        self.passes = 0
        self.values: dict[str, Any] = {}
        self.missing: dict[str, str] = {}
        self.notes: list[str] = []
        self.cold = ""

    def attempt(self, names: tuple[str, ...], measure: Callable[[], None]) -> None:
        """Measure these fields; those that it leaves open are missing with its reason."""
        try:
            if self._spent(1.0):
                raise Missing(f"the budget of {self._budget_s:g} s was used up (forward passes so far: {self.passes})")
            measure()
        except Missing as missing:
            why = str(missing)
        except Exception as error:  # noqa: BLE001 - a model that cannot run so must not end the user's run
            what = "a forward pass in eval mode failed"
            why = f"{what}: {by_type(error)}"
            if why not in self.missing.values():  # the log needs its text once
                why = type_only(what, error)
        else:
            return
        for name in names:
            if name not in self.values:
                self.missing.setdefault(name, why)

    def single(self, call: tuple[Any, Any]) -> None:
        """Latency of one sample: each pass is waited for, the first ones are left out."""
        if self._samples > 1 and not any(t.ndim and t.shape[0] == self._samples for t in tensors_in(call)):
            raise Missing(f"no tensor's first dimension is {self._samples}: one sample cannot be taken from the batch")
        run = self._runs(resized(call, self._samples, 1))
        times_s: list[float] = []
        while len(times_s) < _WARM_UP + _MOST_PASSES:
            times_s.append(self._timed(run))
            # Past its share a latency may finish its least passes, but half of the budget is the batch's.
            if self._spent(0.5) or (self._spent(0.3) and len(times_s) >= _WARM_UP + _LEAST_PASSES):
                break
        steady_s = times_s[_WARM_UP:]
        self.values["latency_p50_s"] = statistics.median(steady_s or times_s[-1:])
        if not steady_s:
            self.notes.append(f"latency of 1 sample: pass {len(times_s)}")
            self.cold = _COLD
        else:
            self.notes.append(f"latency of 1 sample: {len(steady_s)} passes after {_WARM_UP} left out")
        if len(steady_s) < _LEAST_PASSES:
            raise Missing(
                f"a percentile needs {_LEAST_PASSES} passes after warm-up; {len(steady_s)} fitted into half of the "
                f"budget of {self._budget_s:g} s"
            )
        self.values["latency_p95_s"] = statistics.quantiles(steady_s, n=20, method="inclusive")[-1]

    def serve(self, call: tuple[Any, Any], meter: Callable[[], float] | None) -> None:
        """Throughput and energy at the batch: passes one after the other, the device never left without work."""
        run = self._runs(call)
        first_s = self._timed(run)
        if self._spent(0.8):
            self.values["samples_per_s"] = self._samples / first_s
            self.notes.append(f"throughput at {self._samples}: one pass")
            self.cold = _COLD
            raise Missing("one pass used up the time: too short to read energy from" if meter else _NO_METER)
        started = meter is not None and self._metered(meter) is not None
        before, began_s = self.passes, time.perf_counter()
        self._queue(run, max(1, min(16, int(_AHEAD_S / first_s))))
        took_s = time.perf_counter() - began_s
        served = (self.passes - before) * self._samples
        self.values["samples_per_s"] = served / took_s
        self.notes.append(f"throughput at {self._samples}: {self.passes - before} passes in {took_s:.3g} s")
        if meter is None:
            raise Missing(_NO_METER)
        if took_s < LEAST_ENERGY_S:
            raise Missing(
                f"{took_s:.2g} s of passes are too short to read energy from (meters move in steps): "
                f"{LEAST_ENERGY_S:g} s are needed, a larger budget (infer=True) gives them"
            )
        if started and (energy_j := self._metered(meter)) is not None:
            self.values["energy_j"] = energy_j / served
            self.notes.append(f"energy over the same passes, edge error up to {_METER_STEP_S / took_s:.0%}")

    def memory(self, call: tuple[Any, Any]) -> None:
        """Most memory at the batch: one more pass, followed."""
        if self._pass_s > self._budget_s / 2:
            raise Missing(f"a pass takes {self._pass_s:.2g} s: another does not fit the budget of {self._budget_s:g} s")
        self.passes += 1
        self.values["peak_mem_bytes"] = float(_peak_bytes(self._module, self._runs(call), self._device))

    def _runs(self, call: tuple[Any, Any]) -> Callable[[], Any]:
        args, kwargs = moved(call, self._device)

        def run() -> Any:
            with self._context():
                return self._module(*args, **kwargs)

        return run

    def _timed(self, run: Callable[[], Any]) -> float:
        _wait(self._device)
        began_s = time.perf_counter()
        self.passes += 1
        run()
        _wait(self._device)
        self._pass_s = time.perf_counter() - began_s
        return self._pass_s

    def _queue(self, run: Callable[[], Any], ahead: int) -> None:
        """Run until the batch's share is spent; every `ahead` passes, wait for the ones before those."""
        behind: torch.cuda.Event | None = None
        queued = 0
        while not queued or not self._spent(0.8):
            run()
            self.passes += 1
            queued += 1
            if self._device.type == "cuda" and queued % ahead == 0:
                event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(self._device))
                if behind is not None:
                    behind.synchronize()
                behind = event
        _wait(self._device)

    def _metered(self, meter: Callable[[], float]) -> float | None:
        """Joules since the last call; where the meter fails, energy alone is missing."""
        try:
            return meter()
        except Exception as error:  # noqa: BLE001 - a meter that fails takes no throughput with it
            self.missing["energy_j"] = type_only("the energy meter failed", error)
            return None

    def _spent(self, share: float) -> bool:
        return time.perf_counter() - self.began_s >= share * self._budget_s


def _peak_bytes(module: nn.Module, run: Callable[[], Any], device: torch.device) -> int:
    follows = Lifetimes(device)
    follows.hold("param", module.parameters())
    follows.hold("other", module.buffers())
    try:
        with Watch(lifetimes=follows, counts=False) as watch:
            run()
    finally:
        memory = follows.close()
    if watch.failed is not None:
        raise ValueError(watch.failed)
    return memory.most_bytes


def forward_peak_bytes(module: nn.Module, args: tuple[Any, ...], device: torch.device) -> int:
    """Most memory, by storages, that a forward pass in eval mode without gradients needs, in bytes."""
    with undisturbed(module), torch.no_grad(), eager():
        module.eval()
        return _peak_bytes(module, lambda: module(*args), device)


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Whatever happens inside, modes, buffers, gradients and random numbers are as before afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    homes = [(part, dict(part._buffers.items()), set(part._non_persistent_buffers_set)) for part in module.modules()]
    buffers = {id(b): b for _, held, _ in homes for b in held.values() if b is not None and not b.is_meta}
    copies = [(buffer, buffer.detach().clone()) for buffer in buffers.values()]
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    host_rng = torch.get_rng_state()
    device_rng = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        for part, held, fleeting in homes:
            _put_back(part, held, fleeting)
        for buffer, before in copies:
            # Equal is not the same bits (0.0 and -0.0); one that overlaps itself (expanded) cannot be written at all.
            if buffer.shape != before.shape:
                buffer.data = before
            elif buffer.layout != torch.strided or buffer.is_contiguous() or not torch.equal(buffer, before):
                buffer.data.copy_(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        torch.set_rng_state(host_rng)
        if device_rng:
            torch.cuda.set_rng_state_all(device_rng)


def _put_back(part: nn.Module, held: Mapping[str, torch.Tensor | None], fleeting: set[str]) -> None:
    """The same buffers under the same names: a pass may have put others in their place, or registered more."""
    now = dict(part._buffers.items())
    for name in now.keys() - held.keys():
        del part._buffers[name]
    for name, buffer in held.items():
        if name not in now or now[name] is not buffer:
            part._buffers[name] = buffer
    if part._non_persistent_buffers_set != fleeting:
        part._non_persistent_buffers_set = fleeting


def moved(value: Any, device: torch.device) -> Any:
    """Tensors of nested tuples, lists, mappings and dataclasses on a device; all else as it is."""
    return _mapped(value, lambda tensor: tensor.to(device))


def resized(value: Any, samples: int, to: int) -> Any:
    """The first `to` samples of every tensor whose first dimension is `samples`, repeated from the start where
    there are fewer.

    Example:
        >>> resized({"x": torch.arange(3), "y": torch.zeros(2, 3)}, 3, 5)["x"].tolist()
        [0, 1, 2, 0, 1]
    """

    def size(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.ndim or tensor.shape[0] != samples:
            return tensor
        times = -(-to // samples)
        return (tensor if times == 1 else tensor.repeat(times, *[1] * (tensor.ndim - 1)))[:to]

    return _mapped(value, size)


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_mapped(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if is_dataclass(value) and not isinstance(value, type):
        twin = copy.copy(value)
        for part in fields(value):
            object.__setattr__(twin, part.name, _mapped(getattr(value, part.name), change))  # frozen ones too
        return twin
    return value


def _compiled(module: nn.Module) -> bool:
    return "torch._dynamo" in sys.modules and any(
        type(part).__name__ == "OptimizedModule" or getattr(part, "_compiled_call_impl", None) is not None
        for part in module.modules()
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
