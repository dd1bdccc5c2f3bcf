"""Peak rates of devices: dense figures by exact name and number format, each with its source.

Written down in November 2026. A device that is not here has no peak: no other device's figures are taken for it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, final

import torch

from lightning_costs.probes.clock import now_s

_FORMATS: Final = MappingProxyType(
    {
        "float64": "fp64",
        "complex128": "fp64",
        "float32": "fp32",
        "complex64": "fp32",
        "float16": "fp16",
        "bfloat16": "bf16",
        "float8_e4m3fn": "fp8",
        "float8_e5m2": "fp8",
        "int8": "int8",
    }
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePeak:
    """Most that one device can do.

    Args:
        flop_per_s: Dense rate of matrix products by number format (fp64, fp32, tf32, bf16, fp16, fp8, int8).
        bytes_per_s: Memory bandwidth; None where sources disagree.
        source: Where the figures are from.
        memory_bytes: Memory as it is sold; None if it is not in the table, as the three below.
        board_w: Power of the board at most (TDP, TGP).
        link_bytes_per_s: From one device to those of its node, one direction: NVLink, or PCIe without.
        link: What that link is, and its source.
    """

    flop_per_s: Mapping[str, float]
    bytes_per_s: float | None
    source: str
    memory_bytes: float | None = None
    board_w: float | None = None
    link_bytes_per_s: float | None = None
    link: str = ""

    def mixed_precision_peak(self, flop_by_dtype: Mapping[str, int]) -> float | None:
        """The rate at which a mix of formats runs at peak: all of it over the sum of flop / peak.

        It goes by torch's dtype name, with `+conv` behind it for convolutions: TF32 has a switch of its own for them.
        None if nothing was counted or a format's peak is not known.

        Example:
            >>> peak = DevicePeak(flop_per_s={"bf16": 100.0, "fp32": 10.0}, bytes_per_s=None, source="an example")
            >>> peak.mixed_precision_peak({"bfloat16": 900, "float32": 100})
            52.63...
        """
        flop_by_format: dict[str, int] = {}
        for name, flop in flop_by_dtype.items():
            dtype, _, convolution = name.partition("+")
            number = format_of(dtype, tf32=tf32(convolutions=bool(convolution)))
            flop_by_format[number] = flop_by_format.get(number, 0) + flop
        return effective_peak(flop_by_format, self)


def effective_peak(flop_by_format: Mapping[str, int], peak: DevicePeak) -> float | None:
    """The rate at which a mix of number formats runs at peak, in FLOP/s; None if a format's peak is not known."""
    counted = {name: flop for name, flop in flop_by_format.items() if flop}
    if not counted or not counted.keys() <= peak.flop_per_s.keys():
        return None
    return sum(counted.values()) / sum(flop / peak.flop_per_s[name] for name, flop in counted.items())


def format_of(dtype: torch.dtype | str, *, tf32: bool) -> str:
    """The number format that products of a dtype run in; a dtype without one here keeps its name.

    Example:
        >>> format_of(torch.bfloat16, tf32=True), format_of("float32", tf32=True), format_of("float32", tf32=False)
        ('bf16', 'tf32', 'fp32')
    """
    name = str(dtype).removeprefix("torch.")
    found = _FORMATS.get(name, name)
    return "tf32" if found == "fp32" and tf32 else found


def tf32(*, convolutions: bool) -> bool:
    """Whether products of float32 run in TF32 on devices that have it, by torch's switches."""
    backend = torch.backends.cudnn if convolutions else torch.backends.cuda.matmul
    try:
        return bool(backend.allow_tf32)
    except RuntimeError:  # the newer switches were used: the older ones refuse to answer
        part: Any = torch.backends.cudnn.conv if convolutions else torch.backends.cuda.matmul  # type: ignore[attr-defined]
        return bool(part.fp32_precision == "tf32")


#: What a link is, and its gigabytes a second in one direction: half of what data sheets print, which add both.
_Link = tuple[str, float]
_NVLINK5: Final = ("NVLink 5, 1.8 TB/s both ways, same data sheet", 900.0)
_NVLINK4: Final = ("NVLink 4, 900 GB/s both ways, same source", 450.0)
_NVLINK3: Final = ("NVLink 3, 600 GB/s both ways, same source", 300.0)
_NVLINK2: Final = ("NVLink 2, 300 GB/s both ways, same source", 150.0)
_PCIE5: Final = ("PCIe 5.0 x16, 128 GB/s both ways, same source; without a bridge", 64.0)
_PCIE4: Final = ("PCIe 4.0 x16, 64 GB/s both ways, same source; without a bridge", 32.0)
_PCIE3: Final = ("PCIe 3.0 x16, 32 GB/s both ways, same source", 16.0)


def _peak(
    source: str,
    bytes_per_s: float | None = None,
    *,
    half: float | None = None,
    board: Any = None,
    **tera_flop_per_s: float,
) -> DevicePeak:
    gb, board_w, link = board or (None, None, None)  # gigabytes, watts, and the link
    rates = {name: 1e12 * rate for name, rate in tera_flop_per_s.items()}
    if half is not None:
        rates |= {"fp16": 1e12 * half, "bf16": 1e12 * half}
    return DevicePeak(
        flop_per_s=MappingProxyType(rates),
        bytes_per_s=bytes_per_s,
        source=source,
        memory_bytes=None if gb is None else 1e9 * gb,
        board_w=board_w,
        link_bytes_per_s=None if link is None else 1e9 * link[1],
        link="" if link is None else link[0],
    )


_A100: Final = {"half": 312.0, "tf32": 156.0, "fp32": 19.5, "fp64": 19.5, "int8": 624.0}
_H100: Final = {"half": 989.4, "tf32": 494.7, "fp8": 1978.9, "fp32": 66.9, "fp64": 66.9, "int8": 1978.9}
_V100_SXM: Final = {"fp16": 125.0, "fp32": 15.7, "fp64": 7.8}
_V100_PCIE: Final = {"fp16": 112.0, "fp32": 14.0, "fp64": 7.0}
_H100_PAPER, _A100_SHEET = "NVIDIA H100 architecture white paper (2022)", "NVIDIA A100 data sheet (2021)"
_V100_SHEET = "NVIDIA V100 data sheet (2020)"

#: By the name that `torch.cuda.get_device_properties` gives. Data sheets that print figures with sparsity were halved.
PEAKS: Final[Mapping[str, DevicePeak]] = MappingProxyType(
    {
        "NVIDIA H200": _peak(
            "NVIDIA H200 data sheet (2024), products as H100 SXM", 4.8e12, board=(141, 700, _NVLINK4), **_H100
        ),
        "NVIDIA GH200 480GB": _peak(
            "NVIDIA GH200 data sheet (2024), 96 GB HBM3, products as H100 SXM", 4.0e12, **_H100
        ),
        "NVIDIA H100 80GB HBM3": _peak(_H100_PAPER, 3.35e12, board=(80, 700, _NVLINK4), **_H100),
        "NVIDIA H100 PCIe": _peak(
            _H100_PAPER, 2.0e12, half=756.0, tf32=378.0, fp8=1513.0, fp32=51.2, fp64=51.2, board=(80, 350, _PCIE5)
        ),
        "NVIDIA H100 NVL": _peak(
            "NVIDIA H100 data sheet (2024), NVL column, halved from sparsity",
            3.9e12,
            half=835.5,
            tf32=417.5,
            fp8=1670.5,
            fp32=60.0,
            fp64=60.0,
            board=(94, 400, _PCIE5),
        ),
        "NVIDIA A100-SXM4-40GB": _peak(_A100_SHEET, 1.555e12, board=(40, 400, _NVLINK3), **_A100),
        "NVIDIA A100-SXM4-80GB": _peak(_A100_SHEET, 2.039e12, board=(80, 400, _NVLINK3), **_A100),
        "NVIDIA A100-PCIE-40GB": _peak(_A100_SHEET, 1.555e12, board=(40, 250, _PCIE4), **_A100),
        "NVIDIA A100 80GB PCIe": _peak(_A100_SHEET, 1.935e12, board=(80, 300, _PCIE4), **_A100),
        "NVIDIA A30": _peak(
            "NVIDIA A30 data sheet (2022)", 933e9, half=165.0, tf32=82.0, fp32=10.3, fp64=10.3, board=(24, 165, _PCIE4)
        ),
        "NVIDIA A40": _peak(
            "NVIDIA A40 data sheet (2022)", 696e9, half=149.7, tf32=74.8, fp32=37.4, board=(48, 300, _PCIE4)
        ),
        "NVIDIA A10": _peak(
            "NVIDIA A10 data sheet (2021)", 600e9, half=125.0, tf32=62.5, fp32=31.2, board=(24, 150, _PCIE4)
        ),
        "NVIDIA L4": _peak(
            "NVIDIA L4 data sheet (2023), halved from sparsity",
            300e9,
            half=121.0,
            tf32=60.0,
            fp8=242.5,
            fp32=30.3,
            board=(24, 72, _PCIE4),
        ),
        "NVIDIA L40": _peak(
            "NVIDIA L40 data sheet (2022)", 864e9, half=181.05, tf32=90.5, fp8=362.0, fp32=90.5, board=(48, 300, _PCIE4)
        ),
        "NVIDIA L40S": _peak(
            "NVIDIA L40S data sheet (2023)",
            864e9,
            half=362.05,
            tf32=183.0,
            fp8=733.0,
            fp32=91.6,
            board=(48, 350, _PCIE4),
        ),
        "Tesla T4": _peak("NVIDIA T4 data sheet (2019)", fp16=65.0, fp32=8.1, int8=130.0, board=(16, 70, _PCIE3)),
        "Tesla V100-SXM2-16GB": _peak(_V100_SHEET, 900e9, board=(16, 300, _NVLINK2), **_V100_SXM),
        "Tesla V100-SXM2-32GB": _peak(_V100_SHEET, 900e9, board=(32, 300, _NVLINK2), **_V100_SXM),
        "Tesla V100-PCIE-16GB": _peak(_V100_SHEET, 900e9, board=(16, 250, _PCIE3), **_V100_PCIE),
        "Tesla V100-PCIE-32GB": _peak(_V100_SHEET, 900e9, board=(32, 250, _PCIE3), **_V100_PCIE),
        "NVIDIA B200": _peak(
            "NVIDIA HGX B200 data sheet (2025), an eighth of the board, halved from sparsity",
            half=2250.0,
            tf32=1125.0,
            fp8=4500.0,
            fp32=75.0,
            board=(180, 1000, _NVLINK5),
        ),
        "NVIDIA GB200": _peak(
            "NVIDIA Blackwell data sheet (2025), one GPU of a GB200 NVL72, halved from sparsity",
            8.0e12,
            half=2500.0,
            tf32=1250.0,
            fp8=5000.0,
            fp32=80.0,
            board=(186, 1200, _NVLINK5),
        ),
        "NVIDIA GeForce RTX 3090": _peak(
            "NVIDIA GA102 white paper (2021), fp32 accumulation",
            936e9,
            half=71.0,
            tf32=35.6,
            fp32=35.6,
            board=(24, 350, _PCIE4),
        ),
        "NVIDIA GeForce RTX 4090": _peak(
            "NVIDIA Ada white paper (2023), fp32 accumulation",
            1008e9,
            half=165.2,
            tf32=82.6,
            fp8=330.3,
            fp32=82.6,
            board=(24, 450, _PCIE4),
        ),
    }
)


def lookup_peak(name: str) -> DevicePeak | None:
    """The table's row of a device's exact name, spaces around it aside; None for every other name.

    Example:
        >>> lookup_peak("NVIDIA H200").bytes_per_s, lookup_peak("NVIDIA H300")
        (4800000000000.0, None)
    """
    return PEAKS.get(name.strip())


def find_peak(device: torch.device | None) -> DevicePeak | None:
    """The table's row of a device; None if it has no row, as for a CPU or an unknown name."""
    if device is None or device.type != "cuda":
        return None
    return lookup_peak(torch.cuda.get_device_properties(device).name)


def measured_peak(device: torch.device, flop_by_dtype: Mapping[str, int], budget_s: float = 1.0) -> DevicePeak:
    """Peak rates found by trying: the fastest square product of each format, and a copy larger than caches.

    Only run on request, before training: it keeps the device busy for about `budget_s`. A format that cannot be
    multiplied so (fp8 on CUDA) is left out.
    """
    dtypes = sorted({name.partition("+")[0] for name, flop in flop_by_dtype.items() if flop})
    share_s = budget_s / (len(dtypes) + 1)
    rates: dict[str, float] = {}
    for name in dtypes:
        with suppress(RuntimeError):
            rate = measure_matmul_peak(device, getattr(torch, name), share_s)
            rates[format_of(name, tf32=tf32(convolutions=False))] = rate
            if device.type != "cuda":  # no tensor cores: convolutions run in the same format
                rates[format_of(name, tf32=tf32(convolutions=True))] = rate
    return DevicePeak(
        flop_per_s=rates,
        bytes_per_s=measured_bandwidth(device, share_s),
        source="measured on this device, best square product",
    )


def measure_matmul_peak(device: torch.device, dtype: torch.dtype, budget_s: float = 0.5) -> float:
    """The fastest square matrix product found, in FLOP/s: a lower bound of the peak.

    Every element is the same, so that no random number is drawn. Only run on request, before training.
    """
    best = 0.0
    until = now_s() + budget_s
    sizes = (1024, 4096, 8192) if device.type == "cuda" else (256, 512, 1024)
    for n in sizes:
        if best and 4 * 2 * n**3 / best > until - now_s():  # a warm-up and three repeats would not fit
            break
        a = torch.full((n, n), 0.5, device=device, dtype=dtype)
        out = torch.empty_like(a)
        took_s = _median_s(partial(torch.mm, a, a, out=out), device, budget_s / len(sizes))
        best = max(best, 2 * n**3 / took_s)
    return best


def measured_bandwidth(device: torch.device, budget_s: float = 0.3) -> float:
    """Memory bandwidth by a copy larger than caches, in bytes read and written per second."""
    a = torch.full((2**28 if device.type == "cuda" else 2**25,), 1.0, device=device)  # float32: 1 GiB, 128 MiB
    b = torch.empty_like(a)
    return 2 * a.numel() * a.element_size() / _median_s(lambda: b.copy_(a), device, budget_s)


def _median_s(run: Callable[[], Any], device: torch.device, budget_s: float) -> float:
    run()
    wait(device)
    took_s: list[float] = []
    until = now_s() + budget_s
    while len(took_s) < 3 or now_s() < until:
        began = now_s()
        run()
        wait(device)
        took_s.append(now_s() - began)
    return statistics.median(took_s)


def wait(device: torch.device) -> None:
    """Wait until a device has done what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
