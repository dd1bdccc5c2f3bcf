"""Runs that are saved into two files are the runs that their folders give."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import fsspec
import polars
import pytest
from fakes import declared
from hostile import PAYLOADS, rich_header, write_run
from hypothesis import given, settings
from hypothesis import strategies as st
from loaded_sources import THREE, write
from run_folders import header, point, points

from lightning_costs import load_run, load_runs, save_runs
from lightning_costs.cli.commands import main
from lightning_costs.records.samples import SCHEMA_VERSION
from lightning_costs.run.record import RunRecord
from lightning_costs.storage import saved_runs
from lightning_costs.storage.run_folder.files import HEADER
from lightning_costs.storage.run_folder.frames import to_frame


def told(run):
    """A header as text: in it nan is nan, and the order of columns counts."""
    return json.dumps({name: run.header[name] for name in sorted(run.header)})


def assert_same(found, runs):
    by_id = {run.id: run for run in found}
    assert by_id.keys() == {run.id for run in runs}
    for run in runs:
        again = by_id[run.id]
        assert told(again) == told(run)
        assert again.points.schema == run.points.schema
        assert again.points.equals(run.points)
        assert again.quality_columns == run.quality_columns
        assert json.dumps(again.final) == json.dumps(run.final)


@pytest.fixture
def costs(tmp_path):
    """Folders of runs that differ in columns, points, status and metrics."""
    folder = tmp_path / "costs"
    less = {d.name: d.as_dict() for d in (declared("steps", "steps"), declared("wh", "J"))}
    write(folder / "r1", THREE, status="finished")
    write(folder / "r2", [point(1, quality={"loss": math.nan, "run": 1.0}), point(2, quality={"acc": -math.inf})],
          run_id="r2", status="finished")  # fmt: skip
    write(folder / "r3", [point(1, energy_j=None), point(2, energy_j=math.inf)], run_id="r3", close=False)
    write(folder / "r4", run_id="r4", status="failed", statics={"params": math.nan})
    write(folder / "r5", [point(1, wh=3.0)], run_id="r5", indicators=less, statics={}, status="finished")
    write_run(folder / "rich-1", rich_header())
    return folder


@pytest.fixture
def pair(costs, tmp_path):
    save_runs(load_runs(costs), tmp_path / "kept" / "all.json")
    return tmp_path / "kept" / "all.json"


def test_saved_runs_are_those_of_their_folders_by_either_file_and_by_the_folder_that_holds_both(costs, pair):
    runs = load_runs(costs)
    assert len(runs) == 6
    assert sorted(path.name for path in pair.parent.iterdir()) == ["all.json", "all.parquet"]
    for path in (pair, pair.with_suffix(".parquet"), pair.parent, [*pair.parent.iterdir()]):
        found = load_runs(path)
        assert [run.id for run in found] == [run.id for run in runs]
        assert_same(found, runs)
        assert {run.source for run in found} == {"all.parquet"}


def test_what_is_loaded_and_saved_again_is_the_same_file(pair, tmp_path):
    save_runs(load_runs(pair), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == pair.read_text()
    assert_same(load_runs(tmp_path / "again.json"), load_runs(pair))


names = st.text(max_size=8) | st.sampled_from([*PAYLOADS.values(), "run", "step", "params", "*", "^.*$"])


@settings(max_examples=40)
@given(st.dictionaries(names, st.tuples(st.lists(points, max_size=4), st.dictionaries(names, st.floats())), max_size=4))
def test_saving_loses_nothing_whatever_runs_columns_and_amounts_are_called(drawn):
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for number, (run_id, (rows, statics)) in enumerate(drawn.items()):
            rows = sorted(rows, key=lambda row: row.step)
            run = write(
                Path(folder, "costs", str(number)),
                rows,
                run_id=f"{number}{run_id}",
                name=run_id,
                more=statics,
                notes=dict.fromkeys(statics, "as all other runs " * 3),
            )
            runs.append(load_run(run))
        save_runs(runs, Path(folder, "all.json"))
        assert_same(load_runs(Path(folder, "all.json")), runs)


def test_what_several_headers_say_is_written_once(tmp_path):
    runs = [
        load_run(write_run(tmp_path / str(n), {**rich_header(), "run_id": str(n), "name": str(n)})) for n in range(30)
    ]
    save_runs(runs, tmp_path / "all.json")
    assert (tmp_path / "all.json").stat().st_size < 3 * (tmp_path / "0" / HEADER).stat().st_size
    assert_same(load_runs(tmp_path / "all.json"), runs)


def test_the_points_are_a_table_that_tells_the_run(pair):
    frame = polars.read_parquet(pair.with_suffix(".parquet"))
    assert frame.columns[0] == "run_", "a run has a metric that is called run"
    assert frame["run_"].value_counts().sort("run_").rows() == [
        ("r1", 3),
        ("r2", 2),
        ("r3", 2),
        ("r5", 1),
        ("rich-1", 4),
    ]


def test_load_run_reads_the_one_run_that_was_saved_and_says_so_if_there_are_several(costs, pair, tmp_path):
    run = load_run(costs / "r1")
    save_runs([run], tmp_path / "one.json")
    assert_same([load_run(tmp_path / "one.json")], [run])
    with pytest.raises(ValueError, match=r"all\.json holds 6 runs, and one was expected; load_runs reads them all"):
        load_run(pair)


def test_runs_are_added_to_those_that_were_saved(costs, tmp_path):
    first, *others = load_runs(costs)
    path = tmp_path / "all.json"
    save_runs([], path)
    assert load_runs(path) == []
    save_runs([first], path)
    save_runs([*load_runs(path), *others], path)
    assert_same(load_runs(path), [first, *others])


def test_a_saved_run_whose_folder_is_named_too_is_taken_from_its_folder(costs, pair):
    (costs / "r5" / HEADER).unlink()
    found = {run.id: run.source for run in load_runs([pair, costs])}
    assert len(found) == len(load_runs([pair, costs])) == 6
    assert [run_id for run_id, source in found.items() if source == "all.parquet"] == ["r5"]
    write(costs / "other", THREE, created="2026-01-02T00:00:00.000+00:00")
    assert [run.id for run in load_runs([pair, costs])].count("r1") == 2, "another run of that id"


def test_saved_runs_load_from_a_url(costs, pair):
    with fsspec.open_files([f"memory://kept/{name}" for name in ("all.json", "all.parquet")], "wb") as there:
        for file, name in zip(there, ("all.json", "all.parquet"), strict=True):
            file.write((pair.parent / name).read_bytes())
    for url in ("memory://kept", "memory://kept/all.json", "memory://kept/all.parquet"):
        assert_same(load_runs(url), load_runs(costs))


def test_the_command_line_compares_saved_runs_as_it_does_their_folders(costs, pair, monkeypatch):
    said = []
    for path in (costs, pair):
        out = path.with_suffix(".compared")
        monkeypatch.setattr(
            "sys.argv", ["lightning-costs", "compare", str(path), "--monitor", "val/acc", "--json", str(out)]
        )
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0
        said.append(json.loads(out.read_text()))
        assert {run.pop("source") for run in said[-1]["runs"]} == {
            costs: {"points.parquet", "points.jsonl"},
            pair: {"all.parquet"},
        }[path]
    assert said[0] == said[1]


def test_runs_of_tables_can_be_saved_too(tmp_path):
    (tmp_path / "zoo.csv").write_text("model,top1,params\na,0.5,10\nb,0.6,\n")
    runs = load_runs(tmp_path / "zoo.csv")
    save_runs(runs, tmp_path / "zoo.json")
    for run, again in zip(runs, load_runs(tmp_path / "zoo.json"), strict=True):
        assert (again.name, again.final) == (run.name, run.final)
        assert again.points.equals(run.points.select(again.points.columns))


# What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["all", "all.parquet", "header.json", "s3://bucket/all.json"])
def test_runs_are_saved_under_a_name_that_is_read_again(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "://" in path:
        path = path.replace("s3", "memory")
    with pytest.raises(ValueError, match=r"expected a path NAME\.json of this machine, other than header\.json, got "):
        save_runs([], path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("there", ["all.json", "all.parquet"])
def test_files_that_hold_something_else_stay(there, tmp_path):
    (tmp_path / there).write_text("mine")
    with pytest.raises(ValueError, match="holds no saved runs: choose another name"):
        save_runs([], tmp_path / "all.json")
    assert (tmp_path / there).read_text() == "mine"


def test_two_runs_of_one_id_are_not_saved_and_what_was_saved_before_stays(costs, pair):
    before = pair.read_text()
    with pytest.raises(ValueError, match="expected runs of different ids, got two of 'r1'"):
        save_runs([load_run(costs / "r1")] * 2, pair)
    assert pair.read_text() == before


def test_a_run_that_could_not_be_read_again_is_not_saved(tmp_path):
    run = RunRecord(header=header(status=3), points=to_frame(THREE, header()))
    with pytest.raises(ValueError, match="'status' must be a text, got a number: 3"):
        save_runs([run], tmp_path / "all.json")
    assert not [*tmp_path.iterdir()]


def changed(pair, change):
    data = json.loads(pair.read_text())
    change(data)
    pair.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run["header"].update(status=3), "has no header of a run: 'status' must be a text"),
        (lambda run: run["header"].update(quality={}), "'quality' must be a list of texts"),
        (lambda run: run["header"].update(schema_version=SCHEMA_VERSION + 1), "install a newer lightning-costs"),
        (lambda run: run["shared"].update({"/tags": -1}), "'/tags' is at no position of the values that runs share"),
        (lambda run: run["shared"].update({"/indicators": [0]}), "'/indicators' is at no position"),
        (lambda run: run["shared"].update({"/indicators": 0.0}), "'/indicators' is at"),
        (lambda run: run["shared"].update({"": 0}), "'' is at no position"),
        (lambda run: run["shared"].update({"/name/x": 0}), "'/name/x' is at no position"),
        (lambda run: run["shared"].update({"/a/b/c": 0}), "'/a/b/c' is at no position"),
        (lambda run: run.update(shared=None), "expected an object with the fields 'points', 'header' and 'shared'"),
        (lambda run: run.update(points=4), r"has 4 points, and all\.parquet holds 3 of it: the two files were not"),
    ],
)
def test_a_saved_run_that_cannot_be_read_is_left_out_and_named(pair, change, message, caplog):
    changed(pair, lambda data: change(data["runs"]["r1"]))
    assert len(load_runs(pair)) == 5
    (warning,) = caplog.messages
    assert warning.startswith("left out: ")
    assert "all.json, run 'r1'" in warning
    with pytest.raises(ValueError, match=message):
        raise ValueError(warning)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(version=2), "was written with version 2 of the format, this package reads up to 1"),
        (lambda data: data.pop("runs"), "expected the fields 'run_column', 'shared' and 'runs'"),
        (lambda data: data.update(run_column="steps"), "expected a column 'steps' of texts, which names the run"),
    ],
)
def test_files_that_are_no_saved_runs_are_refused_with_what_is_wrong(pair, change, message):
    changed(pair, change)
    with pytest.raises(ValueError, match=message):
        load_runs(pair)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"all\.parquet is not there, which holds the points of all\.json"),
        (b"PAR1", "cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
    ],
)
def test_points_that_cannot_be_read_are_named_once_and_other_sources_are_read(pair, costs, content, message, caplog):
    table = pair.with_suffix(".parquet")
    table.unlink() if content is None else table.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_runs(pair)
    assert len(load_runs([costs, pair.parent])) == 6
    assert len(caplog.messages) == 1


def test_a_header_that_many_runs_share_does_not_grow_beyond_what_is_read(pair, monkeypatch):
    changed(pair, lambda data: data["runs"].update({f"x{n}": data["runs"]["r1"] for n in range(10_000)}))
    monkeypatch.setattr(saved_runs, "MOST_HEADERS_BYTES", 4 << 20)
    assert pair.stat().st_size < 4 << 20
    with pytest.raises(ValueError, match="MiB, at most 4 MiB are read"):
        load_runs(pair)


def test_other_json_is_no_source_of_runs(tmp_path):
    for text in ("{}", "[]", "", '{"format": "other"}'):
        (tmp_path / "some.json").write_text(text)
        with pytest.raises(ValueError, match=r"some\.json is no source of runs: expected .* the \.json of saved runs"):
            load_runs(tmp_path / "some.json")
        with pytest.raises(FileNotFoundError, match="a JSON of saved runs"):
            load_runs(tmp_path)
