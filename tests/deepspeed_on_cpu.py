"""DeepSpeed where there is no CUDA device: engines over gloo, and Lightning's strategy."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import deepspeed.ops
from deepspeed.utils import logger

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
