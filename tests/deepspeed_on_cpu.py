"""DeepSpeed where there is no CUDA device: engines over gloo, Lightning's strategy, and what one rank reads."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import deepspeed.ops
from deepspeed.utils import logger

from lightning_costs.indicators.reader import IndicatorReader

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else the first process group compiles for a minute
logger.setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning)  # of torch, at DeepSpeed's collectives


def tell(facts: object) -> None:
    """Leave what this rank found in the folder that the script was given; `told` reads it."""
    (Path(sys.argv[2]) / f"told{os.environ['RANK']}.json").write_text(json.dumps(facts))


def blocks(width: int = 64, depth: int = 8) -> nn.Sequential:
    """Layers of one size: partitions of two ranks meet between two of them."""
    return nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.GELU())])


def engine_of(
    net: nn.Module, optimizer: torch.optim.Optimizer, stage: int, *, bf16: bool = False, **config: Any
) -> Any:
    zero = {
        "stage": stage,
        "reduce_bucket_size": 5000,
        "allgather_bucket_size": 5000,
        "stage3_param_persistence_threshold": 0,
        **config.pop("zero", {}),
    }
    settings = {
        "train_micro_batch_size_per_gpu": 8,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        **config,
    }
    if bf16:
        settings["bf16"] = {"enabled": True}
    engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=settings)
    return engine


def strategy(pl: ModuleType, **options: Any) -> Any:
    """Lightning's DeepSpeedStrategy without its demand for CUDA; seen on Lightning 2.6.6."""
    base = pl.strategies.DeepSpeedStrategy

    class OnCpu(base):  # type: ignore[misc,valid-type]
        def setup_environment(self) -> None:
            super(base, self).setup_environment()

        @property
        def parallel_devices(self) -> Any:
            devices = super().parallel_devices
            return devices and [torch.device("cpu", index) for index, _ in enumerate(devices)]

        @parallel_devices.setter
        def parallel_devices(self, devices: Any) -> None:
            self._parallel_devices = devices

    made = OnCpu(allgather_bucket_size=5000, reduce_bucket_size=5000, logging_level=logging.ERROR, **options)
    made.config["zero_force_ds_cpu_optimizer"] = False
    return made


@contextmanager
def own_readings() -> Iterator[dict[str, float]]:
    """What this rank reads while the block runs, whatever becomes of it: counters added up, gauges at their largest."""
    read, note = IndicatorReader.read, getattr(IndicatorReader, "note_unheard", None)
    readings: dict[str, float] = {}

    def noted(panel: IndicatorReader, sample: Any) -> Any:
        vector = read(panel, sample)
        for name, amount in vector.amounts.items():
            if amount is None:
                continue
            counter = panel.declarations[name].kind == "counter"
            before = readings.get(name, 0.0)
            readings[name] = before + amount if counter else max(before, amount)
        return vector

    IndicatorReader.read = noted  # type: ignore[method-assign]
    IndicatorReader.mark_unreported = lambda *_: None  # type: ignore[method-assign]
    try:
        yield readings
    finally:
        IndicatorReader.read, IndicatorReader.mark_unreported = read, note  # type: ignore[method-assign,assignment]
