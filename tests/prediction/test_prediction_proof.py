"""The benchmark that the documentation's table comes from, in the small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from lightning_costs import load_runs, predict

ROOT = Path(__file__).parents[2]

ON_CUDA = dedent(
    """
    import sys
    import torch
    from lightning_costs import Recorder

    device = torch.device("cuda")
    model = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(8)]).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    batch = torch.randn(32, 64, device=device)
    with Recorder(module=model, optimizers=[optimizer], device=device, save_dir=sys.argv[1]) as recorder:
        for _ in range(200):
            with recorder.train_batch(batch):
                model(batch).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            recorder.step(batch)
    """
)


@pytest.mark.slow
@pytest.mark.integration
def test_the_proof_predicts_every_setting_from_others(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "prediction_proof.py"
    out = tmp_path / "rows.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(script), "--quick", "--json", str(out), "--keep", str(tmp_path / "kept")],
        env=environment, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.startswith("## Predicted and measured: cpu, torch")
    assert "| another batch size | step_s | 8 |" in done.stdout
    rows = json.loads(out.read_text())
    assert {row["setting"][0] for row in rows} == {"gpt", "mlp", "conv"}
    assert all(row["low"] <= row["predicted"] <= row["high"] for row in rows)
    again = subprocess.run(
        [sys.executable, str(script), "--quick", "--json", str(out), "--from", str(tmp_path / "kept")],
        env=environment, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert again.stdout.startswith("## Predicted and measured: cpu, torch")
    made = {(*row["setting"], row["how"], row["amount"]): row for row in json.loads(out.read_text())}
    for row in rows:
        assert made[*row["setting"], row["how"], row["amount"]]["measured"] == pytest.approx(row["measured"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_a_gpu_predicts_itself_and_knows_its_host(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", ON_CUDA, str(tmp_path)], check=True, timeout=300
    )  # others' memory is not in it
    (run,) = load_runs(tmp_path)
    assert run.header["step_profile"]["host_s"] > 0
    found = predict(run)
    assert found["train_s"] == pytest.approx(run.final["train_s"])
    assert found["peak_mem_bytes"] == pytest.approx(run.final["peak_mem_bytes"], rel=0.01)
    assert found.amounts["device_w"].middle > 0
