import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import make_run, zoo

from lightning_costs import compare
from lightning_costs.records.formatting import choose_unit
from lightning_costs.report.tables.tables import rank_matrix, target_tables
from lightning_costs.report.terminal.answer import answer_text
from lightning_costs.report.terminal.comparison import comparison_text, fit_to_width


def test_summary_says_who_was_best_and_limits_the_claim_to_the_setup():
    text = " ".join(compare(zoo(4, 12)).summary)
    assert text.startswith("4 runs are compared by 'val/acc', where higher is better.")
    assert "was reached by 'resnet50 + SAM'" in text
    assert "(accelerator NVIDIA H100 80GB HBM3, devices 1, precision bf16-mixed, dataset ImageNet-100)" in text
    assert "says nothing about other hardware" in text


def test_nobody_leads_where_all_runs_tie():
    text = " ".join(compare([make_run("a"), make_run("b")], targets=[0.8]).summary)
    assert "needed least" not in text


def test_terminal_text_shows_costs_targets_fronts_ranks_and_cautions():
    text = comparison_text(compare(zoo(4, 12)), width=200)
    for words in ("At the end of each run", "Cost to reach val/acc", "Pareto front", "Spearman", "Cautions", "kWh"):
        assert words in text


def test_a_target_that_was_not_reached_is_told_with_what_was_spent():
    cells = target_tables(compare([make_run(quality=[0.1])], targets=[0.9]))[0].lines[0].cells
    assert cells[0].text == "not reached within 10 s"
    assert cells[0].note == "last evaluation short of it: 0.1 at 10 s"


def test_the_terminal_shows_medians_of_groups_and_how_many_got_there():
    runs = [make_run(f"a-{i}", quality=q) for i, q in enumerate(([0.9], [0.1], [0.95]))]
    text = comparison_text(compare(runs, targets=[0.9], group="name~(.)-"), width=160)
    assert "Medians by group to reach val/acc 0.9" in text
    assert "10 s [10 s, not reached], 2 of 3 *" in text
    assert "Medians by group" not in comparison_text(compare(runs, targets=[0.9]))


def test_a_caution_names_the_papers_section():
    runs = [make_run(n, statics={"params": 1e6, "forward_flop": f}) for n, f in (("a", 1e9), ("b", 4e9))]
    assert "(The Efficiency Misnomer, section 3.2.1)" in comparison_text(compare(runs), width=600)


def test_a_users_name_is_never_read_as_markup_of_the_terminal():
    text = comparison_text(compare([make_run("[bold red]x[/nope]")]))
    assert "[bold red]x[/nope]" in text


@pytest.mark.parametrize("quality", [[], [None], [float("nan")]])
def test_runs_without_any_quality_have_a_text_too(quality):
    assert "so that only their costs can be shown" in comparison_text(compare([make_run(quality=quality)]))


def test_the_diagonal_of_the_rank_matrix_agrees_with_itself():
    lines = rank_matrix(compare(zoo(3, 4)), ["train_s", "energy_j"])
    assert [line.cells[index].text for index, line in enumerate(lines)] == ["1", "1"]


def test_a_notebook_shows_an_escaped_table_with_the_cautions():
    shown = compare([make_run("<script>alert(1)</script>")])._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "cautions</summary>" in shown


UNITS = st.sampled_from(
    ["s", "j", "bytes", "flop", "flop_per_s", "w", "g", "usd", "fraction", "params", "samples_per_s"]
)


@given(UNITS, st.floats(1e-9, 1e22))
def test_an_axis_unit_keeps_the_largest_amount_readable(unit, peak):
    factor, _ = choose_unit(unit, peak)
    shown = peak / factor
    assert factor > 0
    if 1e-2 < peak < (3e8 if unit == "s" else 1e15) and unit not in ("usd", "j", "fraction"):
        assert 0.01 <= shown < 1e5


def test_axis_units_follow_the_amounts_that_people_would_choose():
    assert choose_unit("s", 60.0).suffix == "s"
    assert choose_unit("s", 120.0).suffix == "min"
    assert choose_unit("bytes", 2048.0) == (1024.0, "KiB")
    assert choose_unit("w", 300.0).suffix == "W"
    assert choose_unit("usd", 3.0).suffix == "USD"
    assert choose_unit("j", 10.0).suffix == "J"
    assert choose_unit("samples_per_s", 500.0).suffix == "samples/s"
    assert choose_unit("s", None).suffix == "s"
    assert choose_unit("s", 0.0).suffix == "s"


def test_of_many_runs_those_that_stand_out_are_shown_and_the_others_counted() -> None:
    runs = [
        make_run(f"run {i}", quality=(0.5, 0.5 + i / 200), costs={"flop": [1.0, 50.0 + (7 * i) % 50]})
        for i in range(50)
    ]
    found = compare(runs)
    assert "runs, 12 are shown" not in comparison_text(found)
    assert "… 34 more runs: --all or --json has them." in answer_text(found)
    shown = fit_to_width(found)
    assert len(shown.runs) == 12
    assert set(found.best) <= set(shown.labels)
    assert {label for lead in found.leaders.values() for label in lead["labels"][:1]} <= set(shown.labels)
    assert shown.fronts == found.fronts
    assert fit_to_width(compare(runs[:12])).labels == [run.name for run in runs[:12]]


def test_where_all_tie_nobody_is_marked_as_the_winner():
    runs = [
        make_run(name, quality=[0.5, 0.8], costs={"samples": [1.0, samples], "energy_j": [0.0, 0.0]})
        for name, samples in (("a", 2.0), ("b", 3.0))
    ]
    (table,) = target_tables(compare(runs, targets=[0.8]))
    marks = {line.name: [cell.best for cell in line.cells] for line in table.lines}
    assert (marks["samples"], marks["energy_j"]) == ([True, False], [False, False])
