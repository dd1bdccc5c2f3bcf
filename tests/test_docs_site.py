"""The documentation site: every public name has an entry, and every page is in the navigation."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import lightning_costs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
#: Docstrings of these are shown in full, so that a method that is added is shown too; of the others the page chooses.
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "reference").glob("*.md")))


def pages(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages(part)]  # type: ignore[attr-defined]


def test_every_public_name_has_an_entry_in_the_reference() -> None:
    entries = set(re.findall(r"^::: lightning_costs\.(\w+)$", REFERENCE, re.MULTILINE))
    assert entries == set(lightning_costs.__all__)


def test_the_table_of_the_reference_names_every_public_name() -> None:
    assert set(re.findall(r"`(\w+)`", (DOCS / "reference" / "index.md").read_text())) >= set(lightning_costs.__all__)


def test_members_that_the_reference_chooses_exist() -> None:
    for name, members in re.findall(
        r"^::: lightning_costs\.(\w+)\n    options:\n      members: \[(.*)\]$", REFERENCE, re.MULTILINE
    ):
        thing = getattr(lightning_costs, name)
        for member in filter(None, members.split(", ")):
            assert hasattr(thing, member) or member == "run", f"{name}.{member}"  # `run` is set when a fit begins


def test_every_page_is_in_the_navigation() -> None:
    named = pages(CONFIG["nav"])
    assert len(named) == len(set(named))
    assert set(named) == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def test_the_site_loads_no_font_and_asks_no_server() -> None:
    assert CONFIG["theme"]["font"] is False
    assert "repo_url" not in CONFIG, "Material's page asks GitHub for stars if it has one"


def test_the_citation_file_is_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    assert "{{version}}" in (DOCS / "citation.md").read_text(encoding="utf-8"), "the site fills it in"
