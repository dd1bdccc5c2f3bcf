"""`lightning-costs predict`, as its user calls it: from a run, from a function, from a script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call
from lightning_models import classifier, data, namespace, trainer

from lightning_costs import CostMonitor

MODEL = """
import torch
from torch import nn

def make():
    model = nn.Sequential(*[nn.TransformerEncoderLayer(64, 4, 128, batch_first=True) for _ in range(3)])
    return model, torch.zeros(2, 16, 64)

def with_optimizer():
    model, batch = make()
    return {"model": model, "batch": batch, "optimizer": torch.optim.AdamW}

def wrong():
    return 7
"""
SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from lightning_models import classifier, data, namespace, trainer
pl = namespace("lightning.pytorch")
trainer(pl, max_epochs=50).fit(classifier(pl), data())
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pl = namespace("lightning.pytorch")
    folder = tmp_path_factory.mktemp("costs")
    monitor = CostMonitor(save_dir=folder, infer=False)
    trainer(pl, monitor, default_root_dir=folder).fit(classifier(pl), data())
    assert monitor.run is not None
    return folder / monitor.run.id


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def test_a_run_is_predicted_with_intervals_and_assumptions(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "predict", run, "--steps", "100") in (None, 0)
    said = capsys.readouterr().out
    assert said.startswith("Predicted, not measured: run-")
    for words in (
        "time per step",
        "80 % interval",
        "time to the end",
        "peak memory of a device",
        "assumed: peaks of cpu",
    ):
        assert words in said


def test_cards_and_numbers_of_devices_stand_beside_each_other_in_table_json_and_figure(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    asked = ["--on", "H200", "--on", "L4", "--devices", "1", "--devices", "8", "--samples", "1e6"]
    out, figure = tmp_path / "plan.json", tmp_path / "plan.svg"
    what = f"{model}:with_optimizer"
    assert call(monkeypatch, "predict", what, *asked, "--json", out, "--figure", figure) in (None, 0)
    said = capsys.readouterr().out
    assert said.count("H200") >= 2
    assert "missing on H200, L4: no place was given" in said
    told = json.loads(out.read_text())["predictions"]
    assert [(one["setting"]["on"], one["setting"]["devices"]) for one in told] == [
        ("H200", 1), ("H200", 8), ("L4", 1), ("L4", 8),
    ]  # fmt: skip
    for one in told:
        assert one["amounts"]["cloud_usd"]["low"] < one["amounts"]["cloud_usd"]["middle"]
    assert "cloud cost" in figure.read_text()


def test_what_cannot_be_predicted_is_one_line(
    model: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for asked, why in (
        ([f"{model}:make"], "nothing was measured on a card: name one, on='H200'"),
        ([f"{model}:nothing"], f"{model} has no function 'nothing'"),
        ([f"{model}:wrong", "--on", "H200"], "wrong must return (model, batch), or a mapping"),
        ([run, "--on", "H100"], "several cards are called 'H100': name one of H100 SXM, H100 PCIe, H100 NVL"),
        ([run, "--strategy", "magic"], "strategy must be ddp, fsdp, zero1"),
        ([tmp_path / "nowhere"], "nowhere"),
        ([run, "--target", "0.9"], "a quality law needs"),
    ):
        said = call(monkeypatch, "predict", *asked)
        assert isinstance(said, str)
        assert why in said


def test_all_cards_of_the_table_may_be_asked_for(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "predict", f"{model}:make", "--on", "all", "--steps", "1e4") in (None, 0)
    said = capsys.readouterr().out
    for card in ("GH200", "V100", "L40S", "4090"):
        assert card in said


@pytest.mark.slow
@pytest.mark.integration
def test_a_script_trains_for_some_steps_and_is_predicted_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[1])))
    assert call(monkeypatch, "predict", script, "--trial-steps", "20", "--json", tmp_path / "o.json") in (None, 0)
    (told,) = json.loads((tmp_path / "o.json").read_text())["predictions"]
    assert told["amounts"]["steps"]["middle"] == 400  # 50 epochs of 8 batches
