"""Tables 1 and 2 of 'The Efficiency Misnomer' as input, as printed and exact."""

import csv
from pathlib import Path

import pytest
from synthetic import declaration, make_run

from lightning_costs import compare

ROWS = list(
    csv.DictReader((Path(__file__).parents[2] / "benchmarks/paper_tables.csv").read_text(encoding="utf-8").splitlines())
)
DECLARED = {
    "params": declaration("params", "params", "static", "size"),
    "forward_mac": declaration("forward_mac", "mac", "static", "compute"),
    "infer_latency_p50_s": declaration("infer_latency_p50_s", "s", "static", "time"),
}


def table(number, printed):
    """A run per row, with the printed figures in their units or the exact ones; times are printed in both."""
    runs = []
    for row in ROWS:
        if row["table"] != number:
            continue
        statics = {
            "params": float(row["printed_mparams"]) * 1e6 if printed else float(row["params"]),
            "forward_mac": float(row["printed_gflops"]) * 1e9 if printed else float(row["mac_forward"]),
            "infer_latency_p50_s": float(row["printed_msec"]) * 1e-3,
        }
        quality = [float(row["printed_top1"])] if row["printed_top1"] else [None]
        group = {"D": "deeper", "W": "wider"}.get(row["model"][0], "ViT")
        runs.append(make_run(row["model"], quality=quality, costs={}, statics=statics, declared=DECLARED, group=group))
    return runs


def pair_of(cmp, first, second):
    return next(p for p in cmp.ranks["pairs"] if (p["first"], p["second"]) == (first, second))


@pytest.mark.parametrize("printed", [True, False])
def test_w768_is_on_the_front_by_parameters_and_flops_and_w3072_by_speed_alone(printed):
    cmp = compare(table("2", printed))
    on = {name: set(front) for name, front in cmp.fronts.items()}
    assert {name for name, front in on.items() if "W768" in front} == {"params", "forward_mac"}
    assert {name for name, front in on.items() if "W3072" in front} == {"infer_latency_p50_s"}
    assert cmp.dominance["by_run"]["W3072"] == {"on": ["infer_latency_p50_s"], "off": ["params", "forward_mac"]}


@pytest.mark.parametrize("printed", [True, False])
def test_deeper_and_wider_models_agree_within_and_disagree_across(printed):
    pair = pair_of(compare(table("2", printed), group="group"), "params", "infer_latency_p50_s")
    assert pair["within"]["discordant"] == 0
    assert pair["across"]["discordant"] == pair["discordant"] == 3
    assert {frozenset(flip) for flip in pair["flips"]} == {
        frozenset(("D6", "W768")),
        frozenset(("D32", "W3072")),
        frozenset(("D48", "W3072")),
    }


def test_a_comparison_at_equal_parameters_hides_compute_in_table_1():
    (caution,) = [c for c in compare(table("1", printed=False)).cautions if c["kind"] == "parameters_matched"]
    assert caution["section"] == "3.2.1"
    assert caution["evidence"]["most"] == pytest.approx(78148337664 / 4409186304)
    assert caution["evidence"]["example"] == ["ViT-B/8", "ViT-B/32"]


def test_the_rounding_of_table_1_is_told_and_nothing_is_overclaimed():
    exact = pair_of(compare(table("1", printed=False)), "params", "forward_mac")
    assert exact["spearman"] == pytest.approx(-0.8)
    assert exact["rounded"] is None
    cmp = compare(table("1", printed=True))
    printed = pair_of(cmp, "params", "forward_mac")
    assert printed["spearman"] == -1.0
    assert printed["rounded"] == [-1.0, pytest.approx(-0.8)]
    said = {caution["kind"]: caution for caution in cmp.cautions}
    assert "as printed and can be anything from -1 to -0.8" in said["decided_by_rounding"]["text"]
    assert said["few_runs"]["evidence"]["n"] == 4
    assert "8.3 % of unrelated costs would agree or disagree perfectly" in said["few_runs"]["text"]


def test_figures_with_all_their_digits_are_decided_by_no_rounding():
    for number in "12":
        cmp = compare(table(number, printed=False))
        assert not any(pair["rounded"] for pair in cmp.ranks["pairs"] if "infer_latency_p50_s" not in pair.values())
