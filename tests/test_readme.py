"""The README: short, pictures with texts, and a caption that the demo's own runs confirm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_costs import compare, load_runs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_WORDS = 900


def test_it_has_under_900_words_outside_code() -> None:
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    assert len(prose.split()) < MOST_WORDS


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: str(p.relative_to(ROOT))
)
def test_pictures_have_an_alternative_text(page: Path) -> None:
    for text, picture in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        assert len(text.split()) >= 4, picture


def test_the_ten_lines_stand_below_the_installation_that_they_need() -> None:
    install, lines = re.findall(r"^```(?:sh|python)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)[:2]
    assert install.startswith("pip install .")
    assert lines.startswith("import pytorch_lightning"), "a dependency of the package, which `lightning` is not"


@pytest.mark.slow
@pytest.mark.integration
def test_the_caption_holds_for_the_runs_of_the_demo(tmp_path: Path) -> None:
    """By samples the wide model is cheapest, by FLOPs the deep one: of seed 1, by margins that three seeds had."""
    assert "the wide models need the fewest samples, and the deep model the fewest FLOPs" in " ".join(README.split())
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "digits.py"), "--out", str(tmp_path), "--seeds", "1"],
        env={**os.environ, "WANDB_MODE": "offline"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    compared = compare(load_runs(tmp_path / "costs"), targets=[0.9])
    spent = {
        column: {label.partition("-seed")[0]: hit["cost"] or 0.0 for label, hit in by_run.items()}
        for column, by_run in compared.targets[0]["costs"].items()
        if column in ("samples", "flop")
    }
    assert spent["samples"]["wide"] < 0.75 * spent["samples"]["deep"]
    assert spent["samples"]["wide"] <= 1.3 * spent["samples"]["sam"]
    assert spent["flop"]["deep"] < 0.75 * spent["flop"]["wide"]
    assert spent["flop"]["deep"] < 0.75 * spent["flop"]["sam"]
