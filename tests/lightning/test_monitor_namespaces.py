"""The README's ten lines, the YAML of LightningCLI and every import order, under both namespaces."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lightning_models import NAMESPACES

from lightning_costs import load_runs

ROOT = Path(__file__).parents[2]


def python(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, cwd=cwd, check=False, timeout=240, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done


@pytest.mark.parametrize("name", NAMESPACES)
def test_the_readmes_ten_lines_run_as_they_stand(tmp_path: Path, name: str) -> None:
    block = re.search(r"```python\n(import lightning.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    code = block[1]
    assert "lightning.pytorch" in code
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    script = tmp_path / "readme.py"
    script.write_text(code.replace("lightning.pytorch", name))
    done = python(str(script), cwd=tmp_path)
    assert "training time" in done.stdout
    (run,) = load_runs(tmp_path / "costs")
    assert run.header["status"] == "finished"
    assert run.points["val/loss"].drop_nulls().len() > 0


_CLI = """
import sys
sys.path.insert(0, {tests!r})
from {name}.cli import LightningCLI
from lightning_models import classifier, data, namespace
pl = namespace({name!r})
class Model(type(classifier(pl))):
    def train_dataloader(self): return data()
    def val_dataloader(self): return data()
LightningCLI(Model)
"""

_YAML = """
trainer:
  max_epochs: 1
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  callbacks:
    - class_path: lightning_costs.CostMonitor
      init_args:
        monitor: val/acc
        mode: max
        targets: [0.5, 0.9]
        save_dir: {out}
        tariff:
          country: FRA
          usd_per_node_h: 0.1
    - class_path: lightning_costs.CostBudget
      init_args:
        limits: {{steps: 5, energy_j: 3.6e+9}}
"""


@pytest.mark.parametrize("name", NAMESPACES)
def test_lightning_cli_builds_the_monitor_from_yaml(tmp_path: Path, name: str) -> None:
    (tmp_path / "main.py").write_text(_CLI.format(tests=str(ROOT / "tests"), name=name))
    (tmp_path / "fit-me.yaml").write_text(_YAML.format(out=tmp_path / "costs"))
    python("main.py", "fit", "--config", "fit-me.yaml", cwd=tmp_path)
    (run,) = load_runs(tmp_path / "costs")
    assert run.header["targets"] == [0.5, 0.9]
    assert run.header["tariff"]["country"] == "FRA"
    assert run.final["co2e_g"] is not None
    assert run.header["budget"] == {"limits": {"steps": 5.0, "energy_j": 3.6e9}}
    assert run.final["steps"] == 5


@pytest.mark.parametrize("first", [*NAMESPACES, "lightning_costs"])
def test_a_monitor_is_a_callback_of_both_in_any_import_order(tmp_path: Path, first: str) -> None:
    code = f"""
import {first}, pickle
from lightning_costs import CostBudget, CostMonitor
import lightning.pytorch, pytorch_lightning
for callback in (CostMonitor(monitor="a", mode="max"), CostBudget({{"steps": 5}})):
    callback = pickle.loads(pickle.dumps(callback))
    assert isinstance(callback, lightning.pytorch.Callback) and isinstance(callback, pytorch_lightning.Callback)
"""
    python("-c", code, cwd=tmp_path)


def test_importing_the_package_loads_no_framework(tmp_path: Path) -> None:
    code = """
import sys
import lightning_costs
print([m for m in ("torch", "lightning", "pytorch_lightning", "wandb", "codecarbon", "polars") if m in sys.modules])
"""
    assert python("-c", code, cwd=tmp_path).stdout.strip() == "[]"
