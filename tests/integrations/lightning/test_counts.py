"""Counts of a real Trainer against closed forms: operators, activations, parameters, memory, inference."""

from __future__ import annotations

import itertools
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import FakeClock
from lightning_models import classifier, data, namespace, trainer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from lightning_costs import CostMonitor
from lightning_costs.run.record import RunRecord

pl = namespace("lightning.pytorch")
WEIGHTS = 16 * 32 + 32 + 32 * 4 + 4
FORWARD_MAC = 16 * 32 + 32 * 4


def fit(tmp_path: Path, model: Any, *, val: Any = None, infer: Any = False, **options: Any) -> RunRecord:
    monitor = CostMonitor(save_dir=tmp_path, infer=infer)
    trainer(pl, monitor, **options).fit(model, data(), val)
    assert monitor.run is not None
    return monitor.run


# Operators ---------------------------------------------------------------------------------------------------


def test_a_forward_pass_is_told_per_sample(tmp_path: Path) -> None:
    final = fit(tmp_path, classifier(pl)).final
    assert (final["forward_mac"], final["forward_flop"]) == (FORWARD_MAC, 2 * FORWARD_MAC)
    assert final["activation_elements"] == 32 + 4


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_is_executed_and_not_the_models_work(tmp_path: Path, reentrant: bool) -> None:
    def model(checkpoints: bool) -> Any:
        class Deep(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Linear(16, 16)
                self.rest = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                x = self.first(batch[0])
                x = checkpoint(self.rest, x, use_reentrant=reentrant) if checkpoints else self.rest(x)
                return x.square().mean()

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        return Deep()

    plain, again = fit(tmp_path / "a", model(False)).final, fit(tmp_path / "b", model(True)).final
    assert again["model_flop"] == plain["model_flop"] == plain["flop"]
    assert again["flop"] == plain["flop"] + 128 * 2 * 2 * 16 * 16  # type: ignore[operator]
    assert again["mac"] == again["flop"] / 2  # type: ignore[operator]


def test_validation_batches_are_counted_apart_without_those_of_the_sanity_check(tmp_path: Path) -> None:
    run = fit(tmp_path, classifier(pl), val=data(40), num_sanity_val_steps=2)
    assert run.final["evaluate_flop"] == 2 * 40 * 2 * FORWARD_MAC
    assert run.final["flop"] == fit(tmp_path, classifier(pl)).final["flop"]


def test_several_validation_loaders_are_all_counted(tmp_path: Path) -> None:
    run = fit(tmp_path, classifier(pl), val=[data(40), data(24, batch_size=5)])
    assert run.final["evaluate_flop"] == 2 * 64 * 2 * FORWARD_MAC


def test_a_custom_operator_makes_flop_a_lower_bound_that_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @torch.library.custom_op("lightning_costs_tests::opaque", mutates_args=())
    def opaque(x: Tensor) -> Tensor:
        return x @ torch.ones(x.shape[1], x.shape[1])

    opaque.register_autograd(lambda ctx, grad: grad)

    class Odd(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(16, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return opaque(self.net(batch[0])).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    run = fit(tmp_path, Odd())
    bound = "; lower bound: no formula for lightning_costs_tests.opaque"
    assert run.header["methods"]["flop"].endswith(bound)
    assert run.header["census"]["uncounted_calls"] == {"lightning_costs_tests.opaque": 16}
    assert run.final["flop"] == 128 * 2 * 2 * 16 * 4
    said = [r.getMessage() for r in caplog.records if "flop is a lower bound" in r.getMessage()]
    assert len(said) == 1
    assert "register_flop_formula" in said[0]


def test_memory_accesses_are_at_least_the_weights_and_activations_of_every_pass(tmp_path: Path) -> None:
    final = fit(tmp_path, classifier(pl)).final
    # Forward reads the weights, backward reads the last layer's and writes gradients, the update reads and writes.
    assert final["mem_access_bytes"] > 16 * 4 * WEIGHTS * 5  # type: ignore[operator]


# Harmless ----------------------------------------------------------------------------------------------------


class Dropping(pl.LightningModule):
    def __init__(self, backend: str | None) -> None:
        super().__init__()
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Dropout(0.3), nn.Linear(32, 4))
        self.net = torch.compile(net, backend=backend) if backend else net
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def trained(monitor: CostMonitor | None, backend: str | None = None) -> tuple[Any, list[float], Tensor]:
    model = Dropping(backend)
    torch.manual_seed(11)
    callbacks = [] if monitor is None else [monitor]
    trainer(pl, *callbacks, max_epochs=-1, max_steps=20).fit(model, data())
    return model, model.losses, torch.get_rng_state()


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize("infer", [False, True])
def test_twenty_steps_are_the_same_to_the_bit_with_and_without(tmp_path: Path, infer: bool) -> None:
    plain = trained(None)
    watched = trained(CostMonitor(save_dir=tmp_path, infer=infer))
    assert same(plain[0], watched[0])
    assert plain[1] == watched[1]
    assert torch.equal(plain[2], watched[2])


@pytest.mark.integration
@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param("inductor", marks=pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")),
    ],
)
def test_a_compiled_model_trains_as_without_and_is_counted_as_it_runs(tmp_path: Path, backend: str) -> None:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            plain = trained(None, backend)
            torch._dynamo.reset()
            monitor = CostMonitor(save_dir=tmp_path, infer=True)
            torch._dynamo.utils.counters.clear()
            watched = trained(monitor, backend)
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        finally:
            torch._dynamo.reset()
    assert graphs == 1
    assert monitor.run is not None
    final, missing = monitor.run.final, monitor.run.header["missing"]
    assert final["flop"] == 20 * 8 * 2 * (2 * 16 * 32 + 3 * 32 * 4)
    assert "compiled code as it ran" in monitor.run.header["methods"]["flop"]
    for column in ("mem_access_bytes", "op_calls", "activation_bytes", "peak_forward_bytes", "infer_latency_p50_s"):
        assert final[column] is None
        assert "compiled code" in missing[column]
    assert same(plain[0], watched[0])
    assert plain[1] == watched[1]
    assert torch.equal(plain[2], watched[2])


@pytest.mark.integration
@pytest.mark.usefixtures("ticking")
def test_counted_eagerly_a_compiled_model_tells_what_its_step_would_hold(tmp_path: Path) -> None:
    torch._dynamo.reset()
    try:
        monitor = CostMonitor(save_dir=tmp_path, infer=True, count="eager")
        trained(monitor, "eager")
    finally:
        torch._dynamo.reset()
    assert monitor.run is not None
    final = monitor.run.final
    assert final["flop"] == 20 * 8 * 2 * (2 * 16 * 32 + 3 * 32 * 4)
    assert None not in [final[c] for c in ("mem_access_bytes", "op_calls", "activation_bytes", "infer_latency_p50_s")]


# Parameters --------------------------------------------------------------------------------------------------


def test_kinds_of_parameters_through_a_trainer(tmp_path: Path) -> None:
    class Words(pl.LightningModule):
        """A Universal-Transformer-like model with tied output weights."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 16)
            self.block = nn.Linear(16, 16)
            self.head = nn.Linear(16, 50, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embedding(ids).mean(1)
            for _ in range(3):
                x = torch.tanh(self.block(x))
            return self.head(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0].abs().long()), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    final = fit(tmp_path, Words()).final
    table, block = 50 * 16, 16 * 16 + 16
    assert (final["params"], final["embedding_params"]) == (table + block, table)
    assert final["shared_params"] == table + block
    assert final["active_params"] == table + block
    assert 0 < final["nonzero_params"] <= table + block  # type: ignore[operator]


# Optimizers: memory at rest and inside the step ----------------------------------------------------------------


def optimizers() -> dict[str, tuple[Any, int, int]]:
    """Name to (maker, copies of the weights at rest, most inside a step); numbers such as step counts are extra."""
    from pytorch_optimizer import SAM, Lookahead

    sgd, adam = torch.optim.SGD, torch.optim.Adam
    return {
        "sgd": (lambda p: sgd(p, lr=0.01), 0, 0),
        "momentum": (lambda p: sgd(p, lr=0.01, momentum=0.9), 1, 1),
        "adam": (lambda p: adam(p, lr=0.01), 2, 2),
        "amsgrad": (lambda p: adam(p, lr=0.01, amsgrad=True), 3, 3),
        "lookahead over momentum": (lambda p: Lookahead(sgd(p, lr=0.01, momentum=0.9)), 2, 2),
        "sam over sgd": (lambda p: SAM(p, sgd, lr=0.01), 0, 1),
        "sam over momentum": (lambda p: SAM(p, sgd, lr=0.01, momentum=0.9), 1, 2),
        "sam over adam": (lambda p: SAM(p, adam, lr=0.01), 2, 3),
    }


@pytest.mark.parametrize("name", list(optimizers()))
def test_optimizer_memory_at_rest_and_inside_the_step_is_the_analytic_one(tmp_path: Path, name: str) -> None:
    make, rest, inside = optimizers()[name]
    model = classifier(pl, optimizer="sam")
    model.configure_optimizers = lambda: make(model.parameters())
    final = fit(tmp_path, model).final
    weights = 4 * WEIGHTS
    numbers = 64  # a step count for each of four parameters, in some
    assert rest * weights <= final["opt_state_bytes"] <= rest * weights + numbers  # type: ignore[operator]
    assert inside * weights <= final["opt_peak_bytes"] <= inside * weights + numbers  # type: ignore[operator]


def test_adafactor_holds_rows_and_columns_and_no_matrix(tmp_path: Path) -> None:
    model = classifier(pl)
    model.configure_optimizers = lambda: torch.optim.Adafactor(model.parameters())
    final = fit(tmp_path, model).final
    factors = (16 + 32) + 32 + (32 + 4) + 4
    assert 4 * factors <= final["opt_state_bytes"] <= 4 * factors + 64  # type: ignore[operator]


def test_sam_costs_twice_the_flops_a_sample_and_peaks_hold_its_copy(tmp_path: Path) -> None:
    sgd, sam = fit(tmp_path / "a", classifier(pl)).final, fit(tmp_path / "b", classifier(pl, optimizer="sam")).final
    assert sam["flop"] == 2 * sgd["flop"]  # type: ignore[operator]
    assert sam["forward_flop"] == sgd["forward_flop"]
    # The second pass runs with the copy held.
    assert sam["peak_backward_bytes"] >= sgd["peak_backward_bytes"] + 4 * WEIGHTS  # type: ignore[operator]


# Memory by kind and phase --------------------------------------------------------------------------------------


def test_kinds_at_the_peak_add_up_in_the_header(tmp_path: Path) -> None:
    run = fit(tmp_path, classifier(pl, optimizer="adam"))
    at_peak = dict(run.header["memory_at_peak"])
    phase, total = at_peak.pop("phase"), at_peak.pop("total_bytes")
    assert sum(at_peak.values()) == total == run.final[f"peak_{phase}_bytes"]
    assert at_peak["param_bytes"] == 4 * WEIGHTS
    assert at_peak["opt_state_bytes"] >= 2 * 4 * WEIGHTS
    phases = [run.final[f"peak_{name}_bytes"] for name in ("forward", "backward", "optimizer")]
    assert all(amount and amount >= 3 * 4 * WEIGHTS for amount in phases)


def test_a_roofline_stands_in_the_header_with_what_is_unknown_on_a_cpu(tmp_path: Path) -> None:
    run = fit(tmp_path, classifier(pl))
    roofline = run.header["roofline"]
    assert roofline["intensity_flop_per_byte"] == run.final["flop"] / run.final["mem_access_bytes"]  # type: ignore[operator]
    assert roofline["words"].endswith("the device's peaks are unknown")
    assert run.final["mfu_fraction"] is None
    assert "PeakFlopPerS(flop_per_s=...)" in run.header["missing"]["mfu_fraction"]


def test_utilization_against_a_peak_that_the_user_gives(tmp_path: Path) -> None:
    from lightning_costs import default_indicators
    from lightning_costs.indicators.utilization import PeakFlopPerS

    indicators = [PeakFlopPerS(1e9) if i.name == "peak_flop_per_s" else i for i in default_indicators()]
    monitor = CostMonitor(save_dir=tmp_path, indicators=indicators, infer=False)
    trainer(pl, monitor).fit(classifier(pl), data())
    assert monitor.run is not None
    final = monitor.run.final
    assert final["hfu_fraction"] == pytest.approx(final["flop_per_s"] / 1e9)  # type: ignore[operator]
    assert final["mfu_fraction"] == final["hfu_fraction"]
    with pytest.raises(ValueError, match="flop_per_s must be a positive rate, got 0"):
        PeakFlopPerS(0)


# Inference -----------------------------------------------------------------------------------------------------

INFER = ("infer_latency_p50_s", "infer_latency_p95_s", "infer_samples_per_s", "infer_peak_mem_bytes")


def test_inference_is_measured_after_training(tmp_path: Path, ticking: FakeClock) -> None:
    run = fit(tmp_path, classifier(pl), infer="auto", max_epochs=3)
    final = run.final
    assert all(final[name] and final[name] > 0 for name in INFER)  # type: ignore[operator]
    assert final["infer_latency_p50_s"] <= final["infer_latency_p95_s"]  # type: ignore[operator]
    assert "too short to read energy from" in run.header["missing"]["infer_energy_j"]
    # Weights, the input, both outputs of the first layer beside each other.
    assert final["infer_peak_mem_bytes"] == 4 * (WEIGHTS + 8 * 16 + 2 * 8 * 32)


@pytest.mark.integration
def test_inference_with_time_enough_has_its_energy(tmp_path: Path) -> None:
    final = fit(tmp_path, classifier(pl), infer=True).final
    assert final["infer_energy_j"] > 0  # type: ignore[operator]
    assert final["energy_j"] > final["infer_energy_j"]  # type: ignore[operator]


def test_a_step_that_calls_two_networks_has_no_forward_pass_to_repeat_and_says_what_to_do(tmp_path: Path) -> None:
    class Two(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(16, 3), nn.Linear(3, 16)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.decoder(self.encoder(batch[0])).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    run = fit(tmp_path, Two(), infer="auto")
    assert "define forward()" in run.header["missing"]["infer_latency_p50_s"]


def test_without_infer_its_columns_say_so_and_a_wrong_value_is_refused(tmp_path: Path) -> None:
    run = fit(tmp_path, classifier(pl))
    assert run.header["missing"]["infer_latency_p50_s"] == "not asked for: infer=False"
    with pytest.raises(ValueError, match="infer must be 'auto', True or False, got 'yes'"):
        CostMonitor(infer="yes")  # type: ignore[arg-type]


def test_runs_of_other_lengths_are_got_by_the_same_methods(tmp_path: Path, ticking: FakeClock) -> None:
    short = fit(tmp_path, classifier(pl), infer="auto", max_epochs=1)
    long = fit(tmp_path, classifier(pl), infer="auto", max_epochs=9)
    assert "passes" in short.header["inference"]["detail"]
    assert short.header["methods"] == long.header["methods"]


def test_a_model_that_cannot_run_in_eval_mode_ends_its_training_all_the_same(tmp_path: Path) -> None:
    class OnlyTrains(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                raise RuntimeError("no eval here")
            return self.layer(x)

    model = classifier(pl)
    model.net = OnlyTrains()
    run = fit(tmp_path, model, infer="auto")
    assert run.header["status"] == "finished"
    assert "RuntimeError" in run.header["missing"]["infer_samples_per_s"]


def test_flops_of_ever_new_lengths_are_an_estimate_that_holds_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_costs.probes.opcount import counter

    monkeypatch.setattr(counter, "MOST_CENSUSES", 6)
    lengths = itertools.count(4)

    class Stretching(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.layer(batch).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def train_dataloader(self) -> Any:
            return DataLoader([torch.randn(next(lengths), 1) for _ in range(20)], batch_size=None)

    monitor = CostMonitor(save_dir=tmp_path, infer=False)
    trainer(pl, monitor, max_epochs=1).fit(Stretching())
    assert monitor.run is not None
    counter = monitor.run.header["census"]
    assert (counter["batches"], counter["counted_steps"] + counter["batches_not_counted"]) == (20, 20)
    assert monitor.run.final["flop"] == pytest.approx(4 * sum(range(4, 24)))  # a product forward, one for the weight
    low, high = monitor.run.header["intervals"]["flop"]
    assert low <= 4 * sum(range(4, 24)) <= high


@pytest.mark.parametrize("count", ["off", "auto"])
def test_rates_are_there_whether_operators_are_counted_or_not(tmp_path: Path, count: Any) -> None:
    class Plain(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.layer(batch).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    monitor = CostMonitor(save_dir=tmp_path, infer=False, count=count)
    trainer(pl, monitor, max_epochs=1).fit(Plain(), DataLoader(torch.randn(320, 4), batch_size=8))
    assert monitor.run is not None
    assert monitor.run.final["samples_per_s"] is not None
    assert monitor.run.final["steady_samples"] >= 240  # type: ignore[operator]
    assert (monitor.run.final["flop"] is None) == (count == "off")
