from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from datetime import date

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from run_folders import header, point, points

from lightning_costs.storage.run_folder.files import HEADER, JOURNAL, PARQUET, RunFolder
from lightning_costs.storage.run_folder.journal import PointEncoder, decode, read_journal


def same(a, b):
    """Equality in which nan is nan."""
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


def same_point(a, b):
    return all(same(getattr(a, f), getattr(b, f)) for f in ("step", "epoch", "time", "trigger", "costs", "quality"))


@given(points)
def test_decoding_an_encoded_point_is_identity(original):
    assert same_point(decode(PointEncoder().line(original)), original)


@given(st.lists(points, max_size=4))
def test_what_an_encoder_remembers_of_earlier_points_changes_no_line(originals):
    encoder = PointEncoder()
    for original in originals:
        assert same_point(decode(encoder.line(original)), original)


@given(points)
def test_a_point_is_one_line_of_strict_json(original):
    line = PointEncoder().line(original)
    assert len(line.splitlines()) == 1
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@given(original=points, data=st.data())
def test_a_torn_line_is_never_a_point(original, data):
    line = PointEncoder().line(original)
    with pytest.raises(ValueError, match="no point of a run: "):
        decode(line[: data.draw(st.integers(0, len(line) - 1))])


no_point = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["step", "epoch", "time", "trigger", "costs", "quality", "x"]), inner)
    ),
)


@given(no_point)
@example({"step": 1, "epoch": 0, "time": "", "trigger": "train", "costs": {}, "quality": {}})
def test_json_that_is_no_point_is_a_value_error(data):
    with pytest.raises(ValueError, match="no point of a run: "):
        decode(json.dumps(data))


@pytest.mark.parametrize("part", ["costs", "quality"])
@pytest.mark.parametrize("wrong", [[], 3, "x", {"a": "Inf"}, {"a": []}])
def test_a_point_with_parts_of_the_wrong_shape_is_a_value_error(part, wrong):
    line = {"step": 1, "epoch": 0, "time": 0.0, "trigger": "train", "costs": {}, "quality": {}} | {part: wrong}
    with pytest.raises(ValueError, match="no point of a run: "):
        decode(json.dumps(line))


# The folder --------------------------------------------------------------------------------------------------


def test_points_a_second_apart_are_on_disk_when_append_returns(tmp_path):
    folder = RunFolder(tmp_path / "r1")
    folder.open(header())
    for n in range(3):
        folder.append(point(n))
        assert len(read_journal(tmp_path / "r1" / JOURNAL)) == n + 1
    folder.close(header())


@pytest.mark.parametrize("last", ["evaluate", "epoch", "end", "later", "earlier"])
def test_train_points_within_a_second_are_written_together_and_with_whatever_follows(tmp_path, last):
    folder = RunFolder(tmp_path / "r1")
    folder.open(header())
    for n in range(4):
        folder.append(replace(point(n), time=1e9 + n / 10))
    assert [p.step for p in read_journal(tmp_path / "r1" / JOURNAL)] == [0]
    # The system's clock may be set back: that must not keep points waiting.
    moment = {"later": 1e9 + 1.0, "earlier": 1e9 - 5.0}.get(last, 1e9 + 0.5)
    trigger = "train" if last in ("later", "earlier") else last
    folder.append(replace(point(4), time=moment, trigger=trigger))
    assert [p.step for p in read_journal(tmp_path / "r1" / JOURNAL)] == [0, 1, 2, 3, 4]
    folder.close(header())


def test_closing_writes_the_points_that_wait(tmp_path):
    folder = RunFolder(tmp_path / "r1")
    folder.open(header())
    for n in range(3):
        folder.append(replace(point(n), time=1e9))
    folder.close(header())
    assert [p.step for p in read_journal(tmp_path / "r1" / JOURNAL)] == [0, 1, 2]


def test_closing_writes_the_final_header_and_the_points_as_parquet_and_leaves_nothing_else(tmp_path):
    folder = RunFolder(tmp_path / "r1")
    folder.open(header())
    folder.append(point(1))
    folder.close(header(status="finished"))
    assert {p.name for p in (tmp_path / "r1").iterdir()} == {HEADER, JOURNAL, PARQUET}
    assert json.loads((tmp_path / "r1" / HEADER).read_text())["status"] == "finished"
    assert pl.read_parquet(tmp_path / "r1" / PARQUET)["energy_j"].to_list() == [2.0]


def test_a_folder_that_is_opened_again_continues_its_journal(tmp_path):
    for attempt in range(2):
        folder = RunFolder(tmp_path / "r1")
        folder.open(header())
        folder.append(point(attempt))
        folder.close(header())
    assert [p.step for p in read_journal(tmp_path / "r1" / JOURNAL)] == [0, 1]
    assert pl.read_parquet(tmp_path / "r1" / PARQUET).height == 2


def test_a_torn_last_line_of_a_killed_attempt_costs_that_point_only(tmp_path):
    journal = tmp_path / "r1" / JOURNAL
    folder = RunFolder(tmp_path / "r1")
    folder.open(header())
    folder.append(point(0))
    folder.append(point(1))
    folder.close(header())
    journal.write_bytes(journal.read_bytes()[:-9])
    again = RunFolder(tmp_path / "r1")
    again.open(header())
    again.append(point(2))
    again.close(header())
    assert [p.step for p in read_journal(journal)] == [0, 2]


def test_a_header_that_cannot_be_written_leaves_the_old_one(tmp_path):
    folder = RunFolder(tmp_path / "r1")
    folder.open(header())

    class Mute:
        def __str__(self):
            raise ValueError("no words for it")

    with pytest.raises(ValueError, match="no words for it"):
        folder.write_header(header(status="new", setup=Mute()))
    folder.close(header())
    assert json.loads((tmp_path / "r1" / HEADER).read_text())["status"] == "running"


def test_a_reader_never_sees_half_a_header(tmp_path):
    folder = RunFolder(tmp_path / "r1")
    folder.open(header())
    seen, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            seen.append(json.loads((tmp_path / "r1" / HEADER).read_text())["status"])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for n in range(150):
            folder.write_header(header(status=n, padding="x" * 50_000))
    finally:
        stop.set()
        reader.join()
    folder.close(header())
    assert len(seen) > 5
    assert seen == ["running"] * seen.count("running") + sorted(s for s in seen if s != "running")


def test_appending_before_opening_is_our_own_mistake(tmp_path):
    with pytest.raises(AssertionError, match="open comes before append"):
        RunFolder(tmp_path / "r1").append(point())


def test_a_value_that_json_does_not_know_is_written_as_its_text_in_the_header(tmp_path):
    folder = RunFolder(tmp_path / "r1")
    folder.open(header(setup={"day": date(2026, 1, 2)}))
    folder.close(header(setup={"day": date(2026, 1, 2)}))
    assert json.loads((tmp_path / "r1" / HEADER).read_text())["setup"] == {"day": "2026-01-02"}


def test_numbers_and_keys_that_json_lacks_are_text_in_the_header(tmp_path):
    folder = RunFolder(tmp_path / "r1")
    folder.open(header(setup={"limit": math.inf, (1, 2): (math.nan, 0.5)}))
    folder.close(header(setup={"limit": math.inf, (1, 2): (math.nan, 0.5)}))
    written = json.loads((tmp_path / "r1" / HEADER).read_text())["setup"]
    assert written == {"limit": "Infinity", "(1, 2)": ["NaN", 0.5]}
