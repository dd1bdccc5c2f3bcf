"""What anybody may have written into a run's folder: one clear error for that run, and the others go on."""

from __future__ import annotations

import json
import logging
import os
import re
import threading

import polars as pl
import pytest
from hostile import everything_told, paths_of, points, rich_header, with_value, write_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_costs import load_run, load_runs
from lightning_costs.storage import limits
from lightning_costs.storage.run_folder.files import HEADER, JOURNAL, PARQUET
from lightning_costs.storage.run_folder.frames import to_frame
from lightning_costs.storage.run_folder.header import DEEPEST
from lightning_costs.storage.run_folder.lock import LOCK, FolderLock

JUNK = [None, 0, -1, 1.5, 1e300, 10**25, True, "", "junk", [], {}, [1], ["x"], {"x": 1}, [[1, 2]], {"a": {"b": None}}]
junk = st.sampled_from(JUNK) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
places = st.sampled_from(list(paths_of(rich_header())))


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", rich_header())


def rewrite(folder, **changes):
    (folder / HEADER).write_text(json.dumps({**rich_header(), **changes}))
    return folder


def read_in_time(folder, seconds=240.0):
    """The run, or the error that it is; a reader that waits for a pipe fails the test."""
    found = []

    def read():
        try:
            found.append(load_run(folder))
        except (ValueError, OSError) as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "reading the folder waits for ever"
    return found[0]


@pytest.mark.integration  # each example is reported in every form
@settings(max_examples=16, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=places, value=junk, parquet=st.booleans())
def test_junk_in_any_field_is_one_error_that_names_it_or_a_run_of_which_everything_can_be_told(
    tmp_path_factory, place, value, parquet
):
    costs = tmp_path_factory.mktemp("costs")
    write_run(costs / "bad", with_value(rich_header("bad"), place, value), parquet=parquet)
    write_run(costs / "good", rich_header("good"))
    runs = load_runs(costs)
    everything_told(runs)
    if len(runs) == 1:
        assert runs[0].name == "good"
        with pytest.raises(ValueError, match=r"is no header of a run: |schema version"):
            load_run(costs / "bad")


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("attempts",), "x", "'attempts' must be a list, got a text: 'x'"),
        (("attempts", 0), ["x"], r"'attempts[0]' must be an object, got a list"),
        (("attempts", 1, "row"), -1, r"'attempts[1].row' must be a whole number of at least 0, got a number: -1"),
        (("attempts", 1, "resumed"), 1, r"'attempts[1].resumed' must be the number of an earlier attempt"),
        (
            ("indicators", "energy_j", "kind"),
            "pile",
            "'indicators.energy_j.kind' must be one of counter, gauge, static",
        ),
        (("run_id",), None, "'run_id' must be a text, got null"),
        (("tariff", "pue"), "1", "'tariff.pue' must be a number, got a text: '1'"),
        (("mode",), "up", "'mode' must be one of max, min, got a text: 'up'"),
        (("statics", "params"), True, "'statics.params' must be a number, got true or false"),
        (("budget", "limits"), {"energy_j": 0}, "'budget.limits.energy_j' must be a number above 0"),
        (("budget", "limits"), {"sneezes": 1}, "a budget is of 'sneezes', which is none of the run's indicators"),
    ],
)
def test_an_error_names_the_field_what_was_expected_and_what_is_there(tmp_path, place, value, told):
    folder = write_run(tmp_path / "run", with_value(rich_header(), place, value))
    with pytest.raises(ValueError, match=re.escape(told)):
        load_run(folder)


def test_a_field_that_is_null_is_one_that_is_not_there(folder):
    empty = dict.fromkeys(("missing", "methods", "setup", "tariff", "attempts", "energy", "tags", "targets"))
    header = load_run(rewrite(folder, **empty)).header
    assert not empty.keys() & header.keys()


def test_data_that_is_too_deep_for_those_who_walk_it_is_refused(folder):
    deep: object = 1
    for _ in range(DEEPEST + 1):
        deep = [deep]
    with pytest.raises(ValueError, match=f"at most {DEEPEST} levels deep"):
        load_run(rewrite(folder, setup={"deep": deep}))
    (folder / HEADER).write_text('{"schema_version": 1, "x": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ValueError, match=f"at most {DEEPEST} levels deep"):
        load_run(folder)


def test_half_of_a_surrogate_pair_in_any_name_costs_the_others_nothing(tmp_path):
    write_run(
        tmp_path / "half", {**rich_header("a\ud800"), "monitor": "val\udfff", "tags": ["\ud800"]}, metric="val\udfff"
    )
    write_run(tmp_path / "whole", rich_header("whole"))
    half, whole = sorted(load_runs(tmp_path), key=lambda run: run.name)
    assert half.name == r"a\ud800"
    assert half.quality_columns == [half.header["monitor"]] == [r"val\udfff"]
    assert len(load_runs(tmp_path)) == 2
    everything_told([whole, half]).encode()


# What is left out, and what is not ------------------------------------------------------------------------------


def test_a_run_that_cannot_be_read_is_left_out_of_its_folder_and_said_once(tmp_path, caplog):
    write_run(tmp_path / "good", rich_header("good"))
    rewrite(write_run(tmp_path / "bad", rich_header()), attempts=3)
    with caplog.at_level(logging.WARNING, "lightning_costs"):
        assert [run.name for run in load_runs(tmp_path)] == ["good"]
    (said,) = caplog.messages
    assert "bad" in said
    assert "'attempts' must be a list" in said
    assert [run.name for run in load_runs([tmp_path / "bad", tmp_path / "good", tmp_path])] == ["good"]


def test_a_run_that_was_named_alone_or_all_of_which_are_broken_is_an_error(tmp_path):
    for name in ("one", "two"):
        rewrite(write_run(tmp_path / name, rich_header()), attempts=3)
    with pytest.raises(ValueError, match=r"one.*'attempts' must be a list, got a number: 3$"):
        load_runs(tmp_path / "one")
    with pytest.raises(ValueError, match="as 1 more of these runs cannot be read"):
        load_runs(tmp_path)


# Files that are no files, and too much of them --------------------------------------------------------------------


@pytest.mark.parametrize("name", [LOCK, HEADER, JOURNAL, PARQUET])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder, name):
    rewrite(folder, status="running")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    found = read_in_time(folder)
    if name == HEADER:
        assert isinstance(found, FileNotFoundError)
    else:
        assert found.points.height == (0 if name == JOURNAL else 4)


def test_a_pipe_in_the_place_of_the_lock_is_held_by_nobody(folder):
    os.mkfifo(folder / LOCK)
    assert FolderLock.acquire(folder) is None


def test_a_header_of_too_many_bytes_is_not_read(folder):
    with (folder / HEADER).open("ab") as header:
        header.write(b" " * limits.MOST_HEADER_BYTES)
    with pytest.raises(ValueError, match=r"header.json holds 16 MiB, at most 16 MiB are read"):
        load_run(folder)


def test_a_journal_of_too_many_bytes_is_not_read_and_its_table_is(tmp_path):
    folder = write_run(tmp_path / "run", rich_header())
    with (folder / JOURNAL).open("ab") as journal:
        journal.truncate(limits.MOST_POINTS_BYTES + 1)
    with pytest.raises(ValueError, match=r"points.jsonl holds 256 MiB, at most 256 MiB are read"):
        load_run(folder)
    to_frame(points(), rich_header()).write_parquet(folder / PARQUET)
    assert load_run(folder).points.height == 4


def test_a_line_of_too_many_characters_costs_that_line(folder, monkeypatch):
    monkeypatch.setattr("lightning_costs.storage.run_folder.journal.MOST_LINE_BYTES", 20_000)
    with (folder / JOURNAL).open("a") as journal:
        journal.write(
            (folder / JOURNAL)
            .read_text()
            .splitlines()[-1]
            .replace('"quality":{', '"quality":{"%s":1,' % ("x" * 20_000))
        )
        journal.write("\n")
    assert load_run(folder).points.height == 4


def test_a_table_that_would_expand_is_told_by_its_metadata_and_not_read(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", rich_header())
    monkeypatch.setattr(limits, "MOST_VALUES", 10_000)
    frame = to_frame(points(), rich_header())
    pl.concat([frame] * 1000).write_parquet(folder / PARQUET)
    monkeypatch.setattr(pl, "read_parquet", lambda *_: pytest.fail("the table was read"))
    assert load_run(folder).points.height == 4  # the journal has them too
    (folder / JOURNAL).unlink()
    with pytest.raises(ValueError, match=r"holds 4,000 rows of \d+ columns, at most 10,000 values are read"):
        load_run(folder)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("step", ["x"] * 4),
        pl.Series("energy_j", [["x"]] * 4),
        pl.Series("time", [["x"]] * 4),
        pl.Series("val/acc", ["a"] * 4),
    ],
    ids=lambda column: column.name,
)
def test_a_table_of_other_columns_than_points_have_is_not_taken_for_one(tmp_path, column):
    folder = write_run(tmp_path / "run", rich_header(), parquet=True)
    to_frame(points(), rich_header()).with_columns(column).write_parquet(folder / PARQUET)
    run = load_run(folder)
    assert run.points["step"].to_list() == [1, 2, 3, 4]
    assert run.source == (PARQUET if column.name == "val/acc" else JOURNAL)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 5_000), changed=st.binary(min_size=1, max_size=8))
def test_a_damaged_table_is_no_table(tmp_path_factory, cut, changed):
    folder = write_run(tmp_path_factory.mktemp("costs") / "run", rich_header(), parquet=True)
    whole = (folder / PARQUET).read_bytes()
    (folder / PARQUET).write_bytes(whole[:cut] + changed + whole[cut + len(changed) :])
    assert load_run(folder).points.height == 4
