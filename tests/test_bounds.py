"""The bounds in pyproject.toml are the versions in constraints-lowest.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
#: Not in that file: torch is chosen by `TORCH=`, deepspeed is built from source, mlflow-skinny brings an OpenTelemetry.
APART = {"torch", "deepspeed", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"}


def test_every_declared_bound_is_a_version_that_was_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [
        *project["dependencies"],
        *(line for name in ("report", "wandb", "huggingface", "otel") for line in extras[name]),
    ]
    pins = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8"), re.MULTILINE)
    tested = {canonicalize_name(name): Version(version) for name, version in pins}
    for requirement in map(Requirement, declared):
        if (name := canonicalize_name(requirement.name)) in APART:
            continue
        (least,) = (Version(each.version) for each in requirement.specifier if each.operator == ">=")
        assert tested[name] in requirement.specifier
        assert tested[name].release[: len(least.release)] == least.release, (
            f"{name}: {least} is lower than what was tried"
        )
