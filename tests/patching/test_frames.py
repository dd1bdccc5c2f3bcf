"""Callers are found without reading, and so keeping, what other functions hold."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning_models import classifier, data, trainer
from torch.optim import SGD, Optimizer

from lightning_costs import CostMonitor
from lightning_costs.patching.frames import method_owner


def test_a_function_that_trains_keeps_nothing_that_it_let_go(tmp_path: Path) -> None:
    """Up to Python 3.12 a frame whose variables were read holds them, and `locals()` there returns the same dict."""

    def train() -> tuple[Any, set[str]]:
        names = locals()
        module = classifier(pl)
        fit = trainer(pl, CostMonitor(save_dir=tmp_path / "costs", infer=False))
        fit.fit(module, data())
        there = weakref.ref(module)
        del module, fit
        gc.collect()
        return there(), set(names)

    assert train() == (None, {"tmp_path"})


def test_owners_are_those_of_methods_of_a_kind_and_of_what_it_inherits_from() -> None:
    class Mixed:
        def steps(self) -> Any:
            return owner_of_caller()

    class Own(Mixed, SGD):
        pass

    class Other:
        def steps(self) -> Any:
            return owner_of_caller()

    def owner_of_caller() -> Any:
        return method_owner(sys._getframe(1), Optimizer)

    own = object.__new__(Own)
    assert own.steps() is own
    assert Other().steps() is None
