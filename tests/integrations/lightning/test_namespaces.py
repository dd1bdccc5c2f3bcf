"""The README's ten lines, the YAML of LightningCLI and every import order, under both namespaces."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from lightning_models import NAMESPACES
from processes import Script

from lightning_costs import load_runs

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
#: Starting a process takes seconds: the other namespace is tried with `-m slow`.
MOSTLY_ONE = [NAMESPACES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMESPACES[1:])]


def python(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, cwd=cwd, check=False, timeout=240, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def test_the_readmes_ten_lines_run_as_they_stand(tmp_path: Path) -> None:
    block = re.search(r"```python\n(import pytorch_lightning.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    code = block[1]
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert any(line.startswith("pytorch-lightning") for line in requires), "what it imports is what is installed"
    code = code.replace("  # or lightning.pytorch, everywhere: the one that you use", "")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    script = tmp_path / "readme.py"
    script.write_text(code)
    done = Script(script, (), tmp_path).ended()
    assert done.code == 0, done.err[-3000:]
    assert "training time" in done.err, "the summary"
    assert "training time" in done.out, "the printed run"
    (run,) = load_runs(tmp_path / "costs")
    assert run.header["status"] == "finished"
    assert run.points["val/loss"].drop_nulls().len() > 0


_CLI = """
import sys
sys.path.insert(0, {tests!r})
from lightning_costs import CostMonitor  # before any Lightning
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


@pytest.mark.parametrize("name", MOSTLY_ONE)
def test_lightning_cli_builds_the_monitor_from_yaml(tmp_path: Path, name: str) -> None:
    (tmp_path / "main.py").write_text(_CLI.format(tests=str(ROOT / "tests"), name=name))
    (tmp_path / "fit-me.yaml").write_text(_YAML.format(out=tmp_path / "costs"))
    done = Script(tmp_path / "main.py", ("fit", "--config", "fit-me.yaml"), tmp_path).ended()
    assert done.code == 0, done.err[-3000:]
    (run,) = load_runs(tmp_path / "costs")
    assert run.header["targets"] == [0.5, 0.9]
    assert run.header["tariff"]["country"] == "FRA"
    assert run.final["co2e_g"] is not None
    assert run.header["budget"] == {"limits": {"steps": 5.0, "energy_j": 3.6e9}}
    assert run.final["steps"] == 5


#: In a process for each order, forked where what all of them import is there already.
_CALLBACKS = """
import {first}
from lightning_costs import CostBudget, CostMonitor
import pickle
made = [CostMonitor(monitor="a", mode="max"), CostBudget({{"steps": 5}})]
import {second}
callbacks = [*made, *pickle.loads(pickle.dumps(made)), CostMonitor(), CostBudget({{"steps": 5}})]
print(all(isinstance(callback, {second}.Callback) for callback in callbacks))
print(issubclass(CostMonitor, {second}.Callback) and issubclass(CostBudget, {second}.Callback))
import lightning.pytorch, pytorch_lightning
print(all(isinstance(callback, lightning.pytorch.Callback) for callback in callbacks))
print(all(isinstance(callback, pytorch_lightning.Callback) for callback in callbacks))
"""


#: Runs each script in a folder of its own, forked where torch is imported and neither Lightning nor we are.
_FORKS = """
import os, sys, torch, torch._dynamo, torch.distributed.fsdp, torchmetrics
for name in sys.argv[1:]:
    assert not {"lightning", "pytorch_lightning", "lightning_fabric", "lightning_costs"} & set(sys.modules)
    if not (child := os.fork()):
        os.chdir(name)
        for number, file in ((1, "out"), (2, "err")):
            os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), number)
        exec(open("script.py").read())
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0, open(f"{name}/err").read()[-3000:]
"""


def forked(folder: Path, scripts: Mapping[str, str]) -> None:
    """Run scripts, each in the folder of its name."""
    for name, script in scripts.items():
        (folder / name).mkdir()
        (folder / name / "script.py").write_text(script)
    python("-W", "ignore", "-c", _FORKS, *scripts, cwd=folder)


_ORDERS = [NAMESPACES, NAMESPACES[::-1]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of scripts that imported Lightning and us in one order or another."""
    folder = tmp_path_factory.mktemp("forked")
    archive = folder / "copy.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((ROOT / "lightning_costs").rglob("*")):
            if path.suffix not in (".pyc", ""):
                file.write(path, path.relative_to(ROOT))
    scripts = {f"{a}-{b}": _CALLBACKS.format(first=a, second=b) for a, b in _ORDERS}
    for name, _, ours_first in _FITS:
        imports = ["import torch", f"import {name} as pl"]
        imports.insert(0 if ours_first else 2, "from lightning_costs import CostBudget, CostMonitor")
        scripts[name] = _FIT.format(name=name, imports="\n".join(imports))
    scripts["zip"] = _WITHOUT_METADATA.format(archive=str(archive), tests=str(ROOT / "tests"))
    forked(folder, scripts)
    return folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize(("first", "second"), _ORDERS)
def test_a_monitor_is_a_callback_of_both_in_any_import_order(ran: Path, first: str, second: str) -> None:
    assert (ran / f"{first}-{second}" / "out").read_text().split() == ["True"] * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMESPACES)
def test_a_monitor_that_is_imported_first_is_a_callback_of_both(tmp_path: Path, name: str) -> None:
    forked(tmp_path, {"script": _CALLBACKS.format(first="lightning_costs", second=name)})
    assert (tmp_path / "script" / "out").read_text().split() == ["True"] * 4


_OF_A_SPAWNED_PROCESS = """
import multiprocessing, sys

def child(monitor):
    assert not {{"lightning", "pytorch_lightning"}} & set(sys.modules), "a pickled monitor imports no Lightning"
    import {name} as pl
    assert isinstance(monitor, pl.Callback)
    print(monitor.state_key)

if __name__ == "__main__":
    from lightning_costs import CostMonitor
    import {name}
    process = multiprocessing.get_context("spawn").Process(target=child, args=(CostMonitor(),))
    process.start()
    process.join()
    assert process.exitcode == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", MOSTLY_ONE)
def test_a_monitor_that_a_spawned_process_gets_is_a_callback_there(tmp_path: Path, name: str) -> None:
    script = tmp_path / "spawns.py"
    script.write_text(_OF_A_SPAWNED_PROCESS.format(name=name))
    done = Script(script, (), tmp_path).ended()
    assert done.code == 0, done.err[-3000:]
    assert "CostMonitor" in done.out


_FIT = """
import logging, sys, warnings
{imports}
logging.getLogger("{name}").setLevel(logging.ERROR)
import lightning_utilities.core.rank_zero as shared
from {name}.utilities.rank_zero import LightningDeprecationWarning
before = shared.log, shared.rank_zero_deprecation_category
class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)
    def training_step(self, batch, index): return self.net(batch).sum()
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), lr=0.1)
trainer = pl.Trainer(
    accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, callbacks=[CostMonitor(save_dir="costs"), CostBudget({{"steps": 2}})],
)
trainer.fit(Model(), torch.utils.data.DataLoader(torch.ones(12, 4), batch_size=4))
assert (shared.log, shared.rank_zero_deprecation_category) == before
assert before == (logging.getLogger("{name}.utilities.rank_zero"), LightningDeprecationWarning)
print("imported:", *sorted({{"lightning", "pytorch_lightning", "lightning_fabric"}} & set(sys.modules)))
"""


#: What it trains with, all that it imports of Lightning, and whether we are imported first.
_FITS = [
    ("lightning.pytorch", "lightning", False),
    ("pytorch_lightning", "lightning_fabric pytorch_lightning", True),
]


@pytest.mark.parametrize(("name", "imported", "ours_first"), _FITS)
def test_a_fit_imports_no_second_lightning_and_what_silences_the_first_goes_on(
    ran: Path, name: str, imported: str, ours_first: bool
) -> None:
    out, err = ((ran / name / file).read_text() for file in ("out", "err"))
    assert f"imported: {imported}\n" in out
    assert [line for line in err.splitlines() if "GPU available" in line or "Trainer.fit" in line] == []
    (run,) = load_runs(ran / name / "costs")
    assert run.final["steps"] == 2


_WITHOUT_METADATA = """
import importlib.metadata, sys
found = importlib.metadata.distribution
def distribution(name):
    if name in ("lightning-costs", "codecarbon"):
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.distribution = distribution
sys.path[:0] = [{archive!r}, {tests!r}]
import lightning_costs
assert lightning_costs.__file__.startswith({archive!r}), lightning_costs.__file__
from lightning_models import classifier, data, namespace, trainer
pl = namespace("pytorch_lightning")
tariff = lightning_costs.Tariff(country="FRA", provider="aws")
monitor = lightning_costs.CostMonitor(save_dir="costs", tariff=tariff)
trainer(pl, monitor).fit(classifier(pl), data())
from lightning_costs.cli.commands import main
sys.argv = ["lightning-costs", "report", "costs", "--to", "md", "-o", "costs.md"]
main()
"""


def test_a_copy_without_metadata_in_a_zip_measures_and_reports(ran: Path) -> None:
    assert "PackageNotFoundError" not in (ran / "zip" / "err").read_text()
    (run,) = load_runs(ran / "zip" / "costs")
    assert run.header["written_by"] == "lightning-costs unknown"
    assert run.header["status"] == "finished"
    assert run.final["co2e_g"] is not None
    assert "lightning-costs unknown" in (ran / "zip" / "costs.md").read_text()


def test_importing_the_package_loads_no_framework(tmp_path: Path) -> None:
    code = """
import sys
import lightning_costs
print([m for m in ("torch", "lightning", "pytorch_lightning", "wandb", "codecarbon", "polars") if m in sys.modules])
"""
    assert python("-c", code, cwd=tmp_path).stdout.strip() == "[]"
