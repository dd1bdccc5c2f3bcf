"""DeepSpeed on one CUDA device: columns are filled, and no synchronisation is ours.

DeepSpeed synchronises for itself, so that torch's debug mode cannot be "error": its warnings are counted, with us and
without us. torch's own AdamW is the optimizer, so that nothing is compiled.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_models import namespace, trainer
from processes import free_port
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_costs import CostMonitor, Recorder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed"),
    pytest.mark.filterwarnings("ignore"),
]
WIDTH, DEPTH, BATCH, STEPS = 1024, 4, 512, 40
PARAMS = DEPTH * (WIDTH * WIDTH + WIDTH)
FLOP = STEPS * (3 * DEPTH - 1) * 2 * BATCH * WIDTH * WIDTH
#: Steps in which synchronisations are counted: warm-up is over, and a point is made among them.
COUNTED = range(10, 30)
#: Bytes a parameter on the only rank, in fp32 and in bf16, at stage 2.
HELD = {
    "32-true": {"param_bytes": 4, "master_bytes": 4, "grad_bytes": 4, "opt_state_bytes": 8, "opt_peak_bytes": 8},
    "bf16-true": {"param_bytes": 2, "master_bytes": 4, "grad_bytes": 4, "opt_state_bytes": 8, "opt_peak_bytes": 8},
}


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """A job of one process, over when the tests are: DeepSpeed keeps the groups that it was begun with."""
    job = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**job, "MASTER_PORT": str(free_port())}.items():
            patch.setenv(name, value)
        yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def cleared() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")
    gc.collect()
    torch.cuda.empty_cache()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)])


@contextmanager
def synchronisations() -> Iterator[list[str]]:
    """Where the host waits for the device, once for every time."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]


def lightning(tmp_path: Path, precision: str, *, measured: bool) -> tuple[Any, list[str]]:
    pl = namespace("lightning.pytorch")

    class Module(pl.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return self.net(batch[0].to(self.dtype)).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-4)

        def train_dataloader(self) -> Any:
            return DataLoader(TensorDataset(torch.randn(BATCH * STEPS, WIDTH)), BATCH)  # DeepSpeed asks for its size

    class Count(pl.Callback):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            self.counting: Any = None
            self.found: list[str] = []

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if index == COUNTED[0]:
                self.counting = synchronisations()
                self.found = self.counting.__enter__()
            elif index == COUNTED[-1]:
                self.counting.__exit__(None, None, None)

    count = Count()
    monitors = [CostMonitor(save_dir=tmp_path, infer=False)] if measured else []
    made = pl.strategies.DeepSpeedStrategy(stage=2, allgather_bucket_size=1_000_000, reduce_bucket_size=1_000_000)
    options = {"accelerator": "gpu", "max_epochs": 1, "log_every_n_steps": 20, "precision": precision}
    trainer(pl, *monitors, count, devices=1, strategy=made, **options).fit(Module())
    return (monitors[0].run if measured else None), count.found


@pytest.mark.parametrize("precision", HELD)
def test_lightnings_strategy_at_stage_2_fills_its_columns_and_waits_no_more_than_without_us(
    tmp_path: Path, precision: str
) -> None:
    _, theirs = lightning(tmp_path, precision, measured=False)
    run, found = lightning(tmp_path, precision, measured=True)
    assert len(found) <= len(theirs), sorted(set(found) - set(theirs))
    for column, expected in HELD[precision].items():
        assert run.final[column] / PARAMS == pytest.approx(expected, rel=0.01), column
    assert (run.final["steps"], run.final["optimizer_steps"], run.final["samples"]) == (STEPS, STEPS, STEPS * BATCH)
    assert (run.final["params"], run.final["flop"]) == (PARAMS, FLOP)
    for column in ("peak_mem_bytes", "gpu_energy_j", "activation_bytes", "peak_backward_bytes", "step_p50_s"):
        assert run.final[column] is not None, column
        assert run.final[column] > 0, column
    assert 0 <= run.final["idle_fraction"] < 1
    held = sum(run.final[column] for column in ("param_bytes", "master_bytes", "opt_state_bytes"))
    assert run.final["peak_mem_bytes"] > held
    assert run.header["setup"]["zero_stage"] == 2


def plain(tmp_path: Path, *, measured: bool) -> tuple[dict[str, Any], list[str]]:
    import deepspeed

    from lightning_costs.integrations.deepspeed import watch

    net = network()
    config = {
        "train_micro_batch_size_per_gpu": BATCH,
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 1_000_000, "allgather_bucket_size": 1_000_000},
    }
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=config)
    batch = torch.randn(BATCH, WIDTH, device="cuda")

    def step() -> None:
        engine.backward(engine(batch).square().mean())
        engine.step()

    recorder = Recorder(module=engine.module, save_dir=tmp_path, log_every_n_steps=20)
    with recorder if measured else nullcontext(), watch(engine, recorder) if measured else nullcontext():
        for _ in range(COUNTED[0]):
            step()
        with synchronisations() as found:
            for _ in COUNTED:
                step()
        for _ in range(COUNTED[-1] + 1, STEPS):
            step()
    final = recorder.final if measured else {}
    engine.destroy()
    return final, found


def test_a_plain_loop_at_stage_2_fills_its_columns_and_waits_no_more_than_without_us(tmp_path: Path) -> None:
    _, theirs = plain(tmp_path, measured=False)
    final, found = plain(tmp_path, measured=True)
    assert len(found) <= len(theirs), sorted(set(found) - set(theirs))
    for column, expected in HELD["32-true"].items():
        assert final[column] / PARAMS == pytest.approx(expected, rel=0.01), column
    assert (final["steps"], final["samples"], final["flop"]) == (STEPS, STEPS * BATCH, FLOP)
    assert final["peak_mem_bytes"] > 0
    assert 0 <= final["idle_fraction"] < 1
