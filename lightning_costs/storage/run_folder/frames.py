"""The points of a run as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_costs.records.printable import utf8_encodable
from lightning_costs.records.samples import CurvePoint
from lightning_costs.storage.run_folder.parquet import Columns, Kind

if TYPE_CHECKING:
    import polars

#: Columns of every point that are neither costs nor metrics.
OWN = ("step", "epoch", "time", "trigger")


def quality_columns(points: Sequence[CurvePoint], taken: Mapping[str, Any]) -> dict[str, str]:
    """Column name of every metric that the points hold: its own, unless a cost has that name already."""
    return columns_of(metrics_of(points), taken)


def columns_of(metrics: Iterable[str], taken: Mapping[str, Any]) -> dict[str, str]:
    """Column name of every metric; characters outside UTF-8 are escaped."""
    plain = {name: utf8_encodable(name) for name in metrics}
    return {
        name: f"quality/{escaped}" if escaped in taken or escaped in OWN else escaped for name, escaped in plain.items()
    }


def metrics_of(points: Iterable[CurvePoint]) -> list[str]:
    """Names of the metrics that points hold, in the order in which they came."""
    return list(dict.fromkeys(name for point in points for name in point.quality))


def cost_columns(header: Mapping[str, Any]) -> list[str]:
    """Names of the costs that every point has: all that the header declares but statics."""
    return [name for name, declaration in header["indicators"].items() if declaration["kind"] != "static"]


def to_columns(points: Sequence[CurvePoint], header: Mapping[str, Any]) -> Columns:
    """Points as columns of [points] values: step, epoch, time, trigger, costs, metrics.

    A metric that evaluations log is theirs alone: training steps may log one of the same name, of other data.
    """
    columns: dict[str, tuple[Kind, Sequence[Any]]] = {
        "step": ("int", [p.step for p in points]),
        "epoch": ("int", [p.epoch for p in points]),
        "time": ("float", [p.time for p in points]),
        "trigger": ("text", [p.trigger for p in points]),
    }
    for name in cost_columns(header):
        columns[name] = "float", [p.costs.get(name) for p in points]
    evaluated = set(metrics_of(p for p in points if p.trigger == "evaluate"))
    for metric, column in quality_columns(points, header["indicators"]).items():
        of_any = metric not in evaluated
        columns[column] = (
            "float",
            [p.quality.get(metric) if of_any or p.trigger == "evaluate" else None for p in points],
        )
    return columns


def to_frame(points: Sequence[CurvePoint], header: Mapping[str, Any]) -> polars.DataFrame:
    """Points as a table."""
    return as_frame(to_columns(points, header))


def as_frame(columns: Columns) -> polars.DataFrame:
    """Columns as polars has them."""
    import polars

    types = {"int": polars.Int64, "float": polars.Float64, "text": polars.String}
    of_kind = {name: polars.Series(name, values, types[kind]) for name, (kind, values) in columns.items()}
    return polars.DataFrame(of_kind)


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


def read_parquet(path: Path | BytesIO, header: Mapping[str, Any]) -> polars.DataFrame:
    """A table of points, with every cost column: one that was left out as missing throughout is missing."""
    import polars

    return with_costs(polars.read_parquet(path), header)


def with_costs(frame: polars.DataFrame, header: Mapping[str, Any]) -> polars.DataFrame:
    """A table of points with every cost column: one that is not there is missing throughout."""
    import polars

    absent = [
        polars.lit(None, polars.Float64).alias(name) for name in cost_columns(header) if name not in frame.columns
    ]
    return frame.with_columns(absent) if absent else frame
