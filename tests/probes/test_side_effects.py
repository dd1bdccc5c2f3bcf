"""What is taken away while passes of the package run comes back, also where several threads take it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as modules
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from lightning_costs.patching.quiet_codecarbon import silence_codecarbon
from lightning_costs.probes.inference import benchmark_inference
from lightning_costs.probes.side_effects import without_modes, without_side_effects


def test_what_two_threads_take_away_at_once_is_there_again(capsys: pytest.CaptureFixture[str]) -> None:
    """The first to begin is the first to end, so that neither finds what it left."""
    handle = modules.register_module_forward_hook(lambda *_: None)
    before = sys.stdout, sys.stderr, dict(modules._global_forward_hooks)
    inside, ended = threading.Event(), threading.Event()

    def other() -> None:
        with without_side_effects():
            print("the other's")
            inside.set()
            ended.wait(10)
            print("the other's")

    thread = threading.Thread(target=other)
    with ExitStack() as first:
        first.enter_context(without_side_effects())
        thread.start()
        inside.wait(10)
        print("the first one's")
    print("the script's")
    ended.set()
    thread.join()
    assert (sys.stdout, sys.stderr, dict(modules._global_forward_hooks)) == before
    handle.remove()
    assert capsys.readouterr().out == "the script's\n"


def test_codecarbon_is_silent_in_two_threads_and_then_as_it_was() -> None:
    logger = logging.getLogger("codecarbon")
    before = logger.level, os.get_exec_path
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(silence_codecarbon())
        second.enter_context(silence_codecarbon())
        first.close()
        assert logger.level == logging.CRITICAL
    assert (logger.level, os.get_exec_path) == before


class Sees(TorchFunctionMode):
    """A user's mode that notes every function of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(getattr(function, "__name__", "?"))
        return function(*args, **(kwargs or {}))


def test_a_users_function_mode_sees_no_pass_of_the_benchmark() -> None:
    net, x, device = nn.Linear(4, 2), torch.ones(8, 4), torch.device("cpu")
    with Sees() as mode:
        found = benchmark_inference(net, (x,), {}, device=device, budget_s=0.05)
    assert found.latency_p50_s is not None
    assert mode.seen == []


def test_modes_come_back_in_their_order_and_a_device_stays() -> None:
    outer, inner, there = Sees(), Sees(), ""
    with outer, torch.device("meta"), inner:
        before = _get_current_function_mode_stack()
        begun = len(outer.seen), len(inner.seen)
        with suppress(KeyError), without_modes():
            there = str(torch.empty(1).device)
            raise KeyError
        after = _get_current_function_mode_stack()
        ended = len(outer.seen), len(inner.seen)
    assert (there, ended) == ("meta", begun)
    assert list(map(id, after)) == list(map(id, before))
