"""What is taken away while passes of the package run comes back, also where several threads take it."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack

import pytest
from torch.nn.modules import module as modules

from lightning_costs.probes.side_effects import without_side_effects


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
