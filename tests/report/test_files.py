"""Figures and tables on disk: for papers, spreadsheets and file systems, whatever runs are called."""

from __future__ import annotations

import csv
import math
import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import make_run, zoo

from lightning_costs import compare
from lightning_costs.report.charts.figures import figures, slug
from lightning_costs.report.charts.selection import MOST_RUNS, restrict_to_runs, select_runs
from lightning_costs.report.statement import build_statement, latex, markdown
from lightning_costs.report.tables.plain_tables import MOST_COLUMNS, comparison_tables

pytestmark = pytest.mark.integration

HOSTILE = "=cmd|' /C calc'!A0 <script>alert(1)</script> \"'\n../../etc/passwd \\input{x} % & # | " + "long " * 60 + "🔥"


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_chart_is_written_in_the_formats_that_are_asked_for_with_a_line_on_each(tmp_path):
    costs = {"flop": [1e12, 2e12], "train_s": [1.0, 2.0]}
    cmp = compare([make_run(f"run {i}", quality=[0.5, 0.6 + i / 10], costs=costs) for i in range(2)])
    *written, about = cmp.to_figures(tmp_path / "new" / "figures", formats=["png", "svg", "pdf"])
    stems = {path.stem for path in written}
    assert about.name == "README.txt"
    assert {line.split(":")[0] for line in about.read_text(encoding="utf-8").splitlines()} == stems
    assert stems == {"ranks", "ranks-to-target-1", "rank-correlation", "time"} | {
        f"{what}-{name}" for what in ("quality-against", "front", "targets") for name in costs
    }
    assert len(written) == 3 * len(stems) == len(list((tmp_path / "new" / "figures").iterdir())) - 1
    for stem in stems:
        start = {
            suffix: (tmp_path / "new" / "figures" / f"{stem}.{suffix}").read_bytes()[:5]
            for suffix in ("png", "svg", "pdf")
        }
        assert start == {"png": b"\x89PNG\r", "svg": b"<svg ", "pdf": b"%PDF-"}


def test_figures_of_hostile_runs_are_drawn_under_safe_names(tmp_path):
    runs = [
        make_run(f"{HOSTILE}{i}", monitor=HOSTILE, quality=[0.5, 0.6 + i / 10], costs={"energy_j": [1.0, 2.0 + i]})
        for i in range(2)
    ]
    written = compare(runs).to_figures(tmp_path, formats=["svg"])
    assert {path.parent for path in written} == {tmp_path}
    assert all(len(path.name) < 100 and path.name.isascii() for path in written)
    assert not any(b"<script" in path.read_bytes() for path in written if path.suffix == ".svg")


@given(st.text(), st.sets(st.sampled_from(["figure", "figure-2", "a"])))
def test_a_file_name_is_plain_short_and_its_own(text, taken):
    name = slug(text, taken)
    assert name.lower() not in taken
    assert 0 < len(name) <= 84
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def test_the_poorest_comparisons_have_the_figures_that_they_can():
    assert list(figures(compare([make_run(costs={}, quality=[])]))) == []
    alone = [figure.name for figure in figures(compare([make_run()]))]
    assert "ranks" not in alone
    assert "quality-against-energy_j" in alone


def test_csv_tables_say_what_the_comparison_holds(tmp_path):
    cmp = compare(zoo(4, 6), targets=[0.5, 0.99], group="name")
    tables = {path.stem: read(path) for path in cmp.to_csv(tmp_path / "tables")}
    for row in tables["cost_to_quality"]:
        (target,) = (one for one in cmp.targets if one["target"] == float(row["target"]))
        spend = target["costs"][row["column"]][row["run"]]
        assert row["reached"] == str(spend["reached"])
        # What was not reached is infinite: empty here, and 'reached' says why.
        known = spend["cost"] is not None and math.isfinite(spend["cost"])
        assert (float(row["cost"]) if row["cost"] else None) == (spend["cost"] if known else None)
    assert {(row["column"], row["run"]) for row in tables["pareto_fronts"]} == {
        (name, label) for name, front in cmp.fronts.items() for label in front
    }
    assert len(tables["rank_correlation"]) == len(cmp.ranks["pairs"])
    assert [row["run"] for row in tables["runs"]] == cmp.labels
    assert {row["kind"] for row in tables["cautions"]} == {caution["kind"] for caution in cmp.cautions}
    assert {row["group"] for row in tables["groups"]} == set(cmp.labels)


def test_no_cell_of_a_csv_file_is_a_formula_or_tears_its_row(tmp_path):
    runs = [make_run(f"{HOSTILE}{i}", setup={"a": i}, missing={"energy_j": HOSTILE}) for i in range(2)]
    for path in compare(runs).to_csv(tmp_path):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert len({len(row) for row in rows}) == 1, path
        for cell in (cell for row in rows for cell in row):
            assert not cell.startswith(("=", "@", "\t", "\r")), (path, cell)
            assert "\n" not in cell


def test_the_tables_of_a_comparison_follow_the_statement():
    runs = zoo(3, 6)
    cmp = compare(runs, targets=[0.5])
    tables, cautions = comparison_tables(cmp), [caution["text"] for caution in cmp.cautions]
    text = markdown(build_statement(runs), tables=tables, cautions=cautions)
    assert text.index("## Cost of training") < text.index("## Comparison")
    assert "Cost to reach val/acc 0.5 (given to compare)" in text
    assert all(
        caution.split(":")[0].replace("_", "\\_") in text or caution.split(":")[0] in text for caution in cautions
    )
    tex = latex(build_statement(runs), tables=tables, cautions=cautions)
    assert tex.isascii()
    assert tex.count(r"\begin{tabular}") == len(tables) + 2
    assert "## Comparison" not in markdown(build_statement(runs))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX was found")
def test_the_tables_of_hostile_runs_compile_without_any_package(tmp_path):
    runs = [
        make_run(f"{HOSTILE}{i}", monitor=HOSTILE, quality=[0.5, 0.6 + i / 100], costs={"energy_j": [1.0, 2.0 + i]})
        for i in range(8)
    ]
    cmp = compare(runs, targets=[0.5], group="name")
    text = latex(build_statement(runs), tables=comparison_tables(cmp), cautions=[one["text"] for one in cmp.cautions])
    (tmp_path / "said.tex").write_text(text, encoding="ascii")
    main = "\\documentclass[twocolumn]{article}\n\\begin{document}\n\\input{said}\n\\end{document}\n"
    (tmp_path / "main.tex").write_text(main, encoding="ascii")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / "main.pdf").stat().st_size > 10_000


def test_tables_of_many_runs_go_on_in_another_and_say_how_many_there_are():
    cmp = compare([make_run(f"run {i}", quality=[0.5, 0.6 + i / 1000]) for i in range(MOST_RUNS + 6)])
    finals = [table for table in comparison_tables(cmp) if table.caption.startswith("Costs at the end")]
    assert len(finals) == MOST_RUNS // MOST_COLUMNS
    assert all(len(table.heads) <= MOST_COLUMNS + 1 for table in finals)
    assert f"{MOST_RUNS} of {MOST_RUNS + 6} runs" in finals[0].caption
    assert finals[1].caption.endswith("(continued)")


def test_all_runs_are_drawn_where_they_are_few_and_the_noteworthy_where_they_are_many():
    runs = [
        make_run(
            f"run {i}", quality=[0.5 + i / 200], costs={"energy_j": [100.0 - i], "train_s": [10.0 + (i - 50) ** 2]}
        )
        for i in range(80)
    ]
    cmp = compare(runs)
    labels = select_runs(cmp, 5)
    assert len(labels) == 5
    assert "run 79" in labels  # the best, and of least energy
    assert set(cmp.leaders["train_s"]["labels"]) <= set(labels)
    assert labels == [label for label in cmp.labels if label in labels]
    assert select_runs(cmp, 80) == cmp.labels


def test_leaving_runs_out_of_drawings_changes_no_finding():
    cmp = compare(zoo(6, 8), targets=[0.5, 0.85], queries=[1e6])
    few = restrict_to_runs(cmp, cmp.labels[1:3])
    assert few.labels == list(few.curves) == cmp.labels[1:3]
    for name in ("fronts", "dominance", "ranks", "families", "leaders", "best", "summary", "cautions", "sweep"):
        assert getattr(few, name) == getattr(cmp, name)
    for row, whole in zip(few.targets, cmp.targets, strict=True):
        assert (row["winners"], row["orders"]) == (whole["winners"], whole["orders"])
        assert all(list(costs) == few.labels for costs in row["costs"].values())


@pytest.mark.slow
@pytest.mark.integration
def test_a_page_of_a_thousand_runs_stays_under_eight_megabytes(tmp_path):
    cmp = compare(zoo(1000, 40))
    text = cmp.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 8e6
    assert re.search(r'<table id="runs">.*?</table>', text, re.DOTALL)[0].count("<tr>") == 1001  # with the head
    assert "24 of 1,000 runs are drawn" in text


def test_files_can_be_written_from_a_notebook(tmp_path):
    compared = compare([make_run()])
    assert compared.to_csv(str(tmp_path))
    assert compared.to_figures(str(tmp_path), only=["quality-against-energy_j"], formats=["svg"])
