"""What the documents say is what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from lightning_costs import Tariff, default_indicators
from lightning_costs.integrations.lightning.options import RunOptions

ROOT = Path(__file__).parents[1]
TEXTS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/budget.md",
        "docs/carbon-and-money.md",
        "docs/check.md",
        "docs/columns.md",
        "docs/comparing.md",
        "docs/comparison-schema.md",
        "docs/deepspeed.md",
        "docs/optimizer-memory.md",
        "docs/processes.md",
        "docs/run-folder.md",
        "docs/running.md",
        "docs/lifecycle.md",
        "docs/pipeline.md",
        "docs/report.md",
        "docs/sources.md",
        "docs/statement.md",
        "docs/total.md",
        "docs/wandb.md",
        *(f"docs/paper/{page.name}" for page in sorted((ROOT / "docs" / "paper").glob("*.md"))),
    )
}


def test_every_column_is_defined_with_its_kind_and_headline() -> None:
    rows = dict(re.findall(r"^\| `(\w+)`( \*\*H\*\*)? \|", TEXTS["docs/columns.md"], re.MULTILINE))
    declared = {i.name: i.declaration() for i in default_indicators()}
    assert set(rows) == set(declared)
    assert {name for name, mark in rows.items() if mark} == {name for name, d in declared.items() if d.headline}
    for name, declaration in declared.items():
        (kind,) = re.findall(rf"^\| `{name}`[^|]*\| (\w+)", TEXTS["docs/columns.md"], re.MULTILINE)
        assert kind == declaration.kind


def test_the_readme_names_no_column_that_is_not_there() -> None:
    table = TEXTS["README.md"].split("| clocks |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) <= {i.name for i in default_indicators()}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_links_to_files_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", TEXTS[name]):
        if not target.startswith("http"):
            assert ((ROOT / name).parent / target).exists(), target


def test_the_map_names_modules_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+/[a-z_/]+|[a-z_]+\.py)`", text)
    assert len(named) > 25
    for name in named:
        path = ROOT / "lightning_costs" / name
        assert path.is_dir() or path.with_suffix(".py").is_file() or (ROOT / name).exists(), name
    rooms = {path.name for path in (ROOT / "lightning_costs").iterdir() if (path / "__init__.py").is_file()}
    assert rooms == {name.rstrip("/") for name in re.findall(r"^\| `([a-z_]+/)`", text, re.MULTILINE)}


def test_the_page_on_running_names_every_option() -> None:
    named = set(re.findall(r"`--([a-z-]+)", TEXTS["docs/running.md"]))
    assert named == {field.name.replace("_", "-") for field in fields(RunOptions)} - {"targets"} | {"target"}


def test_the_tariff_on_the_page_about_money_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", TEXTS["docs/carbon-and-money.md"], re.DOTALL)
    path = tmp_path / "tariff.toml"
    path.write_text(text, encoding="utf-8")
    tariff = Tariff.from_file(path).for_device("NVIDIA H100 80GB HBM3")
    assert tariff.price_row is not None
    assert (tariff.price_row.usd_per_device_h, tariff.region) == (4.1, "US-TX")
