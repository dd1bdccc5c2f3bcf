"""Every command and every block of Python in README and docs runs, or says why it does not.

A page is read from top to bottom. A block with a `title` is written to that file; `python` blocks share one namespace;
lines of `sh` blocks are commands. A block below `<!-- not run: why -->` is left out, and it needs its reason.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call
from processes import Script
from torch import nn

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FIRST = ROOT / "docs" / "tutorials" / "one-callback.md"
FENCE = re.compile(r'^```(?P<language>\w*)(?: title="(?P<title>[\w./-]+)")?$')
NOT_RUN = re.compile(r"^<!-- not run: (?P<why>.+) -->$")
#: The README's ten lines, which test_namespaces runs in a folder of their own, as they log another metric.
TEN_LINES = "import pytorch_lightning as pl  # or"
#: Languages of blocks that do something. What else is fenced is output, a picture or a file's format.
RUNS = ("python", "sh", "console", "bash")


@dataclass(frozen=True)
class Block:
    language: str
    title: str | None
    not_run: str | None
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").split("\n")
    start = why = None
    for number, line in enumerate(lines):
        if start is None and (fence := FENCE.match(line)):
            marked = NOT_RUN.match(lines[number - 1]) if number else None
            start, opened, why = number, fence, marked and marked["why"]
        elif start is not None and line == "```":
            text = "\n".join(lines[start + 1 : number]) + "\n"
            yield Block(opened["language"], opened["title"], why, text, start + 1)
            start = None
    assert start is None, f"{page.name}: the block of line {start} has no end"


def of(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in RUNS or block.title]


def commands(block: Block) -> Iterator[tuple[str, int]]:
    """Command lines and the exit code that each promises."""
    for line in block.text.replace("\\\n", " ").splitlines():
        code, _, comment = line.partition(" # ")
        if code.strip() and not code.startswith("#"):
            promised = re.search(r"exits with (\d)", comment)
            yield code.strip(), int(promised[1]) if promised else 0


def written(page: Path, folder: Path) -> None:
    for block in blocks(page):
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the how-to pages take as given: `train.py`, two runs below `costs`, a tariff, a table, a log."""
    folder = tmp_path_factory.mktemp("workshop")
    written(FIRST, folder)
    (folder / "both.py").write_text(
        'from train import train\nfor name in ("adam", "sgd"):\n    train(f"{name}-seed0", name)\n'
        'train("adam-seed1", seed=1, save_dir="more")\n',
        encoding="utf-8",
    )
    done = Script(folder / "both.py", (), folder).ended()
    assert done.code == 0, done.err[-3000:]
    (tariff,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "carbon-and-money.md").read_text(), re.DOTALL)
    for name in ("tariff.toml", "other.toml"):
        (folder / name).write_text(tariff, encoding="utf-8")
    (folder / "zoo.csv").write_text(
        "model,top1,params,gflops,flops,ms_per_image,images_per_s\na,0.8,5.0,1.0,1.0,2.0,500\nb,0.9,9.0,2.0,2.0,4.0,250\n"
    )
    for left_over in folder.glob("said-*"):
        left_over.unlink()
    return folder


class Task:
    """A model, a loop's parts, and what else the pages take as the reader's own."""

    def __init__(self) -> None:
        self.model = nn.Linear(4, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.loader = [torch.ones(8, 4)] * 3
        self.epochs = 2

    def train(self, batch: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.model(batch).sum().backward()
        self.optimizer.step()

    def evaluate(self, model: nn.Module) -> float:
        return 0.5

    def names(self) -> dict[str, Any]:
        return {**vars(self), "train": self.train, "evaluate": self.evaluate, "router": Router()}


class Router:
    def take_dropped(self) -> int:
        return 0


def check_install(words: list[str]) -> None:
    """What `pip install` names exists: this package and its extras, or packages that development installs."""
    known = {re.split(r"[<>=!\[]", line)[0] for extra in PROJECT["optional-dependencies"].values() for line in extra}
    for word in words:
        name, _, extras = word.rstrip("]").partition("[")
        assert name in known | {"lightning-costs", "."}, word
        assert set(filter(None, extras.split(","))) <= set(PROJECT["optional-dependencies"]), word


def run_command(line: str, promised: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = sorted((folder / "costs").glob("*/header.json"))
    if runs:
        line = line.replace("costs/<run id>", f"costs/{runs[0].parent.name}")
        line = line.replace("costs/<other>", f"costs/{runs[0].parent.name}")  # of another setup it would exit with 2
    words = shlex.split(line)
    environment = dict(word.split("=", 1) for word in words if re.match(r"^[A-Z_]+=", word))
    words = words[len(environment) :]
    if words[0] == "make":
        assert re.search(rf"^[^:\n]*\b{words[1]}\b[^:\n]*:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
    elif words[:2] == ["pip", "install"]:
        check_install(words[2:])
    elif words[0] == "lightning-costs" and words[1] != "run":
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert (call(monkeypatch, *words[1:]) or 0) == promised, line
    elif words[0] == "python" and words[1].endswith(".py"):
        done = Script(folder / words[1], tuple(words[2:]), folder, {**os.environ, **environment}).ended()
        assert done.code == promised, done.err[-3000:]
    elif words[0] in ("lightning-costs", "python"):
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        rest = words[1:] if words[0] == "python" else ["-m", "lightning_costs", *words[1:]]
        ran = subprocess.run(
            [sys.executable, *rest],
            cwd=folder,
            env={**os.environ, **environment, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert ran.returncode == promised, ran.stderr[-3000:]
    else:
        raise AssertionError(f"no test runs {line!r}: put <!-- not run: why --> above its block")


def run_page(page: Path, folder: Path, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    try:
        with warnings.catch_warnings():
            for block in of(page):
                if block.not_run or block.text.startswith(TEN_LINES):
                    continue
                if block.title:
                    (folder / block.title).write_text(block.text, encoding="utf-8")
                elif block.language == "python":
                    code = "\n" * block.line + block.text
                    exec(compile(code, str(page), "exec"), names)
                else:
                    for line, promised in commands(block):
                        run_command(line, promised, folder, monkeypatch)
    finally:
        for name in ("train", "seeds", "with_wandb", "skipped"):
            if name not in before:
                sys.modules.pop(name, None)


TUTORIALS = [page for page in PAGES if page.parent.name == "tutorials" and any(not b.not_run for b in of(page))]
OTHERS = [page for page in PAGES if page not in TUTORIALS and any(not b.not_run for b in of(page))]


#: Pages that train for half a minute each run if asked for (`-m slow`).
_LONG = {"two-optimizers.md", "gate.md", "report.md", "running.md"}


def _marked(pages: list[Path]) -> list[Any]:
    return [pytest.param(page, marks=pytest.mark.slow if page.name in _LONG else ()) for page in pages]


@pytest.mark.parametrize("page", _marked(TUTORIALS), ids=lambda page: page.name)
def test_a_tutorial_runs_from_an_empty_folder(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page != FIRST:
        shutil.copy(page, tmp_path)
        (text,) = (block.text for block in blocks(FIRST) if block.title == "train.py")
        (tmp_path / "train.py").write_text(text, encoding="utf-8")
    run_page(page, tmp_path, {"__name__": "tutorial"}, monkeypatch)


@pytest.mark.parametrize("page", _marked(OTHERS), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_python_of_a_page_run(
    page: Path, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(workshop, folder)
    run_page(page, folder, {"__name__": "page", **Task().names()}, monkeypatch)


def test_a_block_that_no_test_runs_says_why() -> None:
    reasons = {(page.name, block.line): block.not_run for page in PAGES for block in of(page) if block.not_run}
    assert all(len(why.split()) >= 3 for why in reasons.values()), reasons


def test_a_fence_that_holds_commands_names_its_language() -> None:
    for page in PAGES:
        for block in blocks(page):
            first = block.text.split(maxsplit=1)[0] if block.text.strip() else ""
            assert block.language or first not in ("lightning-costs", "python", "pip", "make"), (page.name, block.line)
