"""A CSVLogger's file as people leave it: saved by a spreadsheet, torn, without steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lightning_costs.run.record import RunRecord
from lightning_costs.sources.columns import ReadOptions
from lightning_costs.sources.csv_logger import LoggedRun, run_of_log
from lightning_costs.sources.loader import find_runs

TEXT = "epoch,step,val_acc,note\n0,1009,0.5,\n1,2019,0.7,late\n"


def read(folder: Path, content: bytes, **options: Any) -> tuple[RunRecord, list[str]]:
    (folder / "run").mkdir()
    (folder / "run" / "metrics.csv").write_bytes(content)
    found = find_runs(folder, monitor="val_acc", mode="max", **options)
    return found.runs[0], found.notes


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (TEXT.encode(), {}),
        (TEXT.encode("utf-16"), {}),
        (TEXT.replace("\n", "\r").encode("utf-8-sig"), {}),
        (b'epoch,step,val_acc\n0,"1,009",0.5\n1,"2,019",0.7\n', {}),
        (b"sep=;\nepoch;step;val_acc\n0;1.009;0,5\n1;2.019;0,7\n", {"decimal": ","}),
    ],
)
def test_a_file_that_a_spreadsheet_saved_is_the_same_run(
    tmp_path: Path, content: bytes, options: dict[str, str]
) -> None:
    if b'"1,009"' in content:
        options = {"decimal": "."}
    run, notes = read(tmp_path, content, **options)
    assert run.points["val_acc"].to_list() == [0.5, 0.7]
    assert run.points["steps"].to_list() == [1010.0, 2020.0]
    assert not notes


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"epoch;step;val_acc\n0;9;0,5\n", "row 1: val_acc is '0,5', expected a number; say which mark"),
        (b"epoch,step,val_acc\n0,1st,0.5\n", "row 1: step is '1st', expected a number"),
        (b"epoch,val_acc\n0,0.5\n", "has no column 'step', as CSVLogger's have; give the file itself"),
        (b"step,val_acc\n4,0.4,0.9\n9,0.5\n", "row 1 has 3 cells where the heading has 2"),
    ],
)
def test_a_file_that_cannot_be_read_as_one_says_why(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        read(tmp_path, content)


def test_a_torn_last_row_is_left_out_and_said(tmp_path: Path) -> None:
    run, notes = read(tmp_path, b"epoch,step,val_acc\n0,9,0.5\n1,1")
    assert run.points["val_acc"].to_list() == [0.5]
    assert [note.rpartition(": ")[2] for note in notes] == ["its last row is torn and was left out"]


def test_a_final_stamp_that_a_logger_keeps_apart_counts_as_those_of_rows_do() -> None:
    stamp = "trainer/global_step"
    rows: list[Any] = [{stamp: 9, "val_acc": 0.5}, {stamp: 19, "val_acc": 0.6}]
    log = LoggedRun(rows=rows, step=stamp, stamped=True, totals={stamp: 29})
    run = run_of_log(log, ReadOptions(monitor="val_acc", mode="max"), run_id="r", name="r", source="W&B, r")
    assert run.final == {"steps": 30.0}
