"""Predicted costs against the number of devices, a line a card with its 80 % interval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import altair as alt
import vl_convert

from lightning_costs.prediction.prediction import Prediction
from lightning_costs.records.formatting import choose_unit
from lightning_costs.records.printable import printable_data
from lightning_costs.report.charts.figures import HEIGHT, WIDTHS, Format, _content
from lightning_costs.report.charts.look import COLORS, VEGA_LITE, cycle, styled

#: What is drawn, the first that all predictions have.
_COSTS = {"cloud_usd": "cloud cost", "energy_j": "energy", "total_s": "time to the end", "step_s": "time per step"}


def write_prediction_figure(found: Sequence[Prediction], path: Path) -> Path:
    """Write the figure as PDF, SVG or PNG, by the path's ending.

    Raises:
        ValueError: For another ending, or if nothing was predicted.
    """
    suffix = path.suffix.removeprefix(".")
    if suffix not in get_args(Format):
        raise ValueError(f"a figure's file must end in {', '.join(f'.{one}' for one in get_args(Format))}, got {path}")
    svg = vl_convert.vegalite_to_svg(
        json.dumps(printable_data(prediction_chart(found).to_dict())), vl_version=VEGA_LITE
    )
    path.write_bytes(_content(svg, suffix))  # type: ignore[arg-type]
    return path


def prediction_chart(found: Sequence[Prediction]) -> alt.LayerChart:
    """The chart, of the first cost that all predictions have."""
    name = next((name for name in _COSTS if found and all(name in one.amounts for one in found)), None)
    if name is None:
        raise ValueError("there is no amount that all predictions have: the table says why each is missing")
    most = max(one.amounts[name].high or one.amounts[name].middle for one in found)
    unit = choose_unit(name.rpartition("_")[2], most)
    rows = [
        {
            "card": str(one.setting["on"]),
            "devices": one.setting["devices"],
            **{end: (getattr(one.amounts[name], end) or 0) / unit.factor for end in ("low", "middle", "high")},
        }
        for one in found
    ]
    cards = list(dict.fromkeys(row["card"] for row in rows))
    x = alt.X("devices:Q", title="devices", scale=alt.Scale(type="log", base=2), axis=alt.Axis(tickMinStep=1))
    color = alt.Color("card:N", title=None, scale=alt.Scale(domain=cards, range=cycle(COLORS, len(cards))))
    title = f"{_COSTS[name]} ({unit.suffix}), predicted" if unit.suffix else f"{_COSTS[name]}, predicted"
    base = alt.Chart(alt.InlineData(values=rows))
    lines = base.mark_line(point=True).encode(x=x, y=alt.Y("middle:Q", title=title), color=color)
    bars = base.mark_rule(strokeWidth=2, opacity=0.5).encode(x=x, y="low:Q", y2="high:Q", color=color)
    return styled(alt.layer(bars, lines).properties(width=WIDTHS["text"], height=HEIGHT))
