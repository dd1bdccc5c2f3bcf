"""Torch optimizers under what stands around them."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import call, patch

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

from lightning_costs.patching.optimizers import hook_optimizer_step, unwrap, wrappers
from lightning_costs.patching.patches import Patches
from lightning_costs.probes.memory.tensors import MemoryBreakdown, memory_breakdown

PARAMS = 6 * 3 + 3


class Mixed:
    """As ZeRO does: one fp32 copy of each group's parameters, which the torch optimizer updates, group by group."""

    def __init__(self, net: nn.Module, groups: int = 1) -> None:
        parameters = list(net.parameters())
        self.single_partition_of_fp32_groups = [
            torch.cat([p.detach().float().flatten() for p in parameters[part::groups]]) for part in range(groups)
        ]
        copies = [{"params": [copy]} for copy in self.single_partition_of_fp32_groups]
        self.optimizer = SGD(copies, lr=0.1, momentum=0.9)
        self.averaged_gradients: dict[int, Any] = {}
        self.overflow = False

    def step(self) -> str:
        if self.overflow:
            return "skipped"
        groups = self.optimizer.param_groups
        for copy, group in zip(self.single_partition_of_fp32_groups, groups, strict=True):
            copy.grad = torch.ones_like(copy)
            self.optimizer.param_groups = [group]
            self.optimizer.step()
        self.optimizer.param_groups = groups
        return "stepped"


class Accelerated(Optimizer):
    """Accelerate's form: an Optimizer without any of an Optimizer's own."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    @property
    def state(self) -> Any:  # type: ignore[override]
        return unwrap(self.optimizer).state


def test_an_update_in_parts_is_told_once_and_one_that_was_skipped_never():
    wrapper, told = Mixed(nn.Linear(6, 3), groups=2), []
    shadows = Patches()
    hook_optimizer_step(wrapper, lambda: told.append("updated"), shadows)
    assert (wrapper.step(), told) == ("stepped", ["updated"])
    wrapper.overflow = True
    assert (wrapper.step(), told) == ("skipped", ["updated"])
    wrapper.optimizer.step()  # by hand, around the wrapper
    assert told == ["updated"] * 2
    shadows.restore()
    wrapper.overflow = False
    wrapper.step()
    assert told == ["updated"] * 2
    assert "step" not in vars(wrapper)


def test_an_update_that_fails_after_it_began_is_told_and_raises_on():
    wrapper, told = Mixed(nn.Linear(6, 3), groups=2), []
    hook_optimizer_step(wrapper, lambda: told.append("updated"), Patches())
    wrapper.single_partition_of_fp32_groups.append(torch.zeros(1))
    try:
        wrapper.step()
    except ValueError:
        told.append("raised")
    assert told == ["updated", "raised"]


def test_what_is_no_optimizer_at_all_is_left_alone():
    for thing in (None, object()):
        hook_optimizer_step(thing, lambda: None, Patches())
        assert list(wrappers(thing)) == []


def test_masters_and_their_gradients_are_found_under_the_wrapper():
    net = nn.Linear(6, 3).bfloat16()
    wrapper = Mixed(net)
    wrapper.averaged_gradients[0] = [torch.zeros(5, dtype=torch.bfloat16)]
    wrapper.step()
    held = MemoryBreakdown(
        param_bytes=2 * PARAMS, master_bytes=4 * PARAMS, grad_bytes=4 * PARAMS + 2 * 5, opt_state_bytes=4 * PARAMS
    )
    assert memory_breakdown(net, [wrapper]) == held
    assert memory_breakdown(net, [Accelerated(wrapper)]) == held


def test_parameters_of_another_module_are_no_masters():
    net, other = nn.Linear(6, 3), nn.Linear(50, 50)
    assert memory_breakdown(net, [SGD([*net.parameters(), *other.parameters()], lr=0.1)]).master_bytes == 0


def test_shards_that_zero_3_keeps_are_parameters():
    net = nn.Linear(6, 3)
    for parameter in net.parameters():
        parameter.ds_tensor = torch.zeros(parameter.numel() // 3)
        parameter.data = torch.empty(0)
    assert memory_breakdown(net, []).param_bytes == 4 * PARAMS // 3


def test_a_step_that_calls_its_base_classes_is_one_update_whoever_was_made_before() -> None:
    class Base(SGD):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            if self.param_groups[0]["lr"] < 0.1:
                raise RuntimeError("diverged")
            return super().step(closure)

    class Own(Base):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            return super().step(closure)

    weight = nn.Parameter(torch.ones(1))
    SGD([weight], 0.1), Base([weight], 0.1)  # torch has their steps call hooks, from now on
    for kind in (SGD, Base, Own):
        optimizer, other, patches = kind([weight], 0.1), kind([weight], 0.1), Patches()
        updates: list[int] = []
        hook_optimizer_step(optimizer, partial(updates.append, 1), patches)
        optimizer.step()
        other.step()
        optimizer.step()
        assert updates == [1, 1]
        if kind is not SGD:
            optimizer.param_groups[0]["lr"] = 0.0
            with pytest.raises(RuntimeError, match="diverged"):
                optimizer.step()
            optimizer.param_groups[0]["lr"] = 0.1
            optimizer.step()
            assert updates == [1, 1, 1]
        patches.restore()


class Bare(Optimizer):
    """A Lookahead as many are: torch's `__init__` does not run, and the class calls no hooks."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner, self.param_groups, self.state = inner, inner.param_groups, inner.state

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return self.inner.step(closure)


def test_an_optimizer_whose_class_calls_no_hooks_has_its_updates_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    optimizer, patches, updates = Bare(SGD([nn.Parameter(torch.ones(1))], 0.1)), Patches(), list[int]()
    hook_optimizer_step(optimizer, partial(updates.append, 1), patches)
    optimizer.step()
    optimizer.step()
    optimizer.inner.step()  # by hand
    assert updates == [1, 1, 1]
    patches.restore()
    optimizer.step()
    assert updates == [1, 1, 1]
    assert "step" not in vars(optimizer)
    assert not caplog.records


def test_a_mock_in_place_of_a_step_records_the_scripts_calls_alone_and_they_are_counted() -> None:
    patches, updates = Patches(), list[int]()
    with patch.object(SGD, "step") as mock:
        optimizer = SGD([nn.Parameter(torch.ones(1))], 0.1)
        mock.reset_mock()  # torch asks it as well
        hook_optimizer_step(optimizer, partial(updates.append, 1), patches)
        optimizer.step(closure=None)
        assert mock.mock_calls == [call(closure=None)]
    assert updates == [1]
    patches.restore()


def test_an_optimizer_that_another_holds_is_counted_for_itself_if_it_is_one_of_the_scripts() -> None:
    first, second = (SGD([nn.Parameter(torch.ones(1))], 0.1) for _ in range(2))
    second.main = first  # type: ignore[attr-defined]
    updates: list[str] = []
    for name, optimizer in (("first", first), ("second", second)):
        hook_optimizer_step(optimizer, partial(updates.append, name), Patches(), apart=[first, second])
    first.step()
    second.step()
    assert updates == ["first", "second"]
