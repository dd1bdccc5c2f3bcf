"""The answer in the terminal: on one screen, as wide as it is, columns left out rather than squeezed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text
from synthetic import declaration, make_run, zoo

from lightning_costs import compare
from lightning_costs.report.charts.ratios import ratio_lines
from lightning_costs.report.terminal.answer import answer_lines, answer_text, ratio_cell
from lightning_costs.report.terminal.columns import Column, blocks, fit_table, shorten
from lightning_costs.report.terminal.comparison import comparison_text


def seeds(*methods, count=3):
    return [
        make_run(
            f"{name}-seed{seed}",
            run_id=f"{name}{seed}",
            quality=[0.5, quality],
            costs={"train_s": [1.0, cost + seed / 100], "flop": [1.0, cost]},
            setup={"optimizer": name},
        )
        for name, cost, quality in methods
        for seed in range(1, count + 1)
    ]


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("count", [1, 2, 4, 12, 50])
def test_no_line_is_wider_than_the_terminal(width, count):
    lines = answer_text(compare(zoo(count, 12)), width).splitlines()
    assert max(map(len, lines)) <= width


def test_four_runs_are_answered_in_forty_lines_at_80_columns():
    assert len(answer_text(compare(zoo(4, 12)), 80).splitlines()) <= 38


def test_the_answer_comes_first_then_the_table_then_cautions():
    cmp = compare(zoo(4, 12))
    text = answer_text(cmp, 200)
    places = [text.index(words) for words in (*cmp.answer["sentences"], "Cost to reach val/acc", "Cautions")]
    assert places == sorted(places)


def test_cells_keep_their_width_and_columns_that_do_not_fit_are_named():
    text = answer_text(compare(zoo(12, 12)), 60)
    assert "2 h 50 min" in text
    assert "Left out at 60 columns:" in text
    assert "Left out" not in answer_text(compare(zoo(12, 12)), 200)


def test_every_caution_is_said_once_with_what_to_do():
    text = " ".join(answer_text(compare(zoo(4, 12)), 120).split())
    assert text.count("No target was declared") == 1
    assert "Declare targets before training, or give --target." in text


def test_modelled_amounts_carry_a_mark_with_its_share():
    runs = [
        make_run(
            name,
            costs={"energy_j": [1.0, 8.0], "gpu_energy_j": [1.0, 6.0], "ram_energy_j": [0.0, 2.0]},
            declared={part: declaration(part, "j", "counter", "energy") for part in ("gpu_energy_j", "ram_energy_j")},
            methods={"gpu_energy_j": "counter", "ram_energy_j": "constant: 20 W"},
        )
        for name in ("a", "b")
    ]
    cmp = compare(runs, targets=[0.8])
    text = answer_text(cmp, 120)
    assert "≈ 8 J" in text
    assert "≈ modelled, not measured (model or constant): energy j 25 %" in text
    assert "≈ 8 J" in comparison_text(cmp).split("Cost to reach")[2]


def test_a_winner_by_more_than_noise_has_a_star_and_others_are_undecided_in_words():
    text = answer_text(compare(seeds(("a", 1.0, 0.9), ("b", 2.0, 0.9)), targets=[0.8]), 120)
    assert "Ratio to 'a' (runs of the same seed), 95 % interval" in text
    assert "1.01 s *" in text or "1.02 s *" in text
    mixed = seeds(("a", 1.0, 0.9), ("b", 1.0, 0.9))
    unsure = answer_text(compare(mixed, targets=[0.8]), 120)
    assert " *" not in unsure.split("Cautions")[0].split("Ratio")[0]


def test_groups_without_common_seeds_are_not_called_paired():
    runs = [*seeds(("a", 1.0, 0.9)), *[make_run(f"b{i}", group="b", setup={"optimizer": "b"}) for i in range(3)]]
    text = answer_text(compare(runs, group=r"name~^(\w)"), 120)
    assert "paired by seed where seeds are shared" in text


def test_everything_has_runs_in_rows_and_every_column_in_some_block():
    text = comparison_text(compare(zoo(12, 12)), width=80)
    heads = text.split("At the end of each run")[1].split("Cost to reach")[0]
    assert heads.count("resnet50 + SAM #2") > 1
    assert max(map(len, heads.splitlines())) <= 80
    for amount in ("0.973 kWh", "12.2 M params", "11.3 GiB"):
        assert amount in heads or "kWh" in amount


def test_colour_and_bold_only_on_a_terminal():
    cmp = compare(zoo(4, 12))
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, width=100, force_terminal=terminal, color_system="standard" if terminal else None)
        for line in answer_lines(cmp, 100):
            console.print(line)
        assert ("\x1b[" in out.getvalue()) == terminal


def test_a_long_name_keeps_both_of_its_ends():
    assert shorten("a-very-long-name-of-a-run-seed3", 12) == "a-very…seed3"
    table = fit_table(["日本語の長い名前のランです"] * 2, [Column("x", [Text("1"), Text("2")])], 20)
    assert all(line.cell_len <= 20 for line in table.lines)


def test_a_column_wider_than_the_terminal_is_shown_all_the_same():
    lines = blocks(["a"], [Column("x", [Text("y" * 300)])], 40)
    assert "y" * 300 in lines[1].plain


def test_print_shows_the_answer_and_repr_is_one_short_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    cmp = compare(zoo(4, 12))
    assert str(cmp) == answer_text(cmp, 100).rstrip("\n")
    assert repr(cmp) == "<Comparison of 4 runs by 'val/acc' (max), target 0.8733>" or len(repr(cmp)) < 90


def test_print_of_a_run_is_a_short_table_and_reads_no_points_for_its_repr():
    run = make_run("sgd", quality=[0.5, 0.8, None])
    lines = str(run).splitlines()
    assert lines[0] == "sgd (finished)"
    assert [line.split()[-1] for line in lines if "best val/acc" in line] == ["0.8"]
    assert len(lines) < 20
    assert repr(run) == "<RunRecord 'sgd' (finished, run_id 'id-sgd', from memory)>"


def test_a_notebook_shows_a_runs_curve_status_and_best_quality_and_a_comparisons_sentences():
    shown = make_run("<b>", quality=[0.5, 0.8])._repr_html_()
    assert "<polyline" in shown
    assert "&lt;b&gt; (finished, best val/acc 0.8)" in shown
    cmp = compare(zoo(3, 4))
    html = cmp._repr_html_()
    assert "reached the best val/acc" in html
    assert "<th>status</th>" in html


def against(*, energy_j, qualities=(0.8, 0.8, 0.8)):
    """Three seeds of two methods; the reference's energy is given, and which quality the other one's seeds reach."""
    costs = {"best": (10.0, energy_j), "other": (20.0, 5.0)}
    runs = [
        make_run(
            f"{name}-seed{seed}",
            run_id=f"{name}{seed}",
            quality=[0.5, 0.9 if name == "best" else quality],
            costs={"train_s": [1.0, train_s + seed / 100], "energy_j": [0.0, spent_j * (1 + seed / 100)]},
            setup={"optimizer": name},
        )
        for name, (train_s, spent_j) in costs.items()
        for seed, quality in enumerate(qualities)
    ]
    return compare(runs, targets=[0.8], reference="best")


def ratio_words(cmp, column):
    """The ratio to reach the target in the terminal, and on the page."""
    (row,) = [row for row in cmp.contrasts["costs"] if row["column"] == column and row["at"] == "target"]
    (line,) = [line for line in ratio_lines(cmp) if line.column == column and line.at != "at the end"]
    return ratio_cell(cmp, row).plain, line.text


def test_a_ratio_to_a_cost_of_nothing_is_infinite_and_not_never():
    cmp = against(energy_j=0.0)
    assert ratio_words(cmp, "energy_j") == ("∞", "∞ [∞, ∞]")
    assert "never" not in comparison_text(cmp)


def test_a_target_that_was_never_reached_is_still_never():
    cmp = against(energy_j=5.0, qualities=(0.8, 0.8, 0.6))
    assert ratio_words(cmp, "train_s")[0] == "2 [2, never]"
    mixed = against(energy_j=0.0, qualities=(0.8, 0.8, 0.6))
    assert ratio_words(mixed, "energy_j")[0] == "∞"  # one of three for the one reason, all of them for the other
