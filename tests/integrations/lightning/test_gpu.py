"""On a CUDA device: energy by NVML, memory by torch's allocator, step times by events, and no synchronisation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_models import classifier, data, namespace, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_costs import CostMonitor
from lightning_costs.run.record import RunRecord

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]
pl = namespace("lightning.pytorch")

WIDTH, DEPTH, BATCH = 2048, 4, 4096


class Wide(pl.LightningModule):
    """Matrix products that keep a device busy for about ten milliseconds a step."""

    def __init__(self, compiled: bool = False) -> None:
        super().__init__()
        net = nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH)])
        self.net = torch.compile(net) if compiled else net

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)

    def train_dataloader(self) -> Any:
        return DataLoader([(torch.randn(BATCH, WIDTH),)] * 1000, batch_size=None)


#: Forward, weight gradients, and input gradients of all layers but the first.
FLOP_PER_SAMPLE = 2 * WIDTH * WIDTH * (2 * DEPTH + DEPTH - 1)


def fit(tmp_path: Path, model: Any, *callbacks: Any, steps: int = 40, **options: Any) -> RunRecord:
    monitor = CostMonitor(save_dir=tmp_path)
    options = {"accelerator": "gpu", "max_steps": steps, "max_epochs": -1, "log_every_n_steps": 20, **options}
    trainer(pl, monitor, *callbacks, **options).fit(model)
    assert monitor.run is not None
    return monitor.run


class Outside(pl.Callback):
    """A stopwatch and an energy meter of its own, synchronised at both ends."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.took_s = self.energy_j = 0.0

    def _read(self) -> tuple[float, float]:
        import pynvml

        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        torch.cuda.synchronize()
        return time.perf_counter(), pynvml.nvmlDeviceGetTotalEnergyConsumption(
            pynvml.nvmlDeviceGetHandleByUUID(uuid)
        ) / 1e3

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.first:
            self.began = self._read()
        if trainer.global_step == self.last:
            ended = self._read()
            self.took_s, self.energy_j = ended[0] - self.began[0], ended[1] - self.began[1]


def test_columns_of_a_cuda_run_are_filled_and_right(tmp_path: Path) -> None:
    run = fit(tmp_path, Wide())
    final = run.final
    weights = 4 * WIDTH * WIDTH * DEPTH
    assert final["param_bytes"] == final["grad_bytes"] == final["opt_state_bytes"] == weights
    assert final["flop"] == 40 * BATCH * FLOP_PER_SAMPLE
    assert final["peak_mem_bytes"] == torch.cuda.max_memory_allocated()
    assert final["reserved_bytes"] == torch.cuda.max_memory_reserved()
    assert final["peak_mem_bytes"] >= 3 * weights  # type: ignore[operator]
    assert final["gpu_energy_j"] is not None
    assert final["gpu_energy_j"] > 0
    assert run.header["methods"]["gpu_energy_j"].startswith(("counter", "power"))
    assert run.header["methods"]["step_p50_s"] == "device events, read late"
    assert "H200" in run.header["setup"]["hardware"]["device"] or run.header["setup"]["hardware"]["device"]


def test_energy_agrees_with_nvmls_own_counter(tmp_path: Path) -> None:
    class Energy(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            outside.on_train_batch_end(trainer)

    outside = Outside(0, 600)
    run = fit(tmp_path, Wide(), Energy(), outside, steps=600)
    assert outside.took_s > 3
    # Ours also holds the setup before the first step and the teardown after the last one.
    ratio = run.final["gpu_energy_j"] / outside.energy_j  # type: ignore[operator]
    print(f"gpu energy {run.final['gpu_energy_j']:.0f} J, NVML {outside.energy_j:.0f} J, ratio {ratio:.3f}")
    assert 0.98 < ratio < 1.15


def test_step_times_by_events_agree_with_a_synchronised_stopwatch(tmp_path: Path) -> None:
    outside = Outside(20, 220)
    run = fit(tmp_path, Wide(), outside, steps=240)
    step_s = outside.took_s / 200
    # The same steps by both: clocks of a warming device move within a run.
    windows = run.points.filter((run.points["steps"] > 20) & (run.points["steps"] <= 220))
    medians_s = windows["step_p50_s"].to_list()
    print(f"step {[round(1e3 * m, 2) for m in medians_s]} ms by events, {1e3 * step_s:.3f} ms by stopwatch")
    assert len(medians_s) == 10
    assert sum(medians_s) / 10 == pytest.approx(step_s, rel=0.05)
    assert sum(windows["samples_per_s"].to_list()) / 10 == pytest.approx(BATCH / step_s, rel=0.05)


def test_steps_that_emit_nothing_do_not_synchronise(tmp_path: Path) -> None:
    class Strict(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            torch.cuda.set_sync_debug_mode("error" if 10 <= trainer.global_step < 90 else "default")

    try:
        run = fit(tmp_path, Wide(), Strict(), steps=100, log_every_n_steps=25)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.final["steps"] == 100


def test_sam_on_cuda_holds_a_second_copy_inside_the_step(tmp_path: Path) -> None:
    model = classifier(pl, optimizer="sam")
    model.train_dataloader = data
    final = fit(tmp_path, model, steps=16).final
    assert final["opt_peak_bytes"] - final["opt_state_bytes"] == final["param_bytes"]  # type: ignore[operator]


def test_a_model_compiled_by_inductor_counts_as_the_eager_one(tmp_path: Path) -> None:
    eager, compiled = fit(tmp_path / "e", Wide(), steps=20), fit(tmp_path / "c", Wide(compiled=True), steps=20)
    assert compiled.final["flop"] == eager.final["flop"]
    assert compiled.header["setup"]["compiled"]
