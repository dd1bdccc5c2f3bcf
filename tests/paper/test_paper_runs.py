"""Studies train what is not trained yet, keep small copies that tell the same, and fail with what went wrong."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from examples.paper import STUDIES, kept, pages, running
from examples.paper.__main__ import main
from examples.paper.claims import Results
from examples.paper.study import Job, find_study
from examples.paper.telling import tell
from lightning_costs import load_run, load_runs

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
#: Two methods, told apart by a setting; a run takes a moment.
SOURCE = """
    import os
    import torch
    from torch import nn
    from examples.paper.claims import Claim, Less, final
    from examples.paper.study import Study
    from lightning_costs import Recorder

    def train(job):
        print("the learning rate is", job.settings["lr"])
        if job.settings.get("fails"):
            raise RuntimeError("this one fails")
        model = nn.Linear(4, job.settings["width"])
        optimizer = torch.optim.SGD(model.parameters(), job.settings["lr"])
        batch = torch.zeros(8, 4)
        recorder = Recorder(
            module=model, optimizers=[optimizer], monitor="val/acc", mode="max", save_dir=job.folder, name=job.name
        )
        recorder.tell({"group": job.arm, "job": job.facts})
        with recorder:
            for step in range(3):
                with recorder.counting(batch):
                    model(batch).sum().backward()
                    optimizer.step()
                recorder.step(batch)
                recorder.quality({"val/acc": step / 2})

    STUDY = Study(
        name="NAME", title="Widths", part="Table 0", monitor="val/acc", mode="max",
        arms={"narrow": {"width": 2}, "wide": {"width": 20}},
        sizes={"tiny": {"lr": 0.1, "targets": (0.5,)}, "failing": {"lr": 0.1, "fails": True}},
        train=train, seeds=2,
        claims=(Claim("narrow has fewer parameters", (Less(final("params"), "narrow", "wide"),)),),
        columns=("params", "flop", "tokens"),
    )
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"mine_{abs(hash(tmp_path)) % 10**6}"
    (tmp_path / f"{name}.py").write_text(dedent(SOURCE).replace("NAME", name), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def jobs_of(name: str, out: Path, size: str = "tiny", **more: int) -> list[Job]:
    return find_study(name).jobs(size, out, **more)


def test_methods_take_turns_seed_by_seed(mine: str, tmp_path: Path) -> None:
    names = [job.name for job in jobs_of(mine, tmp_path)]
    assert names == ["narrow-seed1", "wide-seed1", "narrow-seed2", "wide-seed2"]


def test_what_is_trained_is_not_trained_again(mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "one-identity-for-all")  # that of a sweep's agent, say
    out = tmp_path / "runs"
    first = [run.id for run in running.run_jobs(jobs_of(mine, out, seeds=1), mine)]
    assert len(set(first)) == 2
    again = [run.id for run in running.run_jobs(jobs_of(mine, out), mine)]
    assert again[:2] == first
    assert len(set(again)) == 4
    assert "the learning rate is 0.1" in (out / "logs" / "wide-seed2.txt").read_text(encoding="utf-8")


def test_a_run_that_was_cut_short_or_had_other_settings_is_no_substitute(mine: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    (job, *_) = jobs_of(mine, out, seeds=1)
    (run,) = running.run_jobs([job], mine)
    header = out / run.id / "header.json"
    text = header.read_text(encoding="utf-8")
    for old, new in (('"finished"', '"killed"'), ('"lr": 0.1', '"lr": 0.2')):
        assert old in text
        header.write_text(text.replace(old, new), encoding="utf-8")
        assert running.done(job) is None
    header.write_text(text, encoding="utf-8")
    found = running.done(job)
    assert found is not None
    assert found.id == run.id


def test_a_run_that_shared_the_machine_is_trained_again_where_that_is_asked(mine: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    (job, *_) = jobs_of(mine, out, seeds=1)
    (first,) = running.run_jobs([job], mine)
    header = out / first.id / "header.json"
    said = json.loads(header.read_text(encoding="utf-8"))
    said["energy"]["job_share_fraction"] = 0.001
    header.write_text(json.dumps(said), encoding="utf-8")
    assert running.run_jobs([job], mine)[0].id == first.id
    assert running.done(job, 0.97) is None
    (second,) = running.run_jobs([job], mine, 0.97)
    assert second.id != first.id
    assert [run.id for run in running.run_jobs([job], mine)] == [second.id]  # the less disturbed one counts


def test_a_training_that_fails_stops_with_the_end_of_what_it_printed(mine: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"narrow-seed1 of mine_\d+ failed \(exit code 1\)[\s\S]*this one fails"):
        running.run_jobs(jobs_of(mine, tmp_path / "runs", "failing"), mine)


def test_kept_runs_are_smaller_and_tell_the_same(mine: str, tmp_path: Path) -> None:
    out, small = tmp_path / "runs", tmp_path / "small"
    runs = running.run_jobs(jobs_of(mine, out), mine)
    kept.keep(runs, out, small)
    kept.keep(runs, out, small)  # what was there is written over
    study = find_study(mine)
    assert tell(study, Results.of(study, load_runs(small))) == tell(study, Results.of(study, runs))
    for run in runs:
        again = load_run(small / run.id)
        assert again.final == run.final
        assert again.header["missing"] == run.header["missing"]
        assert set(again.points.columns) == set(run.points.columns)
        assert again.points["tokens"].null_count() == again.points.height
        assert again.points["val/acc"].drop_nulls().to_list() == [0.0, 0.5, 1.0]
        size, was = (sum(f.stat().st_size for f in (at / run.id).iterdir()) for at in (small, out))
        assert size < was


def test_the_command_trains_tells_and_writes_a_page(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", mine, "--size", "tiny", "--seeds", "3", "--out", str(tmp_path / "paper")])
    said = capsys.readouterr().out
    assert "| narrow has fewer parameters | **held** |" in said
    assert f"report: {tmp_path}" in said.replace("\n", "")
    assert (tmp_path / "paper" / f"{mine}-tiny.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nonsense"], "no study 'nonsense': expected a module of examples.paper"),
        (["run", "table1", "--size", "huge"], "table1 has no size 'huge'; choose one of tiny, cpu, gpu"),
        (["run", "table1", "--arm", "patch3"], "table1 has no method patch3; choose of patch1, patch2"),
        (["run", "study"], "examples.paper.study holds no STUDY"),
        (["tell", "table1", "--size", "tiny"], "no runs of table1 at size tiny are kept in"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(message)):
        main(arguments)


def test_make_has_a_command_for_each_study() -> None:
    (named,) = re.findall(r"^PAPER := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert tuple(named.split()) == STUDIES


@pytest.mark.parametrize("name", STUDIES)
def test_the_runs_that_are_kept_are_the_studys_own(name: str) -> None:
    study = find_study(name)
    runs = kept.kept(study, "cpu")
    wanted = study.jobs("cpu", Path())
    assert sorted(str(run.header["job"]) for run in runs) == sorted(str(job.facts) for job in wanted)


@pytest.mark.parametrize("name", STUDIES)
def test_pages_say_what_the_kept_runs_say(name: str) -> None:
    study = find_study(name)
    text = (ROOT / "docs" / "paper" / f"{name}.md").read_text(encoding="utf-8")
    for size in pages.SIZES:
        if runs := kept.kept(study, size):
            picture = f"../images/paper/{name}-{size}.svg"
            made = pages.block(study, Results.of(study, runs), picture)
            assert pages.filled(text, f"{name} {size}", made) == text, f"make paper-docs would change {name}.md"
            assert (ROOT / "docs" / "paper" / picture).is_file()
    assert "TODO" not in text
