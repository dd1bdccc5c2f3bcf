"""Whole statements as they were written before; run as a script, this file writes them anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from statement_runs import ATTEMPT, CPU, FRANCE, HOSTILE, METHODS, spent
from synthetic import make_run

from lightning_costs import Tariff
from lightning_costs.report.statement import build_statement, latex, markdown, model_card
from lightning_costs.report.statement.render import Table, written_by

KEPT = Path(__file__).parent / "statements"
GIVEN = FRANCE | {"intensity": {"gco2e_per_kwh": 33.0, "source": "given"}, "pue": None, "usd_per_node_h": 3.5}
FAILED = {
    "status": "failed",
    "attempts": [{**ATTEMPT, "status": "killed"}, {**ATTEMPT, "id": "a2", "devices": 4, "tariff": GIVEN}],
    "missing": {"co2e_g": "no intensity; give country=", "samples": "not counted /home/anna/data"},
    "census": {"uncounted_calls": {f"aten::op{i}": 1 for i in range(10)}},
}
SERVED = {"infer_energy_j": 0.5, "infer_latency_p50_s": 0.0004, "infer_samples_per_s": 900.0}


def cases():
    """Name to a statement and what follows it: one run, runs of all kinds, hostile ones, one that measured nothing."""
    table = Table(
        f"A {HOSTILE}", ["", HOSTILE, "b"], [[f"row {i}", "1 *", HOSTILE] for i in range(38)], (2.0, 1.4, 1.4)
    )
    lost = {"lost_s": 300.0, "lost_energy_j": 1.2e6}
    several = [
        spent("vit", statics=SERVED, inference={"batch_samples": 32}, intervals={"flop": [3.5e19, 3.7e19]}),
        spent("resnet", 0.5, statics=lost, left_out=("co2e_g", "samples"), **FAILED),
        spent("mlp", 1e-3, setup=CPU, methods=METHODS | {"gpu_energy_j": "zero: no GPU"}, tariff=GIVEN, attempts=[]),
    ]
    hostile = [spent(HOSTILE, tariff=FRANCE | {"source": HOSTILE, "provider": HOSTILE}, methods={"flop": HOSTILE})]
    return {
        "one run": (build_statement(spent("vit")), {}),
        "several": (
            build_statement(several, monitor="val/acc", mode="max"),
            {"tables": [table], "cautions": [HOSTILE]},
        ),
        "hostile": (build_statement(hostile, tariff=Tariff(gco2e_per_kwh=100.0, pue=1.1)), {}),
        "nothing measured": (build_statement(make_run(quality=[0.5], costs={})), {}),
    }


def written():
    """File name to everything that is in it."""
    found = {"statements.md": [], "statements.tex": [], "statements.yaml": []}
    for name, (said, more) in cases().items():
        card = model_card(said, training_type="fine-tuning") if said.totals["co2e_g"].amount is not None else ""
        texts = (markdown(said, **more), latex(said, **more), card)
        for parts, text in zip(found.values(), texts, strict=True):
            parts.append(f"=== {name}\n{text.replace(written_by(), 'lightning-costs VERSION')}")
    return {file: "".join(parts) for file, parts in found.items()}


@pytest.mark.parametrize("file", ["statements.md", "statements.tex", "statements.yaml"])
def test_statements_read_as_they_did(file):
    assert written()[file] == (KEPT / file).read_text(encoding="utf-8")


if __name__ == "__main__":
    for file, text in written().items():
        (KEPT / file).write_text(text, encoding="utf-8")
