"""Who a run is: what is taken, what is never taken by itself, and a git that is slow, missing or strange."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import time

import pytest
import torch
from fakes import FakeClock, measured

from lightning_costs import Recorder, load_run
from lightning_costs.probes.git import GitQuestion
from lightning_costs.probes.provenance import Provenance, script_name

BATCH = torch.zeros(8, 3)
IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@b.example")


def git(folder, *arguments):
    return subprocess.run(
        ["git", "-C", folder, *IDENTITY, *arguments], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of one commit, in which the script is that runs."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    folder = tmp_path / "project"
    folder.mkdir()
    git(tmp_path, "init", "-q", folder)
    (folder / "train.py").write_text("x = 1\n")
    git(folder, "add", "train.py")
    git(folder, "commit", "-qm", "first")
    monkeypatch.setattr(sys, "argv", [str(folder / "train.py")])
    return folder


def answer(folder):
    return GitQuestion(folder).answer(patience_s=30.0)


def recorded(folder, **options):
    recorder = Recorder(
        save_dir=folder, clock=FakeClock(), indicators=[measured("x_calls", reads=lambda s: 1.0)], **options
    )
    with recorder:
        recorder.step(BATCH)
    return load_run(recorder.path).header


def test_a_commit_is_clean_until_a_file_of_it_changes(repository):
    commit = git(repository, "rev-parse", "HEAD").strip()
    assert answer(repository) == {"commit": commit, "dirty": False}
    (repository / "costs").mkdir()
    (repository / "costs" / "new.json").write_text("{}")  # what a run writes makes nothing dirty
    assert answer(repository) == {"commit": commit, "dirty": False}
    (repository / "train.py").write_text("x = 2\n")
    assert answer(repository / "costs") == {"commit": commit, "dirty": True}


def test_a_staged_change_and_a_detached_head_are_seen(repository):
    git(repository, "checkout", "-q", "--detach")
    (repository / "more.py").write_text("y = 1\n")
    git(repository, "add", "more.py")
    assert answer(repository)["dirty"] is True


def test_asking_writes_nothing_into_the_repository(repository):
    os.utime(repository / "train.py", (1, 1))  # the index is stale: git would write it anew
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (repository / ".git").rglob("*")}
    answer(repository)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (repository / ".git").rglob("*")} == before


def test_no_repository_no_commit_and_no_git_are_missing_with_their_reasons(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert answer(tmp_path) == {"missing": "the script's folder is in no git repository that git reads"}
    git(tmp_path, "init", "-q")
    assert answer(tmp_path) == {"missing": "the repository has no commit"}
    assert "git did not start" in answer(tmp_path / "nowhere")["missing"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert answer(tmp_path) == {"missing": "git is not installed"}


def fake_git(folder, monkeypatch, script):
    program = folder / "git"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_git_that_hangs_holds_nobody_up_and_is_ended(tmp_path, monkeypatch):
    fake_git(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; exec sleep 600")
    question = GitQuestion(tmp_path)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        time.sleep(0.01)
    assert question.answer() is None
    assert question.answer(patience_s=0.05) == {"missing": "git did not answer within 0.05 s"}
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_recorder_that_is_dropped_leaves_no_process(tmp_path, monkeypatch):
    fake_git(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; exec sleep 600")
    question = GitQuestion(tmp_path)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        time.sleep(0.01)
    del question
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_tree_with_more_changes_than_a_pipe_holds_is_dirty(tmp_path, monkeypatch):
    fake_git(tmp_path, monkeypatch, "echo '# branch.oid abc'; yes '1 .M N... some/changed/file' | head -n 100000")
    assert answer(tmp_path) == {"commit": "abc", "dirty": True}


def test_a_header_says_who_its_run_is(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    header = recorded(tmp_path / "costs", hyperparameters={"lr": 0.1, "net": {"depth": 4}, "seed": 3, "hf_token": "x"})
    assert header["hyperparameters"] == {"lr": 0.1, "net.depth": 4, "seed": 3}
    assert (header["script"], header["seeds"]) == ("train.py", {"seed_everything": 7, "seed": 3})
    assert header["git"] == {"commit": git(repository, "rev-parse", "HEAD").strip(), "dirty": False}
    assert "owner" not in header


def test_an_owner_is_who_somebody_says_and_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "ada")
    assert "owner" not in recorded(tmp_path / "a")
    assert recorded(tmp_path / "b", owner="the lab")["owner"] == "the lab"
    monkeypatch.setenv("LIGHTNING_COSTS_OWNER", "team")
    assert recorded(tmp_path / "c")["owner"] == "team"
    assert recorded(tmp_path / "d", owner="me")["owner"] == "me"


def test_no_secret_of_hyperparameters_is_in_any_file_of_the_run(tmp_path):
    secret = "hf_" + "aBcD1234" * 4
    recorded(
        tmp_path, hyperparameters={"token": "tok-1234", "x": secret, "url": "https://ada:lovelace@h/x", "y": [secret]}
    )
    text = "".join(file.read_text(errors="replace") for file in tmp_path.rglob("*") if file.is_file())
    assert not [word for word in (secret, "tok-1234", "lovelace") if word in text]


@pytest.mark.parametrize("given", [3, "lr=0.1", [("lr", 0.1)]])
def test_hyperparameters_without_names_are_refused(given):
    with pytest.raises(ValueError, match=r"hyperparameters must be a mapping, a namespace or a dataclass"):
        Recorder(hyperparameters=given)


def test_an_owner_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match="owner must be a text, got 3"):
        Provenance(owner=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("argv", [["-c"], [""], [], ["/usr/lib/ipykernel_launcher.py"]])
def test_a_notebook_and_a_prompt_are_no_script(argv, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    assert script_name() is None


def test_an_old_header_loads_and_a_strange_one_says_what_is_wrong(tmp_path):
    path = tmp_path / "r"
    recorded(path)
    file = next(path.glob("*/header.json"))
    header = json.loads(file.read_text())
    for name in ("hyperparameters", "git", "script", "seeds", "owner"):
        header.pop(name, None)
    file.write_text(json.dumps(header))
    assert "hyperparameters" not in load_run(file.parent).header
    file.write_text(json.dumps({**header, "hyperparameters": {"lr": [1]}}))
    with pytest.raises(ValueError, match=r"'hyperparameters\.lr' must be a text, a number, or true or false"):
        load_run(file.parent)


def test_measuring_goes_on_where_git_cannot_be_asked(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, logger="lightning_costs")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert recorded(tmp_path / "costs")["git"] == {"missing": "git is not installed"}
    assert not caplog.records
