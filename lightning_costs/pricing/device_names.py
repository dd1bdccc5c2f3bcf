"""Names of accelerators: what drivers call a device, to the one name that price tables use."""

from __future__ import annotations

import re
from typing import Final

#: The table's name, and what torch and NVML report for it, 'NVIDIA' and 'Tesla' aside. Form factors and memory sizes
#: are different devices: a board that is not here (a 64 GB A100, an 'H100 96GB') has no name rather than another's.
_REPORTED: Final = {
    "B200": r"B200( SXM6?)?",
    "GB200": r"GB200",
    "GH200": r"GH200( 480GB)?",
    "H200": r"H200( SXM5?)?",
    "H200 NVL": r"H200 NVL",
    "H100 SXM": r"H100 (80GB HBM3|SXM5?( 80GB)?)",
    "H100 PCIe": r"H100 PCIe( 80GB)?",
    "H100 NVL": r"H100 NVL( 94GB)?",
    "A100 SXM 80GB": r"A100[- ]SXM4?[- ]80GB",
    "A100 SXM 40GB": r"A100[- ]SXM4?[- ]40GB",
    "A100 PCIe 80GB": r"A100 80GB PCIe|A100[- ]PCIe[- ]80GB",
    "A100 PCIe 40GB": r"A100[- ]PCIe[- ]40GB",
    "L40S": r"L40S",
    "L40": r"L40",
    "L4": r"L4",
    "A10": r"A10",
    "A10G": r"A10G",
    "T4": r"T4",
    "T4G": r"T4G",
    "V100 SXM2 16GB": r"V100[- ]SXM2[- ]16GB",
    "V100 SXM2 32GB": r"V100[- ]SXM2[- ]32GB",
    "V100 PCIe 16GB": r"V100[- ]PCIe[- ]16GB",
    "V100 PCIe 32GB": r"V100[- ]PCIe[- ]32GB",
}
_PATTERNS: Final = [(name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _REPORTED.items()]
_MAKER: Final = re.compile(r"^(NVIDIA\s+)?(Tesla\s+)?", re.IGNORECASE)


def canonical_device_name(reported: str) -> str:
    """The name of a device in price tables, by what torch or NVML reports; one that has none keeps its own.

    Example:
        >>> (canonical_device_name("NVIDIA H100 80GB HBM3"), canonical_device_name("NVIDIA H100 PCIe"),
        ...  canonical_device_name("Tesla T4"))
        ('H100 SXM', 'H100 PCIe', 'T4')
        >>> canonical_device_name("NVIDIA A100-SXM-64GB")
        'NVIDIA A100-SXM-64GB'
    """
    bare = " ".join(_MAKER.sub("", reported.strip()).split())
    return next((name for name, pattern in _PATTERNS if pattern.fullmatch(bare)), reported.strip())


def is_mig_slice(reported: str) -> bool:
    """Whether a device is a MIG slice of one, which no table prices.

    Example:
        >>> is_mig_slice("NVIDIA A100-SXM4-40GB MIG 1g.5gb"), is_mig_slice("NVIDIA A100-SXM4-40GB")
        (True, False)
    """
    return re.search(r"\bMIG\b", reported, re.IGNORECASE) is not None
