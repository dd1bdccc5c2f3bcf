from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo  # the first dispatch mode of a process imports it, and it imports Triton

from lightning_costs.probes.opcount.counter import StepOpCounter
from lightning_costs.probes.opcount.triton_launches import watch_triton_launches


class Chain(list):
    """Triton's chain of hooks, as far as it is used."""

    add = list.append

    def launch(self, name):
        for hook in list(self):
            hook(SimpleNamespace(get=lambda: {"name": name}))


@pytest.fixture
def chain(monkeypatch):
    chain = Chain()
    runtime = SimpleNamespace(launch_enter_hook=chain)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(knobs=SimpleNamespace(runtime=runtime)))
    return chain


def test_a_kernel_launched_from_python_is_named_with_its_calls(chain):
    census = StepOpCounter()
    with census.counting("k"):
        chain.launch("swiglu")
        chain.launch("swiglu")
    census.record_batch("k")
    census.record_batch("k")
    assert census.uncounted == {"triton.swiglu": 4}
    assert chain == []


def test_a_kernel_that_an_operator_launches_is_the_operators(chain):
    @torch.library.custom_op("lightning_costs_tests::by_triton", mutates_args=())
    def by_triton(x: torch.Tensor) -> torch.Tensor:
        chain.launch("inner")
        return x.clone()

    census = StepOpCounter()
    with census.counting("k"):
        by_triton(torch.ones(2))
    census.record_batch("k")
    assert census.uncounted == {"lightning_costs_tests.by_triton": 1}


def test_hooks_are_gone_after_an_error_and_nothing_happens_without_triton(chain, monkeypatch):
    def fail():
        with watch_triton_launches(lambda name: None):
            raise RuntimeError("step")

    with pytest.raises(RuntimeError, match="step"):
        fail()
    assert chain == []
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace())
    with watch_triton_launches(lambda name: pytest.fail("there is no chain")):
        pass
