"""What one forward pass costs: run shortly on the live model after training, which is left as it was."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import nn

from lightning_costs.probes.census import eager
from lightning_costs.probes.lifetimes import Lifetimes
from lightning_costs.probes.operators import Watch
from lightning_costs.probes.tensors import tensors_in

_WARM_UP = 3
_MOST_PASSES = 200
#: NVML's counter moves about every 100 ms: a shorter loop would read energy that is mostly edge.
LEAST_ENERGY_S = 1.0


@final
@dataclass(slots=True, kw_only=True)
class Inference:
    """What forward passes cost. None is missing, and `missing` says why.

    Args:
        batch_samples: Samples in the batch of throughput and energy.
        latency_p50_s: Median time of a pass of one sample; `latency_p95_s` its 95th percentile.
        samples_per_s: Throughput at the batch.
        energy_j: Energy of one sample, at the batch.
        peak_mem_bytes: Most memory that a pass needs at the batch.
        method: How all this was got.
        missing: Field to reason.
    """

    batch_samples: int
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    samples_per_s: float | None = None
    energy_j: float | None = None
    peak_mem_bytes: float | None = None
    method: str = ""
    missing: dict[str, str] = field(default_factory=dict)


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
    for longer than the budget.

    Args:
        module: What to run.
        args: What to run it on, on any device.
        kwargs: What to run it on, by name.
        device: Where to run it.
        samples: Samples in the arguments; by default the first dimension of their first tensor.
        context: Entered around each pass.
        meter: Joules since its last call; None for no energy.
        budget_s: Seconds for all of it: less than a third for one sample, the rest for the batch.
    """
    began = time.perf_counter()
    if samples is None:
        samples = next((t.shape[0] for t in tensors_in([*args, *kwargs.values()]) if t.ndim), 1)
    found = Inference(batch_samples=samples)
    compiled = _compiled(module)
    found.method = (
        f"eval mode, no gradients, {'eagerly although compiled, ' if compiled else ''}"
        f"after {_WARM_UP} passes left out; latency of 1 sample, the rest at {samples}"
    )

    def passes(call: tuple[Any, Any]) -> Callable[[], Any]:
        moved_args, moved_kwargs = moved(call, device)

        def run() -> Any:
            with context():
                return module(*moved_args, **moved_kwargs)

        return run

    with undisturbed(module), torch.no_grad(), eager():
        module.eval()
        with _reasons(found, "latency_p50_s", "latency_p95_s"):
            times_s = _latencies(passes(resized((args, dict(kwargs)), samples, 1)), device, began + 0.3 * budget_s)
            found.latency_p50_s = statistics.median(times_s)
            found.latency_p95_s = times_s[-1 - len(times_s) // 20]
        run = passes((args, dict(kwargs)))
        with _reasons(found, "samples_per_s", "energy_j"):
            _serve(found, run, device, meter, max(began + 0.9 * budget_s, time.perf_counter()))
        with _reasons(found, "peak_mem_bytes"):
            found.peak_mem_bytes = float(_peak_bytes(module, run, device))
    return found


@contextmanager
def _reasons(found: Inference, *concerned: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a model that cannot run so must not end the user's run
        for name in concerned:
            if getattr(found, name) is None:
                found.missing[name] = f"a forward pass in eval mode failed: {type(error).__name__}: {error}"


def _latencies(run: Callable[[], Any], device: torch.device, until_s: float) -> list[float]:
    """Times of single passes, ascending, each waited for."""
    times_s: list[float] = []
    for number in range(_WARM_UP + _MOST_PASSES):
        began = time.perf_counter()
        run()
        _wait(device)
        ended = time.perf_counter()
        times_s.append(ended - began)
        if ended > until_s and number + 1 >= _WARM_UP + 5:
            break
        if ended > until_s and times_s[-1] > 0.1:  # slow passes: their warm-up matters little
            break
    return sorted(times_s[_WARM_UP:] or times_s[-1:])


def _serve(
    found: Inference, run: Callable[[], Any], device: torch.device, meter: Callable[[], float] | None, until_s: float
) -> None:
    """Passes one after the other, waited for at both ends only."""
    run()
    _wait(device)
    if meter is not None:
        meter()
    began, passes = time.perf_counter(), 0
    while passes < 1 or time.perf_counter() < until_s:
        run()
        passes += 1
        if passes % 16 == 0:  # a queue of launches would let the budget slip
            _wait(device)
    _wait(device)
    took_s = time.perf_counter() - began
    found.samples_per_s = passes * found.batch_samples / took_s
    if meter is None:
        found.missing["energy_j"] = "energy is missing in this run"
    elif took_s < LEAST_ENERGY_S:
        found.missing["energy_j"] = (
            f"{took_s:.2g} s of passes are too short to read energy from (meters move in steps): infer=True takes 5 s"
        )
    else:
        found.energy_j = meter() / (passes * found.batch_samples)


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
    buffers = [
        (part._buffers, name, buffer, None if buffer.is_meta else buffer.detach().clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
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
        with torch.no_grad():
            for home, name, buffer, before in buffers:
                home[name] = buffer  # a module may have put another in its place
                if before is not None and not torch.equal(buffer, before):
                    buffer.copy_(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        torch.set_rng_state(host_rng)
        if device_rng:
            torch.cuda.set_rng_state_all(device_rng)


def moved(value: Any, device: torch.device) -> Any:
    """Tensors of nested tuples, lists and mappings on a device; all else as it is."""
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
    return value


def _compiled(module: nn.Module) -> bool:
    return "torch._dynamo" in sys.modules and any(
        type(part).__name__ == "OptimizedModule" or getattr(part, "_compiled_call_impl", None) is not None
        for part in module.modules()
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
