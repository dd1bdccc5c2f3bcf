"""The run folder while a run goes on: complete at every moment, silent about people, and no danger to training."""

from __future__ import annotations

import errno
import getpass
import json
import logging
import math
import os
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from attempts import abandon
from fakes import FakeClock, measured
from torch import nn

from lightning_costs import Recorder, load_run
from lightning_costs.storage.run_folder.files import JOURNAL, RunFolder
from lightning_costs.storage.run_folder.lock import LOCK

pytestmark = pytest.mark.usefixtures("every_point_at_once")

BATCH = torch.zeros(8, 3)


def one():
    return [measured("x_calls", reads=lambda s: float(s.steps))]


@pytest.fixture
def make(tmp_path):
    return lambda **o: Recorder(**{"save_dir": tmp_path / "costs", "clock": FakeClock(), "indicators": one()} | o)


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, logger="lightning_costs")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "lightning_costs"]


def open_files(folder):
    """Files of a folder that this process has open, but for its lock."""
    links = [Path(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    paths = [Path(os.path.realpath(link)) for link in links]
    return [path.name for path in paths if path.parent == folder.resolve() and path.name != LOCK]


def train(recorder, n=3):
    for _ in range(n):
        recorder.step(BATCH)


def test_a_run_that_is_killed_has_every_point_so_far_on_disk(make):
    with make(log_every_n_steps=1) as recorder:
        for n in range(1, 4):
            train(recorder, 1)
            run = load_run(recorder.path)
            assert (run.source, run.points.height, run.final["x_calls"]) == ("points.jsonl", n, float(n))
            assert run.header["status"] == "running"


def test_what_went_missing_is_in_the_header_while_the_run_goes_on(make):
    bad = measured("bad_calls", reads=[1.0, 1.0, OSError("gone")])
    with make(indicators=[*one(), bad], log_every_n_steps=1) as recorder:
        train(recorder, 2)
        assert load_run(recorder.path).header["missing"] == {}
        train(recorder, 1)
        assert load_run(recorder.path).header["missing"] == {"bad_calls": "OSError (its text is in the log)"}


def test_a_header_is_written_when_it_says_something_new_and_not_at_every_point(make, monkeypatch):
    written = []
    original = RunFolder.write_header
    monkeypatch.setattr(RunFolder, "write_header", lambda self, h: (written.append(1), original(self, h))[1])
    with make(log_every_n_steps=1) as recorder:
        train(recorder, 50)
    assert len(written) <= 4


# Privacy -----------------------------------------------------------------------------------------------------


def test_the_header_names_no_person_no_host_and_no_path(tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "zaphod-beeblebrox")
    monkeypatch.setenv("LOGNAME", "zaphod-beeblebrox")
    monkeypatch.setenv("SECRET_TOKEN", "hunter2-token")
    monkeypatch.setattr(socket, "gethostname", lambda: "heart-of-gold")
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    recorder = Recorder(module=net, optimizers=[optimizer], save_dir=tmp_path / "costs", setup={"batch_size": 8})
    with recorder:
        with recorder.train_batch(BATCH):
            net(BATCH).sum().backward()
            optimizer.step()
        recorder.step(BATCH)
    text = (recorder.path / "header.json").read_text()
    for secret in (
        "zaphod",
        "hunter2",
        "heart-of-gold",
        os.uname().nodename,
        str(tmp_path),
        str(Path.cwd()),
        sys.prefix,
    ):
        assert secret not in text, secret
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in text
    values = [v for v in strings(json.loads(text)) if re.match(r"^(/|[A-Za-z]:\\|~)", v)]
    assert values == []


def strings(data):
    if isinstance(data, str):
        return [data]
    if isinstance(data, dict):
        data = list(data.values())
    return [s for item in data for s in strings(item)] if isinstance(data, list) else []


def test_the_header_is_strict_json(make):
    with make(setup={"dtype": torch.float32}) as recorder:
        train(recorder)
    text = (recorder.path / "header.json").read_text()
    header = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert header["setup"]["dtype"] == "torch.float32"


@pytest.mark.parametrize("value", [math.inf, math.nan, {(1, 2): "tuple key"}], ids=["inf", "nan", "key"])
def test_a_fact_that_json_cannot_hold_does_not_stop_the_training(make, value):
    with make(setup={"limit": value}) as recorder:
        train(recorder)
    assert recorder.final["x_calls"] == 3.0


def test_a_static_that_is_no_number_does_not_stop_the_training(make):
    odd = measured("odd_params", "params", kind="static", reads=lambda s: math.nan)
    with make(indicators=[*one(), odd], log_every_n_steps=1) as recorder:
        train(recorder)
    assert recorder.final["x_calls"] == 3.0


def test_a_target_that_is_infinite_does_not_stop_the_training(make):
    with make(monitor="loss", mode="min", targets=[-math.inf]) as recorder:
        train(recorder)
    assert recorder.final["x_calls"] == 3.0


@pytest.mark.parametrize(
    "value",
    [0.5, 1, True, np.float64(0.5), np.float32(0.5), torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64)],
    ids=lambda v: type(v).__name__,
)
def test_quality_takes_every_kind_of_number(make, value):
    with make() as recorder:
        train(recorder)
        recorder.log_metrics({"acc": value})
    assert load_run(recorder.path).points["acc"].to_list()[0] == float(value)


# A disk that fails -------------------------------------------------------------------------------------------


def test_a_file_in_the_way_of_the_folder_is_said_once_and_training_goes_on(make, tmp_path, said):
    (tmp_path / "costs").write_text("a file")
    with make(log_every_n_steps=1) as recorder:
        train(recorder)
        recorder.log_metrics({"acc": 0.5})
    assert recorder.final["x_calls"] == 3.0
    assert len(said()) == 1
    assert said()[0].startswith(f"costs cannot be written to {tmp_path / 'costs'}: {tmp_path / 'costs'} is a file.")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_folder_without_permission_is_said_once_and_training_goes_on(make, tmp_path, said, mode):
    (tmp_path / "costs").mkdir()
    (tmp_path / "costs").chmod(mode)
    try:
        with make(log_every_n_steps=1) as recorder:
            train(recorder)
    finally:
        (tmp_path / "costs").chmod(0o700)
    assert recorder.final["x_calls"] == 3.0
    assert len(said()) == 1


def test_a_folder_that_may_not_even_be_looked_into_is_said_once_and_training_goes_on(make, tmp_path, said, monkeypatch):
    """What `exists` does below a folder of mode 000, for a root who would be allowed to."""
    original = os.stat

    def stat(path, *args, **kwargs):
        if isinstance(path, str | os.PathLike) and str(path).startswith(str(tmp_path / "costs" / "")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *args, **kwargs)

    (tmp_path / "costs").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        patch.setattr(RunFolder, "open", lambda self, header: stat(self.path / "header.json"))
        with make(log_every_n_steps=1) as recorder:
            train(recorder)
    assert recorder.final["x_calls"] == 3.0
    assert len(said()) == 1


def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_in_the_middle_is_said_once_and_training_goes_on(make, said, monkeypatch):
    with make(log_every_n_steps=1) as recorder:
        train(recorder)
        monkeypatch.setattr(RunFolder, "append", full)
        train(recorder)
        monkeypatch.undo()
        train(recorder)
    assert recorder.final["x_calls"] == 9.0
    assert len(said()) == 1
    assert "No space left on device" in said()[0]
    run = load_run(recorder.path)
    assert (run.points.height, run.header["status"]) == (9, "finished")  # one was given to what stood for the disk


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_folder_that_stopped_being_written_leaves_no_file_open(make, monkeypatch):
    with make(log_every_n_steps=1) as recorder:
        train(recorder, 1)
        assert open_files(recorder.path) == [JOURNAL]
        monkeypatch.setattr(RunFolder, "append", full)
        train(recorder, 1)
    assert open_files(recorder.path) == []


@pytest.mark.parametrize("method", ["write_header", "close"])
def test_a_full_disk_at_the_end_is_said_once_and_the_with_ends_well(make, said, monkeypatch, method):
    with make(log_every_n_steps=0) as recorder:
        train(recorder)
        recorder.log_metrics({"acc": 0.5})
        monkeypatch.setattr(RunFolder, method, full)
    assert recorder.final["x_calls"] == 3.0
    assert len(said()) == 1
    monkeypatch.undo()
    abandon(recorder)
    assert load_run(recorder.path).final["x_calls"] == 3.0


def test_an_error_of_the_training_is_not_hidden_by_one_of_the_disk(make, monkeypatch, said):
    def diverge():
        with make(log_every_n_steps=1) as recorder:
            train(recorder, 1)
            abandon(recorder)
            monkeypatch.setattr(RunFolder, "append", full)
            raise ArithmeticError("loss is nan")

    with pytest.raises(ArithmeticError, match="loss is nan"):
        diverge()
    assert len(said()) == 1
