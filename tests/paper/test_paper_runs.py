"""Studies train what is not trained yet, keep small copies that tell the same, and fail with what went wrong."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

from examples.paper import STUDIES, kept, pages, running
from examples.paper.__main__ import main
from examples.paper.claims import Results
from examples.paper.study import Job, find_study
from examples.paper.telling import tell
from lightning_costs import load_runs
from lightning_costs.analysis import comparison
from lightning_costs.run.record import RunRecord

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
        recorder.add_metadata({"group": job.arm, "job": job.facts})
        with recorder:
            for step in range(3):
                with recorder.train_batch(batch):
                    model(batch).sum().backward()
                    optimizer.step()
                recorder.step(batch)
                recorder.log_metrics({"val/acc": step / 2})

    STUDY = Study(
        name="NAME", title="Widths", part="Table 0", monitor="val/acc", mode="max",
        arms={"narrow": {"width": 2}, "wide": {"width": 20}},
        sizes={"tiny": {"lr": 0.1, "targets": (0.5,)}, "failing": {"lr": 0.1, "fails": True}},
        train=train, seeds=2,
        claims=(Claim("narrow has fewer parameters", (Less(final("params"), "narrow", "wide"),)),),
        columns=("params", "flop", "tokens"),
    )
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mine")
    name = f"mine_{abs(hash(folder)) % 10**6}"
    (folder / f"{name}.py").write_text(dedent(SOURCE).replace("NAME", name), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield name
    sys.modules.pop(name, None)


class Trained(NamedTuple):
    """Runs of both methods: those of a first command for one seed, and those of a later one for two."""

    out: Path
    first: list[RunRecord]
    runs: list[RunRecord]

    def copied(self, job: Job, to: Path) -> Job:
        """The job with a copy of its run, for who writes into it."""
        (run,) = (run for run in self.runs if run.header["job"] == job.facts)
        shutil.copytree(self.out / run.id, to / run.id)
        return replace(job, folder=to)


@pytest.fixture(scope="module")
def trained(mine: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_RUN_ID", "one-identity-for-all")  # that of a sweep's agent, say
        first = running.run_jobs(jobs_of(mine, out, seeds=1), mine)
        return Trained(out, first, running.run_jobs(jobs_of(mine, out), mine))


def jobs_of(name: str, out: Path, size: str = "tiny", **more: int) -> list[Job]:
    return find_study(name).jobs(size, out, **more)


def test_methods_take_turns_seed_by_seed(mine: str, tmp_path: Path) -> None:
    names = [job.name for job in jobs_of(mine, tmp_path)]
    assert names == ["narrow-seed1", "wide-seed1", "narrow-seed2", "wide-seed2"]


def test_what_is_trained_is_not_trained_again(trained: Trained) -> None:
    first = [run.id for run in trained.first]
    assert len(set(first)) == 2
    again = [run.id for run in trained.runs]
    assert again[:2] == first
    assert len(set(again)) == 4
    assert "the learning rate is 0.1" in (trained.out / "logs" / "wide-seed2.txt").read_text(encoding="utf-8")


def test_a_run_that_was_cut_short_or_had_other_settings_is_no_substitute(
    mine: str, trained: Trained, tmp_path: Path
) -> None:
    job = trained.copied(jobs_of(mine, tmp_path)[0], tmp_path)
    header = tmp_path / trained.runs[0].id / "header.json"
    text = header.read_text(encoding="utf-8")
    for old, new in (('"finished"', '"killed"'), ('"lr": 0.1', '"lr": 0.2')):
        assert old in text
        header.write_text(text.replace(old, new), encoding="utf-8")
        assert running.done(job) is None
    header.write_text(text, encoding="utf-8")
    found = running.done(job)
    assert found is not None
    assert found.id == trained.runs[0].id


def test_a_run_that_shared_the_machine_is_trained_again_where_that_is_asked(
    mine: str, trained: Trained, tmp_path: Path
) -> None:
    job = trained.copied(jobs_of(mine, tmp_path)[0], tmp_path)
    first = trained.runs[0]
    header = tmp_path / first.id / "header.json"
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


@pytest.fixture
def results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "results"
    monkeypatch.setattr(kept, "RESULTS", folder)
    return folder


def test_kept_runs_are_smaller_and_tell_the_same(mine: str, trained: Trained, results_folder: Path) -> None:
    study, runs = find_study(mine), trained.runs
    kept.keep(runs, study, "tiny")
    small = kept.kept(study, "tiny")
    assert tell(study, Results.of(study, small)) == tell(study, Results.of(study, runs))
    for run, again in zip(sorted(runs, key=lambda run: run.id), sorted(small, key=lambda run: run.id), strict=True):
        assert again.id == run.id
        assert again.final == run.final
        assert again.header["missing"] == run.header["missing"]
        assert set(again.points.columns) == set(run.points.columns)
        assert again.points["tokens"].null_count() == again.points.height
        assert again.points["val/acc"].drop_nulls().to_list() == [0.0, 0.5, 1.0]
    size = sum(file.stat().st_size for file in results_folder.iterdir())
    assert size < sum(file.stat().st_size for run in runs for file in (trained.out / run.id).iterdir()) / 3


def test_runs_are_kept_beside_those_of_other_methods_and_seeds_and_in_place_of_their_own(
    mine: str, trained: Trained, results_folder: Path
) -> None:
    study = find_study(mine)
    kept.keep(trained.first, study, "tiny")
    (results_folder / f"{mine}-other.txt").touch()
    kept.keep(trained.runs[1:], study, "tiny")
    assert sorted(run.id for run in kept.kept(study, "tiny")) == sorted(run.id for run in trained.runs)
    assert sorted(path.suffix for path in results_folder.iterdir()) == [".json", ".parquet", ".txt"]
    slower = replace(study, sizes={"tiny": {**study.sizes["tiny"], "lr": 0.05}})
    kept.keep([], slower, "tiny")
    assert kept.kept(study, "tiny") == [], "those of other settings go"


def test_the_command_trains_keeps_tells_and_writes_a_page(
    mine: str, trained: Trained, tmp_path: Path, results_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained.out, tmp_path / "paper" / f"{mine}-tiny")
    main(["run", mine, "--size", "tiny", "--seeds", "3", "--out", str(tmp_path / "paper"), "--keep"])
    said = capsys.readouterr().out
    assert "| narrow has fewer parameters | **held** |" in said
    assert f"report: {tmp_path}" in said.replace("\n", "")
    assert (tmp_path / "paper" / f"{mine}-tiny.html").stat().st_size > 100_000
    found = kept.kept_results(mine, "tiny")
    assert found is not None
    assert tell(find_study(mine), found) in said
    assert len(load_runs(results_folder)) == 6


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
def test_pages_say_what_the_kept_runs_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not name.startswith("sec32"):  # pages that say nothing of matched pairs, three quarters of a comparison's time
        monkeypatch.setattr(comparison, "matched_pairs", lambda *_: {"tolerance": 0.05, "rows": []})
    study = find_study(name)
    text = (ROOT / "docs" / "paper" / f"{name}.md").read_text(encoding="utf-8")
    for size in pages.SIZES:
        if runs := kept.kept(study, size):
            picture = f"../images/paper/{name}-{size}.svg"
            made = pages.block(study, Results.of(study, runs), picture)
            assert pages.filled(text, f"{name} {size}", made) == text, f"make paper-docs would change {name}.md"
            assert (ROOT / "docs" / "paper" / picture).is_file()
    assert "TODO" not in text
