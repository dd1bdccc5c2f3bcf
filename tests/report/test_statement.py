"""What runs cost, as a paper states it: sums against closed forms, sentences for every run, three formats parsed."""

import getpass
import re
import shutil
import socket
import subprocess

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from statement_runs import ATTEMPT, CPU, FRANCE, HOSTILE, METHODS, spent
from synthetic import make_run

from lightning_costs import Recorder, Tariff, load_runs
from lightning_costs.records.formatting import format_3_digits, format_exact, format_for_paper
from lightning_costs.report.statement import build_statement, latex, markdown, model_card
from lightning_costs.report.statement.escape import latex as tex
from lightning_costs.report.statement.escape import markdown as md
from lightning_costs.report.statement.escape import redact
from lightning_costs.report.statement.escape import yaml as quoted
from lightning_costs.report.statement.render import paragraphs, runs_table, totals_table


def text_of(*runs, **how):
    return " ".join(text for _, text in paragraphs(build_statement(runs, **how)))


def test_what_published_figures_count_is_not_claimed(tmp_path):
    columns = ["total_s", "flop", "energy_j", "co2e_g"]
    (tmp_path / "t.csv").write_text(f"model,{','.join(columns)},acc\nA,10,5000,30,2,1\n")
    text = text_of(*load_runs(tmp_path / "t.csv"))
    for words in (
        "The total time is 10 s as published; what it counts is not recorded.",
        "FLOP as published; what they count is not recorded.",
        "The energy was 30 J. It is as published: what it counts is not recorded.",
        "2 g of CO2 equivalents, as published.",
    ):
        assert words in text
    for claimed in ("total clock", "multiply-accumulate", "each node once", "PUE", "energy times intensity"):
        assert claimed not in text


def test_one_run_is_stated_in_human_units():
    text = text_of(spent("vit"))
    for words in (
        "This statement covers one training run, ‘vit’, between 2026-01-02 and 2026-01-03; it finished.",
        "It ran on 8 × NVIDIA H100 80GB HBM3 (1 node).",
        "this took 10 h, of which 9 h by the training clock",
        "Allocated devices times total time: 80 device-hours.",
        "executed 3.60 × 10¹⁹ FLOP",
        "a multiply-accumulate as 2 FLOPs",
        "(model FLOPs) 2.88 × 10¹⁹ FLOP",
        "The IT energy was ≈ 40 kWh: GPU 35 kWh (measured by hardware counters), CPU ≈ 4 kWh (estimated by a model) "
        "and RAM ≈ 1 kWh (estimated from a constant power).",
        "from the monitor's setup on",
        "It leaves out PUE, storage, network, cooling",
        "2.69 kg of CO2 equivalents, energy times intensity, at 56 g/kWh (FRA 2023, location-based, codecarbon 3.2.0).",
        "This is location-based",
        "PUE 1.2, as given, is in carbon and electricity.",
        "USD 200, at USD 2.5 per device-hour (some cloud, on demand, https://example.org/prices/list, of 2026-05-01).",
        "Electricity: ≈ USD 9.60, at USD 0.2 per kWh.",
        "are not added up",
    ):
        assert words in text, words


@given(
    st.lists(st.tuples(st.floats(1e-3, 1e4), st.sampled_from(["finished", "failed", "killed"])), min_size=1, max_size=5)
)
def test_totals_are_sums_over_every_run_whatever_became_of_it(runs):
    said = build_statement([spent(f"r{i}", hours, status=status) for i, (hours, status) in enumerate(runs)])
    hours = sum(h for h, _ in runs)
    assert said.totals["energy_j"].amount == pytest.approx(4000 * 3600 * hours)
    assert said.totals["device_s"].amount == pytest.approx(8 * 3600 * hours)
    assert said.totals["co2e_g"].amount == pytest.approx(268.8 * hours)
    assert sum(said.statuses.values()) == len(runs)
    short = [h for h, status in runs if status != "finished"]
    if short:
        assert said.unfinished["energy_j"].amount == pytest.approx(4000 * 3600 * sum(short))
    else:
        assert said.unfinished["energy_j"].amount is None


def test_runs_that_did_not_finish_are_counted_and_told():
    text = text_of(spent("a"), spent("b", 5, status="failed"), spent("c", 5, status="killed"))
    assert "3 training runs between 2026-01-02 and 2026-01-03: 1 finished, 1 failed and 1 killed." in text
    assert (
        "The 2 runs that did not finish have 10 h of total time, 80 device-hours, ≈ 40 kWh of IT energy and "
        "≈ 2.69 kg of CO2e of that." in text
    )
    killed = spent("c", status="killed", attempts=[ATTEMPT | {"status": "killed"}])
    assert "did not finish (status: killed)" in text_of(killed)
    assert "What 1 killed process spent after the last point written is in no figure." in text_of(killed)
    assert "killed" not in text_of(spent("a"))
    assert "still running" in text_of(spent("c", status="running"))


def test_an_amount_that_some_runs_do_not_know_is_a_lower_bound_with_its_reason():
    blind = spent("b", left_out=("energy_j", "gpu_energy_j", "co2e_g"), missing={"gpu_energy_j": "NVML did not answer"})
    text = text_of(spent("a"), blind, spent("c"))
    assert "The IT energy was at least ≈ 80 kWh (known in 2 of 3 runs)" in text
    assert "GPU at least 70 kWh" in text
    assert "CPU ≈ 12 kWh" in text
    assert "at least ≈ 5.38 kg of CO2 equivalents (known in 2 of 3 runs)" in text
    assert "GPU energy in 1 run: NVML did not answer." in text


def test_an_amount_below_zero_takes_nothing_off_a_total():
    runs = [make_run(name, quality=[0.5], costs={"energy_j": [e]}) for name, e in (("a", 5.0), ("odd", -1.0))]
    assert build_statement(runs).totals["energy_j"].amount == 5.0


def test_nothing_that_is_missing_is_stated_as_zero():
    text = text_of(make_run("bare", costs={"total_s": [60.0]}, quality=[0.5]))
    assert "The energy is missing." in text
    assert "The hardware was not recorded." in text
    assert "lost to restarts" not in text
    assert not re.search(r"\b0 (J|kWh|g|kg)\b", text)
    assert "Energy" not in [row[0] for row in totals_table(build_statement(make_run())).rows]


def test_energy_is_measured_where_a_counter_counts_and_estimated_where_a_model_does():
    new = spent("new", energy={"gpu": {"method": "power", "error_j": 1.8e6}, "cpu": {"method": "counter"}})
    text = text_of(new)
    assert "GPU 35 kWh (measured as power and integrated over time, its reading off by 0.500 kWh at most)" in text
    assert "CPU 4 kWh (measured by hardware counters)" in text
    assert "RAM ≈ 1 kWh (estimated from a constant power)" in text
    both = text_of(new, spent("old"))
    assert "CPU ≈ 8 kWh (measured by hardware counters in 1 run and estimated by a model in 1 run)" in both


def test_a_cpu_run_has_nodes_and_no_gpu():
    methods = METHODS | {"gpu_energy_j": "zero by definition: no GPU trains in this run"}
    attempts = [ATTEMPT | {"devices": 2, "nodes": 2}]
    run = spent("cpu", setup=CPU, methods=methods, attempts=attempts)
    run = run.__class__(header=run.header, points=run.points.with_columns(gpu_energy_j=0.0, device_s=72e3))
    text = text_of(run)
    assert "It ran on 2 nodes with CPU EPYC 7763." in text
    assert "20 node-hours, a node counting as the device." in text
    assert "GPU" not in text
    assert "accelerators" in text
    mixed = text_of(run, spent("gpu"))
    assert "Of the runs, 1 on 2 nodes with CPU EPYC 7763 and 1 on 8 × NVIDIA H100 80GB HBM3 (1 node)." in mixed
    assert "100 device-hours, a node counting as the device where a CPU trains." in mixed
    assert "GPU 35 kWh (measured by hardware counters)" in mixed


def test_attempts_and_what_they_lost_are_told():
    attempts = [ATTEMPT, ATTEMPT | {"id": "a2", "devices": 4}, ATTEMPT | {"id": "a3", "devices": 4}]
    run = spent("again", attempts=attempts)
    lost = run.points.with_columns(lost_s=1800.0, lost_energy_j=7.2e6)
    text = text_of(run.__class__(header=run.header, points=lost))
    assert "It ran on 8, then 4 × NVIDIA H100 80GB HBM3 (1 node)." in text
    assert (
        "It was restarted, 3 attempts in all; the restarts lost 30 min and 2 kWh of work, which the figures hold."
        in text
    )
    assert "how much work the restarts lost is unknown" in text_of(run)
    none = run.points.with_columns(lost_s=0.0, lost_energy_j=0.0)
    assert "the restarts lost no work" in text_of(run.__class__(header=run.header, points=none), spent("other"))


def test_attempts_under_two_tariffs_are_told_with_both():
    sweden = {"country": "SWE", "intensity": {"gco2e_per_kwh": 20.0, "source": "SWE 2023, location-based"}}
    run = spent(attempts=[ATTEMPT | {"tariff": FRANCE}, ATTEMPT | {"id": "a2", "tariff": sweden}], tariff=sweden)
    text = text_of(run)
    assert "56 g/kWh (FRA 2023, location-based, codecarbon 3.2.0) in 1 run and 20 g/kWh (SWE 2023" in text
    assert "1.2 in 1 run and none in 1 run" in text
    assert yaml.safe_load(model_card(build_statement(run)))["co2_eq_emissions"]["geographical_location"] == (
        "France (FRA); Sweden (SWE)"
    )


def test_a_price_from_a_table_is_told_with_the_rows_source():
    row = {
        "provider": "aws",
        "tier": "on_demand",
        "gpu": "H100",
        "source": "https://example.org/p",
        "date": "2026-03-01",
    }
    text = text_of(spent(tariff={"provider": "aws", "price_row": row | {"usd_per_device_h": 3.93}}))
    assert "at USD 3.93 per device-hour (aws, on demand, https://example.org/p, of 2026-03-01)." in text


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"country": "fra"}, "France (FRA)"),
        ({"country": "DE"}, "Germany (DEU)"),
        ({"country": "Sweden", "region": "SE3"}, "SE3, Sweden (SWE)"),
        ({"country": "USA", "region": "US-CA"}, "California, United States (USA)"),
        ({"region": "CA-QC"}, "Quebec, Canada (CAN)"),
        ({"country": "Atlantis"}, "Atlantis"),
        ({"cloud": "gcp", "cloud_region": "europe-west9"}, "gcp europe-west9"),
    ],
)
def test_a_place_is_named_as_people_name_it(given, place):
    found = build_statement(spent(tariff=FRANCE | {"country": None} | given)).grids
    assert [grid.place.replace("Québec", "Quebec") for grid in found] == [place]


def test_branches_that_count_the_same_attempt_are_told():
    text = text_of(spent("a"), spent("b"), spent("c", attempts=[ATTEMPT | {"id": "other"}]))
    assert "2 of them share earlier attempts" in text
    assert "All of them share earlier attempts" in text_of(spent("a"), spent("b"))
    assert "share" not in text_of(spent("a"), spent("c", attempts=[ATTEMPT | {"id": "other"}]))


def test_an_intensity_given_by_hand_is_not_called_location_based():
    given_by_hand = {"gco2e_per_kwh": 20.0, "intensity": {"gco2e_per_kwh": 20.0, "source": "given"}}
    text = text_of(spent(tariff=given_by_hand))
    assert "This is location-based" not in text
    assert "20 g/kWh (given)" in text
    assert "No PUE was given" in text
    both = text_of(spent("a"), spent("b", tariff=given_by_hand))
    assert "56 g/kWh (FRA 2023, location-based, codecarbon 3.2.0) in 1 run and 20 g/kWh (given) in 1 run" in both
    assert "PUE in carbon and electricity, as given: 1.2 in 1 run and none in 1 run" in both


def test_flops_without_a_formula_for_some_operator_are_a_lower_bound():
    text = text_of(spent(census={"uncounted_calls": {"mine::scan": 3}}))
    assert "executed at least 3.60 × 10¹⁹ FLOP" in text
    assert "This is a lower bound: there is no formula for mine::scan." in text


def test_a_given_tariff_prices_all_runs_anew():
    said = build_statement([spent("a"), spent("b")], tariff=Tariff(country="SWE", pue=1.5, usd_per_kwh=0.1))
    grams = Tariff(country="SWE").intensity().gco2e_per_kwh
    assert said.totals["co2e_g"].amount == pytest.approx(80 * 1.5 * grams)
    assert said.totals["electricity_usd"].amount == pytest.approx(12.0)
    assert said.totals["cloud_usd"].amount is None
    text = text_of(spent("a"), tariff=Tariff(country="SWE", pue=1.5))
    assert "PUE 1.5, as given, is" in text
    assert "one tariff, which was given for this statement" in text
    assert "Cloud cost: no device price." in text  # what its user could do is no business of a reader


def test_inference_is_told_as_a_range_over_runs():
    def served(energy_j):
        statics = {"infer_energy_j": energy_j, "infer_latency_p50_s": 0.004, "infer_samples_per_s": 900.0}
        return spent(f"s{energy_j}", statics=statics, inference={"batch_samples": 32})

    text = text_of(served(0.5), served(2.0), spent("none"))
    assert "A forward pass took 500 mJ to 2 J per sample (at batch 32) (known in 2 of 3 runs)" in text
    assert "The median latency of one sample was 4 ms" in text


def test_the_table_holds_ten_digits_and_how_each_figure_was_got():
    rows = {row[0]: row for row in totals_table(build_statement([spent("a", 1 / 3), spent("b", 1 / 7)])).rows}
    assert float(rows["energy"][2].partition(" = ")[2]) == pytest.approx(4000 * 3600 * (1 / 3 + 1 / 7), rel=1e-9)
    assert rows["GPU energy"][3] == "counter: NVML total energy, by UUID"
    assert "time lost to restarts" not in rows


def test_the_table_of_runs_has_a_row_each_and_their_quality_where_asked_for():
    said = build_statement([spent("a"), spent("b", 5, status="failed")], monitor="val/acc", mode="max")
    table = runs_table(said)
    assert [row[:2] for row in table.rows] == [["a", "finished"], ["b", "failed"]]
    assert table.heads[-1] == "best val/acc"
    assert [row[-1] for row in table.rows] == ["0.9", "0.9"]
    assert len(table.weights) == len(table.heads) == len(table.rows[0])
    assert runs_table(build_statement(spent())) is None


def test_no_runs_are_no_statement():
    with pytest.raises(ValueError, match="at least one run"):
        build_statement([])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("FileNotFoundError: '/home/anna/data/x.csv'", "FileNotFoundError: '[path]'"),
        ("in /mnt/big and ~/runs/a/b", "in [path] and [path]"),
        (r"C:\Users\anna\x.toml is gone", "[path] is gone"),
        ("file:///etc/tariff.toml", "[path]"),
        ("GPU-0a1b2c3d-0000-1111-2222-333344445555 was lost", "[uuid] was lost"),
        ("https://example.org/a/b/c of 2/3, 5 g/kWh, val/acc, resnet/50/x", None),
    ],
)
def test_paths_and_device_ids_stay_out_and_addresses_stay_in(text, shown):
    assert redact(text) == (shown or text)


def test_a_statement_of_a_real_folder_names_no_place_of_this_machine(tmp_path):
    recorder = Recorder(name="real", save_dir=tmp_path / "costs", tariff=Tariff(country="FRA"))
    with recorder:
        recorder.step(None)
    for form in (markdown, latex, model_card):
        text = form(build_statement(load_runs(tmp_path)))
        assert str(tmp_path) not in text
        assert socket.gethostname() not in text
        assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", text)
        assert "France" in text or "FRA 2" in text


# Amounts


@given(st.floats(1e-12, 1e24))
def test_three_digits_are_within_half_a_percent(amount):
    text = format_3_digits(amount).replace(",", "").replace(" × 10", "e")
    value = float(text.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")))
    assert value == pytest.approx(amount, rel=0.51e-2)
    assert float(format_exact(amount)) == pytest.approx(amount, rel=1e-9)


@given(st.sampled_from(["s", "j", "g"]), st.floats(1e-3, 1e15))
def test_a_told_amount_reads_back(unit, amount):
    factors = {
        **{
            "s": {"h": 3600, "min": 60, "s": 1, "ms": 1e-3},
            "j": {"MWh": 3.6e9, "kWh": 3.6e6, "kJ": 1e3, "J": 1, "mJ": 1e-3},
        },
        "g": {"t": 1e6, "kg": 1e3, "g": 1, "mg": 1e-3},
    }[unit]
    number_of, _, word = format_for_paper(amount, unit).rpartition(" ")
    number_of = number_of.replace(",", "").replace(" × 10", "e").translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-"))
    assert float(number_of) * factors[word] == pytest.approx(amount, rel=0.51e-2)


# Markdown


def inline_text(source):
    """What a reader of rendered Markdown sees."""
    (block,) = [token for token in MarkdownIt("gfm-like", {"linkify": False}).parse(source) if token.type == "inline"]
    assert all(child.type == "text" for child in block.children), block.children
    return "".join(child.content for child in block.children)


PRINTABLE = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Zs")), min_size=1).map(
    lambda t: f"x{t}x"
)


@given(PRINTABLE)
def test_whatever_a_text_holds_markdown_shows_it(text):
    assert inline_text(md(text)) == " ".join(re.sub("[\u202a-\u202e\u2066-\u2069]", "", text).split())


def test_a_hostile_name_stays_a_cell_of_its_table():
    source = markdown(
        build_statement([spent(HOSTILE), spent(f"2{HOSTILE}", setup=CPU | {"hardware": {"cpu": HOSTILE}})])
    )
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(source)
    assert [token.type for token in tokens].count("table_open") == 2
    kinds = {child.type for token in tokens if token.type == "inline" for child in token.children}
    assert kinds <= {"text", "strong_open", "strong_close", "em_open", "em_close"}
    rows = re.split(r"(?m)^\| :-- .*\n", source)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows[2].splitlines() if line.startswith("|")}) == 1


# LaTeX


def check_tex(text):
    """Refuse what LaTeX would stumble over: a sign that is not escaped, a command we do not use, a brace left open."""
    assert text.isascii()
    depth = 0
    for found in re.finditer(r"\\([A-Za-z]+|.)|([{}])|([$&#_^%~])", text):
        command, brace, special = found.groups()
        assert not special, f"{special} is not escaped in {text!r}"
        if command is not None and command.isalpha():
            assert command in {
                "textbackslash", "textasciitilde", "textasciicircum", "textsuperscript", "allowbreak", "ensuremath",
                "times", "pm", "approx", "cdot", "mu", "le", "ge", "to", "circ", "ldots", "ss", "ae", "AE", "oe", "OE",
                "o", "O", "l", "L", "i", "j", "u", "r", "H", "v", "c",
            }, command  # fmt: skip
        depth += {"{": 1, "}": -1}.get(brace, 0)
        assert depth >= 0
    assert depth == 0


@given(st.text())
def test_whatever_a_text_holds_latex_can_print_it(text):
    check_tex(tex(text).replace(r"\ensuremath{^\circ}", ""))


def test_signs_that_latex_would_join_are_kept_apart():
    assert tex("a--b ?` x,,y") == "a-{}-b ?{}` x,{}y".replace(",{}y", ",{},y")
    assert tex("[x]*") == "{[}x{]}{*}"
    assert tex("naïve Žižek 10⁻⁵") == r"na\"{\i}ve \v{Z}i\v{z}ek 10\textsuperscript{-5}"


def test_every_row_of_a_table_has_as_many_cells_as_the_table_has_columns():
    text = latex(build_statement([spent(f"{HOSTILE} {i}") for i in range(80)]))
    tables = re.findall(r"\\begin\{tabular\}\{([^\n]*)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tables) == 4
    for columns, body in tables:
        for row in body.replace("\\hline\n", "").strip().splitlines():
            assert row.endswith(r"\tabularnewline")
            assert len(re.findall(r"(?<!\\)&", row)) + 1 == columns.count("p{")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX was found")
@pytest.mark.parametrize("options", ["", "[twocolumn]"])
def test_a_hostile_statement_compiles_without_any_package(tmp_path, options):
    everything = "".join(map(chr, range(33, 0x180))) + "‘’“”–—…×±·µ°≤≥→−€"
    runs = [spent(HOSTILE), spent(everything), spent("[1]", setup=CPU), *(spent(f"*{i}_{'x' * 70}") for i in range(40))]
    (tmp_path / "said.tex").write_text(latex(build_statement(runs)), encoding="ascii")
    (tmp_path / "main.tex").write_text(
        f"\\documentclass{options}{{article}}\\begin{{document}}\\input{{said}}\\end{{document}}", encoding="ascii"
    )
    made = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
        check=False,
    )
    assert made.returncode == 0, made.stdout[-2000:]
    assert "LaTeX Error" not in made.stdout


# The model card


@given(st.text(st.characters(codec="utf-8")))
def test_yaml_gives_back_every_text(text):
    assert yaml.safe_load(quoted(text)) == text


def test_half_a_surrogate_pair_is_replaced():
    assert yaml.safe_load(quoted("a\ud83d")) == "a\ufffd"


@given(st.floats(0, 1e30))
def test_yaml_gives_back_every_number(amount):
    found = yaml.safe_load(quoted(amount))
    assert type(found) is float
    assert found == amount


def test_the_model_cards_block_has_the_hubs_fields():
    found = yaml.safe_load(
        model_card(build_statement([spent("a"), spent("b", 5, status="failed")]), training_type="fine-tuning")
    )
    block = found["co2_eq_emissions"]
    assert list(found) == ["co2_eq_emissions"]
    assert block["emissions"] == pytest.approx(15 * 268.8)
    assert block["training_type"] == "fine-tuning"
    assert block["geographical_location"] == "France (FRA)"
    assert block["hardware_used"] == "8 × NVIDIA H100 80GB HBM3 (1 node)"
    for words in ("lightning-costs", "2 runs (1 finished and 1 failed)", "60 kWh of IT energy", "56 g/kWh", "PUE 1.2"):
        assert words in block["source"]


def test_what_a_model_card_cannot_know_is_left_out_and_says_how_to_give_it():
    by_hand = {"gco2e_per_kwh": 20.0, "intensity": {"gco2e_per_kwh": 20.0, "source": "given"}}
    text = model_card(build_statement(spent(setup={}, tariff=by_hand)))
    assert set(yaml.safe_load(text)["co2_eq_emissions"]) == {"emissions", "source"}
    assert "# training_type: pre-training or fine-tuning: --training-type" in text


def test_a_model_card_without_carbon_is_refused_with_the_reason():
    run = spent(left_out=("co2e_g",), missing={"co2e_g": "no place was given: Tariff(country='FRA')"})
    with pytest.raises(ValueError, match="co2_eq_emissions needs co2e_g: no place was given"):
        model_card(build_statement(run))
