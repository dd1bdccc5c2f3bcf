"""One step of a pipeline as a picture: stages as lanes, what they did as blocks. Plain SVG on paper of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from lightning_costs.records.pipeline.timeline import COMPUTE, KINDS

_WIDTH, _GUTTER, _RIGHT = 960, 84, 16
_LANE, _APART, _TOP, _AXIS = 34, 8, 78, 34
#: Fills that are told apart without colour vision (Okabe and Ito 2008), each with its letter beside it.
_FILLS = {
    "F": "#56b4e9",
    "B": "#e69f00",
    "I": "#e69f00",
    "W": "#2fa37c",
    "S": "#8d99a6",
    "R": "#c9d0d8",
    "L": "#cc79a7",
    "G": "#cc79a7",
    "U": "#cc79a7",
}
#: What people call a schedule whose class has another name.
_NAMES = {"TrainSchedule": "DeepSpeed's 1F1B (TrainSchedule)"}
_INK, _SOFT, _LINE = "#1f2933", "#52606d", "#d5dae0"
_FONT = "system-ui,-apple-system,Segoe UI,Roboto,Helvetica,Arial,sans-serif"
#: A block gets its letter and micro-batch from this width on, per character.
_CHARACTER = 7.2


def timeline_svg(pipeline: Mapping[str, Any], number: int = 0) -> str | None:
    """The picture of `header["pipeline"]`; None if no step's timeline is in it.

    White paper is a part of it, so that it reads on dark pages and in print; every kind has a letter, so that it reads
    without colours.
    """
    timeline = pipeline.get("timeline")
    if not timeline or not timeline["lanes"]:
        return None
    lanes: Sequence[Mapping[str, Any]] = timeline["lanes"]
    start = min(0, *(lane["begun_us"] for lane in lanes)) if len(lanes) > 1 else 0
    length = max(1, timeline["length_us"] - start)
    scale = (_WIDTH - _GUTTER - _RIGHT) / length
    bottom = _TOP + len(lanes) * (_LANE + _APART)
    hatch = f"lane-idle-{number}"
    description = f"One step of {pipeline['schedule']}: {len(lanes)} lanes over {_milliseconds(length)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + _AXIS}" width="{_WIDTH}" '
        f'height="{bottom + _AXIS}" font-family="{_FONT}" role="img" aria-label="{escape(description, _QUOTES)}">',
        f'<defs><pattern id="{hatch}" width="6" height="6" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><path d="M0,0V6" stroke="{_LINE}" stroke-width="2"/></pattern></defs>',
        f'<rect width="{_WIDTH}" height="{bottom + _AXIS}" rx="6" fill="#ffffff"/>',
        _text(_GUTTER, 24, _title(pipeline, timeline), size=14, weight=600),
        *_legend(lanes, hatch),
    ]
    for row, lane in enumerate(lanes):
        parts += _lane(lane, _TOP + row * (_LANE + _APART), start, length, scale, hatch)
    parts += [*_axis(bottom, length, scale), "</svg>"]
    return "".join(parts)


_QUOTES = {'"': "&quot;"}


def _title(pipeline: Mapping[str, Any], timeline: Mapping[str, Any]) -> str:
    chunks = f", {pipeline['chunks']} chunks each" if pipeline["chunks"] > 1 else ""
    schedule = _NAMES.get(pipeline["schedule"], pipeline["schedule"])
    return (
        f"{schedule}, {_number(pipeline['stages'], 'stage')}{chunks}, "
        f"{_number(pipeline['microbatches'], 'micro-batch', 'es')}: "
        f"step {timeline['step'] + 1}"
    )


def _number(count: int, what: str, plural: str = "s") -> str:
    return f"{count} {what}{plural if count != 1 else ''}"


def _legend(lanes: Sequence[Mapping[str, Any]], hatch: str) -> list[str]:
    there = {interval[0] for lane in lanes for interval in lane["intervals"]}
    named = [(f"{kind} {words}", _FILLS[kind]) for kind, words in KINDS.items() if kind in there]
    parts: list[str] = []
    x = float(_GUTTER)
    for words, fill in [*named, ("idle", f"url(#{hatch})")]:
        parts.append(
            f'<rect x="{x:.0f}" y="40" width="14" height="12" fill="{fill}" stroke="{_SOFT}" stroke-width=".5"/>'
        )
        parts.append(_text(x + 19, 50, words, size=11, fill=_SOFT))
        x += 32 + 6.1 * len(words)
    return parts


def _lane(lane: Mapping[str, Any], top: int, start: int, length: int, scale: float, hatch: str) -> list[str]:
    name = f"stage {lane['stage']}"
    parts = [
        _text(_GUTTER - 10, top + _LANE / 2 + 4, name, size=12, anchor="end"),
        f'<rect x="{_GUTTER}" y="{top}" width="{length * scale:.1f}" height="{_LANE}" fill="url(#{hatch})" '
        f'stroke="{_LINE}"/>',
    ]
    for kind, chunk, microbatch, begun, ended in lane["intervals"]:
        x, width = _GUTTER + (begun - start) * scale, max(0.4, (ended - begun) * scale)
        passes = kind in COMPUTE
        height = _LANE if passes else _LANE * 0.42
        y = top + _LANE - height
        shade = (
            ' stroke="#1f2933" stroke-width="1.6"' if passes and chunk % 2 else f' stroke="{_INK}" stroke-width=".4"'
        )
        of = f" of micro-batch {microbatch}" if microbatch >= 0 else ""
        part = f", chunk {chunk}" if len(lane["chunks"]) > 1 else ""
        tip = f"{name}: {KINDS[kind]}{of}{part}, {_milliseconds(ended - begun)} from {_milliseconds(begun - start)}"
        parts.append(
            f'<rect x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{height:.1f}" fill="{_FILLS[kind]}"{shade}>'
            f"<title>{escape(tip)}</title></rect>"
        )
        label = kind + (str(microbatch) if microbatch >= 0 and passes else "")
        if width >= _CHARACTER * len(label) + 3:
            size = 11 if passes else 9
            parts.append(_text(x + width / 2, y + height / 2 + size * 0.36, label, size=size, anchor="middle"))
    if lane["cut"]:
        parts.append(_text(_WIDTH - _RIGHT - 4, top + 12, "cut", size=10, anchor="end"))
    return parts


def _axis(top: float, length: int, scale: float) -> list[str]:
    parts = [f'<path d="M{_GUTTER},{top}H{_WIDTH - _RIGHT}" stroke="{_SOFT}"/>']
    step = _round_step(length / 8)
    for tick in range(int(length // step) + 1):
        x = _GUTTER + tick * step * scale
        parts.append(f'<path d="M{x:.1f},{top}v5" stroke="{_SOFT}"/>')
        parts.append(_text(x, top + 18, _milliseconds(tick * step), size=11, anchor="middle", fill=_SOFT))
    return parts


def _round_step(least: float) -> float:
    """The least of 1, 2, 5, 10, ... that is at least `value`."""
    power = 10.0 ** math.floor(math.log10(max(least, 1.0)))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)


def _milliseconds(microseconds: float) -> str:
    amount = microseconds / 1e3
    return f"{amount:.4g} ms" if amount < 1e4 else f"{amount / 1e3:.4g} s"


def _text(
    x: float, y: float, words: str, *, size: int, weight: int = 400, anchor: str = "start", fill: str = _INK
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{fill}">{escape(words)}</text>'
    )
