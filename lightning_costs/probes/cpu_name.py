"""The CPU's model name as its operating system gives it, in a few milliseconds.

py-cpuinfo, which codecarbon asks, reads the same name from the same sources. It needs a second more, since it also runs
machine code in a process of its own, for fields that are not read here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from lightning_costs.patching.quiet_codecarbon import silence_codecarbon

#: Names of the field in /proc/cpuinfo: on x86, POWER, old ARM, LoongArch. 64-bit ARM has none of them.
_IN_PROC = ("model name", "cpu", "processor", "uarch")
_WINDOWS_KEY = r"Hardware\Description\System\CentralProcessor\0"


@cache
def cpu_name() -> str | None:
    """The name, such as 'AMD EPYC 7763 64-Core Processor'; None if the operating system does not say it."""
    try:
        if sys.platform == "win32":
            import winreg

            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _WINDOWS_KEY) as key:
                return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip() or None
        if sys.platform == "darwin":
            return _output_of(["sysctl", "-n", "machdep.cpu.brand_string"]).strip() or None
        return _in_proc() or _by_lscpu()
    except (OSError, subprocess.SubprocessError):
        return None


def _in_proc() -> str | None:
    try:
        return field(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"), _IN_PROC)
    except OSError:
        return None


def _by_lscpu() -> str | None:
    text = _output_of(["lscpu"])
    return field(text, ["model name"]) or field(text, ["model"])


def _output_of(command: list[str]) -> str:
    with silence_codecarbon():  # the search for the program is not
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env={**os.environ, "LC_ALL": "C"},
            timeout=5, check=True,
        )  # fmt: skip
    return done.stdout


def field(text: str, names: Iterable[str]) -> str | None:
    r"""The first value of a field in lines of `name : value` that is no number.

    Example:
        >>> field("processor : 0\nmodel name : AMD EPYC", ["model name", "processor"])
        'AMD EPYC'
    """
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in names and value.strip() and not value.strip().isdigit():
            return value.strip()
    return None
