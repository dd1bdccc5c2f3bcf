from __future__ import annotations

import json
import math
import os

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loaded_sources import THREE, write
from run_folders import DECLARED, header, point

from lightning_costs import load_run, load_runs
from lightning_costs.records.samples import SCHEMA_VERSION
from lightning_costs.storage.run_folder.files import HEADER, JOURNAL, PARQUET, RunFolder
from lightning_costs.storage.run_folder.frames import quality_columns, to_frame
from lightning_costs.storage.run_folder.journal import PointEncoder


def age(path, seconds):
    """Set a file's time back."""
    stat = path.stat()
    os.utime(path, (stat.st_atime - seconds, stat.st_mtime - seconds))


def test_a_finished_run_loads_from_parquet(tmp_path):
    run = load_run(write(tmp_path / "r1", THREE, status="finished"))
    assert run.source == PARQUET
    assert run.points.columns == ["step", "epoch", "time", "trigger", "steps", "energy_j", "val/acc"]
    assert run.points["val/acc"].to_list() == [None, 0.5, None]
    assert run.points["energy_j"].to_list() == [2.0, 4.0, 6.0]
    assert run.quality_columns == ["val/acc"]
    assert (run.id, run.name, run.header["status"]) == ("r1", "one", "finished")


def test_the_final_costs_are_the_last_points_and_the_statics(tmp_path):
    assert load_run(write(tmp_path / "r1", THREE)).final == {"steps": 3.0, "energy_j": 6.0, "params": 10.0}


def test_a_killed_run_loads_from_the_journal_and_equals_the_finished_one(tmp_path):
    killed = load_run(write(tmp_path / "killed", THREE, close=False))
    finished = load_run(write(tmp_path / "finished", THREE))
    assert killed.source == JOURNAL
    assert killed.points.equals(finished.points)
    assert killed.header == finished.header


def test_a_torn_last_line_loses_one_point_only(tmp_path):
    folder = write(tmp_path / "r1", THREE, close=False)
    whole = (folder / JOURNAL).read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole) - 1):
        (folder / JOURNAL).write_bytes(whole[:cut])
        assert load_run(folder).points["step"].to_list() == [1, 2], cut


def test_a_journal_cut_inside_a_character_still_loads(tmp_path):
    folder = write(tmp_path / "r1", THREE, close=False)
    with (folder / JOURNAL).open("ab") as journal:
        journal.write("é".encode()[:1])
    assert load_run(folder).points["step"].to_list() == [1, 2, 3]


def test_a_journal_newer_than_the_parquet_wins(tmp_path):
    folder = write(tmp_path / "r1", THREE)
    age(folder / PARQUET, 60)
    with (folder / JOURNAL).open("a") as journal:
        journal.write(PointEncoder().line(point(4)) + "\n")
    run = load_run(folder)
    assert run.source == JOURNAL
    assert run.points["step"].to_list() == [1, 2, 3, 4]


def test_a_parquet_without_its_journal_is_enough(tmp_path):
    folder = write(tmp_path / "r1", THREE)
    (folder / JOURNAL).unlink()
    assert load_run(folder).points.height == 3


def test_a_column_that_the_parquet_leaves_out_is_missing_and_not_gone(tmp_path):
    folder = RunFolder(tmp_path / "r1")
    folder.open(header())
    folder.append(point(1, energy_j=None))
    folder.close(header(status="finished"))
    whole = load_run(tmp_path / "r1")
    parquet = tmp_path / "r1" / PARQUET
    pl.read_parquet(parquet).drop("energy_j").write_parquet(parquet)
    (tmp_path / "r1" / JOURNAL).unlink()
    again = load_run(tmp_path / "r1")
    assert again.points.select(whole.points.columns).equals(whole.points)
    assert again.points.schema["energy_j"] == pl.Float64
    assert again.final == whole.final


def test_a_metric_whose_name_is_a_pattern_is_read_from_a_table_of_other_types(tmp_path):
    rows = [point(1, quality={"*": 0.5, "^.*$": 0.25, "": 1.0})]
    whole = load_run(write(tmp_path / "r1", rows))
    (tmp_path / "r1" / JOURNAL).unlink()
    other = {s.name: s.cast(pl.Int32) if s.name == "steps" else s for s in whole.points}
    pl.DataFrame(other).write_parquet(tmp_path / "r1" / PARQUET)
    again = load_run(tmp_path / "r1")
    assert again.points.equals(whole.points)
    assert again.quality_columns == ["*", "^.*$", ""]


def test_a_run_without_points_is_a_run(tmp_path):
    for close in (True, False):
        run = load_run(write(tmp_path / f"r{close}", close=close))
        assert run.points.height == 0
        assert run.final == {"steps": None, "energy_j": None, "params": 10.0}


def test_a_missing_reading_is_null_and_a_reading_that_is_no_number_is_nan(tmp_path):
    rows = [point(1, energy_j=None), point(2, energy_j=math.nan), point(3, energy_j=math.inf)]
    for close in (True, False):
        column = load_run(write(tmp_path / f"r{close}", rows, close=close)).points["energy_j"]
        assert column[0] is None
        assert math.isnan(column[1])
        assert column[2] == math.inf


def test_a_metric_named_like_a_cost_column_keeps_both(tmp_path):
    rows = [point(1, quality={"energy_j": 0.25, "params": 0.5, "step": 0.75, "time": 1.0, "val": 2.0})]
    for close in (True, False):
        run = load_run(write(tmp_path / f"r{close}", rows, close=close))
        row = run.points.row(0, named=True)
        assert (row["energy_j"], row["quality/energy_j"]) == (2.0, 0.25)
        assert (row["step"], row["quality/step"], row["quality/time"]) == (1, 0.75, 1.0)
        assert (run.final["params"], row["quality/params"]) == (10.0, 0.5)
        assert set(run.quality_columns) == {f"quality/{n}" for n in ("energy_j", "params", "step", "time")} | {"val"}


def test_metric_columns_keep_their_names_where_they_are_free():
    assert quality_columns([point(quality={"a": 1.0}), point(quality={"steps": 2.0})], {"steps": None}) == {
        "a": "a",
        "steps": "quality/steps",
    }


# Headers -----------------------------------------------------------------------------------------------------


def rewrite(folder, text):
    (folder / HEADER).write_text(text)
    return folder


def test_an_older_schema_version_is_read(tmp_path):
    run = load_run(write(tmp_path / "r1", THREE, schema_version=0))
    assert run.header["schema_version"] == 0
    assert run.points.height == 3


def test_a_newer_schema_version_is_refused_with_what_to_do(tmp_path):
    newer = SCHEMA_VERSION + 1
    message = f"was written with schema version {newer}, this package reads up to {SCHEMA_VERSION}; install a newer"
    with pytest.raises(ValueError, match=message):
        load_run(write(tmp_path / "r1", THREE, schema_version=newer))


def test_a_newer_header_of_another_shape_is_called_newer_and_not_broken(tmp_path):
    folder = rewrite(write(tmp_path / "r1", THREE), json.dumps({"schema_version": SCHEMA_VERSION + 1, "columns": []}))
    with pytest.raises(ValueError, match="install a newer lightning-costs"):
        load_run(folder)


def test_fields_that_this_version_does_not_know_are_kept(tmp_path):
    assert load_run(write(tmp_path / "r1", THREE, mood="sunny")).header["mood"] == "sunny"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '"x"', "{}", '{"schema_version": "one"}', '{"schema_version": null}'],
)
def test_a_broken_header_is_a_value_error_that_names_the_file(tmp_path, text):
    with pytest.raises(ValueError, match=r"r1/header\.json is no header of a run: "):
        load_run(rewrite(write(tmp_path / "r1", THREE), text))


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("indicators", [None, [], {"steps": {}}])
def test_a_header_without_declarations_is_broken(tmp_path, close, indicators):
    head = {"schema_version": SCHEMA_VERSION, "run_id": "r1"}
    head |= {} if indicators is None else {"indicators": indicators}
    with pytest.raises(ValueError, match=r"r1/header\.json is no header of a run: "):
        load_run(rewrite(write(tmp_path / "r1", THREE, close=close), json.dumps(head)))


def test_a_header_that_is_not_text_is_broken(tmp_path):
    folder = write(tmp_path / "r1", THREE)
    (folder / HEADER).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no header of a run"):
        load_run(folder)


def test_no_run_is_an_error_that_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run at .*nowhere: expected a folder that holds header\.json"):
        load_run(tmp_path / "nowhere")


# Many runs ---------------------------------------------------------------------------------------------------


def test_load_runs_finds_runs_at_any_depth_oldest_first_and_each_once(tmp_path):
    write(tmp_path / "b", THREE, run_id="b", created="2026-02-01")
    write(tmp_path / "deep" / "er" / "a", THREE, run_id="a", created="2026-01-01")
    write(tmp_path / "c", THREE, run_id="c", created="2026-03-01")
    (tmp_path / "empty").mkdir()
    assert [run.id for run in load_runs(tmp_path)] == ["a", "b", "c"]
    assert [run.id for run in load_runs(str(tmp_path))] == ["a", "b", "c"]
    assert [run.id for run in load_runs([tmp_path, tmp_path / "b", tmp_path / "deep" / ".." / "c"])] == ["a", "b", "c"]
    assert [run.id for run in load_runs(tmp_path / "b")] == ["b"]


def test_a_linked_run_is_the_run(tmp_path):
    write(tmp_path / "b", THREE, run_id="b")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    assert [run.id for run in load_runs([tmp_path / "b", tmp_path / "link"])] == ["b"]


def test_a_path_without_any_run_is_an_error_that_names_it(tmp_path):
    write(tmp_path / "runs" / "b", THREE)
    (tmp_path / "none").mkdir()
    for path, said in (
        ("none", r"expected folders that hold header\.json"),
        ("gone", "there is no such file or folder"),
    ):
        with pytest.raises(FileNotFoundError, match=f"no run under .*{path}: {said}"):
            load_runs([tmp_path / "runs", tmp_path / path])


def test_runs_of_every_state_load_together(tmp_path):
    write(tmp_path / "killed", THREE, close=False, run_id="killed", created="1")
    write(tmp_path / "finished", THREE, run_id="finished", created="2")
    assert [(run.id, run.source) for run in load_runs(tmp_path)] == [("killed", JOURNAL), ("finished", PARQUET)]


# Identity ----------------------------------------------------------------------------------------------------

anything = st.none() | st.floats(allow_nan=True, allow_infinity=True)
rows = st.lists(
    st.builds(
        lambda step, energy, acc, loss: point(
            step, energy_j=energy, quality={k: v for k, v in (("acc", acc), ("loss", loss)) if v is not None}
        ),
        st.integers(0, 2**40),
        anything,
        anything,
        anything,
    ),
    max_size=6,
)


@given(rows=rows, closed=st.booleans())
def test_save_then_load_is_identity(tmp_path_factory, rows, closed):
    folder = write(tmp_path_factory.mktemp("costs") / "r1", rows, close=closed)
    run = load_run(folder)
    assert run.points.equals(to_frame(rows, header()), null_equal=True)
    assert {**run.header, "quality": None} == {**header(), "quality": None}


@pytest.mark.parametrize("value", [math.inf, -math.inf, 0.5, None])
def test_statics_and_targets_come_back_as_the_numbers_they_were(tmp_path, value):
    run = load_run(write(tmp_path / "r1", THREE, statics={"params": value}, targets=[0.5, -math.inf]))
    assert (run.final["params"], run.header["targets"]) == (value, [0.5, -math.inf])


def test_an_empty_frame_has_the_types_of_a_full_one():
    full, empty = to_frame(THREE, header()), to_frame([], header())
    assert all(empty.schema[name] == full.schema[name] for name in empty.columns)
    assert set(empty.columns) == {"step", "epoch", "time", "trigger"} | {d.name for d in DECLARED if d.kind != "static"}


def test_a_metric_that_was_never_a_number_is_a_column_of_floats():
    frame = to_frame([point(1, quality={"acc": math.nan})], header())
    assert frame.schema["acc"] == pl.Float64
