"""Inference on modules of known cost, and the live model left as it was, bit for bit."""

from __future__ import annotations

import time
from collections import UserDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, dataclass
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
import torch._dynamo  # a dispatch mode imports it on first use, for seconds: in a run the census has paid that
from torch import Tensor, nn

from lightning_costs.probes.example_batch import resize_batch, to_device
from lightning_costs.probes.inference import benchmark_inference
from lightning_costs.records.inference import Inference

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _clock(request: pytest.FixtureRequest) -> None:
    """Passes take what they sleep; on a device, what they take."""
    if request.node.get_closest_marker("gpu") is None:
        request.getfixturevalue("ticking")


FIELDS = ("latency_p50_s", "latency_p95_s", "samples_per_s", "energy_j", "peak_mem_bytes")


class Sleeps(nn.Module):
    """Takes a known time for each pass, and notes the shapes that it saw: in its class, which copies share."""

    seen: ClassVar[list[int]] = []

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.seen.clear()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.shape[0])
        time.sleep(self.seconds)
        return x + 1


class Unruly(nn.Module):
    """Does in eval mode too what a forward pass should not do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("sign", torch.zeros(2))
        self.register_buffer("replaced", torch.arange(3.0))
        self.register_buffer("cache", None)
        self.register_buffer("grown", torch.ones(1))
        self.raises_at: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.sign.mul_(-1.0)  # 0.0 becomes -0.0, which is equal to it
        self.replaced = torch.rand(3)
        self.cache = torch.ones(2)
        self.grown.resize_(4)
        self.register_buffer("more", torch.ones(1), persistent=False)
        self.train()
        with torch.enable_grad():
            y = self.dropout(self.norm(self.linear(x)))
            y.sum().backward()
        if self.raises_at is not None and int(self.calls) >= self.raises_at:
            raise RuntimeError("in the middle")
        return y


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def state(module: nn.Module) -> dict[str, Any]:
    return {
        "modes": [part.training for part in module.modules()],
        "buffers": {name: (id(b), bits(b)) for name, b in module.named_buffers()},
        "names": [list(part._buffers) for part in module.modules()],
        "fleeting": [set(part._non_persistent_buffers_set) for part in module.modules()],
        "parameters": {name: (id(p), bits(p)) for name, p in module.named_parameters()},
        "gradients": {n: None if p.grad is None else (id(p.grad), bits(p.grad)) for n, p in module.named_parameters()},
        "rng": bits(torch.get_rng_state()),
        "grad_enabled": torch.is_grad_enabled(),
    }


class FakeMeter:
    """Joules of a constant power, since its last call."""

    def __init__(self, joules: list[float]) -> None:
        self.joules, self.calls = joules, 0

    def __call__(self) -> float:
        self.calls += 1
        return self.joules.pop(0)


def test_latency_and_throughput_of_a_known_pass() -> None:
    module = Sleeps(0.02)
    found = benchmark_inference(module, (torch.zeros(8, 2),), {}, device=CPU, budget_s=1.0)
    assert found.latency_p50_s == pytest.approx(0.02, rel=0.01)
    assert found.latency_p95_s == pytest.approx(0.02, rel=0.01)
    assert found.samples_per_s == pytest.approx(8 / 0.02, rel=0.01)
    assert found.batch_samples == 8
    assert found.passes == len(module.seen)
    assert 0.5 < found.took_s < 1.5
    assert set(module.seen) == {1, 8}
    assert module.seen == sorted(module.seen), "one sample first, then the batch"
    assert found.missing == {"energy_j": "energy is missing in this run"}


def test_a_record_says_how_it_was_got() -> None:
    found = benchmark_inference(Sleeps(0.005), (torch.zeros(8, 2),), {}, device=CPU, budget_s=0.5)
    assert found.method == (
        "eval mode, no gradients, latency of 1 sample with each pass waited for, "
        "throughput and energy at 8 with passes queued"
    ), "no figure that differs between runs measured alike: compare reads a difference as another method"
    assert "passes after 3 left out; throughput at 8: " in found.detail
    with pytest.raises(FrozenInstanceError):
        found.passes = 0  # type: ignore[misc]


@pytest.mark.parametrize("raises_at", [None, 1, 2, 30])
def test_an_unruly_module_is_left_as_it_was_bit_for_bit(raises_at: int | None) -> None:
    torch.manual_seed(7)
    module = Unruly()
    module(torch.randn(4, 3))
    del module.more
    module.sign, module.cache, module.grown = torch.zeros(2), None, torch.ones(1)
    module.dropout.eval()  # modes need not be uniform
    module.raises_at = raises_at if raises_at is None else raises_at + 1
    before = state(module)
    assert before["gradients"]["linear.weight"] is not None
    found = benchmark_inference(
        module, (torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),), {}, device=CPU, budget_s=0.1
    )
    assert state(module) == before
    assert found.passes > 0


@pytest.mark.parametrize("enabled", [True, False])
def test_grad_mode_and_modes_of_submodules_are_restored(enabled: bool) -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2))
    module[1].eval()
    with torch.set_grad_enabled(enabled):
        benchmark_inference(module, (torch.zeros(4, 2),), {}, device=CPU, budget_s=0.05)
        assert torch.is_grad_enabled() is enabled
    assert [part.training for part in module.modules()] == [True, True, False, True]


def test_an_expanded_buffer_does_not_prevent_restoring() -> None:
    module = Sleeps(0.0)
    module.register_buffer("mask", torch.zeros(1).expand(5))
    assert benchmark_inference(module, (torch.zeros(2, 2),), {}, device=CPU, budget_s=0.05).samples_per_s is not None


def test_passes_run_in_eval_mode_without_gradients_but_not_as_inference_tensors() -> None:
    seen: set[tuple[bool, bool, bool]] = set()

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            seen.add((self.training, torch.is_grad_enabled(), y.is_inference()))
            return y

    benchmark_inference(Looks(), (torch.zeros(2, 2),), {}, device=CPU, budget_s=0.05)
    assert seen == {(False, False, False)}


def test_the_context_is_entered_around_every_pass() -> None:
    entered = 0

    @contextmanager
    def counting() -> Iterator[None]:
        nonlocal entered
        entered += 1
        yield

    module = Sleeps(0.001)
    found = benchmark_inference(module, (torch.zeros(2, 2),), {}, device=CPU, context=counting, budget_s=0.05)
    assert entered == found.passes == len(module.seen)


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Batch:
    x: Tensor
    note: str


def test_one_sample_is_taken_of_every_tensor_at_any_nesting() -> None:
    shapes: set[tuple[int, ...]] = set()

    class Nested(nn.Module):
        def forward(self, pair: Pair, *, more: dict[str, Any]) -> Tensor:
            shapes.add(
                (
                    pair.x.shape[0],
                    pair.y.shape[0],
                    more["z"][0].shape[0],
                    more["table"].shape[0],
                    more["own"].x.shape[0],
                )
            )
            assert more["own"].note == "kept"
            assert more["scalar"].ndim == 0
            return pair.x

    more = {
        "z": [torch.zeros(4, 2)],
        "table": torch.zeros(10, 2),  # not by sample
        "own": Batch(torch.zeros(4), "kept"),
        "scalar": torch.tensor(1.0),
    }
    found = benchmark_inference(
        Nested(), (Pair(torch.zeros(4, 2), torch.zeros(4)),), {"more": more}, device=CPU, budget_s=0.05
    )
    assert shapes == {(1, 1, 1, 10, 1), (4, 4, 4, 10, 4)}
    assert found.batch_samples == 4
    assert found.missing.keys() == {"energy_j"}


def test_latency_is_missing_where_one_sample_cannot_be_taken() -> None:
    found = benchmark_inference(Sleeps(0.0), (torch.zeros(6, 2),), {}, device=CPU, samples=3, budget_s=0.05)
    assert found.latency_p50_s is None
    assert found.missing["latency_p50_s"] == (
        "no tensor's first dimension is 3: one sample cannot be taken from the batch"
    )
    assert found.samples_per_s is not None


def test_the_arguments_themselves_are_neither_moved_nor_cut() -> None:
    batch = {"x": torch.arange(4.0)}
    benchmark_inference(Sleeps(0.0), (torch.zeros(4, 2),), {}, device=CPU, budget_s=0.05)
    resize_batch(batch, 4, 1)
    assert batch["x"].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_resizing_slices_repeats_and_leaves_the_rest() -> None:
    tree = (torch.arange(3), {"a": [torch.arange(6).reshape(3, 2)]}, torch.arange(5), "text", None)
    smaller, larger = resize_batch(tree, 3, 1), resize_batch(tree, 3, 7)
    assert smaller[0].tolist() == [0]
    assert smaller[1]["a"][0].tolist() == [[0, 1]]
    assert larger[0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert larger[1]["a"][0].shape == (7, 2)
    assert smaller[2] is larger[2] is tree[2]
    assert smaller[3:] == ("text", None)
    assert resize_batch(UserDict(a=torch.zeros(3)), 3, 2)["a"].shape == (2,)


def test_moving_keeps_structure() -> None:
    there = to_device([Pair(torch.zeros(1), torch.zeros(2)), Batch(torch.zeros(1), "kept")], torch.device("meta"))
    assert there[0].y.device.type == there[1].x.device.type == "meta"
    assert there[1].note == "kept"


def test_slow_passes_keep_the_budget() -> None:
    found = benchmark_inference(Sleeps(0.5), (torch.zeros(4, 2),), {}, device=CPU, budget_s=1.0)
    assert found.took_s < 2.5
    assert found.latency_p50_s == pytest.approx(0.5, rel=0.01)
    assert found.missing["latency_p95_s"] == (
        "a percentile needs 5 passes after warm-up; 0 fitted into half of the budget of 1 s"
    )
    assert found.method.endswith("; too slow to leave warm-up out")
    assert found.detail.startswith("latency of 1 sample: pass 1")


def test_a_first_pass_longer_than_the_budget_is_the_only_one() -> None:
    module = Sleeps(0.3)
    found = benchmark_inference(module, (torch.zeros(4, 2),), {}, device=CPU, meter=lambda: 1.0, budget_s=0.1)
    assert module.seen == [1]
    assert found.latency_p50_s == pytest.approx(0.3, rel=0.01)
    for name in ("samples_per_s", "energy_j", "peak_mem_bytes"):
        assert getattr(found, name) is None
        assert found.missing[name] == "the budget of 0.1 s was used up (forward passes so far: 1)"


def test_energy_of_a_long_loop_is_exact_and_says_its_edge_error() -> None:
    meter = FakeMeter([1e9, 120.0])
    module = Sleeps(0.05)
    found = benchmark_inference(module, (torch.zeros(4, 2),), {}, device=CPU, meter=meter, budget_s=2.5)
    passes = module.seen.count(4) - 2  # one of warm-up, one that follows memory
    assert found.energy_j == 120.0 / (4 * passes)
    assert meter.calls == 2, "what was spent before the loop is not the loop's"
    assert "edge error up to" in found.detail
    assert not found.missing


def test_a_loop_shorter_than_a_second_gives_no_energy() -> None:
    found = benchmark_inference(Sleeps(0.01), (torch.zeros(4, 2),), {}, device=CPU, meter=lambda: 5.0, budget_s=0.5)
    assert found.energy_j is None
    assert found.missing["energy_j"].endswith("1 s are needed, a larger budget (infer=True) gives them")
    assert found.samples_per_s is not None


@pytest.mark.parametrize("fails_at", [0, 1])
def test_a_meter_that_fails_takes_nothing_but_energy_with_it(fails_at: int) -> None:
    calls = iter(range(9))

    def meter() -> float:
        if next(calls) == fails_at:
            raise ValueError("energy went missing")
        return 1.0

    found = benchmark_inference(Sleeps(0.05), (torch.zeros(4, 2),), {}, device=CPU, meter=meter, budget_s=2.2)
    assert found.missing == {"energy_j": "the energy meter failed: ValueError (its text is in the log)"}
    assert found.samples_per_s is not None


class Picky(nn.Module):
    """Cannot run on some batch sizes."""

    def __init__(self, refuses: Callable[[int], bool], error: BaseException) -> None:
        super().__init__()
        self.refuses, self.error = refuses, error

    def forward(self, x: Tensor) -> Tensor:
        if self.refuses(x.shape[0]):
            raise self.error
        return x + 1


def test_a_model_that_cannot_run_at_batch_one_still_has_a_throughput() -> None:
    module = Picky(lambda n: n == 1, ValueError("more than 1 value per channel"))
    found = benchmark_inference(module, (torch.zeros(4, 2),), {}, device=CPU, budget_s=0.1)
    why = "a forward pass in eval mode failed: ValueError (its text is in the log)"
    assert found.missing == {
        "latency_p50_s": why,
        "latency_p95_s": why,
        "energy_j": "energy is missing in this run",
    }
    assert found.samples_per_s is not None


def test_memory_that_runs_out_at_the_batch_leaves_the_latency() -> None:
    module = Picky(lambda n: n > 1, torch.OutOfMemoryError("CUDA out of memory"))
    found = benchmark_inference(module, (torch.zeros(4, 2),), {}, device=CPU, budget_s=0.1)
    assert found.latency_p95_s is not None
    assert found.missing.keys() == {"samples_per_s", "energy_j", "peak_mem_bytes"}
    assert "OutOfMemoryError" in found.missing["samples_per_s"]


def test_an_interrupt_passes_through_and_the_module_is_restored() -> None:
    module = Picky(lambda n: True, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        benchmark_inference(module, (torch.zeros(4, 2),), {}, device=CPU, budget_s=0.1)
    assert module.training


def test_arguments_that_cannot_be_moved_are_a_reason_not_an_error() -> None:
    class Stuck(Tensor):
        def to(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("stays here")

    found = benchmark_inference(Sleeps(0.0), (torch.zeros(4, 2).as_subclass(Stuck),), {}, device=CPU, budget_s=0.1)
    assert found.missing.keys() == set(FIELDS)
    assert "failed: RuntimeError" in found.missing["samples_per_s"]


def test_every_field_has_a_value_or_a_reason() -> None:
    for seconds, budget_s in ((0.0, 0.02), (0.03, 0.1), (0.08, 0.1), (0.15, 0.1)):
        found: Inference = benchmark_inference(Sleeps(seconds), (torch.zeros(4, 2),), {}, device=CPU, budget_s=budget_s)
        assert {name for name in FIELDS if getattr(found, name) is None} == found.missing.keys()


class Dropping(nn.Module):
    """A module of its own: torch.compile skips the frames of torch's containers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(3, 3), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_module_is_not_compiled_again(in_place: bool) -> None:
    compilations = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        nonlocal compilations
        compilations += 1
        return graph.forward

    torch._dynamo.reset()
    model: Any = Dropping()
    if in_place:
        model.compile(backend=backend)
    else:
        model = torch.compile(model, backend=backend)
    model(torch.zeros(8, 3))
    assert compilations == 1
    found = benchmark_inference(model, (torch.zeros(8, 3),), {}, device=CPU, budget_s=0.2)
    assert compilations == 1
    assert "eagerly although compiled" in found.method
    assert found.missing.keys() == {"energy_j"}
    model(torch.zeros(8, 3))
    assert compilations == 1, "training goes on with the graph that it had"
    torch._dynamo.reset()


cuda = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class SleepsOnDevice(nn.Module):
    """Keeps the device busy while the host goes on."""

    def __init__(self, cycles: int) -> None:
        super().__init__()
        self.cycles = cycles

    def forward(self, x: Tensor) -> Tensor:
        torch.cuda._sleep(self.cycles)
        return x + 1


def sleeping_s(cycles: int) -> float:
    begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(cycles)
    begun.record()
    for _ in range(10):
        torch.cuda._sleep(cycles)
    ended.record()
    torch.cuda.synchronize()
    return begun.elapsed_time(ended) / 1e4


class TestOnDevice:
    pytestmark = cuda

    @pytest.mark.parametrize("cycles", [2_000_000, 60_000_000])
    def test_latency_is_the_devices_not_the_launchs(self, cycles: int) -> None:
        took_s = sleeping_s(cycles)
        found = benchmark_inference(
            SleepsOnDevice(cycles), (torch.zeros(8, 2),), {}, device=torch.device("cuda"), budget_s=2.0
        )
        print(f"kernel {took_s * 1e3:.3f} ms, latency {found.latency_p50_s}, {found}")
        assert found.latency_p50_s == pytest.approx(took_s, rel=0.1)
        assert found.samples_per_s == pytest.approx(8 / took_s, rel=0.1)
        assert found.took_s < 3.0, "what the host queues ahead does not let the budget slip"

    def test_cuda_random_numbers_are_left_alone(self) -> None:
        class Draws(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x + torch.rand_like(x)

        torch.zeros(1, device="cuda")
        before = torch.cuda.get_rng_state()
        found = benchmark_inference(Draws(), (torch.zeros(8, 2),), {}, device=torch.device("cuda"), budget_s=0.2)
        assert torch.equal(torch.cuda.get_rng_state(), before)
        assert found.missing.keys() == {"energy_j"}
