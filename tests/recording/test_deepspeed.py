"""`watch`: an engine's own calls become a recorder's batches. The engine here is a stand-in; real ones: tests/ranks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import FakeClock
from torch import Tensor, nn

from lightning_costs import Recorder
from lightning_costs.indicators import phases
from lightning_costs.integrations.deepspeed import watch
from lightning_costs.integrations.deepspeed.engine import rank_info_from_engine
from lightning_costs.records.samples import RankInfo


class FakeEngine(nn.Module):
    """Calls as DeepSpeed's engine has them: it updates at every `accumulate`th step."""

    pipeline_parallelism = False
    global_rank = 0

    def __init__(self, accumulate: int = 1) -> None:
        super().__init__()
        self.module = nn.Linear(4, 2)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.1)
        self.accumulate, self.micro_steps = accumulate, 0
        self.fails: str | None = None
        self.saved: list[str] = []

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.fails == "forward":
            raise RuntimeError("forward")
        return self.module(args[0] if args else kwargs["input_ids"].float())

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def is_gradient_accumulation_boundary(self) -> bool:
        return (self.micro_steps + 1) % self.accumulate == 0

    def step(self) -> None:
        if self.fails == "step":
            raise RuntimeError("step")
        if self.is_gradient_accumulation_boundary():
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.micro_steps += 1

    def save_checkpoint(self, folder: str) -> None:
        self.saved.append(folder)

    def load_checkpoint(self, folder: str) -> str:
        return folder

    def zero_optimization_stage(self) -> int:
        return 2

    def zero_offload_optimizer(self) -> Any:
        return SimpleNamespace(device=SimpleNamespace(value="cpu"))

    def zero_offload_param(self) -> None:
        return None

    def bfloat16_enabled(self) -> bool:
        return True

    def fp16_enabled(self) -> bool:
        return False

    def train_micro_batch_size_per_gpu(self) -> int:
        return 8

    def gradient_accumulation_steps(self) -> int:
        return self.accumulate

    def gradient_clipping(self) -> float:
        return 0.0


def recorder_of(engine: FakeEngine, folder: Path, **options: Any) -> Recorder:
    return Recorder(module=engine.module, save_dir=folder, log_every_n_steps=0, **options)


def train(engine: FakeEngine, batch: Tensor) -> None:
    engine.backward(engine(batch).sum())
    engine.step()


def test_steps_are_those_in_which_the_optimizer_updated(tmp_path: Path) -> None:
    engine = FakeEngine(accumulate=3)
    with recorder_of(engine, tmp_path) as recorder, watch(engine, recorder):
        for _ in range(7):
            train(engine, torch.ones(8, 4))
    final = recorder.final
    assert (final["batches"], final["steps"], final["optimizer_steps"], final["samples"]) == (7, 2, 2, 56)
    assert final["flop"] == 7 * 2 * (2 * 8 * 4 * 2)  # no gradient of the input is asked for


def test_batches_that_accumulate_without_a_step_between_them_are_batches(tmp_path: Path) -> None:
    engine = FakeEngine()
    with recorder_of(engine, tmp_path) as recorder, watch(engine, recorder):
        for _ in range(2):
            for _ in range(3):
                engine.backward(engine(torch.ones(8, 4)).sum())
            engine.step()
    final = recorder.final
    assert (final["batches"], final["steps"], final["samples"]) == (6, 2, 48)


def test_two_passes_over_one_batch_are_one_batch_with_the_work_of_both(tmp_path: Path) -> None:
    engine = FakeEngine()
    with recorder_of(engine, tmp_path) as recorder, watch(engine, recorder):
        for _ in range(4):
            batch = torch.ones(8, 4)
            engine.backward(engine(batch).sum())
            train(engine, batch)
    final = recorder.final
    assert (final["batches"], final["steps"], final["samples"]) == (4, 4, 32)
    assert final["flop"] == 4 * 2 * 2 * (2 * 8 * 4 * 2)


@pytest.mark.parametrize("how", ["eval", "no_grad"])
def test_an_evaluation_is_no_batch_and_its_operators_are_counted_apart(tmp_path: Path, how: str) -> None:
    engine = FakeEngine()
    with recorder_of(engine, tmp_path) as recorder, watch(engine, recorder):
        train(engine, torch.ones(8, 4))
        engine.train(how != "eval")
        with torch.set_grad_enabled(how == "eval"), recorder.bucket("evaluate"):
            engine(torch.ones(16, 4))
        engine.train()
        train(engine, torch.ones(8, 4))
    assert (recorder.final["batches"], recorder.final["samples"]) == (2, 16)
    assert recorder.final["evaluate_flop"] == 2 * 16 * 4 * 2


def test_fine_tuning_in_eval_mode_is_training(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.eval()
    with recorder_of(engine, tmp_path) as recorder, watch(engine, recorder):
        for _ in range(3):
            train(engine, torch.ones(8, 4))
    assert (recorder.final["batches"], recorder.final["steps"], recorder.final["samples"]) == (3, 3, 24)


def test_tokens_are_those_of_input_ids_given_by_name(tmp_path: Path) -> None:
    engine = FakeEngine()
    with recorder_of(engine, tmp_path) as recorder, watch(engine, recorder):
        for _ in range(2):
            loss = engine(input_ids=torch.ones(8, 4, dtype=torch.int64), labels=torch.ones(8)).sum()
            engine.backward(loss)
            engine.step()
    assert (recorder.final["samples"], recorder.final["tokens"]) == (16, 64)


@pytest.mark.parametrize("where", ["forward", "step"])
def test_what_raises_is_no_batch_and_the_next_one_is(tmp_path: Path, where: str) -> None:
    engine = FakeEngine()
    with recorder_of(engine, tmp_path) as recorder, watch(engine, recorder):
        engine.fails = where
        with pytest.raises(RuntimeError, match=where):
            train(engine, torch.ones(8, 4))
        engine.fails = None
        train(engine, torch.ones(8, 4))
    assert (recorder.final["batches"], recorder.final["samples"]) == (1, 8)


def test_a_checkpoint_is_booked_as_one(tmp_path: Path) -> None:
    engine = FakeEngine()
    with recorder_of(engine, tmp_path) as recorder, watch(engine, recorder):
        train(engine, torch.ones(8, 4))
        engine.save_checkpoint("here")
    assert engine.saved == ["here"]
    checkpoint_s = recorder.final["checkpoint_s"]
    assert checkpoint_s is not None
    assert checkpoint_s > 0


def test_loading_a_checkpoint_is_booked_as_restoring(tmp_path: Path) -> None:
    engine = FakeEngine()
    with recorder_of(engine, tmp_path) as recorder, watch(engine, recorder):
        assert engine.load_checkpoint("here") == "here"
        train(engine, torch.ones(8, 4))
    restore_s, setup_s = recorder.final["restore_s"], recorder.final["setup_s"]
    assert restore_s is not None
    assert setup_s is not None
    assert 0 < restore_s <= setup_s
    assert "load_checkpoint" not in vars(engine)


def test_the_engine_is_as_it_was_after_close(tmp_path: Path) -> None:
    engine = FakeEngine()
    before = set(vars(engine))
    with recorder_of(engine, tmp_path) as recorder:
        watching = watch(engine, recorder)
        train(engine, torch.ones(8, 4))
        watching.close()
        assert set(vars(engine)) == before
        assert not engine.optimizer._optimizer_step_post_hooks
        train(engine, torch.ones(8, 4))  # nobody looks any more
    assert recorder.final["batches"] == 1


def test_the_setup_says_what_the_engine_is(tmp_path: Path) -> None:
    engine = FakeEngine(accumulate=2)
    with recorder_of(engine, tmp_path) as recorder, watch(engine, recorder):
        train(engine, torch.ones(8, 4))
    setup = recorder.header["setup"]
    expected = {"strategy": "FakeEngine", "zero_stage": 2, "offload_optimizer": "cpu", "offload_param": None}
    expected |= {"precision": "bf16", "batch_size": 8, "accumulate_grad_batches": 2, "gradient_clip_val": None}
    assert {name: setup[name] for name in expected} == expected


def test_a_fault_of_ours_leaves_the_training_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()

    def fails() -> bool:
        raise ZeroDivisionError

    engine.is_gradient_accumulation_boundary = fails  # type: ignore[method-assign]
    step = engine.optimizer.step
    engine.step = lambda: step()  # type: ignore[method-assign,assignment]
    with recorder_of(engine, tmp_path) as recorder, watch(engine, recorder):
        for _ in range(2):
            train(engine, torch.ones(8, 4))
    assert "measuring costs failed and stops here" in caplog.text


def test_a_pipeline_engine_is_refused_in_words(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.pipeline_parallelism = True
    with pytest.raises(ValueError, match="train_batch"):
        watch(engine, recorder_of(engine, tmp_path))


def test_what_is_no_engine_is_refused_in_words(tmp_path: Path) -> None:
    engine = FakeEngine()
    with pytest.raises(ValueError, match=r"deepspeed\.initialize returned, got Linear"):
        watch(engine.module, recorder_of(engine, tmp_path))


def topology(**ranks: int) -> SimpleNamespace:
    return SimpleNamespace(**{name: lambda rank=rank: rank for name, rank in ranks.items()})


def test_places_follow_the_engines_topology(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    alone = SimpleNamespace(global_rank=5)
    assert rank_info_from_engine(alone) == RankInfo(rank=5, node=1, replica=5)
    unit = topology(get_data_parallel_rank=1, get_tensor_model_parallel_rank=1, get_pipeline_model_parallel_rank=2)
    assert rank_info_from_engine(SimpleNamespace(global_rank=6, mpu=unit)) == RankInfo(
        rank=6, node=1, replica=1, stage=2, shard=1
    )
    grid = topology(get_data_parallel_rank=1, get_stage_id=3, get_slice_parallel_rank=0)
    assert rank_info_from_engine(SimpleNamespace(global_rank=7, grid=grid, mpu=unit)) == RankInfo(
        rank=7, node=1, replica=1, stage=3
    )
    sequences = topology(get_data_parallel_rank=0, get_sequence_parallel_rank=1)
    engine = SimpleNamespace(global_rank=1, mpu=sequences, sequence_parallel_size=2)
    assert rank_info_from_engine(engine) == RankInfo(rank=1, node=0, replica=0, shard=1)


def test_nodes_and_devices_are_by_default_those_of_the_processes(tmp_path: Path) -> None:
    places = [RankInfo(rank=rank, node=rank // 2, replica=rank) for rank in range(4)]
    on_cpu = Recorder(save_dir=tmp_path, device="cpu", place=places[0], places=places).hooks.run.context
    assert (on_cpu.devices, on_cpu.nodes) == (2, 2)
    on_cuda = Recorder(save_dir=tmp_path, device="cuda", place=places[0], places=places).hooks.run.context
    assert (on_cuda.devices, on_cuda.nodes) == (4, 2)
    told = Recorder(
        save_dir=tmp_path, device="cuda", devices=8, nodes=1, place=places[0], places=places
    ).hooks.run.context
    assert (told.devices, told.nodes) == (8, 1)


def test_a_place_that_is_known_late_keeps_the_device(tmp_path: Path) -> None:
    recorder = Recorder(save_dir=tmp_path, place=RankInfo(device="one"))
    recorder.hooks.run.set_rank_info(RankInfo(rank=0, stage=2))
    assert recorder.hooks.run.context.place == RankInfo(rank=0, stage=2, device="one")


def test_passes_and_updates_of_an_engine_are_its_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("lightning_costs.probes.phases.now_s", clock)

    class Timed(FakeEngine):
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            clock.sleep(2.0)
            return super().forward(*args, **kwargs)

        def backward(self, loss: Tensor) -> None:
            clock.sleep(4.0)
            super().backward(loss)

        def step(self) -> None:
            clock.sleep(0.5)
            super().step()

    engine = Timed(accumulate=2)
    engine.optimizer.register_step_post_hook(lambda *_: clock.sleep(1.0))
    asked = [phases.ForwardS(), phases.BackwardS(), phases.OptimizerS()]
    recorder = Recorder(module=engine.module, optimizers=[engine.optimizer], save_dir=tmp_path, indicators=asked)
    with recorder, watch(engine, recorder):
        for _ in range(4):
            engine.backward(engine(torch.ones(8, 4)).sum())
            engine.step()
    assert recorder.costs == {"forward_s": 8.0, "backward_s": 16.0, "optimizer_s": 2.0}
