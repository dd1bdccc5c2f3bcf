"""What charts are drawn from: columns under safe names (c0, c1, ...), never under users' names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.schema import RunRow
from lightning_costs.records.certainty import noted
from lightning_costs.records.formatting import DisplayUnit, choose_unit
from lightning_costs.records.samples import Amount

#: About this many points of a curve carry the run's shape.
MARKED = 8
#: Numbers that are drawn at most, about, over all runs and columns; a run has at least `LEAST` points of its own.
MOST, LEAST = 200_000, 8
Column = list[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A column of the chart data, for people.

    Args:
        field: Column of the chart data.
        label: What it is, without its unit.
        suffix: The unit that its values are shown in.
        static: Whether it has one value per run rather than a curve.
        positive: Whether it has any value that a logarithmic axis can show.
        factor: What amounts were divided by.
        domain: The values that the axis shows; None for all.
    """

    field: str
    label: str
    suffix: str
    static: bool
    positive: bool
    factor: float = 1.0
    domain: tuple[float, float] | None = None

    @property
    def title(self) -> str:
        """Label and unit on one line."""
        label = single_line(self.label)
        return f"{label} ({self.suffix})" if self.suffix and self.suffix != label else label


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartData:
    """A comparison's curves and final amounts, column by column.

    Args:
        labels: Run labels; column `r` counts them.
        axes: Indicator to its axis; only those that some run has a value of.
        quality: The metric's axis.
        best: The same for the best quality of each run.
        curves: Column name to values, one row per evaluation of a run: `r`, `s` (step), `m` (1 where the row
            carries the run's shape), `q` (quality) and the indicators' fields.
        finals: One row per run, its best quality in `q`.
        kept: By run label, which of its evaluations are rows of `curves`.
    """

    labels: list[str]
    axes: dict[str, Axis]
    quality: Axis
    best: Axis
    curves: dict[str, Column]
    finals: dict[str, Column]
    kept: dict[str, list[int]]


def single_line(text: str, most: int = 60) -> str:
    r"""A user's text on one line, cut if it is long.

    Example:
        >>> single_line("two\nlines"), single_line("long", most=3)
        ('two lines', 'lo…')
    """
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def share_text(share: float) -> str:
    """How much of an amount comes from a model or a constant.

    Example:
        >>> share_text(1.0), share_text(0.167), share_text(0.001)
        ('modelled', '17 % modelled', '<1 % modelled')
    """
    if share > 0.995:
        return "modelled"
    return f"{'<1' if share < 0.01 else f'{100 * share:.0f}'} % modelled"


def _label(cmp: ComparisonData, name: str) -> str:
    """A column's label, with the mark and the share of what is modelled."""
    row = cmp.indicators[name]
    label = f"{row['label']} to reach" if cmp.curve == "to_reach" and row["kind"] == "counter" else row["label"]
    if not any(run["certainty"].get(name) == "modelled" for run in cmp.runs):
        return label
    share = next((cost["modelled_share"] for cost in cmp.answer["costs"] if name in cost["columns"]), None)
    return noted(label if share is None else f"{label}, {share_text(share)}", 1.0, "modelled")


def chart_data(
    cmp: ComparisonData, names: Sequence[str] | None = None, *, every: Sequence[RunRow] | None = None
) -> ChartData:
    """Bring the curves and final amounts of indicators into the units they are shown in.

    Args:
        cmp: The comparison.
        names: Columns to take; by default those with the role 'indicator'.
        every: Runs whose final amounts the axes are made for too; by default those of the comparison.
    """
    if names is None:
        names = [name for name, row in cmp.indicators.items() if row["role"] == "indicator"]
    axes: dict[str, Axis] = {}
    shown: dict[str, DisplayUnit] = {}
    for name in names:
        row = cmp.indicators[name]
        curve_values = [value for label in cmp.labels for value in cmp.curves[label].get(name, ())]
        values = finite([*curve_values, *(run["final"].get(name) for run in every or cmp.runs)])
        if not values:
            continue
        shown[name] = choose_unit(row["unit"], max(values, key=abs))
        static = row["kind"] == "static" or not finite(curve_values)
        axes[name] = Axis(
            field=f"c{len(axes)}",
            label=_label(cmp, name),
            suffix=shown[name].suffix,
            static=static,
            positive=max(values) > 0,
            factor=shown[name].factor,
        )
    curves: dict[str, Column] = {
        key: [] for key in ("r", "s", "m", "q", *(axis.field for axis in axes.values() if not axis.static))
    }
    most = max(LEAST, MOST // max(1, len(cmp.labels) * len(curves)))
    drawn = {name: axis for name, axis in axes.items() if not axis.static}
    rows_of: dict[str, list[int]] = {}
    for index, label in enumerate(cmp.labels):
        curve = cmp.curves[label]
        kept = rows_of[label] = downsample_evaluations(curve["quality"], most)
        curves["r"] += [index] * len(kept)
        curves["s"] += [curve["step"][at] for at in kept]
        curves["m"] += _marks(len(kept), index)
        curves["q"] += [rounded(curve["quality"][at], 1.0, 6) for at in kept]
        for name, axis in drawn.items():
            column, factor = curve.get(name), shown[name].factor
            curves[axis.field] += [None if column is None else rounded(column[at], factor) for at in kept]
    finals: dict[str, Column] = {
        "r": [float(index) for index in range(len(cmp.runs))],
        "s": [run["best_step"] for run in cmp.runs],
        "m": [1.0] * len(cmp.runs),
        "q": [rounded(run["best_quality"], 1.0, 6) for run in cmp.runs],
    }
    for name, axis in axes.items():
        finals[axis.field] = [rounded(run["final"][name], shown[name].factor) for run in cmp.runs]
    quality = Axis(field="q", label=cmp.monitor, suffix="", static=False, positive=True)
    return ChartData(
        labels=cmp.labels,
        axes=axes,
        quality=quality,
        best=replace(quality, label=f"best {cmp.monitor}"),
        curves=curves,
        finals=finals,
        kept=rows_of,
    )


def downsample_evaluations(quality: Sequence[Amount], most: int) -> list[int]:
    """Which evaluations of a run are drawn: all, or about `most` of them. Figures are never made from these.

    If there are more, evaluations are cut into as many stretches of equal length as fit. The first one of each
    stays, and with them the last one and those of the least and the greatest quality.

    Example:
        >>> downsample_evaluations([0.1, 0.3, 0.2, 0.9, 0.5, 0.6, 0.7, 0.8], 4), downsample_evaluations([0.1, None], 4)
        ([0, 3, 7], [0, 1])
    """
    count = len(quality)
    if count <= most:
        return list(range(count))
    stretches = max(1, most - 3)
    kept = {at * count // stretches for at in range(stretches)} | {count - 1}
    finite = [(value, at) for at, value in enumerate(quality) if value is not None and math.isfinite(value)]
    if finite:
        kept |= {min(finite)[1], max(finite)[1]}
    return sorted(kept)


def rows(
    identities: Sequence[Mapping[str, object]], columns: Mapping[str, Column], fields: Sequence[str]
) -> list[dict[str, object]]:
    """Row by row, with what says whose each is: how a chart outside the page is given its data."""
    keys = [key for key in ("s", "m", "q", *fields) if key in columns]
    return [
        {**identities[int(run or 0)], **dict(zip(keys, values, strict=True))}
        for run, *values in zip(columns["r"], *(columns[key] for key in keys), strict=True)
    ]


def finite(values: Sequence[Amount]) -> list[float]:
    """The amounts that an axis can show."""
    return [value for value in values if value is not None and math.isfinite(value)]


def rounded(value: Amount, factor: float, digits: int = 5) -> float | None:
    """An amount in the unit it is drawn in; None if it is missing or not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value / factor:.{digits}g}")


def _marks(length: int, offset: int) -> Column:
    """1 on about `MARKED` rows and on the last; offset by run, so that shapes do not cover each other."""
    every = max(1, length // MARKED)
    return [1.0 if (index + offset) % every == 0 or index == length - 1 else 0.0 for index in range(length)]
