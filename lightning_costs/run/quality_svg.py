"""A run's quality over its steps as a small picture, in plain SVG: what a notebook shows without any package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _PAD = 320, 96, 6
#: Most evaluations that are drawn, evenly spaced: a curve for the eye.
_MOST = 320
_INK = "#0072b2"


def quality_svg(steps: Sequence[float | None], quality: Sequence[float | None], name: str) -> str:
    """The curve; empty for fewer than two finite qualities.

    Example:
        >>> "<polyline" in quality_svg([1, 2, 3], [0.1, 0.5, 0.6], "acc"), quality_svg([1], [0.1], "acc")
        (True, '')
    """
    points = [
        (float(step), float(value))
        for step, value in zip(steps, quality, strict=True)
        if step is not None and value is not None and math.isfinite(value)
    ]
    if len(points) < 2:
        return ""
    count = len(points)
    points = [*points[: -1 : max(1, count // _MOST)], points[-1]]
    low, high = min(value for _, value in points), max(value for _, value in points)
    first, last = points[0][0], points[-1][0]
    across, up = (last - first) or 1.0, (high - low) or 1.0
    drawn = " ".join(
        f"{_PAD + (step - first) / across * (_WIDTH - 2 * _PAD):.1f},"
        f"{_HEIGHT - _PAD - (value - low) / up * (_HEIGHT - 2 * _PAD):.1f}"
        for step, value in points
    )
    label = escape(f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g} over {count} evaluations", {'"': "&quot;"})
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f'<polyline points="{drawn}" fill="none" stroke="{_INK}" stroke-width="2"/></svg>'
    )
