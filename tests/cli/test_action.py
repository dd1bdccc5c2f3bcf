"""action.yml: its own script, run on two run folders as GitHub runs it, and the Markdown that it leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from lightning_costs import Measured, Recorder, default_indicators

ACTION = Path(__file__).parents[2] / "action.yml"
LABEL = "mine | yours \\| <b>theirs</b>"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="GitHub runs the action by bash; install it")


class Mine(Measured):
    name, unit, kind, family = "mine_calls", "calls", "counter", "data"
    label, headline = LABEL, True

    def read(self, sample: Any) -> float:
        return 1.0


def trained(folder: Path, name: str, steps: int) -> None:
    plain = [each for each in default_indicators() if each.family not in ("energy", "money")]
    with Recorder(save_dir=folder, name=name, indicators=[*plain, Mine()], log_every_n_steps=1) as recorder:
        for _ in range(steps):  # the last window is empty
            recorder.step(torch.ones(4, 2))


def act(folder: Path, **inputs: str) -> tuple[int, str, str]:
    """The exit code of the action's script, its summary and its outputs."""
    action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    (step,) = action["runs"]["steps"]
    given = {name: each.get("default", "") for name, each in action["inputs"].items()} | inputs
    assert given.keys() == action["inputs"].keys()
    expressions = {f"${{{{ inputs.{name} }}}}": value for name, value in given.items()}
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    command = commands / "lightning-costs"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lightning_costs "$@"\n')
    command.chmod(0o755)
    places = {name: folder / name for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
    for place in places.values():
        place.write_text("")
    environment = {
        **os.environ,
        **{name: expressions[value] for name, value in step["env"].items()},
        **{name: str(place) for name, place in places.items()},
        "PATH": os.pathsep.join([str(commands), os.environ["PATH"]]),
    }
    script = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, *(place.read_text(encoding="utf-8") for place in places.values())  # type: ignore[return-value]


def tables(markdown: str) -> list[list[list[str]]]:
    """Tables as a Markdown reader sees them: rows of cells, as plain texts."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level > 2:
            found[-1][-1].append("".join(map(text, token.children or ())))
    return found


def text(token: Token) -> str:
    return token.content if token.type in ("text", "text_special") else ""


@pytest.mark.integration
def test_the_script_fails_a_costlier_run_and_leaves_a_table_that_any_name_fits_in(tmp_path: Path) -> None:
    trained(tmp_path / "baseline", "main", 4)
    trained(tmp_path / "costs", "a|b `c` [d](e)\n# f", 6)
    code, summary, outputs = act(tmp_path, baseline="baseline", fail="  mine_calls>2%\n\nsteps>100%\n", allow="none.*")
    assert (code, outputs) == (1, "exit-code=1\n")
    assert summary == (tmp_path / "costs.md").read_text(encoding="utf-8")
    assert summary.startswith("### Training costs: regression: mine_calls\n\na\\|b \\`c\\` \\[d\\](e)")
    assert (tmp_path / "costs.json").is_file()
    gated, others = tables(summary)
    assert gated[1:] == [
        [LABEL, "5 calls", "7 calls", "+40 %", ">2%", "REGRESSION"],
        ["optimizer-step batches", "4 steps", "6 steps", "+50 %", ">100%", "ok"],
    ]
    assert {len(row) for row in (*gated, *others)} == {6}
    assert "samples" in [row[0] for row in others]


@pytest.mark.integration
def test_an_input_is_no_command_and_what_cannot_be_checked_is_in_the_summary(tmp_path: Path) -> None:
    trained(tmp_path / "costs", "mine", 1)
    code, summary, outputs = act(tmp_path, baseline="$(touch here)`touch here`; touch here", run="--help")
    assert (code, outputs) == (2, "exit-code=2\n")
    assert summary.startswith("### Training costs: not checked\n\n")
    assert not (tmp_path / "here").exists()
