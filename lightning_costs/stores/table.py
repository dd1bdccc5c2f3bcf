"""The points of a run as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_costs.core.legible import encodable
from lightning_costs.core.records import CurvePoint

if TYPE_CHECKING:
    import polars

#: Columns of every point that are neither costs nor metrics.
OWN = ("step", "epoch", "time", "trigger")


def quality_columns(points: Sequence[CurvePoint], taken: Mapping[str, Any]) -> dict[str, str]:
    """Column name of every metric that the points hold: its own, unless a cost has that name already."""
    names = dict.fromkeys(name for point in points for name in point.quality)
    return {name: encodable(f"quality/{name}" if name in taken or name in OWN else name) for name in names}


def cost_columns(header: Mapping[str, Any]) -> list[str]:
    """Names of the costs that every point has: all that the header declares but statics."""
    return [name for name, declaration in header["indicators"].items() if declaration["kind"] != "static"]


def to_frame(points: Sequence[CurvePoint], header: Mapping[str, Any]) -> polars.DataFrame:
    """Points as a table: [points] rows; step, epoch, time, trigger, cost columns, metric columns."""
    import polars

    costs = cost_columns(header)
    metrics = quality_columns(points, header["indicators"])
    columns: dict[str, polars.Series] = {
        "step": polars.Series("step", [p.step for p in points], polars.Int64),
        "epoch": polars.Series("epoch", [p.epoch for p in points], polars.Int64),
        "time": polars.Series("time", [p.time for p in points], polars.Float64),
        "trigger": polars.Series("trigger", [p.trigger for p in points], polars.String),
    }
    for name in costs:
        columns[name] = polars.Series(name, [p.costs.get(name) for p in points], polars.Float64)
    for metric, column in metrics.items():
        columns[column] = polars.Series(column, [p.quality.get(metric) for p in points], polars.Float64)
    return polars.DataFrame(columns)


def from_frame(frame: polars.DataFrame, header: Mapping[str, Any]) -> list[CurvePoint]:
    """The points of a table: `to_frame` turned round."""
    declared: Mapping[str, Any] = header["indicators"]
    metrics = [name for name in frame.columns if name not in OWN and name not in declared]
    taken = {f"quality/{name}": name for name in (*OWN, *declared)}
    return [
        CurvePoint(
            **{name: row[name] for name in OWN},
            costs={name: row[name] for name in declared if name in row},
            quality={taken.get(name, name): row[name] for name in metrics if row[name] is not None},
        )
        for row in frame.iter_rows(named=True)
    ]


def read_parquet(path: Path, header: Mapping[str, Any]) -> polars.DataFrame:
    """A table of points, with every cost column: one that was left out as missing throughout is missing."""
    import polars

    frame = polars.read_parquet(path)
    absent = [
        polars.lit(None, polars.Float64).alias(name) for name in cost_columns(header) if name not in frame.columns
    ]
    return frame.with_columns(absent) if absent else frame
