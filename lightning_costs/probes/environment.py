"""What was measured on: hardware, software, model and optimizer, captured by allow-list.

No host name, user name, path, device UUID or environment variable is in it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_costs.patching.optimizers import inner_optimizers
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.cpu_name import cpu_name
from lightning_costs.probes.energy.gpu_device import power_limit_w
from lightning_costs.probes.opcount.counting import compiled_parts
from lightning_costs.records.versions import UNKNOWN, version_of

_PACKAGES = ("lightning-costs", "lightning", "pytorch-lightning", "transformers", "deepspeed", "codecarbon", "numpy")
_HYPERPARAMETERS = ("lr", "momentum", "betas", "weight_decay", "nesterov", "rho", "adaptive")


def collect_environment(setting: ProbeContext) -> dict[str, Any]:
    """The setup as plain nested data: hardware, devices, precision switches, software, module and optimizers."""
    import torch

    hardware: dict[str, Any] = {
        "cpu": cpu_name() or platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "torch_threads": torch.get_num_threads(),
    }
    if setting.on_cuda:
        found = torch.cuda.get_device_properties(setting.device)
        hardware["device"] = found.name
        hardware["device_memory_bytes"] = found.total_memory
        if (limit_w := power_limit_w(setting.device)) is not None:
            hardware["power_limit_w"] = limit_w
    return {
        "hardware": hardware,
        "device": setting.device.type if setting.device is not None else None,
        "devices": setting.devices,
        "nodes": setting.nodes,
        "processes": len(setting.places),
        "software": {
            "python": platform.python_version(),
            "system": platform.system(),
            **_versions(),
            "torch": str(torch.__version__),
        },
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cuda": torch.version.cuda if setting.on_cuda else None,
        "module": type(setting.module).__name__ if setting.module is not None else None,
        "compiled": compiled_parts(setting.module) if setting.module is not None else None,
        "optimizers": describe_optimizers(setting.optimizers()),
    }


def device_name(setting: ProbeContext) -> str | None:
    """The training device's name as torch reports it; 'cpu' for nodes without accelerators, None where nobody knows."""
    import torch

    if setting.on_cuda:
        return str(torch.cuda.get_device_properties(setting.device).name)
    return "cpu" if setting.device is not None and setting.device.type == "cpu" else None


def _versions() -> dict[str, str]:
    found = {package: version_of(package) for package in _PACKAGES}
    return {package: version for package, version in found.items() if version != UNKNOWN}


def describe_optimizers(optimizers: Iterable[Any]) -> list[dict[str, Any]]:
    """Name and hyper-parameters of each optimizer and the ones it owns, as at the start.

    Where a schedule scales it, `lr` is the rate that it scales: the first step's is but how long the warm-up is. A
    one-cycle schedule replaces it by `max_lr`, which is then what was set.
    """
    described = []
    for optimizer in optimizers:
        members = list(inner_optimizers(optimizer))
        groups: Mapping[str, Any] = members[0].param_groups[0] if members and members[0].param_groups else {}
        values = {name: groups[name] for name in _HYPERPARAMETERS if isinstance(groups.get(name), int | float | tuple)}
        if isinstance(scaled := groups.get("initial_lr"), int | float):
            values["lr"] = scaled
            if isinstance(peak := groups.get("max_lr"), int | float) and "min_lr" in groups:  # as OneCycleLR alone does
                values = {"schedule": "OneCycleLR", "max_lr": peak, **values}
                del values["lr"]
        described.append({"name": " over ".join(type(m).__name__ for m in members), **values})
    return described
