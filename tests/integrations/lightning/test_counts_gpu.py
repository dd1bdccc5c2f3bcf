"""Counts on a CUDA device: memory by kind and phase against torch's allocator, a bf16 ViT-B/16, Triton kernels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from lightning_models import namespace, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_costs import CostMonitor, measure
from lightning_costs.run.record import RunRecord

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from vit import ViT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]
pl = namespace("lightning.pytorch")
WIDTH, BATCH = 1024, 2048


def deep() -> nn.Module:
    return nn.Sequential(*[nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(4)])


class Deep(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = deep()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3, foreach=False, fused=False)

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(5)
        return DataLoader([(torch.randn(BATCH, WIDTH, generator=generator),)] * 20, batch_size=None)


def fit(tmp_path: Path, model: Any, **options: Any) -> RunRecord:
    monitor = CostMonitor(save_dir=tmp_path, infer=options.pop("infer", False))
    options = {"accelerator": "gpu", "max_steps": 6, "max_epochs": -1, "log_every_n_steps": 2, **options}
    trainer(pl, monitor, **options).fit(model)
    assert monitor.run is not None
    return monitor.run


def by_hand() -> dict[str, int]:
    """Peaks of a third step's phases, by torch's own counters, reset in between."""
    torch.manual_seed(0)
    net = deep().cuda()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, foreach=False, fused=False)
    x = torch.randn(BATCH, WIDTH, device="cuda")
    peaks: dict[str, int] = {}
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        loss = net(x).square().mean()
        optimizer.zero_grad()  # where Lightning's closure has it: the last gradients live through the forward pass
        peaks["forward"] = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loss.backward()
        peaks["backward"] = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        optimizer.step()
        peaks["optimizer"] = torch.cuda.max_memory_allocated()
    return peaks


def emptied() -> int:
    import gc

    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


def test_peaks_of_phases_are_those_of_torchs_counters(tmp_path: Path) -> None:
    by_hand()  # from now on cuBLAS has its work space
    before = emptied()
    expected = {phase: peak - before for phase, peak in by_hand().items()}
    before = emptied()
    run = fit(tmp_path, Deep())
    found = {phase: run.final[f"peak_{phase}_bytes"] - before for phase in expected}  # type: ignore[operator]
    print("by hand", expected, "census", found)
    for phase, peak in expected.items():
        assert abs(found[phase] - peak) <= 64 * 1024, phase  # some numbers of Lightning's own


def test_kinds_and_other_add_up_to_what_the_allocator_gave_out(tmp_path: Path) -> None:
    run = fit(tmp_path, Deep())
    at_peak = dict(run.header["memory_at_peak"])
    phase, total = at_peak.pop("phase"), at_peak.pop("total_bytes")
    print(phase, total, at_peak)
    assert sum(at_peak.values()) == total == run.final[f"peak_{phase}_bytes"]
    weights = 4 * 4 * (WIDTH * WIDTH + WIDTH)
    assert at_peak["param_bytes"] == weights
    assert 2 * weights <= at_peak["opt_state_bytes"] <= 2 * weights + 64
    assert total <= torch.cuda.max_memory_allocated()


def test_the_users_own_peak_counter_is_left_alone(tmp_path: Path) -> None:
    emptied()
    torch.cuda.reset_peak_memory_stats()
    big = torch.empty(3 * 2**30, dtype=torch.uint8, device="cuda")
    del big
    peak = torch.cuda.max_memory_allocated()
    fit(tmp_path, Deep(), infer=True)
    assert torch.cuda.max_memory_allocated() == peak


def test_a_bf16_step_of_vit_b_16_counts_as_the_paper_does_and_has_its_utilization(tmp_path: Path) -> None:
    class Images(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.vit = ViT(image=224, patch=16, hidden=768, layers=12, heads=12, ffn=3072, num_classes=1000)

        def forward(self, images: Tensor) -> Tensor:
            return self.vit(images)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-4, fused=True)

        def train_dataloader(self) -> Any:
            return DataLoader([(torch.randn(64, 3, 224, 224), torch.randint(1000, (64,)))] * 60, batch_size=None)

    run = fit(tmp_path, Images(), precision="bf16-mixed", max_steps=60, log_every_n_steps=10, infer=True)
    final, header = run.final, run.header
    print({name: final[name] for name in sorted(final)})
    print(header["memory_at_peak"], header["roofline"])
    assert final["params"] == 86567656
    assert final["forward_mac"] == 17563828224
    # Backward is twice forward, but for the images' own gradient.
    patches = 2 * 196 * 768 * 3 * 16 * 16
    assert final["model_flop"] == 60 * 64 * (3 * 2 * 17563828224 - patches)
    assert final["flop"] > final["model_flop"]  # type: ignore[operator]
    if "H100" in torch.cuda.get_device_name() or "H200" in torch.cuda.get_device_name():
        assert 0.02 < final["mfu_fraction"] <= final["hfu_fraction"] < 1  # type: ignore[operator]
        assert header["roofline"]["bound"] in ("memory", "compute")
    assert final["infer_latency_p50_s"] < 0.1  # type: ignore[operator]
    assert final["infer_energy_j"] > 0  # type: ignore[operator]


def test_a_triton_kernel_is_executed_in_the_counted_step(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    from gpu_kernels import doubled

    class Doubling(Deep):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            out = doubled(self.net(batch[0]))
            self.seen = out.detach()
            return out.square().mean()

    first, second = Doubling(), Doubling()
    second.load_state_dict(first.state_dict())
    trainer(pl, accelerator="gpu", max_steps=3, max_epochs=-1).fit(first)
    run = fit(tmp_path, second, max_steps=3)
    a, b = first.state_dict(), second.state_dict()
    assert run.final["flop"] is not None
    assert "no formula for triton._double" in run.header["methods"]["flop"]
    assert run.header["census"]["uncounted_calls"] == {"triton._double": 6}
    assert all(torch.equal(a[name].cpu(), b[name].cpu()) for name in a)


def test_measure_finds_a_batch_that_fits_and_one_more_step_does_not() -> None:
    model, x = deep().cuda(), torch.randn(256, WIDTH, device="cuda")
    cost = measure(model, x, largest_batch=True, budget_s=1.0, batch_sizes=(1, 512))
    print(cost)
    assert cost.largest_batch_samples is not None
    assert cost.largest_batch_samples > 10_000
    assert set(cost.samples_per_s) == {1, 512}
    assert cost.roofline is not None
