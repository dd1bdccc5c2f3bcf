"""Which GPUs this process trains on: as torch knows them, as NVML does (by UUID, never by index), and among ranks."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from lightning_costs.probes.context import ProbeContext
from lightning_costs.records.missing import Missing

if TYPE_CHECKING:
    import torch


def training_devices(setting: ProbeContext) -> list[torch.device]:
    """CUDA devices that this process trains on: its own, those of the module's parameters and DataParallel's."""
    import torch

    found = [setting.device] if setting.device is not None else []
    if setting.module is not None:
        found += [parameter.device for parameter in setting.module.parameters()]
        for part in setting.module.modules():
            if isinstance(part, torch.nn.DataParallel):
                found += [torch.device("cuda", index) for index in part.device_ids]
    here = {device.index if device.index is not None else torch.cuda.current_device() for device in found
            if device.type == "cuda"}  # fmt: skip
    return [torch.device("cuda", index) for index in sorted(here)]


def device_key(devices: Sequence[torch.device]) -> str | None:
    """Identifies the CUDA devices that a rank trains on among those of its node: equal on ranks that share them.

    A digest, as UUIDs stay out of records. None if torch reports no UUID.
    """
    import torch

    uuids = [getattr(torch.cuda.get_device_properties(device), "uuid", None) for device in devices]
    if not uuids or None in uuids:
        return None
    return sha256(" ".join(sorted(map(str, uuids))).encode()).hexdigest()[:16]


def nvml_handle(nvml: Any, uuid: str) -> Any:
    """NVML's handle of the device that torch knows by this UUID."""
    failures = []
    for spelled in (f"GPU-{uuid}", uuid, f"MIG-{uuid}"):
        try:
            return nvml.nvmlDeviceGetHandleByUUID(spelled)
        except nvml.NVMLError as error:
            failures.append(str(error))
    raise Missing(f"gpu energy: NVML does not know the training device by its UUID ({failures[0]})", warn=True)


def open_nvml(devices: Sequence[torch.device | None]) -> tuple[Any, list[Any]]:
    """NVML, initialized, and its handles of whole GPUs.

    Raises:
        Missing: If NVML does not answer, does not know a device, or a MIG slice trains.
    """
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise Missing(f"needs NVML: no driver answered ({error})") from error
    try:
        handles = []
        for device in devices:
            uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
            handle, is_slice = whole_gpu(pynvml, nvml_handle(pynvml, str(uuid)))
            if is_slice:
                raise Missing("a MIG slice trains: NVML's counters are of the whole GPU")
            handles.append(handle)
    except Exception:
        pynvml.nvmlShutdown()
        raise
    return pynvml, handles


def power_limit_w(device: torch.device | None) -> float | None:
    """The power limit that the driver holds a GPU to; None without NVML, and of a slice."""
    try:
        nvml, (handle,) = open_nvml([device])
    except (ImportError, Missing):
        return None
    try:
        return float(nvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / 1e3
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def whole_gpu(nvml: Any, handle: Any) -> tuple[Any, bool]:
    """The whole GPU behind a handle, and whether a MIG slice of it trains.

    NVML meters whole GPUs. What a slice draws cannot be told apart from its neighbours' draw, so that a slice has
    energy only if it is the only one.
    """
    try:
        if nvml.nvmlDeviceIsMigDeviceHandle(handle):
            handle = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        elif not nvml.nvmlDeviceGetMigMode(handle)[0]:
            return handle, False
    except nvml.NVMLError as error:
        if error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
            return handle, False  # a device or driver without MIG
        raise Missing(f"gpu energy: NVML does not say whether a MIG slice trains ({error})", warn=True) from error
    try:
        slices = 0
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
                slices += 1
            except nvml.NVMLError as error:
                if error.value != nvml.NVML_ERROR_NOT_FOUND:
                    raise
    except nvml.NVMLError as error:
        raise Missing(f"gpu energy: NVML does not say what else runs on the MIG device ({error})", warn=True) from error
    if slices != 1:
        raise Missing(
            f"gpu energy: NVML meters the whole GPU, and {slices} MIG slices share it; the power of one of them "
            "is unknown. Train on a GPU without MIG, or with a single slice",
            warn=True,
        )
    return handle, True
