"""A disk that fails and comes back, files that are taken away while a run goes on, and locks that tell nothing."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from run_folders import header, point

from lightning_costs import load_run
from lightning_costs.records.samples import CurvePoint
from lightning_costs.storage.run_folder import files as folders
from lightning_costs.storage.run_folder import identity, writer
from lightning_costs.storage.run_folder import lock as locks
from lightning_costs.storage.run_folder.files import HEADER, JOURNAL, PARQUET, RunFolder
from lightning_costs.storage.run_folder.identity import claim_folder, resolve_run
from lightning_costs.storage.run_folder.journal import PointEncoder, read_journal
from lightning_costs.storage.run_folder.lock import LOCK, Claim, FolderLock, FolderLocked
from lightning_costs.storage.run_folder.writer import RunFolderSink

pytestmark = pytest.mark.usefixtures("every_point_at_once")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY_S", 0.0)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, logger="lightning_costs")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "lightning_costs"]


OPEN = header(attempts=[{}])


def begun(path: Path, *points: CurvePoint) -> RunFolderSink:
    run = RunFolderSink(path)
    run.open(OPEN)
    for each in points:
        run.point(each, OPEN)
    return run


def end(run: RunFolderSink) -> list[int]:
    run.header = header(status="finished", attempts=[{}])
    run.close("finished")
    record = run.run
    assert record is not None
    assert not [p for p in run.path.iterdir() if p.name.startswith(".")]
    steps = load_run(run.path).points["step"].to_list()
    assert record.points["step"].to_list() == [p.step for p in read_journal(run.path / JOURNAL)] == steps
    return steps


# A disk that comes back ------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE")
def test_what_a_full_disk_did_not_take_is_written_when_there_is_room_again(
    tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    """A limit of the operating system that cuts a line in its middle, as a disk that fills up does."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    run = begun(tmp_path / "r1", point(1))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "r1" / JOURNAL).stat().st_size + 40, hard))
        for n in range(2, 9):
            run.point(point(n), OPEN)
        assert (tmp_path / "r1" / JOURNAL).read_bytes().endswith(b"}\n"), "half a line was left"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run.point(point(9), OPEN)
    assert [p.step for p in read_journal(tmp_path / "r1" / JOURNAL)] == [*range(1, 10)]
    assert end(run) == [*range(1, 10)]
    assert len(said()) == 1


def test_a_folder_that_can_be_made_only_later_holds_the_run_from_its_beginning(
    tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    (tmp_path / "costs").write_text("a file in the way")
    run = begun(tmp_path / "costs" / "r1", point(1), point(2, trigger="evaluate", quality={"acc": 0.5}))
    (tmp_path / "costs").unlink()
    run.point(point(3), OPEN)
    assert end(run) == [1, 2, 3]
    assert len(said()) == 1


def test_a_header_that_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    run = begun(tmp_path / "r1", point(1))
    (tmp_path / "r1" / HEADER).unlink()
    (tmp_path / "r1" / HEADER).mkdir()
    new = header(attempts=[{}], note="new")
    run.point(point(2), new)
    (tmp_path / "r1" / HEADER).rmdir()
    run.point(point(3), new)
    assert json.loads((tmp_path / "r1" / HEADER).read_text())["note"] == "new"
    assert end(run) == [1, 2, 3]


def test_what_waits_is_bounded_and_every_evaluation_and_the_last_total_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = len(PointEncoder().line(point(1000))) + 1
    monkeypatch.setattr(folders, "MOST_WAITING_BYTES", 40 * line)
    run = begun(tmp_path / "r1", point(0))
    monkeypatch.setattr(os, "fstat", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    for n in range(1, 1001):
        run.point(point(n, **({"trigger": "evaluate"} if n % 100 == 0 else {})), OPEN)
    monkeypatch.undo()
    steps = end(run)
    assert len(steps) == run.rows <= 42
    assert {0, 1000, *range(100, 1001, 100)} <= set(steps)
    assert steps == sorted(steps)


def test_what_cannot_be_written_to_the_end_is_said_once_and_reads_as_killed(
    tmp_path: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r1").mkdir()
    run = RunFolderSink(tmp_path / "r1", lock=FolderLock.acquire(tmp_path / "r1"))
    run.open(OPEN)
    run.point(point(1), OPEN)
    shutil.rmtree(tmp_path / "r1")
    for n in range(2, 5):
        run.point(point(n), OPEN)
    run.close("finished")
    assert run.run is None
    assert not (tmp_path / "r1").exists(), "a folder that was removed was made again"
    assert len(said()) == 1


# Files that are taken away ---------------------------------------------------------------------------------------


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def another_file(path: Path) -> None:
    copy = path.with_suffix(".copy")
    copy.write_text("somebody else's\n")
    copy.replace(path)


@pytest.mark.parametrize("act", [Path.unlink, a_folder, another_file])
@pytest.mark.parametrize("when", ["between", "at the end"])
def test_a_journal_that_is_removed_or_replaced_is_written_again_whole(
    tmp_path: Path, said: Callable[[], list[str]], act: Callable[[Path], object], when: str
) -> None:
    run = begun(tmp_path / "r1", point(1), point(2))
    if when == "at the end":
        run.point(point(3), OPEN)
    act(tmp_path / "r1" / JOURNAL)
    run.point(point(4 if when == "at the end" else 3), OPEN)
    assert end(run) == ([1, 2, 3, 4] if when == "at the end" else [1, 2, 3])
    (warning,) = said()
    assert "was removed or replaced during the run" in warning


def test_what_was_put_in_the_journals_place_is_kept_beside_it(tmp_path: Path) -> None:
    run = begun(tmp_path / "r1", point(1))
    another_file(tmp_path / "r1" / JOURNAL)
    run.point(point(2), OPEN)
    end(run)
    (aside,) = (tmp_path / "r1").glob(f"{JOURNAL}.*")
    assert aside.read_text() == "somebody else's\n"


def test_a_journal_that_is_cut_is_said_and_goes_on(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    run = begun(tmp_path / "r1", point(1))
    os.truncate(tmp_path / "r1" / JOURNAL, 0)
    run.point(point(2), OPEN)
    assert end(run) == [2]
    assert "was truncated" in said()[0]


def test_another_writer_in_the_journal_is_said(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    run = begun(tmp_path / "r1", point(1))
    with (tmp_path / "r1" / JOURNAL).open("a") as other:
        other.write(PointEncoder().line(point(7)) + "\n")
    run.point(point(2), OPEN)
    run.point(point(3), OPEN)
    (warning,) = said()
    assert "is written by another process too" in warning
    run.abandon()


@pytest.mark.parametrize(
    "change",
    [
        {"step": "1"}, {"step": 1.5}, {"step": 1 << 70}, {"step": True}, {"epoch": None}, {"time": "now"},
        {"time": [0]}, {"time": 10**400}, {"trigger": 3}, {"trigger": None}, {"costs": {"steps": 10**400}},
        {"costs": {"steps": True}}, {"quality": {"acc": 10**400}}, {"costs": {"steps": "much"}},
    ],
    ids=lambda change: "-".join(f"{k}={str(v)[:12]}" for k, v in change.items()),
)  # fmt: skip
def test_an_odd_line_costs_itself_and_no_other(tmp_path: Path, change: dict[str, object]) -> None:
    run = RunFolder(tmp_path / "r1")
    run.open(header())
    for n in (1, 2):
        run.append(point(n))
    run.abandon()
    journal = tmp_path / "r1" / JOURNAL
    first, second = journal.read_text().splitlines()
    journal.write_text("\n".join([first, json.dumps(json.loads(second) | change), second]) + "\n")
    assert load_run(tmp_path / "r1").points["step"].to_list() == [1, 2]


def test_a_line_nested_too_deep_costs_itself_and_no_other(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r1")
    run.open(header())
    run.append(point(1))
    run.abandon()
    with (tmp_path / "r1" / JOURNAL).open("a") as journal:
        journal.write("[" * 200_000 + "]" * 200_000 + "\n" + PointEncoder().line(point(2)) + "\n")
    assert load_run(tmp_path / "r1").points["step"].to_list() == [1, 2]


# Locks that tell nothing -----------------------------------------------------------------------------------------


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderLock, "acquire", classmethod(lambda *_: None))


def settled(save_dir: Path) -> identity.ResolvedRun:
    found = claim_folder(resolve_run(None, save_dir, writes=True), save_dir, writes=True)
    identity._used_here.clear()  # whoever comes next is another process
    return found


@pytest.mark.usefixtures("no_locks")
def test_of_two_that_begin_a_run_of_one_name_without_locks_each_has_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_COSTS_RUN_ID", "mine")
    both = [resolve_run(None, tmp_path, writes=True) for _ in range(2)]  # at one moment: nothing is there
    assert [f.run_id for f in both] == ["mine", "mine"]
    first, second = (claim_folder(found, tmp_path, writes=True) for found in both)
    assert [first.run_id, second.run_id] == ["mine", "mine-2"]


_CLAIMS = """
import sys
from pathlib import Path
from lightning_costs.storage.run_folder.lock import Claim
Claim.take(Path(sys.argv[1]))
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.mark.integration
@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_living_writers_run_is_left_to_it_and_a_dead_ones_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_COSTS_RUN_ID", "r1")
    run = RunFolder(tmp_path / "r1")
    run.open(header(run_id="r1"))
    run.append(point(1))
    run.abandon()
    other = subprocess.Popen(
        [sys.executable, "-c", _CLAIMS, str(tmp_path / "r1")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "claimed\n"
        assert settled(tmp_path).run_id == "r1-2"
    finally:
        other.communicate()
    again = settled(tmp_path)
    assert again.run_id == "r1"
    assert again.earlier is not None
    assert [p.step for p in again.earlier.points] == [1]


def test_a_claim_of_another_machine_does_not_hold_a_run_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Claim.take(tmp_path)
    with pytest.raises(FolderLocked):
        Claim.take(tmp_path)
    monkeypatch.setattr(locks, "_machine", lambda: "another")
    claim = Claim.take(tmp_path)
    assert claim is not None
    claim.release()
    assert not (tmp_path / LOCK).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_locks_that_are_always_busy_end_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(locks.fcntl, "flock", busy)
    monkeypatch.setattr(locks, "_TRY_AGAIN_S", 0.0)
    found = settled(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [found.run_id]
    assert {p.name for p in (tmp_path / found.run_id).iterdir()} == {LOCK, JOURNAL}


def test_a_file_system_on_which_everything_is_taken_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_taken", lambda *_, **__: True)
    monkeypatch.setattr(identity, "_MOST", 20)
    assert settled(tmp_path).run_id.startswith("run-")


def test_a_name_that_is_held_again_and_again_gives_way_to_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def held(path: Path) -> None:
        asked.append(path)
        if len(asked) <= identity._MOST_HELD:
            raise FolderLocked(str(path))

    monkeypatch.setattr(identity, "_make", held)
    found = settled(tmp_path)
    assert len(asked) == identity._MOST_HELD + 1
    assert found.run_id.startswith(found.wanted)


@pytest.mark.integration
def test_a_table_alone_is_gone_on_with_and_polars_stays_out_of_the_process(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "r1")
    run.open(header(run_id="r1"))
    run.append(point(1, quality={"acc": 0.5}))
    run.close(header(run_id="r1"))
    (tmp_path / "r1" / JOURNAL).unlink()
    code = (
        "import sys; from pathlib import Path; from lightning_costs.storage.run_folder.reader import read_earlier\n"
        "(p,) = read_earlier(Path(sys.argv[1])).points\n"
        "assert (p.step, p.quality, 'polars' in sys.modules) == (1, {'acc': 0.5}, False)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "r1")], check=True)
    (tmp_path / "r1" / PARQUET).write_bytes(b"PAR1 torn")
    with pytest.raises(ValueError, match=r"points\.parquet cannot be read"):
        folders.points_apart(tmp_path / "r1")
