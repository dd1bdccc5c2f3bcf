"""Statements by the standards that people are asked for: SCI, Annex XI, BoAmps, a checklist, three sentences."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft4Validator
from referencing import Registry, Resource
from statement_runs import CPU, HOSTILE, spent
from synthetic import declaration, make_run
from typer.testing import CliRunner

from lightning_costs import Recorder, Tariff
from lightning_costs.cli.commands import app
from lightning_costs.report.statement import annex_xi, boamps, build_statement, latex, markdown, neurips
from lightning_costs.report.statement.render import annex_xi_table, paragraphs
from lightning_costs.report.statement.scores import carbon_together_g, scores

#: https://sci-for-ai.greensoftware.foundation, SPEC.md of Green-Software-Foundation/sci-ai, section 9.1.2.
PROVIDER = {"co2e_g": 180_000e3, "embodied_co2e_g": 20_000e3, "flop": 5e22}
MADE = Tariff(
    country="FRA",
    pue=1.2,
    embodied_kg_per_device=164.0,
    lifetime_years=4.0,
    embodied_source="a maker",
    wue_l_per_kwh=1.8,
)
SERVED = {"infer_energy_j": 0.5, "infer_samples_per_s": 900.0, "params": 86e6, "dataset_samples": 1.28e6}
GIVEN = {"task_family": "image classification", "data_type": "image", "infra_type": "publicCloud"}


def spent_by(name, parts=1.0, **costs):
    declared = {"embodied_co2e_g": declaration("embodied_co2e_g", "g", "counter", "energy")}
    return make_run(
        name, quality=[0.9], costs={key: [amount * parts] for key, amount in costs.items()}, declared=declared
    )


def served(name="vit", hours=10.0, **more):
    declared = {"params": "params", "dataset_samples": "samples"}
    run = spent(name, hours, statics=SERVED, **more)
    for column, unit in declared.items():
        run.header["indicators"][column] = declaration(column, unit, "static", "size")
    return run


# SCI ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[1.0], [0.25, 0.75]])
def test_the_providers_example_of_sci_for_ai_is_its_4_g_per_1e15_flops(parts):
    # "Provider SCI = 200,000 kg CO₂e / (5 × 10²² FLOPs) = 4 × 10⁻¹⁸ kg CO₂e/FLOP = 4 g CO₂e/10¹⁵ FLOPs"
    said = build_statement([spent_by(f"r{i}", part, **PROVIDER) for i, part in enumerate(parts)])
    assert [(score.g, score.text) for score in scores(said)] == [(4.0, "4 g per 10¹⁵ executed FLOPs")]
    assert carbon_together_g(said) == 200_000e3


def test_a_score_needs_operational_and_embodied_carbon_of_every_run():
    lacking = {name: amount for name, amount in PROVIDER.items() if name != "embodied_co2e_g"}
    assert scores(build_statement(spent_by("a", **lacking))) == []
    assert scores(build_statement([spent_by("a", **PROVIDER), spent_by("b", **lacking)])) == []


def test_flops_without_a_formula_make_the_score_an_upper_bound():
    run = spent_by("a", **PROVIDER)
    run.header["census"] = {"uncounted_calls": {"aten::strange": 1}}
    assert scores(build_statement(run))[0].text == "at most 4 g per 10¹⁵ executed FLOPs"


def test_scores_embodied_carbon_and_water_by_hand():
    said = build_statement(served(), tariff=MADE)
    operational = 40 * 1.2 * 56.039  # 4 kW for 10 h
    embodied = 80 / (4 * 365 * 24) * 164e3  # 8 devices for 10 h
    assert said.totals["embodied_co2e_g"].amount == pytest.approx(embodied, rel=1e-12)
    assert said.totals["water_l"].amount == pytest.approx(72.0, rel=1e-12)
    by_unit = {score.per: score.g for score in scores(said)}
    assert by_unit == pytest.approx(
        {
            "per 10¹⁵ executed FLOPs": (operational + embodied) / 36_000,
            "per 1,000 samples trained on": (operational + embodied) / 3600,
            "per billion parameters": (operational + embodied) / 0.086,
        },
        rel=1e-12,
    )
    query = 0.5 / 3.6e6 * 1.2 * 56.039 + 1 / 900 / 3600 / (4 * 365 * 24) * 164e3
    assert said.runs[0].query_g == pytest.approx(query, rel=1e-12)


def test_the_score_says_its_boundary():
    text = dict(paragraphs(build_statement(served(), tariff=MADE)))["Software carbon intensity"]
    assert "and by the PUE what cools and feeds them; outside are interconnect and switches, storage, data" in text
    assert "gross" in text
    bare = dict(paragraphs(build_statement(served(), tariff=Tariff(gco2e_per_kwh=50.0, embodied_g_per_exaflop=0.66))))
    assert "outside are interconnect and switches, storage, cooling, data" in bare["Software carbon intensity"]
    assert "0.66 g per executed exaFLOP: no source given" in bare["Carbon"]


def test_models_of_two_sizes_have_no_score_per_parameter():
    other = served("small")
    other.header["statics"]["params"] = 5e6
    said = build_statement([served(), other], tariff=MADE)
    assert "per billion parameters" not in {score.per for score in scores(said)}


# Annex XI ----------------------------------------------------------------------------------------------------


def test_annex_xi_lists_its_items_each_with_where_it_comes_from():
    rows = {(point, item): (value, how) for point, item, value, how in annex_xi_table(build_statement(served())).rows}
    assert rows == {
        ("1 (d)", "number of parameters"): ("8.60 × 10⁷ params", "counted on the model: params"),
        ("2 (c)", "number of data points"): ("1.28 × 10⁶ samples", "size of the training set: dataset_samples"),
        ("2 (c)", "samples trained on, in all epochs"): ("3.60 × 10⁶ samples", "samples"),
        ("2 (c)", "tokens trained on, in all epochs"): ("missing: not measured", "tokens; unknown in 1 of 1 run"),
        ("2 (d)", "floating-point operations of training"): ("3.60 × 10¹⁹ FLOP", "flop"),
        ("2 (d)", "of these, without recomputation"): ("2.88 × 10¹⁹ FLOP", "model_flop"),
        ("2 (d)", "training time, setup and evaluation included"): ("10 h", "total_s"),
        ("2 (d)", "device time allocated"): ("80 device-hours", "device_s"),
        ("2 (d)", "runs and their hardware"): (
            "1 on 8 × NVIDIA H100 80GB HBM3 (1 node)",
            "headers of the runs: 1 finished",
        ),
        ("2 (e)", "energy consumption"): (
            "≈ 40 kWh (estimated)",
            "energy_j; GPU 35 kWh (measured by hardware counters), CPU ≈ 4 kWh (estimated by a model) and RAM ≈ 1 kWh "
            "(estimated from a constant power)",
        ),
    }
    text = annex_xi(build_statement(served()))
    assert "Regulation (EU) 2024/1689" in text
    assert "| 2 (e) | energy consumption | ≈ 40 kWh (estimated) |" in text


def test_what_a_run_lacks_of_annex_xi_is_missing_with_the_reason():
    run = spent(left_out=("energy_j",), missing={"energy_j": "no permission to read RAPL"})
    found = {row[1]: row[2] for row in annex_xi_table(build_statement(run)).rows}
    assert found["energy consumption"] == "missing: no permission to read RAPL"
    assert found["number of parameters"] == "missing: not recorded"


# BoAmps ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validate():
    schemas = [json.loads(path.read_text("utf-8")) for path in Path(__file__).with_name("boamps").glob("*.json")]
    resources = [(schema["id"], Resource.from_contents(schema)) for schema in schemas]
    report = next(schema for schema in schemas if schema["title"] == "report")
    return Draft4Validator(report, registry=Registry().with_resources(resources)).validate


@pytest.mark.parametrize(
    "runs",
    [
        [served()],
        [spent("a"), spent("b", 5, status="failed", left_out=("co2e_g", "energy_j"))],
        [spent("c", setup=CPU, tariff={}, attempts=[])],
        [spent(HOSTILE, setup={"hardware": {"device": HOSTILE}})],
    ],
)
def test_a_boamps_report_validates_against_the_published_schema(runs, validate):
    found = json.loads(boamps(build_statement(runs), GIVEN))
    validate(found)
    assert found["measures"][0]["powerConsumption"] == pytest.approx(40.0)
    assert len(found["measures"]) == 1


def test_the_schema_refuses_what_is_no_report(validate):
    found = json.loads(boamps(build_statement(served()), GIVEN))
    found["measures"][0].pop("powerConsumption")
    with pytest.raises(Exception, match="'powerConsumption' is a required property"):
        validate(found)


def test_a_boamps_report_has_what_the_run_knows(validate):
    found = json.loads(boamps(build_statement(served()), GIVEN))
    assert found["task"]["algorithms"] == [{"parametersNumber": 0.086}]
    assert found["task"]["dataset"] == [{"dataUsage": "input", "dataType": "image", "dataQuantity": 1.28e6}]
    assert found["infrastructure"]["components"] == [
        {"componentName": "NVIDIA H100 80GB HBM3", "componentType": "gpu", "nbComponent": 8}
    ]
    assert found["environment"] == {"country": "France (FRA)", "powerSourceCarbonIntensity": 56.0}
    assert found["measures"][0]["measurementDateTime"] == "2026-01-02 03:04:05"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"needs what no run knows: --give task_family=WORDS, --give data_type=tabular\|.*, --give infra_type=pub"),
        (GIVEN | {"data_type": "pictures"}, "data_type must be one of tabular, .*; got 'pictures'"),
        (GIVEN | {"colour": "red"}, "takes --give task_family=WORDS, .*; got 'colour'"),
    ],
)
def test_what_boamps_requires_and_no_run_knows_is_asked_for(given, message):
    with pytest.raises(ValueError, match=message):
        boamps(build_statement(served()), given)


def test_a_boamps_report_without_energy_is_refused_with_the_reason():
    run = spent(left_out=("energy_j",), missing={"energy_j": "no permission to read RAPL"})
    with pytest.raises(ValueError, match="needs energy_j: no permission to read RAPL"):
        boamps(build_statement(run), GIVEN)


# Sentences ---------------------------------------------------------------------------------------------------


def test_the_checklist_has_workers_each_run_all_runs_and_what_is_beyond():
    text = neurips(build_statement([spent("a"), spent("b", 5, status="failed")]))
    for words in (
        "Each of them ran on 8 × NVIDIA H100 80GB HBM3 (1 node).",
        "An individual run took 5 h to 10 h.",
        "In all, 2 runs took 120 device-hours, ≈ 60 kWh of IT energy and 5.40 × 10¹⁹ FLOP.",
        "every run that was recorded (1 finished and 1 failed); work that was not recorded",
    ):
        assert words in text


@pytest.mark.parametrize(
    "said",
    [
        build_statement(served(), tariff=MADE),
        build_statement([spent("a"), spent("b")]),
        build_statement(make_run(costs={})),
    ],
)
def test_short_is_three_sentences(said):
    [(_, text)] = paragraphs(said, "short")
    assert text.count(". ") == 2
    assert text.endswith(".")
    for written in (markdown, latex):
        assert "{tabular}" not in written(said, short=True)
        assert "|" not in written(said, short=True)


def test_short_says_once_what_is_not_known():
    [(_, text)] = paragraphs(build_statement(spent()), "short")
    assert text.endswith("; not known: embodied CO2e and water.")


@pytest.mark.parametrize("to", [["annex-xi"], ["neurips"], ["md", "--short"], ["boamps", *(
    part for name, value in GIVEN.items() for part in ("--give", f"{name}={value}"))]])  # fmt: skip
def test_the_command_line_writes_them_of_a_real_run(tmp_path, to, validate):
    with Recorder(save_dir=tmp_path, tariff=MADE) as recorder:
        recorder.step(None)
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--to", *to])
    if to[0] == "boamps" and done.exit_code:  # a machine whose energy nobody can read
        assert "energy_j" in done.output
    else:
        assert done.exit_code == 0, done.output
        if to[0] == "boamps":
            validate(json.loads(done.output))
            assert json.loads(done.output)["software"]["language"] == "python"


@pytest.mark.parametrize("flags", [["--to", "csv", "--short"], ["--to", "md", "--give", "a=b"]])
def test_an_option_of_another_format_is_refused(tmp_path, flags):
    assert CliRunner().invoke(app, ["report", str(tmp_path), *flags]).exit_code == 2


def test_a_model_cards_block_is_operational_carbon():
    from lightning_costs.report.statement import model_card

    block = yaml.safe_load(model_card(build_statement(served(), tariff=MADE)))["co2_eq_emissions"]
    assert block["emissions"] == pytest.approx(40 * 1.2 * 56.039)
