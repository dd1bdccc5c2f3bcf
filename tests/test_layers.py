"""No module of the package needs itself, by imports at the top, within functions or for types alone."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import lightning_costs

ROOT = Path(lightning_costs.__file__).parent


def dotted(path: Path) -> str:
    return ".".join(("lightning_costs", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def test_no_import_goes_round_in_a_circle() -> None:
    modules = {dotted(path): path for path in ROOT.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                found |= {each if (each := f"{node.module}.{a.name}") in modules else node.module for a in node.names}
        graph[name] = (found & modules.keys()) - {name}
    assert len(graph) > 150
    assert list(TopologicalSorter(graph).static_order())  # a CycleError names the modules
