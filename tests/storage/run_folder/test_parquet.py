"""The Parquet that is written without a library is read by one as it was meant."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import header, point, points

from lightning_costs.storage.run_folder.frames import to_columns, to_frame
from lightning_costs.storage.run_folder.parquet import parquet

_VALUES = {
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=True, allow_infinity=True),
    "text": st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
}
_TYPES = {"int": polars.Int64, "float": polars.Float64, "text": polars.String}


@st.composite
def tables(draw):
    rows = draw(st.integers(0, 40))
    names = draw(st.lists(_VALUES["text"], unique=True, max_size=20))
    kinds = [draw(st.sampled_from(sorted(_VALUES))) for _ in names]
    values = {kind: st.lists(st.none() | each, min_size=rows, max_size=rows) for kind, each in _VALUES.items()}
    return {name: (kind, draw(values[kind])) for name, kind in zip(names, kinds, strict=True)}


@given(tables())
def test_a_table_is_read_back_as_it_was(columns):
    expected = polars.DataFrame({n: polars.Series(n, values, _TYPES[kind]) for n, (kind, values) in columns.items()})
    assert polars.read_parquet(io.BytesIO(parquet(columns))).equals(expected)


@given(st.lists(points, max_size=5))
def test_the_points_of_a_run_are_the_same_by_both_ways(originals):
    columns = to_columns(originals, header())
    assert polars.read_parquet(io.BytesIO(parquet(columns))).equals(to_frame(originals, header()))


def test_a_metric_whose_name_no_file_can_hold_costs_nothing_but_its_name():
    odd = [point(1, quality={"acc\ud800": 0.5, "loss": math.nan})]
    read = polars.read_parquet(io.BytesIO(parquet(to_columns(odd, header()))))
    assert read.columns[-2:] == to_frame(odd, header()).columns[-2:] == ["acc\\ud800", "loss"]
    assert read["acc\\ud800"].to_list() == [0.5]


@pytest.mark.integration
def test_it_is_written_without_polars():
    code = "import sys; from lightning_costs.storage.run_folder import writer; assert 'polars' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
