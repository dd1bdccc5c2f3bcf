"""A run whose points are read when somebody looks at them."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from functools import partial

import polars
import pytest

from lightning_costs.run.record import RunRecord

HEADER = {"run_id": "r1", "indicators": {"steps": {"kind": "counter"}}, "statics": {}}
reads: list[int] = []


def read(steps: int) -> polars.DataFrame:
    reads.append(steps)
    return polars.DataFrame({"steps": [float(steps)]})


@pytest.fixture
def run() -> RunRecord:
    reads.clear()
    return RunRecord.lazy(header=HEADER, read=partial(read, 3), source="points.parquet")


def test_points_are_read_once_and_only_when_they_are_looked_at(run: RunRecord) -> None:
    assert (run.id, run.source, reads) == ("r1", "points.parquet", [])
    assert run.final == {"steps": 3.0}
    assert run.points is run.points
    assert reads == [3]


def test_a_copy_of_what_was_not_looked_at_is_not_looked_at(run: RunRecord) -> None:
    for other in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run)):
        assert reads == []
        assert other.points.equals(run.points)
        reads.clear()
        run = RunRecord.lazy(header=HEADER, read=partial(read, 3), source="points.parquet")


def test_a_record_with_points_is_copied_with_them(run: RunRecord) -> None:
    plain = RunRecord(header=HEADER, points=run.points)
    assert pickle.loads(pickle.dumps(plain)).points.equals(plain.points)


def test_replacing_the_header_keeps_the_points(run: RunRecord) -> None:
    other = replace(run, header={**HEADER, "run_id": "r2"})
    assert (other.id, other.points.equals(run.points), other.source) == ("r2", True, "points.parquet")


def test_what_a_record_does_not_have_is_an_attribute_error(run: RunRecord) -> None:
    with pytest.raises(AttributeError, match="'RunRecord' object has no attribute 'poinst'"):
        run.poinst  # type: ignore[attr-defined]  # noqa: B018
