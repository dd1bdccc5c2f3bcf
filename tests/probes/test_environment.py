from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from fakes import FakeClock, FakeGpu, FakeNvml
from torch import nn

from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.cpu_name import cpu_name
from lightning_costs.probes.energy.gpu_device import power_limit_w
from lightning_costs.probes.environment import collect_environment, describe_optimizers
from lightning_costs.records.samples import RankInfo


def test_a_setup_is_plain_data():
    net = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    setting = ProbeContext(module=net, optimizers=lambda: [optimizer], device=torch.device("cpu"), devices=4, nodes=2)
    setup = collect_environment(setting)
    assert json.loads(json.dumps(setup)).keys() == setup.keys()
    assert (setup["device"], setup["devices"], setup["nodes"], setup["module"]) == ("cpu", 4, 2, "Linear")
    assert setup["software"]["torch"] == torch.__version__
    assert setup["hardware"]["cpu"] == cpu_name() != ""


def test_a_setup_without_a_model_is_a_setup():
    setup = collect_environment(ProbeContext(places=(RankInfo(rank=0), RankInfo(rank=1))))
    assert (setup["module"], setup["compiled"], setup["optimizers"], setup["processes"]) == (None, None, [], 2)


def test_an_optimizer_is_described_by_its_hyper_parameters_and_whom_it_owns():
    from pytorch_optimizer import SAM

    net = nn.Linear(3, 2)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    sam = SAM(net.parameters(), base_optimizer=torch.optim.SGD, rho=0.05, lr=0.1)
    described = describe_optimizers([sgd, sam])
    assert described[0] == {"name": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": False}
    assert (described[1]["name"], described[1]["rho"]) == ("SAM over SGD", 0.05)


def test_the_learning_rate_is_the_one_that_a_schedule_scales_and_not_its_first_step_of_warm_up():
    def described(warmup: int) -> float:
        optimizer = torch.optim.AdamW(nn.Linear(3, 2).parameters(), lr=1e-3)
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / warmup)
        return describe_optimizers([optimizer])[0]["lr"]

    assert described(10) == described(40) == 1e-3


def test_what_is_no_optimizer_of_torch_is_described_without_failing():
    assert describe_optimizers([object()]) == [{"name": ""}]


def test_a_compiled_module_says_so_wherever_the_compiled_part_is():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    assert collect_environment(ProbeContext(module=net))["compiled"] is False
    assert collect_environment(ProbeContext(module=torch.compile(net, backend="eager")))["compiled"] is True
    net[1].compile(backend="eager")
    assert collect_environment(ProbeContext(module=net))["compiled"] is True


def test_a_one_cycle_schedule_says_its_peak_and_its_name_in_place_of_the_first_steps_rate():
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=10)
    (described,) = describe_optimizers([optimizer])
    assert (described["max_lr"], described["schedule"]) == (0.05, "OneCycleLR")
    assert "lr" not in described


def test_a_schedule_that_scales_the_rate_leaves_the_one_that_was_set():
    net = nn.Linear(3, 2)
    for schedule, options in (("CosineAnnealingLR", {"T_max": 3}), ("LinearLR", {}), ("CyclicLR", None)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        given = {"base_lr": 0.1, "max_lr": 0.4} if options is None else options
        getattr(torch.optim.lr_scheduler, schedule)(optimizer, **given)
        assert describe_optimizers([optimizer])[0]["lr"] == 0.1


@pytest.mark.parametrize(("limit_w", "told"), [(350.0, 350.0), (None, None)])
def test_the_power_limit_that_the_driver_holds_a_gpu_to_is_in_the_setup(monkeypatch, limit_w, told):
    nvml = FakeNvml(FakeClock(), gpus={"GPU-a": FakeGpu(FakeClock(), lambda s: 1.0, limit_w=limit_w)})
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    named = SimpleNamespace(uuid="a", name="NVIDIA H100 80GB HBM3", total_memory=80)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: named)
    assert power_limit_w(torch.device("cuda", 0)) == told
    setup = collect_environment(ProbeContext(device=torch.device("cuda", 0), devices=1, nodes=1))
    assert setup["hardware"].get("power_limit_w") == told
    assert (nvml.inits, nvml.shutdowns) == (2, 2)


def test_without_nvml_no_power_limit_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert power_limit_w(torch.device("cuda", 0)) is None
