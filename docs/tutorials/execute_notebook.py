"""Execute notebook.ipynb in an empty folder and write its outputs back: `python docs/tutorials/execute_notebook.py`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("notebook.ipynb")
#: A text stands beside its HTML for terminals alone; a long one is left out of the file.
LONGEST_TEXT = 400


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs; an error in a cell is raised."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}, record_timing=False
        ).execute()
    return notebook


def main() -> None:
    notebook = executed(NOTEBOOK)
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "text/html" in data and len(data.get("text/plain", "")) > LONGEST_TEXT:
                data["text/plain"] = "(drawn as HTML)"
    NOTEBOOK.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
