"""A copy of a model to try things on: whatever its forward pass does to itself, the original never learns of it."""

from __future__ import annotations

import copy
import functools
import random
import sys
import threading
import warnings
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
import torchmetrics
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from lightning_costs.probes.inference import benchmark_inference
from lightning_costs.probes.model_copy import ModelCopy
from lightning_costs.records.inference import Inference
from lightning_costs.records.missing import Missing

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("ticking")
X = torch.linspace(-1, 1, 12).reshape(4, 3)


def snapshot(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """All that can be reached from a value, as plain data in which identity shows: equal only where nothing changed."""
    seen = {} if seen is None else seen
    if isinstance(value, type(None) | bool | int | float | complex | str | bytes | type | torch.dtype | torch.device):
        return value
    if id(value) in seen:
        return ("seen", list(seen).index(id(value)))
    seen[id(value)] = value  # alive: what is made on the way must not give its address to another
    me = (type(value).__name__, id(value))

    def of(item: Any) -> Any:
        return snapshot(item, seen)

    if isinstance(value, Tensor):
        bits = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        grad = None if not value.is_leaf or value.grad is None else of(value.grad)
        return (*me, bits, value.shape, value.requires_grad, value._version, value.data_ptr(), grad, of(vars(value)))
    if isinstance(value, np.ndarray):
        return (*me, value.tobytes())
    if isinstance(value, np.random.Generator):
        return (*me, str(value.bit_generator.state))
    if isinstance(value, torch.Generator):
        return (*me, value.get_state().numpy().tobytes())
    if isinstance(value, random.Random):
        return (*me, value.getstate())
    if isinstance(value, dict):
        return (*me, [(of(key), of(item)) for key, item in value.items()], of(getattr(value, "__dict__", None)))
    if isinstance(value, list | tuple | deque):
        return (*me, [of(item) for item in value])
    if isinstance(value, set):
        return (*me, sorted(map(repr, value)))
    if hasattr(value, "__closure__"):
        return (*me, [of(cell.cell_contents) for cell in value.__closure__ or ()], of(value.__defaults__))
    if hasattr(value, "__self__"):
        return (*me[:1], value.__name__, of(value.__self__))
    return (*me, of(vars(value)) if hasattr(value, "__dict__") else None)


def around() -> Any:
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        repr(np.random.get_state()),
        torch.is_grad_enabled(),
        (id(sys.stdout), id(sys.stderr)),
        list(warnings.filters),
    )


def tried(module: nn.Module, *args: Any, budget_s: float = 0.1, **kwargs: Any) -> Inference:
    """Inference of a module that is told to be as it was, bit for bit and object for object."""
    before, world = snapshot(module), around()
    found = benchmark_inference(module, args or (X,), kwargs, device=CPU, budget_s=budget_s)
    assert snapshot(module) == before
    assert around() == world
    return found


def works(found: Inference) -> None:
    assert found.missing == {"energy_j": "energy is missing in this run"}


@dataclass
class Notes:
    n: int = 0
    texts: list[str] = field(default_factory=list)


class Remembers(nn.Module):
    """Fills, in eval mode too, every kind of attribute that a module may have."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("steps", torch.zeros(1))
        self.calls, self.history, self.last = 0, [], deque(maxlen=3)
        self.by_kind, self.counts, self.seen = defaultdict(list), Counter(), set()
        self.notes, self.array = Notes(), np.zeros(2)
        self.mean, self.all = (
            torchmetrics.MeanMetric(),
            torchmetrics.MetricCollection([torchmetrics.MeanSquaredError()]),
        )
        self.rng, self.python, self.torch = np.random.default_rng(0), random.Random(0), torch.Generator()
        self.ordered = OrderedDict(a=[1])
        self.parts = nn.ModuleDict({"a": nn.Linear(3, 3)})
        self.moving = self.linear.weight.detach().clone()
        self.table = self.linear.weight[0]  # part of a graph
        self.note = self.history.append

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.appeared = self.calls
        y = self.linear(self.norm(x)) + self.table
        self.note(y)
        self.last.append(y)
        self.by_kind[x.shape].append(1)
        self.counts["calls"] += 1
        self.seen.add(self.calls)
        self.notes.n += 1
        self.notes.texts.append("again")
        self.array += 1
        self.mean.update(y.mean())
        self.all.update(y, x)
        self.mean.compute()
        self.rng.random(), self.python.random(), torch.rand(1, generator=self.torch)
        self.ordered["a"].append(2)
        self.parts["b"] = nn.Linear(1, 1)
        self.moving.lerp_(self.linear.weight, 0.5)
        self.steps += 1
        self.linear.weight.data.mul_(1.01)
        self.norm.running_mean = torch.rand(3)
        self.linear.weight.requires_grad_(False)
        self.linear.weight.grad = torch.ones(3, 3)
        self.parts.train()
        random.random(), np.random.normal(), torch.rand(1)
        return y


def test_a_module_that_changes_all_it_has_is_as_before() -> None:
    module = Remembers()
    module(X)
    module.linear.weight.requires_grad_(True)
    np.random.normal()  # leaves the second Gaussian in the cache
    works(tried(module))


class Shadowing(nn.Module):
    """Its forward pass is reached through functions that hold it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(3, 3), []
        plain = self._plain

        def wrapped(x: Tensor, *more: Any) -> Tensor:
            counted[0] += 1
            return plain(x)

        counted = [0]
        self.counted = lambda: counted[0]
        self.__dict__["forward"] = {
            "method": plain,
            "closure": wrapped,
            "default": lambda x, me=self: me._plain(x),
            "partial": functools.partial(type(self)._plain, self),
            "partial of a closure": functools.partial(wrapped),
            "decorated": torch.no_grad()(wrapped),
            "nested": {"f": [wrapped]}["f"][0],
            "weak": functools.partial(type(self)._through, weakref.ref(self)),
            "proxy": functools.partial(type(self)._plain, weakref.proxy(self)),
            "weak method": functools.partial(type(self)._called, weakref.WeakMethod(plain)),
            "cached": functools.lru_cache(wrapped),
            "not compiled": torch.compiler.disable(plain),
        }[way]

    def _plain(self, x: Tensor) -> Tensor:
        self.calls.append(1)
        return self.linear(x)

    @staticmethod
    def _through(me: Any, x: Tensor) -> Tensor:
        return me()._plain(x)

    @staticmethod
    def _called(method: Any, x: Tensor) -> Tensor:
        return method()(x)


@pytest.mark.parametrize(
    "way",
    [
        "method",
        "closure",
        "default",
        "partial",
        "partial of a closure",
        "decorated",
        "nested",
        "weak",
        "proxy",
        "weak method",
        "cached",
        "not compiled",
    ],
)
def test_a_forward_pass_reached_through_functions_is_the_copys(way: str) -> None:
    module = Shadowing(way)
    module(X)
    works(tried(module))
    assert len(module.calls) == 1
    assert module.counted() <= 1


def test_a_parent_that_a_submodule_refers_to_is_as_before() -> None:
    class Child(nn.Module):
        def __init__(self, parent: Any) -> None:
            super().__init__()
            self.linear, self.parent = nn.Linear(3, 3), [parent]

        def forward(self, x: Tensor) -> Tensor:
            self.parent[0].calls += 1
            self.parent[0].metric.update(1.0)
            return self.linear(x)

    parent = nn.Module()
    parent.calls, parent.metric = 0, torchmetrics.MeanMetric()
    parent.child = Child(parent)
    before = snapshot(parent)
    works(tried(parent.child))
    assert snapshot(parent) == before


# Tensors -----------------------------------------------------------------------------------------------------------


def test_ties_and_views_of_one_storage_stay_so_in_the_copy() -> None:
    module = nn.Module()
    flat = torch.arange(12.0)
    module.a = nn.Parameter(flat[:6].reshape(2, 3))
    module.b = nn.Parameter(flat[6:].reshape(2, 3))
    module.tied = nn.Linear(3, 2)
    module.tied.weight = module.a
    module.register_buffer("row", module.a.detach()[0])
    twin = ModelCopy().of(module)
    assert twin.tied.weight is twin.a
    with torch.no_grad():
        twin.a.fill_(7.0)
    assert twin.row.tolist() == [7.0, 7.0, 7.0]
    assert twin.b.untyped_storage().data_ptr() == twin.a.untyped_storage().data_ptr()
    assert flat.tolist() == list(range(12))


class Labelled(Tensor):
    """A subclass without a way of its own to be copied."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: X.as_subclass(Labelled),
        lambda: X.to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.qint8),
        lambda: X[:, 1:],
        lambda: X.t(),
        lambda: torch.zeros(1).expand(5),
        lambda: torch.complex(X, X).conj(),
        lambda: torch.zeros(3, device="meta"),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: nn.UninitializedParameter(),
        lambda: X.clone().requires_grad_() * 2,
    ],
)
def test_a_tensor_of_any_kind_is_copied(make: Callable[[], Tensor]) -> None:
    tensor = make()
    made = ModelCopy().of(tensor)
    assert type(made) is type(tensor)
    assert made is not tensor
    assert (made.dtype, made.device, made.layout) == (tensor.dtype, tensor.device, tensor.layout)
    if (
        not tensor.is_meta
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and not isinstance(tensor, nn.UninitializedParameter)
    ):
        assert torch.equal(made, tensor)
        assert made.stride() == tensor.stride()


def test_weights_too_large_to_copy_are_shared_and_buffers_never() -> None:
    module = nn.BatchNorm1d(3)
    twin = ModelCopy({"cpu": 0})
    made = twin.of(module)
    assert made.weight.data_ptr() == module.weight.data_ptr()
    assert made.running_mean.data_ptr() != module.running_mean.data_ptr()
    made.weight.grad = torch.ones(3)
    made.weight.data = torch.zeros(3)
    assert module.weight.grad is None
    assert module.weight.tolist() == [1.0, 1.0, 1.0]


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.array = np.zeros(3)

    def forward(self, x: Tensor, how: str) -> Tensor:
        weight = self.linear.weight
        if how == "data":
            weight.data.clamp_(-0.01, 0.01)
        elif how == "out":
            torch.mul(weight.data, 2, out=weight.data)
        elif how == "view":
            weight.detach()[0].zero_()
        elif how == "list":
            torch._foreach_mul_([weight.data], 2.0)
        elif how == "array":
            self.array += 1
        return self.linear(x)


@pytest.mark.parametrize("how", ["data", "out", "view", "list", "array", "none"])
def test_a_shared_weight_is_never_written_to(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr("lightning_costs.probes.model_copy.MOST_COPY_BYTES", 0)
    found = tried(Writes(), X, how=how)
    if how == "none":
        works(found)
    else:
        why = "ValueError" if how == "array" else "to a weight that is too large to copy"
        assert all(why in reason for reason in found.missing.values())
        assert len(found.missing) == 5


# Hooks ---------------------------------------------------------------------------------------------------------------


def test_hooks_of_others_do_not_fire_and_it_is_said() -> None:
    seen: list[Any] = []
    features: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda *args: features.update({name: args})

    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    net.register_forward_hook(lambda *_: seen.append(1))
    net[0].register_forward_pre_hook(lambda *_: seen.append(2))
    net[0].register_forward_hook(keep("first"), always_call=True)
    net[1].register_forward_hook(functools.partial(keep("second"), net))
    everywhere = register_module_forward_hook(lambda *_: seen.append(3))
    try:
        found = tried(net)
        assert not seen
        assert not features
        net(X)
        assert seen.count(3) == 3, "hooks on all modules are back"
    finally:
        everywhere.remove()
    works(found)
    assert "without the hooks of others" in found.method


class Features(nn.Module):
    """A backbone read by hooks: without them there is nothing to return."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.body, self.kept = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), {}
        kept = self.kept

        def closure(module: nn.Module, args: Any, output: Tensor) -> None:
            kept["x"] = output

        hook = {
            "method": self._keep,
            "partial": functools.partial(self._keep_as, "x"),
            "closure": closure,
            "closure over itself": lambda module, args, output: self._keep_as("x", module, args, output),
        }[way]
        self.body[0].register_forward_hook(hook)
        self.body[1].register_forward_hook(self._with_keywords, with_kwargs=True)

    def _keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.kept["x"] = output

    def _keep_as(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        self.kept[name] = output

    def _with_keywords(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        self.kept["y"] = output

    def forward(self, x: Tensor) -> Tensor:
        self.kept.clear()
        self.body(x)
        return self.kept["x"] + self.kept["y"]


@pytest.mark.parametrize("way", ["method", "partial", "closure", "closure over itself"])
def test_hooks_that_are_the_models_own_fire_on_the_copy(way: str) -> None:
    found = tried(Features(way))
    works(found)
    assert "hooks of others" not in found.method


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.weight_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.spectral_norm,
        lambda m: nn.utils.prune.l1_unstructured(m, "weight", 0.5),
    ],
)
def test_weights_that_hooks_or_parametrizations_compute_are_computed(wrap: Callable[[nn.Module], nn.Module]) -> None:
    net = nn.Sequential(wrap(nn.Linear(3, 3)), nn.ReLU())
    expected = net.eval()(X)
    net.train()
    twin = ModelCopy()
    made = twin.of(net)
    twin.hooks(net)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if "bias" not in name:
                # No multiple of itself: a spectral norm takes a factor out again.
                p.copy_(torch.linspace(1.0, 2.0, p.numel()).reshape(p.shape).square())
    assert not torch.equal(made.eval()(X), expected)
    found = tried(net)
    works(found)
    assert "hooks of others" not in found.method


# Modules of every kind -----------------------------------------------------------------------------------------------


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(3, 3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.linear(x)).relu()


def dynamically_quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(Plain(), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        Plain,
        lambda: torch.jit.script(Plain()),
        lambda: torch.jit.trace(Plain().eval(), X),
        lambda: torch.fx.symbolic_trace(Plain()),
        dynamically_quantized,
        lambda: nn.TransformerEncoderLayer(3, 1, 4, batch_first=True),
        lambda: nn.LSTM(3, 5, 2, batch_first=True),
        lambda: nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(2)),
        lambda: torch.optim.swa_utils.AveragedModel(Plain()),
        lambda: nn.DataParallel(Plain()),
        lambda: torch.compile(Plain(), backend="eager"),
    ],
    ids=[
        "plain",
        "scripted",
        "traced",
        "fx",
        "quantized",
        "transformer",
        "lstm",
        "lazy",
        "swa",
        "parallel",
        "compiled",
    ],
)
def test_modules_of_every_kind_are_run_on_a_copy(make: Callable[[], nn.Module]) -> None:
    module = make()
    x = X[:, None] if isinstance(module, nn.LSTM | nn.TransformerEncoderLayer) else X
    module(x)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    modes = [part.training for part in module.modules()]
    works(benchmark_inference(module, (x,), {}, device=CPU, budget_s=0.1))
    assert all(
        torch.equal(tensor, before[n]) for n, tensor in module.state_dict().items() if isinstance(tensor, Tensor)
    )
    assert [part.training for part in module.modules()] == modes


class Holds(nn.Module):
    def __init__(self, thing: Any, use: Callable[[Any], Any] = lambda thing: None) -> None:
        super().__init__()
        self.linear, self.thing, self.use = nn.Linear(3, 3), thing, use

    def forward(self, x: Tensor) -> Tensor:
        self.use(self.thing)
        return self.linear(x)


class Closing:
    closed = 0

    def __del__(self) -> None:
        type(self).closed += 1


def numbers() -> Iterator[int]:
    yield from range(10_000)


def data() -> torch.utils.data.DataLoader[Any]:
    return torch.utils.data.DataLoader([1, 2, 3])


@pytest.mark.parametrize(
    ("make", "use", "why"),
    [
        (lambda: open(__file__), lambda f: f.read(1), "TextIOWrapper.read"),  # noqa: SIM115 - the garbage closes it
        (numbers, next, "generator"),
        (lambda: iter(data()), next, "_SingleProcessDataLoaderIter"),
        (data, iter, "DataLoader"),
        (lambda: torch.optim.SGD([nn.Parameter(X)], 0.1), lambda o: o.step(), "SGD.step"),
        (Closing, lambda c: c.again(), "AttributeError"),
        (threading.local, lambda local: setattr(local, "x", 1), "_local.x"),
    ],
    ids=["file", "generator", "iterator", "loader", "optimizer", "closing", "local"],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_has_no_copy_matters_only_where_the_forward_pass_uses_it(make: Any, use: Any, why: str) -> None:
    thing = make()
    works(benchmark_inference(Holds(thing), (X,), {}, device=CPU, budget_s=0.1))
    found = benchmark_inference(Holds(thing, use), (X,), {}, device=CPU, budget_s=0.1)
    assert len(found.missing) == 5
    assert why in found.missing["latency_p50_s"]
    if isinstance(thing, Closing):
        assert Closing.closed == 0


@pytest.mark.parametrize("thing", [threading.Lock(), threading.RLock(), threading.Condition()])
def test_locks_are_copied_open(thing: Any) -> None:
    def use(lock: Any) -> None:
        with lock:
            pass

    with thing:
        works(benchmark_inference(Holds(thing, use), (X,), {}, device=CPU, budget_s=0.1))


def test_a_module_that_cannot_be_copied_is_not_run() -> None:
    ran: list[int] = []

    class Refuses(nn.Module):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("one of me is enough")

        def forward(self, x: Tensor) -> Tensor:
            ran.append(1)
            return x

    class Single(Refuses):
        def __deepcopy__(self, memo: Any) -> Any:
            return self

    class Sharing(Refuses):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def __deepcopy__(self, memo: Any) -> Any:
            return copy.copy(self)

    class Dying(Refuses):
        __deepcopy__ = None  # type: ignore[assignment]

        def __del__(self) -> None:
            ran.append(2)

    for kind, why in (
        (Refuses, "a Refuses of the model cannot be copied: RuntimeError"),
        (Single, "Single gives itself for its copy"),
        (Sharing, "a copy of Sharing shares its Linear"),
        (Dying, "Dying has a __del__, which would run for a copy too"),
    ):
        kept = kind()
        found = benchmark_inference(kept, (X,), {}, device=CPU, budget_s=0.1)
        assert set(found.missing.values()) == {why}
        assert found.passes == 0
        assert not ran


def test_copying_stops_at_its_time() -> None:
    class Endless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = [[i] for i in range(1000)]

    with pytest.raises(Missing, match="copying the model takes longer than 0 s"):
        ModelCopy(most_s=0.0).of(Endless())


# Around it -----------------------------------------------------------------------------------------------------------


def test_what_the_forward_pass_prints_is_dropped_and_what_other_threads_print_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    go, gone = threading.Event(), threading.Event()

    def other() -> None:
        go.wait()
        print("from another thread")
        gone.set()

    class Speaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            print("shape", x.shape)
            print("shape", x.shape, file=sys.stderr)
            go.set()
            gone.wait()
            return x

    thread = threading.Thread(target=other)
    thread.start()
    benchmark_inference(Speaks(), (X,), {}, device=CPU, budget_s=0.1)
    thread.join()
    print("after")
    out, err = capsys.readouterr()
    assert out == "from another thread\nafter\n"
    assert not err


def test_a_mode_that_the_user_counts_with_does_not_count_it() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = nn.Linear(3, 3)
    with FlopCounterMode(display=False) as counter:
        net(X)
        benchmark_inference(net, (X,), {}, device=CPU, budget_s=0.1)
    assert counter.get_total_flops() == 2 * 4 * 3 * 3


def test_the_arguments_are_copies_too() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor, notes: list[int], net: nn.Module) -> Tensor:
            notes.append(1)
            net.calls += 1
            return x.add_(1)

    x, notes, net = torch.zeros(4, 3), [0], nn.Linear(1, 1)
    net.calls = 0
    works(benchmark_inference(InPlace(), (x, notes), {"net": net}, device=CPU, budget_s=0.1))
    assert not x.any()
    assert notes == [0]
    assert net.calls == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnDevice:
    def test_copies_keep_below_the_peak_of_the_run_and_the_model_is_as_before(self) -> None:
        device = torch.device("cuda")
        module = nn.Sequential(nn.Linear(1024, 1024), nn.BatchNorm1d(1024), nn.Dropout(0.5), nn.LSTM(1024, 64)).to(
            device
        )
        x = torch.randn(8, 1024)
        rng = torch.cuda.get_rng_state()
        for headroom_bytes in (0, 2**26):
            torch.cuda.reset_peak_memory_stats()
            torch.empty(headroom_bytes, dtype=torch.uint8, device=device)
            before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
            peak_bytes = torch.cuda.max_memory_allocated()
            found = benchmark_inference(module, (x,), {}, device=device, budget_s=0.5)
            assert found.missing == {"energy_j": "energy is missing in this run"}
            assert torch.equal(torch.cuda.get_rng_state(), rng)
            assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
            assert all(p.grad is None for p in module.parameters())
            if headroom_bytes:
                assert torch.cuda.max_memory_allocated() <= peak_bytes + 2**22, "beside what the passes make"
