from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from fakes import TickingClock
from torch import Tensor, nn

from lightning_costs import measure
from lightning_costs.model_cost.cost import ModelCost

ROOT = Path(__file__).parents[1]
#: A pass takes as long as it looks at the clock: what fits a budget, and which batch serves more, is known.
pytestmark = pytest.mark.usefixtures("ticking")


def mlp(device: str = "cpu") -> nn.Module:
    with torch.device(device):
        return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4))


PARAMS = 10 * 20 + 20 + 20 * 4 + 4
FORWARD_MAC = 10 * 20 + 20 * 4


def test_a_model_without_training_or_lightning_is_told_in_closed_form() -> None:
    cost = measure(mlp(), torch.randn(8, 10), times=False, optimizer=torch.optim.Adam)
    assert (cost.samples, cost.params, cost.trainable_params) == (8, PARAMS, PARAMS)
    assert (cost.forward_mac, cost.forward_flop) == (FORWARD_MAC, 2 * FORWARD_MAC)
    assert cost.flop == cost.model_flop == 8 * 2 * (2 * 10 * 20 + 3 * 20 * 4)
    assert cost.mac == cost.flop / 2
    assert cost.activation_elements == 20 + 4
    assert cost.param_bytes == cost.grad_bytes == 4 * PARAMS
    assert 8 * PARAMS <= cost.opt_state_bytes <= 8 * PARAMS + 64  # type: ignore[operator]
    assert cost.missing["infer_latency_p50_s"] == "times=False"
    assert cost["forward_mac"] == cost.forward_mac
    with pytest.raises(KeyError, match="'speed' is no cost of a model; there are params, "):
        cost["speed"]


def test_on_the_meta_device_all_but_times_is_told_and_equal() -> None:
    real = measure(mlp(), torch.randn(8, 10), times=False)
    meta = measure(mlp("meta"), torch.randn(8, 10))
    skipped = {"nonzero_params", "missing", "methods", "profile", "device"}
    assert real.profile is not None
    assert meta.profile is not None
    assert (real.profile.classes, real.profile.memory) == (meta.profile.classes, meta.profile.memory)
    assert (real.device, meta.device) == ("cpu", "meta")
    for name in real.as_dict().keys() - skipped:
        assert getattr(real, name) == getattr(meta, name), name
    assert "meta device" in meta.missing["infer_latency_p50_s"]
    assert "meta device" in meta.missing["nonzero_params"]


def test_times_and_throughput_over_batch_sizes() -> None:
    cost = measure(mlp(), torch.randn(8, 10), batch_sizes=(1, 64), budget_s=0.3)
    assert 0 < cost.infer_latency_p50_s <= cost.infer_latency_p95_s  # type: ignore[operator]
    assert cost.infer_samples_per_s > 0  # type: ignore[operator]
    assert set(cost.samples_per_s) == {1, 64}
    assert cost.samples_per_s[64] > 4 * cost.samples_per_s[1]  # type: ignore[operator]


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    model.eval()
    model[0].train()
    model[0].weight.grad = torch.ones(8, 10)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    rng = torch.get_rng_state()
    measure(model, torch.randn(6, 10).requires_grad_(), budget_s=0.2, optimizer=torch.optim.SGD)
    rng_after = torch.get_rng_state()
    torch.set_rng_state(rng)
    torch.randn(6, 10)
    assert torch.equal(torch.get_rng_state(), rng_after)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(model[0].weight.grad, torch.ones(8, 10))
    assert model[3].weight.grad is None


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(30, 16), nn.Linear(16, 30)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        x = self.embedding(input_ids)
        if attention_mask is not None:
            x = x * attention_mask[..., None]
        return {"logits": self.head(x)}


@pytest.mark.parametrize("times", [False, True])
def test_batches_as_loaders_give_them_are_understood(times: bool) -> None:
    ids, mask, labels = torch.zeros(3, 5, dtype=torch.long), torch.ones(3, 5), torch.zeros(3, dtype=torch.long)
    in_full = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    expected = 5 * 16 * 30
    for batch in (ids, (ids, labels), [ids], {"input_ids": ids}, in_full):
        cost = measure(Classifier(), batch, times=times, budget_s=0.1)
        assert (cost.samples, cost.forward_mac) == (3, expected)
        assert cost.embedding_params == 30 * 16


def test_a_loss_and_a_forward_of_ones_own() -> None:
    def loss(output: Any, batch: Any) -> Tensor:
        return F.cross_entropy(output["logits"].flatten(0, 1), batch["y"].flatten())

    def forward(model: nn.Module, batch: Any) -> Any:
        return model(batch["x"], None)

    batch = {"x": torch.zeros(3, 5, dtype=torch.long), "y": torch.zeros(3, 5, dtype=torch.long)}
    cost = measure(Classifier(), batch, loss=loss, forward=forward, budget_s=0.1)
    assert cost.mac == 3 * 3 * 5 * 16 * 30
    assert not {"infer_latency_p50_s", "infer_peak_mem_bytes"} & set(cost.missing)


def test_a_lightning_module_is_measured_by_its_own_training_step() -> None:
    from lightning_models import classifier, namespace

    module = classifier(namespace("lightning.pytorch"))
    module.forward = module.net.forward
    cost = measure(module, (torch.randn(8, 16), torch.zeros(8, dtype=torch.long)), budget_s=0.1)
    assert cost.flop == 8 * 2 * (2 * 16 * 32 + 3 * 32 * 4)
    assert "infer_latency_p50_s" not in cost.missing


def test_frozen_models_have_a_forward_pass_and_no_training_step() -> None:
    model = mlp().requires_grad_(False)
    cost = measure(model, torch.randn(8, 10), times=False)
    assert cost.forward_mac == FORWARD_MAC
    assert cost.flop is None
    assert "nothing takes gradients" in cost.missing["flop"]


def test_the_largest_batch_is_computed_from_what_a_sample_takes() -> None:
    model = mlp("meta")
    small, large = (
        measure(model, torch.randn(8, 10), largest_batch=True, memory_bytes=n).largest_batch_samples
        for n in (10_000, 1_000_000)
    )
    assert small is not None
    assert large is not None
    for fits, limit in ((small, 10_000), (large, 1_000_000)):
        assert max(measure(model, torch.randn(fits, 10)).memory_at_peak["total_bytes"], 0) <= limit
        assert measure(model, torch.randn(fits + 1, 10)).memory_at_peak["total_bytes"] > limit
    none = measure(model, torch.randn(8, 10), largest_batch=True, memory_bytes=1_000)
    assert none.missing["largest_batch_samples"] == "not even one sample fits"


@pytest.mark.integration
def test_peaks_can_be_measured_for_a_device_that_the_table_lacks(ticking: TickingClock) -> None:
    ticking.TICK_S = 0.004  # what a product takes, and a copy: some looks at the clock
    cost = measure(mlp(), torch.randn(8, 10), times=False, measured_peaks=True)
    assert cost.roofline is not None
    assert cost.roofline.bound == "memory"
    assert cost.roofline.ridge_flop_per_byte is not None


def test_an_optimizer_that_needs_more_than_gradients_is_missing_with_its_reason() -> None:
    cost = measure(mlp(), torch.randn(8, 10), times=False, optimizer=lambda p: torch.optim.LBFGS(list(p)))
    assert cost.opt_state_bytes is None
    assert "one update on the meta device failed" in cost.missing["opt_state_bytes"]


@pytest.mark.parametrize(
    ("batch", "message"),
    [("text", "batch holds no tensor"), (torch.tensor(3.0), "number of samples is unknown")],
)
def test_a_batch_that_cannot_be_used_is_refused_clearly(batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(mlp(), batch)


def test_costs_show_themselves_and_go_into_json() -> None:
    cost = measure(mlp(), torch.randn(8, 10), times=False)
    text, page = str(cost), cost._repr_html_()
    assert "params" in text
    assert "304 params" in text
    assert "missing  (times=False)" in text
    assert "<table>" in page
    assert json.loads(json.dumps(cost.as_dict()))["params"] == PARAMS
    assert isinstance(cost, ModelCost)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_measure_is_callable_in_any_import_order() -> None:
    programs = (
        "from lightning_costs import measure",
        "import lightning_costs.model_cost; from lightning_costs import measure",
        "import lightning_costs.probes; import lightning_costs; measure = lightning_costs.measure",
    )
    check = "print(measure(torch.nn.Linear(3, 2), torch.zeros(1, 3), times=False).params, flush=True)"
    forks = (
        "import os, sys, torch\n"
        "for text in sys.argv[1:]:\n"
        "    if not os.fork():\n"
        "        exec(text)\n"
        "        os._exit(0)\n"
        "    assert os.wait()[1] == 0\n"
    )
    texts = [f"{program}; {check}" for program in programs]
    done = subprocess.run([sys.executable, "-c", forks, *texts], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["8.0"] * 3


def test_a_row_of_the_papers_table_is_exact_with_explicit_and_fused_attention() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from vit import ViT
    finally:
        sys.path.pop(0)
    for fused in (False, True):
        with torch.device("meta"):
            model = ViT(image=224, patch=32, hidden=192, layers=12, heads=3, ffn=768, num_classes=18291, fused=fused)
            cost = measure(model, torch.empty(2, 3, 224, 224))
        assert (cost.params, cost.forward_mac) == (9468723, 309354048)
        assert cost.uncounted == {}
