"""Reaches the Trainers of a script: transformers has no entry points, so its Python loads `sitecustomize` from here.

OpenTelemetry's `opentelemetry-instrument` does it in the same way.
"""

from __future__ import annotations

import os
from pathlib import Path


def search_path() -> dict[str, str]:
    """The variable that puts this folder first among those that a script's Python looks for modules in."""
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])}
