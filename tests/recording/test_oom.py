"""Memory that runs out: the error is the user's as it was, and the run folder says where and what was held."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_models import classifier, data, namespace, trainer
from processes import start
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_costs import CostMonitor, Recorder, load_run
from lightning_costs.probes.memory.oom import out_of_memory_error, recording_history, where_it_ran_out
from lightning_costs.recording.run_hooks import OOM_SNAPSHOT
from lightning_costs.run.summary import describe_run

#: More than any machine has.
HUGE = 2**46
PARAMS = 4 * (16 * 32 + 32 + 32 * 4 + 4)


def run_out() -> torch.Tensor:
    return torch.empty(HUGE, dtype=torch.uint8)


class InBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        run_out()
        return grads[0]


class InUpdate(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        if closure is not None:
            closure()
        run_out()


def recomputed(x: torch.Tensor) -> torch.Tensor:
    if torch.is_grad_enabled() and recomputed.again:  # type: ignore[attr-defined]
        run_out()
    recomputed.again = True  # type: ignore[attr-defined]
    return x.exp()


class InForward(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return run_out()


def failing(where: str) -> Callable[[nn.Module, torch.optim.Optimizer], None]:
    def work(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        out = net(torch.zeros(8, 16))
        if where == "forward":
            InForward()(out)
        if where == "recomputation":
            recomputed.again = False  # type: ignore[attr-defined]
            out = checkpoint(recomputed, out, use_reentrant=False)
        (InBackward.apply(out) if where == "backward" else out).sum().backward()
        optimizer.step()

    return work


@pytest.mark.parametrize("where", ["forward", "backward", "recomputation", "optimizer"])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_plain_loop_raises_its_error_and_leaves_what_was_held(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str, steps: int
) -> None:
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    good = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    bad = InUpdate(net.parameters(), lr=0.1) if where == "optimizer" else good
    recorder = Recorder(module=net, optimizers=[good], save_dir=tmp_path)
    batch = torch.zeros(8, 16)

    def train() -> None:
        with recorder:
            for step in range(steps + 1):
                with recorder.train_batch(batch):
                    failing(where if step == steps else "nowhere")(net, bad if step == steps else good)
                recorder.step(batch)

    with pytest.raises(RuntimeError, match="DefaultCPUAllocator") as raised:
        train()
    assert raised.value.__cause__ is None
    assert "count='off'" not in caplog.text  # counting is not the cause
    (folder,) = tmp_path.iterdir()
    run = load_run(folder)
    oom = run.header["oom"]
    assert run.header["status"] == "failed"
    assert oom["phase"] == {"recomputation": "backward"}.get(where, where)
    assert (oom["in"], oom["step"], oom["asked_bytes"]) == ("", steps, HUGE)
    assert oom["held_bytes"]["param_bytes"] == PARAMS
    assert oom["held_bytes"]["opt_state_bytes"] == (PARAMS if steps else 0)
    assert run.header["setup"]["batch_shapes"] == [[8, 16]]
    said = next(line for line in describe_run(run.header, run.final) if line.startswith("out of memory"))
    assert f"in {oom['phase']} after {steps} steps: 64.0 TiB were asked for; held: parameters 2.64 KiB" in said


@pytest.mark.parametrize("where", ["training_step", "validation_step", "backward"])
def test_a_trainer_raises_its_error_and_leaves_what_was_held(tmp_path: Path, where: str) -> None:
    pl = namespace("lightning.pytorch")

    class Fails(type(classifier(pl))):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(batch, batch_idx)
            if self.global_step == 2 and where == "training_step":
                run_out()
            return InBackward.apply(loss) if self.global_step == 2 and where == "backward" else loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if where == "validation_step" and not self.trainer.sanity_checking:
                run_out()

    fit = trainer(pl, CostMonitor(save_dir=tmp_path), max_epochs=1, num_sanity_val_steps=0)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator: can't allocate memory"):
        fit.fit(Fails(), data(), data())
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    oom = json.loads((folder / "header.json").read_text())["oom"]
    step, phase = {"backward": ("", "backward")}.get(where, (where, "forward"))
    assert (oom["in"], oom["phase"]) == (step, phase)
    assert oom["step"] == (8 if where == "validation_step" else 2)
    assert oom["held_bytes"]["param_bytes"] == PARAMS
    assert oom["held_bytes"]["activation_bytes"] > 0
    assert set(oom["peak_bytes"]) == {"forward", "backward", "optimizer"}


def test_which_errors_say_that_memory_ran_out() -> None:
    cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")
    wrapped = ValueError("the trainer gave up")
    wrapped.__cause__ = cuda
    assert out_of_memory_error(wrapped) is cuda
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 5 bytes."),
    ):
        assert out_of_memory_error(error) is error
    for other in (None, RuntimeError("CUDA error: device-side assert triggered"), KeyboardInterrupt()):
        assert out_of_memory_error(other) is None
    circle = ValueError()
    circle.__context__ = circle
    assert out_of_memory_error(circle) is None
    assert where_it_ran_out(None) == ("", "")


def test_a_model_of_many_tensors_is_not_walked_while_an_error_waits(tmp_path: Path) -> None:
    net = nn.ModuleList(nn.Linear(2, 2) for _ in range(300))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for steps in (0, 2):
        recorder = Recorder(module=net, optimizers=[optimizer], save_dir=tmp_path / str(steps))
        recorder.begin()
        for _ in range(steps):
            with recorder.train_batch(batch := torch.zeros(8, 2)):
                sum(layer(batch).sum() for layer in net).backward()  # type: ignore[union-attr]
                optimizer.step()
            recorder.step(batch)
            recorder.hooks.points.read()
        with pytest.raises(MemoryError), recorder:
            raise MemoryError
        held = recorder.header["oom"]["held_bytes"]
        assert held["param_bytes"] == 300 * 4 * 6
        assert held.get("opt_state_bytes") == (300 * 4 * 6 if steps else None)


def test_another_error_leaves_no_word_of_memory_and_no_run_without_a_batch(tmp_path: Path) -> None:
    recorder = Recorder(save_dir=tmp_path)
    with pytest.raises(ZeroDivisionError), recorder:
        raise ZeroDivisionError
    assert "oom" not in recorder.header
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_ours_does_not_take_the_place_of_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr("lightning_costs.recording.run_hooks.out_of_memory_facts", fails)
    recorder = Recorder(save_dir=tmp_path)
    recorder.begin()
    recorder.step(torch.zeros(4, 2))
    with pytest.raises(MemoryError), recorder:
        raise MemoryError
    assert "measuring costs failed in note_error" in caplog.text
    assert recorder.header["status"] == "failed"


_RANKS = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor

pl = namespace("lightning.pytorch")


class Fails(type(classifier(pl))):
    def training_step(self, batch, batch_idx):
        if os.environ["RANK"] == "1" and self.global_step == 6:
            torch.empty(2**46)
        return super().training_step(batch, batch_idx)


trainer(pl, CostMonitor(save_dir=sys.argv[2] + "/costs"), devices=2, strategy="ddp").fit(Fails(), data())
"""


@pytest.mark.slow
@pytest.mark.integration
def test_memory_that_runs_out_on_another_rank_is_in_the_run(tmp_path: Path) -> None:
    for process in start(_RANKS, tmp_path):
        assert process.ended().code == 1
    (folder,) = (path for path in (tmp_path / "costs").iterdir() if path.is_dir())
    oom = load_run(folder).header["oom"]
    assert (oom["rank"], oom["in"], oom["phase"], oom["step"]) == (1, "training_step", "forward", 6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("snapshot", [False, True])
def test_a_gpus_memory_is_described_and_its_snapshot_kept_if_asked_for(tmp_path: Path, snapshot: bool) -> None:
    net = nn.Linear(1024, 1024).cuda()
    recorder = Recorder(
        module=net, optimizers=[torch.optim.AdamW(net.parameters())], save_dir=tmp_path, oom_snapshot=snapshot
    )
    batch = torch.zeros(8, 1024, device="cuda")

    def train() -> None:
        with recorder:
            for step in range(3):
                with recorder.train_batch(batch):
                    net(batch).sum().backward()
                    if step == 2:
                        torch.empty(HUGE, dtype=torch.uint8, device="cuda")
                recorder.step(batch)

    with pytest.raises(torch.OutOfMemoryError):
        train()
    (folder,) = tmp_path.iterdir()
    oom = load_run(folder).header["oom"]
    assert (oom["phase"], oom["step"]) == ("", 2)
    assert 0 < oom["allocated_bytes"] <= oom["reserved_bytes"] < oom["capacity_bytes"]
    assert oom["held_bytes"]["param_bytes"] == 4 * (1024 * 1024 + 1024)
    assert (folder / OOM_SNAPSHOT).exists() == snapshot
    if snapshot:
        assert pickle.loads((folder / OOM_SNAPSHOT).read_bytes())["device_traces"]
    assert not recording_history()
