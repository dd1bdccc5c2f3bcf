"""Verdicts on planted cases: figures as runs record them, and real trainings on a CPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_models import classifier, data, namespace, trainer
from torch.utils.data import DataLoader, Dataset

from lightning_costs import CostMonitor, load_run
from lightning_costs.run.verdict import verdict

#: A GPU that trains well for 1,000 s of a run of 1,100: what each case changes.
GPU: dict[str, float | None] = {
    "total_s": 1_100.0, "train_s": 1_000.0, "device_s": 1_100.0, "energy_j": 600_000.0, "train_energy_j": 550_000.0,
    "cloud_usd": 1.1, "electricity_usd": 0.05, "timed_s": 980.0, "idle_s": 20.0, "idle_data_s": 8.0,
    "throttled_s": 200.0, "power_throttled_s": 200.0, "thermal_throttled_s": 0.0, "tensor_active_s": 300.0,
    "tensor_peak_s": 255.0, "sm_active_fraction": 0.86, "tensor_active_fraction": 0.3, "dram_active_fraction": 0.36,
    "hfu_fraction": 0.31, "mfu_fraction": 0.31,
}  # fmt: skip
ONE: dict[str, Any] = {"setup": {"device": "cuda", "devices": 1, "processes": 1}}
EIGHT = {"setup": {"device": "cuda", "devices": 8, "processes": 8}}
NO_COUNTERS = dict.fromkeys(
    ("throttled_s", "power_throttled_s", "thermal_throttled_s", "tensor_active_s", "tensor_peak_s",
     "sm_active_fraction", "tensor_active_fraction", "dram_active_fraction"),
)  # fmt: skip
SLOW = {"ranks": [5], "node": 0, "phase": "training", "batch": 300, "excess_s": 0.02, "slower": 0.2, "waited_s": 120.0}
EIGHT_SLOW = {**EIGHT, "ranks": {"stragglers": [SLOW, {**SLOW, "ranks": [1], "waited_s": 4.0}]}}
PLANTED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a device waits for its loader": ("input-bound", ONE, {"idle_s": 350.0, "idle_data_s": 330.0}),
    "one rank of eight is slow": ("straggler", EIGHT_SLOW, {"straggler_s": 124.0, "exposed_comm_s": 180.0}),
    "gradients are exchanged alone": ("communication-bound", EIGHT, {"exposed_comm_s": 300.0, "straggler_s": 0.0}),
    "tiny kernels, by traces": ("launch-bound", ONE, {"launch_bound_fraction": 0.4, "sm_active_fraction": 0.5}),
    "tiny kernels, by SM activity": (
        "launch-bound", ONE, {"sm_active_fraction": 0.2, "tensor_active_fraction": 0.02, "dram_active_fraction": 0.05},
    ),
    "Python between steps": ("launch-bound", ONE, {"idle_s": 260.0}),
    "elementwise operators": (
        "memory-bound", ONE, {"dram_active_fraction": 0.74, "tensor_active_fraction": 0.1, "hfu_fraction": 0.1},
    ),
    "large products at the power limit": (
        "compute-bound", ONE,
        {"tensor_active_fraction": 0.62, "hfu_fraction": 0.6, "power_throttled_s": 1e3, "throttled_s": 1e3,
         "tensor_active_s": 620.0, "tensor_peak_s": 465.0},
    ),
    "large products on a card without counters": ("compute-bound", ONE, {**NO_COUNTERS, "mfu_fraction": 0.52}),
    "heat": (
        "throttled", ONE, {"thermal_throttled_s": 700.0, "throttled_s": 800.0, "tensor_peak_s": 180.0},
    ),
    "a low power limit": (
        "throttled", ONE, {"power_throttled_s": 1_050.0, "throttled_s": 1_060.0, "tensor_peak_s": 150.0},
    ),
}  # fmt: skip
BALANCED = {
    "one device": (ONE, {}),
    "eight devices": (EIGHT, {"exposed_comm_s": 90.0, "straggler_s": 0.0}),
    "a straggler that is over soon": (EIGHT_SLOW, {"exposed_comm_s": 60.0, "straggler_s": 20.0}),
    "clocks at their peak but for rounding": (ONE, {"tensor_peak_s": 300.0000001}),
    "a bit of everything": (ONE, {"idle_s": 170.0, "idle_data_s": 80.0, "sm_active_fraction": 0.7}),
}


def test_only_a_device_that_batches_are_copied_to_is_advised_to_pin_memory() -> None:
    on_cpu = verdict({"setup": {"device": "cpu"}}, {"train_s": 20.0, "data_wait_s": 8.0})
    assert (on_cpu.kind, "pin_memory" in on_cpu.next) == ("input-bound", False)
    assert "pin_memory" in verdict(ONE, {**GPU, "idle_s": 350.0, "idle_data_s": 330.0}).next


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_bottleneck_is_named_with_figures_and_what_to_try(case: str) -> None:
    kind, header, figures = PLANTED[case]
    found = verdict(header, {**GPU, **figures})
    assert found.kind == kind
    assert found.evidence
    assert found.next
    assert found.words().startswith(f"verdict: {kind}: ")
    assert "\n" not in found.words()


@pytest.mark.parametrize("case", BALANCED)
def test_a_balanced_run_has_no_bottleneck(case: str) -> None:
    header, figures = BALANCED[case]
    found = verdict(header, {**GPU, **figures})
    assert (found.kind, found.saves_s, found.next) == ("none", None, "")
    assert found.words().startswith("verdict: no single bottleneck: ")
    assert "-0 %" not in found.words()


def test_what_it_would_save_is_in_seconds_joules_and_money_of_this_run() -> None:
    found = verdict(ONE, {**GPU, "idle_s": 350.0, "idle_data_s": 245.0})
    assert found.share == 0.25
    assert (found.saves_s, found.saves_j) == (250.0, 550_000.0 * 0.25)
    assert found.saves_usd == pytest.approx(1.1 * 250 / 1_100)
    assert "would save at most 4 min 10 s, 138 kJ, $0.25" in found.words()
    own_machine = verdict(ONE, {**GPU, "idle_s": 350.0, "idle_data_s": 245.0, "cloud_usd": None})
    assert own_machine.saves_usd == pytest.approx(0.05 * 137_500 / 600_000)


def test_the_largest_loss_comes_first_and_the_others_are_named() -> None:
    found = verdict(ONE, {**GPU, "idle_s": 500.0, "idle_data_s": 196.0})
    assert found.kind == "launch-bound"
    assert found.evidence[1:] == ("then waiting for data 20 %",)


def test_waiting_for_a_straggler_is_neither_communication_nor_everybodys_input() -> None:
    slow = {**SLOW, "ranks": [0], "phase": "input", "waited_s": 240.0}
    figures = {"straggler_s": 240.0, "exposed_comm_s": 250.0, "idle_s": 260.0, "idle_data_s": 245.0}
    found = verdict({**EIGHT, "ranks": {"stragglers": [slow]}}, {**GPU, **figures})
    assert found.kind == "straggler"
    assert "rank 0 on node 0" in found.evidence[0]
    assert found.evidence[1:] == ()


def test_what_cannot_be_judged_is_named_with_its_reason() -> None:
    header = {**EIGHT, "missing": {"exposed_comm_s": "needs CostMonitor(trace=True)"}}
    found = verdict(header, {**GPU, **NO_COUNTERS, "straggler_s": 0.0})
    assert found.kind == "none"
    assert "communication (exposed_comm_s: needs CostMonitor(trace=True))" in found.missing
    assert any(reason.startswith("memory and compute (dram_active_fraction") for reason in found.missing)
    assert "not judged: communication" in found.words()
    other = verdict({"setup": {"device": "mps", "processes": 1}}, {"train_s": 10.0, "data_wait_s": 9.0})
    assert other.kind == "unknown"
    assert verdict({}, {"train_s": 0.01, "data_wait_s": 0.01}).kind == "unknown"


class _SlowSamples(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.01)
        return torch.zeros(16), torch.tensor(index % 4)


@pytest.mark.parametrize(
    ("loader", "train_s", "kind"),
    [
        (DataLoader(_SlowSamples(), 4), 0.002, "input-bound"),
        (data(samples=80, batch_size=4), 0.04, "none"),
    ],
)
def test_a_real_training_on_a_cpu_waits_for_a_slow_loader_or_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Any, train_s: float, kind: str
) -> None:
    pl = namespace("lightning.pytorch")
    monitor = CostMonitor(save_dir=tmp_path, infer=False)
    trainer(pl, monitor, max_epochs=1).fit(classifier(pl, train_s=train_s), loader)
    run = load_run(next(path for path in tmp_path.iterdir() if path.is_dir()))
    found = verdict(run.header, run.final)
    assert found.kind == kind
    assert found.words() in capsys.readouterr().err.replace("\n", " ")
    if kind == "input-bound":
        assert found.saves_s == run.final["data_wait_s"]
    else:
        assert found.missing == ("memory and compute (a CPU has no counters that this package reads)",)
