"""Hooks of the documentation site: the package's version, links to files outside docs/, and the notebook as a page."""

from __future__ import annotations

import json
import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOTEBOOK = "<!-- notebook -->"


def on_config(config: Any) -> None:
    """Show the version on every page."""
    config["copyright"] = f"lightning-costs {PROJECT['version']} · {PROJECT['license']}"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in the version and the notebook, and point links that leave docs/ at the source repository."""
    markdown = markdown.replace("{{version}}", PROJECT["version"])
    if NOTEBOOK in markdown:
        markdown = markdown.replace(NOTEBOOK, notebook(ROOT / "docs" / "tutorials" / "notebook.ipynb"))
    here = posixpath.dirname(posixpath.join("docs", page.file.src_uri))

    def outside(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, link[1]))
        return link[0] if target.startswith("docs/") else f"]({PROJECT['urls']['Source']}/blob/main/{target})"

    return re.sub(r"\]\((\.\./[^)\s]+)\)", outside, markdown)


def notebook(path: Path) -> str:
    """Markdown of a notebook: code as fenced blocks, outputs as HTML if they have it, otherwise as text."""
    parts: list[str] = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "text/html" in data:
                html = re.sub(r"\n\s*\n", "\n", "".join(data["text/html"]))  # a blank line would end the HTML block
                parts.append(f'<div class="output">\n{html}\n</div>')
            elif "text/plain" in data:
                parts.append(f"```text\n{''.join(data['text/plain'])}\n```")
            elif output.get("name") == "stdout":
                parts.append(f"```text\n{''.join(output['text'])}```")
    return "\n\n".join(parts)
