"""What `--json` writes is what docs/ says."""

import json
import re
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest
from synthetic import make_run, zoo

from lightning_costs import Comparison, compare
from lightning_costs.analysis.json_schema import json_schema

DOCS = Path(__file__).parents[2] / "docs"


def test_the_documented_schema_is_that_of_the_code():
    written = json.loads((DOCS / "comparison.schema.json").read_text(encoding="utf-8"))
    assert written == json_schema(), (
        "write it anew: python -m lightning_costs.analysis.json_schema > docs/comparison.schema.json"
    )


def stop():
    return {"by": "CostBudget", "step": 1, "column": "energy_j", "limit": 1.0, "amount": 2.0}


@pytest.mark.parametrize(
    ("runs", "options"),
    [
        (zoo(5, 8), {"group": r"name~^(\w)", "queries": [1e6]}),
        (zoo(3, 4), {"targets": [0.5, 0.99]}),
        ([make_run(quality=[])], {}),
        ([make_run("a", quality=[float("nan"), 0.5], stopped=stop(), search={"trials": 3}), make_run("b")], {}),
        ([make_run("a", quality=[None], costs={}), make_run("b", costs={"energy_j": [float("inf"), None]})], {}),
    ],
)
def test_a_real_comparison_is_as_the_schema_says(tmp_path, runs, options):
    path = compare(runs, **options).to_json(tmp_path / "out.json")
    validator = jsonschema.Draft202012Validator(json_schema())
    found = [f"{list(e.absolute_path)}: {e.message[:200]}" for e in validator.iter_errors(json.loads(path.read_text()))]
    assert not found


def test_a_key_that_is_not_in_the_schema_is_an_error():
    data = compare([make_run()]).as_dict() | {"more": 1}
    assert [e.validator for e in jsonschema.Draft202012Validator(json_schema()).iter_errors(data)] == [
        "additionalProperties"
    ]


def test_every_field_has_its_row_in_the_document():
    text = (DOCS / "comparison-schema.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert rows == ["schema", *(field.name for field in fields(Comparison))]


def test_the_page_on_comparing_names_every_kind_of_caution():
    source = "".join(
        (DOCS.parent / "lightning_costs/analysis" / name).read_text(encoding="utf-8")
        for name in ("cautions.py", "method_cautions.py", "claim_cautions.py")
    )
    kinds = set(re.findall(r"caution\(\s+\"(\w+)\"", source)) | {"parameters_matched", "compute_matched"}
    named = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "comparing.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert kinds == named
