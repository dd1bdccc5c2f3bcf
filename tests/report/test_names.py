"""Whatever runs are called, what we write stays what it is: CSV, LaTeX, Markdown, YAML, a page, a file name."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
import yaml

from lightning_costs import Recorder, compare, load_run, load_runs
from lightning_costs.report.statement import build_statement, latex, markdown, model_card
from lightning_costs.report.tables.csv_safety import safe_cell
from lightning_costs.report.terminal.comparison import comparison_text
from lightning_costs.report.terminal.project_total import project_csv, project_total
from lightning_costs.run.record import RunRecord

NAMES = {
    "html": "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "quotes": 'it\'s "quoted" `here`',
    "newlines": "two\nlines\r\nand a\ttab",
    "formula": "=cmd|' /C calc'!A0",
    "at": "@SUM(1+1)*cmd",
    "path": "../../etc/passwd",
    "windows": "C:\\Users\\x|y?*",
    "long": "x" * 300,
    "emoji": "🔥 Zoë — 模型",
    "latex": r"\input{/etc/passwd} $a_b^c$ & 50% #1 ~ {",
    "markdown": "a | b [link](http://x) **bold** | c",
    "yaml": "key: [value] # comment",
}


@pytest.fixture(params=sorted(NAMES))
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> list[RunRecord]:
    """Two rows of a table, one of which is named so; the name is the group's too."""
    return table_of(NAMES[request.param], tmp_path)


def table_of(name: str, folder: Path) -> list[RunRecord]:
    out = io.StringIO()
    csv.writer(out).writerows(
        [["model", "energy_j", "co2e_g", "acc", "group"], [name, 1e6, 60, 0.9, name], ["plain", 2e6, 70, 0.8, "g"]]
    )
    path = folder / "table.csv"
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    found = load_runs(path, monitor="acc", mode="max")
    assert [run.name for run in found] == [name, "plain"]
    assert found[0].header["group"] == name
    return found


def test_csv_keeps_its_cells_and_has_no_formula(runs: list[RunRecord]) -> None:
    rows = list(csv.reader(io.StringIO(project_csv(project_total(runs, by="group")))))
    assert {len(row) for row in rows} == {6}
    assert not any(cell.startswith(("=", "+", "@", "\t")) for row in rows for cell in row)


def test_latex_is_ascii_and_every_brace_is_closed(runs: list[RunRecord]) -> None:
    text = latex(build_statement(runs, monitor="acc"))
    assert text.isascii()
    bare = re.sub(r"\\[{}\\]", "", text)
    assert bare.count("{") == bare.count("}")
    assert "\\input" not in text
    table = text.split("tab:training-runs")[1]
    (row,) = [line for line in table.splitlines() if line.startswith(r"\raggedright plain")]
    others = [line for line in table.splitlines() if line.startswith(r"\raggedright ") and line != row]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in [row, *others]} == {len(re.findall(r"(?<!\\)&", row))}


def test_markdown_keeps_its_rows_and_yaml_loads(runs: list[RunRecord]) -> None:
    text = markdown(build_statement(runs, monitor="acc"))
    assert "<script>" not in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    table = lines[next(at for at, line in enumerate(lines) if line.startswith("| run ")) :]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "co2_eq_emissions" in yaml.safe_load(model_card(build_statement(runs)))


def test_a_comparison_of_them_prints_and_is_written(runs: list[RunRecord], tmp_path: Path) -> None:
    found = compare(runs)
    assert "plain" in comparison_text(found)
    assert found.to_json(tmp_path / "out.json").is_file()


@pytest.mark.integration
def test_a_page_of_them_runs_no_script_of_theirs(tmp_path: Path) -> None:
    """All on one page: a page takes half a second."""
    found = compare([record for name in sorted(NAMES) for record in table_of(NAMES[name], tmp_path)[:1]])
    page = found.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img src=x" not in page


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_run_folder_stays_within_its_place(name: str, tmp_path: Path) -> None:
    recorder = Recorder(name=name, save_dir=tmp_path / "costs")
    recorder.begin()
    recorder.step(None)
    recorder.end()
    assert recorder.path is not None
    assert recorder.path.resolve().parent == (tmp_path / "costs").resolve()
    assert len(recorder.path.name.encode()) < 200
    assert re.fullmatch(r"[\w.-]+", recorder.path.name)
    assert load_run(recorder.path).name == name


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "＝", "＋", "－", "＠", "﹦"])
@pytest.mark.parametrize("before", ["", " ", "\t", "\r\n", "\x1b", "\u200b", "\ufeff", "\u202e \x00"])
def test_no_cell_is_a_formula_whatever_stands_before_its_sign_and_however_wide_it_is(before: str, sign: str) -> None:
    assert str(safe_cell(f"{before}{sign}cmd()")).startswith("'")


@pytest.mark.parametrize("text", ["👩\u200d🔬 Zoë — 模型", "می\u200cخواهم", "a-b=c"])
def test_a_cell_of_ordinary_text_stays_as_it_is(text: str) -> None:
    assert safe_cell(text) == text
