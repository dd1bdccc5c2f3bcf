"""The answer's figure, groups' ratios, axes and figures for papers: what they draw, as data."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from pages import whole
from synthetic import make_run, zoo
from typer.testing import CliRunner

from lightning_costs import compare
from lightning_costs.cli.commands import app
from lightning_costs.report.charts.answer import answer_chart, answer_columns, answer_figure, shown_names
from lightning_costs.report.charts.breakdown import PARTS, parts
from lightning_costs.report.charts.fit import cost_domain, quality_domain
from lightning_costs.report.charts.look import COLORS
from lightning_costs.report.charts.ratios import ratio_chart, ratio_lines
from lightning_costs.report.page.sections import answer_pictures, labelled, missing_reasons
from lightning_costs.storage.saved_runs import save_runs

pytestmark = pytest.mark.integration

HOSTILE = "</text><script>alert(1)</script><img src=x onerror=alert(2)>\"'&]]>"


def seeds(count=5):
    return [
        make_run(
            f"{method}-seed{seed}",
            quality=[0.2, 0.6, 0.8 + 0.01 * seed],
            costs={
                "energy_j": [step * (at + 1) * (1 + 0.02 * seed) for step in (10.0, 20.0, 30.0)],
                "flop": [1e9, 2e9, 3e9],
            },
        )
        for at, method in enumerate(("sgd", "sam"))
        for seed in range(count)
    ]


def rows(picture):
    spec = picture.to_dict()
    return [row for rows in spec["datasets"].values() for row in rows]


def test_the_figure_ranks_every_run_by_quality_and_by_every_cost_that_tells_runs_apart():
    cmp = compare(zoo(4, 12), group="none")
    columns = answer_columns(cmp)
    differing = [cost["label"] for cost in cmp.answer["costs"] if len({*cost["ranks"].values()} - {None}) > 1]
    assert [column.head.removeprefix("≈ ") for column in columns] == [f"best {cmp.monitor}", *differing]
    drawn = [row for row in rows(answer_chart(cmp)) if "slot" in row]
    assert len(drawn) == 4 * len(columns)
    for i in range(len(columns)):  # each in a place of its own, so that no line hides another
        assert sorted(row["slot"] for row in drawn if row["i"] == i) == [1, 2, 3, 4]


def test_a_target_that_was_never_reached_is_said_and_has_no_rank():
    runs = [make_run(f"run {i}", quality=[0.5, 0.6 + 0.1 * i], costs={"energy_j": [1.0, 5.0 - i]}) for i in range(4)]
    cmp = compare(runs, targets=[0.75])
    never = [row for row in rows(answer_chart(cmp)) if row.get("text") == "never"]
    assert {row["who"] for row in never} == {"run 0", "run 1"}
    assert all(row["rank"] == "" for row in never)


def test_of_very_many_runs_the_best_and_the_winners_have_a_line():
    runs = [make_run(f"run {i}", quality=[0.5 + i / 200], costs={"energy_j": [100.0 - i]}) for i in range(60)]
    cmp = compare(runs)
    assert len(shown_names(cmp)) == 10
    assert shown_names(cmp)[0] == "run 59"


@pytest.mark.parametrize("width", [340, 700, 1100])
def test_the_figure_is_as_wide_as_it_is_asked_for(width):
    import vl_convert

    svg = vl_convert.vegalite_to_svg(json.dumps(answer_figure(compare(zoo(4, 12)), width=width).to_dict()))
    assert float(ET.fromstring(svg).get("width")) == pytest.approx(width, abs=60)


def test_a_single_run_has_no_figure_and_says_why():
    cmp = compare([make_run()])
    assert answer_figure(cmp) is None
    with pytest.raises(ValueError, match="needs two runs or more"):
        answer_chart(cmp)


def test_a_hostile_name_stays_text_in_a_picture_that_is_part_of_the_page():
    runs = [
        make_run(f"{i} {HOSTILE}", monitor=HOSTILE, quality=[0.5, 0.6 + i / 10], costs={"energy_j": [1.0, 2.0 + i]})
        for i in range(3)
    ]
    for _, svg in answer_pictures(compare(runs)):
        tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(str(svg)).iter()}
        assert tags <= {"svg", "g", "path", "text", "rect", "line", "defs", "clipPath", "tspan"}


def test_modelled_costs_carry_their_mark_and_share_wherever_they_are_drawn(modelled):
    head = next(column for column in answer_columns(modelled) if "energy" in column.head)
    assert head.head == "≈ energy j"
    assert head.basis.endswith("modelled")
    assert all(text.startswith("≈ ") or text == "never" for text in head.texts.values())
    spec = modelled.chart("energy_j").to_dict()
    assert spec["layer"][0]["encoding"]["x"]["title"].startswith("≈ energy j, modelled (")


@pytest.fixture
def modelled():
    runs = [make_run(f"run {i}", quality=[0.5, 0.6 + i / 10], costs={"energy_j": [1.0, 2.0 + i]}) for i in range(3)]
    for run in runs:
        run.header["methods"] = {"energy_j": "model: TDP 65 W"}
    return compare(runs)


def test_the_axis_of_quality_shows_where_runs_differ_and_every_target():
    cmp = compare(
        [make_run("a", quality=[0.1, 0.2, 0.9, 0.92, 0.95]), make_run("b", quality=[0.1, 0.3, 0.91, 0.93, 0.94])],
        targets=[0.85],
    )
    low, high = quality_domain(cmp)
    assert 0.8 < low < 0.85
    assert 0.95 < high < 1.0
    falling = compare(
        [make_run("a", quality=[9.0, 1.0, 0.5], mode="min"), make_run("b", quality=[8.0, 1.2, 0.6], mode="min")]
    )
    assert quality_domain(falling)[1] < 2.0
    assert cost_domain([1.0, 2.0, 3.0], [0.1, 0.9, 0.95], (0.8, 1.0), positive=True) == (2.0, 3.0)


def test_a_chart_takes_limits_groups_and_a_width():
    cmp = compare(seeds(), group=r"name~(.+)-seed\d")
    spec = cmp.chart("energy_j", ylim=(0.5, 1.0), width=320).to_dict()
    assert spec["width"] == 320
    domains = [layer["encoding"]["y"]["scale"].get("domain") for layer in spec["layer"]]
    assert set(map(tuple, filter(None, domains))) == {(0.5, 1.0)}
    assert spec["layer"][0]["mark"]["type"] == "area"  # the band of seeds
    assert spec["layer"][0]["encoding"]["color"]["scale"]["domain"] == ["sgd", "sam"]
    alone = cmp.chart("energy_j", group=False).to_dict()
    assert len(alone["layer"][0]["encoding"]["color"]["scale"]["domain"]) == 10
    with pytest.raises(ValueError, match="ylim must be"):
        cmp.chart("energy_j", ylim=(1.0, 0.5))
    with pytest.raises(ValueError, match="needs runs in groups"):
        compare(zoo(2, 4), group="none").chart("energy_j", group=True)


def test_ratios_of_groups_have_a_star_only_if_their_interval_excludes_1():
    cmp = compare(seeds(), group=r"name~(.+)-seed\d", targets=[0.8], reference="sam")
    lines = ratio_lines(cmp)
    assert lines
    for line in lines:
        assert line.star == (line.ratio["high"] is not None and line.ratio["high"] < 1)
        assert line.verdict in ("less", "more", "equal", "undecided")
    assert any(line.star and "energy" in line.label for line in lines)
    assert any("never" in row.get("text", "") or "x" in row for row in rows(ratio_chart(cmp)))


def test_parts_of_costs_have_no_color_of_a_run_and_the_same_grey_in_every_breakdown():
    shades = {}
    for part in parts(compare(whole(3), group="none")):
        assert not set(part.shades) & set(COLORS)
        assert set(part.shades) <= set(PARTS)
        if part.stacked:
            assert len(set(part.shades)) == len(part.shades)
            for head, shade in zip(part.heads, part.shades, strict=True):
                shades.setdefault(head, set()).add(shade)
    assert all(len(found) == 1 for found in shades.values())


def test_reasons_that_differ_only_in_a_number_are_one():
    runs = [
        make_run(f"run {i}", missing={"flop": f"the probe took 0.{i} s"}, costs={"flop": [None, None]}) for i in (3, 5)
    ]
    reasons = [row for row in missing_reasons(compare(runs)) if "probe" in row.why]
    assert len(reasons) == 1
    assert reasons[0].runs == ""  # all of them


def test_cautions_name_labels_rather_than_columns():
    cmp = compare(zoo(2, 4))
    text = labelled("less by total_s, energy_j; not my_total_s_2", cmp)
    assert text == "less by total s, energy j; not my_total_s_2"


@pytest.mark.slow
def test_figures_are_those_that_were_asked_for_in_the_formats_and_width_asked_for(tmp_path):
    cmp = compare(zoo(3, 8), group="none")
    files = cmp.to_figures(tmp_path, only=["energy_j"], formats=["svg"], width="column")
    assert {path.name for path in files} == {f"{what}-energy_j.svg" for what in ("quality-against", "front", "targets")}
    for path in files:
        assert float(ET.parse(path).getroot().get("width")) == pytest.approx(84 / 25.4 * 96, abs=1)
    (answer,) = cmp.to_figures(tmp_path, only=["answer"], formats=["pdf"])
    assert answer.read_bytes()[:5] == b"%PDF-"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": ["energi_j"]}, "no figure is named 'energi_j' or drawn of such a column; there are energy_j"),
        ({"only": ["tokens"]}, "no run has a reading of it"),
        ({"formats": ["gif"]}, "formats must be some of pdf, svg, png, got gif"),
        ({"formats": []}, "formats must be some of pdf, svg, png, got none"),
        ({"width": "wide"}, "width must be column or text, or millimetres, got 'wide'"),
        ({"width": 3}, "width must be 30 to 2000 mm"),
    ],
)
def test_a_figure_that_cannot_be_is_refused_with_those_that_can(tmp_path, options, words):
    costs = {"energy_j": [1.0, 2.0], "tokens": [None, None]}
    with pytest.raises(ValueError, match=words):
        compare([make_run(name, costs=costs) for name in "ab"], group="none").to_figures(tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


def test_the_command_line_writes_one_figure_for_a_column_of_a_paper(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_runs(zoo(3, 8), tmp_path / "runs.json")
    done = CliRunner().invoke(
        app,
        [
            "report",
            "runs.json",
            "--to",
            "figures",
            "--only",
            "front-energy_j",
            "--format",
            "pdf",
            "--width",
            "column",
        ],
    )
    assert done.exit_code == 0, done.output
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["front-energy_j.pdf"]
    refused = CliRunner().invoke(app, ["report", "runs.json", "--to", "csv", "--only", "energy_j"])
    assert refused.exit_code == 2
