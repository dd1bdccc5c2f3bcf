"""What a training is given by its user: odd names and batches are measured, and what errors say stays with the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import HIDDEN, PAYLOADS
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_costs import CostMonitor, Measured, default_indicators, load_run
from lightning_costs.records.samples import StepSample
from lightning_costs.run.record import RunRecord

SECRET = "https://anna:password@db/ token=sk-123 /home/anna/data"


class Small(LightningModule):
    """One linear layer, whatever it is given: a tensor, or a nested one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            raise RuntimeError(SECRET)
        parts = x.unbind() if x.is_nested else [x]
        return torch.stack([self.net(part).mean() for part in parts]).sum()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Leaks(Measured):
    """A cost, the reading of which fails with words that nobody else should read."""

    name, unit, kind, family = "leak_calls", "calls", "counter", "data"

    def read(self, sample: StepSample) -> float:
        """Raise."""
        raise ConnectionError(SECRET)


def fit(folder: Path, loader: DataLoader[Any], **options: Any) -> RunRecord:
    monitor = CostMonitor(save_dir=folder, **options)
    trainer = Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[monitor],
        accelerator="cpu",
        log_every_n_steps=1,
    )
    trainer.fit(Small(), loader)
    (path,) = folder.iterdir()
    return load_run(path)


def batches() -> DataLoader[Any]:
    return DataLoader([torch.zeros(3) for _ in range(8)], batch_size=2)  # type: ignore[arg-type]


def test_what_a_users_errors_say_is_in_the_log_and_in_no_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(_: object) -> int:
        raise ValueError(SECRET)

    run = fit(
        tmp_path / "costs",
        batches(),
        batch_size_fn=fails,
        length_fn=fails,
        indicators=[*default_indicators(), Leaks()],
        infer=True,
    )
    missing = run.header["missing"]
    for name, kind in (
        ("batch_size_fn", "ValueError"),
        ("length_fn", "ValueError"),
        ("leak_calls", "ConnectionError"),
        ("infer_latency_p50_s", "RuntimeError"),
    ):
        assert kind in missing[name], name
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        assert b"password" not in path.read_bytes(), path.name
        assert b"anna" not in path.read_bytes(), path.name
    said = [message for message in caplog.messages if SECRET in message]
    assert len(said) == 4
    assert "password" not in capfd.readouterr().out


@pytest.mark.parametrize("name", [5, *PAYLOADS.values()], ids=["number", *PAYLOADS])
def test_a_run_of_any_name_is_measured_and_its_summary_shows_the_name(
    tmp_path: Path, name: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    run = fit(tmp_path / "costs", batches(), name=name, infer=False)
    assert run.header["status"] == "finished"
    assert run.final["batches"] == 4
    said = capfd.readouterr()
    assert not HIDDEN & set((said.out + said.err).replace("\n", ""))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_batches_that_are_strided_nested_tensors_are_measured(tmp_path: Path) -> None:
    parts = [torch.zeros(2 + at % 3, 3) for at in range(8)]
    loader = DataLoader(parts, batch_size=2, collate_fn=lambda some: torch.nested.nested_tensor(list(some)))  # type: ignore[arg-type]
    run = fit(tmp_path / "costs", loader, infer=False)
    assert run.header["status"] == "finished"
    assert (run.final["batches"], run.final["samples"]) == (4, 8)
