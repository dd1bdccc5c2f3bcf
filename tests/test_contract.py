"""What other programs rely on, as it stands: public names and signatures, columns, commands, the run folder, `--json`.

`python tests/test_contract.py` writes the golden files anew: a change of them is a change of the contract, to be read
by a person and noted in the changelog.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from fakes import FakeClock
from torch import nn
from typer.testing import CliRunner

import lightning_costs
from lightning_costs import Recorder, Tariff, default_indicators, load_run
from lightning_costs.cli.commands import app

GOLDEN = Path(__file__).parent / "golden"


def names(_: Path) -> str:
    """`dir(lightning_costs)`, with signatures and public members."""
    lines = []
    for name in sorted(dir(lightning_costs)):
        thing = getattr(lightning_costs, name)
        lines.append(f"{name}{inspect.signature(thing)}")
        if not inspect.isclass(thing):
            continue
        own = [kind for kind in thing.__mro__ if kind.__module__.startswith("lightning_costs")]
        for member in sorted({member for kind in own for member in vars(kind) if not member.startswith("_")}):
            value = getattr(thing, member)
            lines.append(f"    .{member}{inspect.signature(value) if inspect.isroutine(value) else ''}")
    return "\n".join(lines)


def columns(_: Path) -> str:
    """Every column that is recorded by default, with what it declares."""
    return "\n".join(json.dumps(i.declaration().as_dict(), sort_keys=True) for i in default_indicators())


def commands(_: Path) -> str:
    """`--help` of every command, without the boxes around it."""
    group: Any = typer.main.get_command(app)  # click's own classes, or those that typer brings
    lines = []
    for name, command in sorted(group.commands.items()):
        lines.append(f"{name}: {command.help}")
        for option in command.params:
            flags = ", ".join([*option.opts, *option.secondary_opts])
            default = None if callable(option.default) else option.default
            lines.append(f"    {flags} default={default!r}: {getattr(option, 'help', '')}")
    return "\n".join(lines)


def shape(value: Any) -> Any:
    """Plain data with its values taken out: their kinds stay, one of a list stands for all."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def recorded(folder: Path) -> Path:
    """A run of three steps of a loop, with quality."""
    torch.manual_seed(1)
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    recorder = Recorder(
        module=net,
        optimizers=[optimizer],
        monitor="acc",
        mode="max",
        targets=[0.5],
        save_dir=folder,
        name="golden",
        device="cpu",
        tariff=Tariff(gco2e_per_kwh=100.0, usd_per_device_h=2.0, source="test"),
        log_every_n_steps=1,
        count="auto",
        hyperparameters={"depth": 4, "seed": 3},
        owner="the lab",
        clock=FakeClock(),
    )
    with recorder:
        for _ in range(3):
            batch = torch.ones(4, 3)
            with recorder.train_batch(batch):
                net(batch).sum().backward()
                optimizer.step()
            recorder.step(batch)
        recorder.log_metrics({"acc": 0.75})
    assert recorder.path is not None
    return recorder.path


def header(folder: Path) -> str:
    """Keys of header.json and the kinds of their values; what indicators declare is among the columns."""
    found = json.loads((recorded(folder) / "header.json").read_text())
    for part in ("indicators", "missing", "methods", "statics"):
        found[part] = sorted(found[part]) if part in ("indicators", "statics") else "by column"
    found["setup"] = sorted(found["setup"])
    found["git"] = "commit and dirty, or missing"
    found["script"] = "of pytest or of this file"
    found["seeds"] = found["seeds"]["seed"]
    found["energy"] = sorted(found.get("energy", {}))
    listed = ("indicators", "statics", "setup", "energy", "schema", "git", "script")
    kinds = {key: value if key in listed else shape(value) for key, value in found.items()}
    return json.dumps(kinds, indent=1, sort_keys=True)


def journal(folder: Path) -> str:
    """Lines of points.jsonl, their seconds and bytes of this machine taken out."""
    lines = (recorded(folder) / "points.jsonl").read_text().splitlines()
    kept = ("step", "epoch", "trigger", "quality")
    counts = ("steps", "samples", "batches", "flop", "mac", "mem_access_bytes", "params")
    found = []
    for line in map(json.loads, lines):
        exact = {name: line["costs"][name] for name in counts if name in line["costs"]}
        found.append({**{key: line[key] for key in kept}, "costs": exact, "keys": sorted(line)})
    return "\n".join(json.dumps(line) for line in [*found, sorted(line["costs"])])


def comparison(folder: Path) -> str:
    """`--json` of a comparison of three published runs and two curves, to the digit."""
    table = folder / "table.csv"
    table.write_text(
        "method,acc,params,gflop,energy_kwh\n"
        "small,0.71,5.1e6,1.2,3.5\nmiddle,0.78,2.2e7,4.1,7.25\nwide,0.78,8.6e7,17.5,21\nodd,,1e6,0.3,\n"
    )
    curves = folder / "curves.csv"
    qualities = list(enumerate((0.1, 0.6, 0.5, 0.9), 1))
    rows = [f"{run},{step},{acc},{step * cost}" for run, cost in (("a", 3), ("b", 5)) for step, acc in qualities]
    curves.write_text("run,step,acc,train_s\n" + "\n".join(rows) + "\n")
    found = {}
    stepped = ["--step-column", "step", "--target", "0.55"]
    for source, options in ((table, ["--run-column", "method"]), (curves, stepped)):
        out = folder / f"{source.stem}.json"
        arguments = ["compare", str(source), "--monitor", "acc", "--mode", "max", "--json", str(out), *options]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        found[source.name] = json.loads(out.read_text())
    return json.dumps(found, indent=1, sort_keys=True).replace(str(folder), "FOLDER")


CONTRACTS: dict[str, Callable[[Path], str]] = {
    "names.txt": names,
    "columns.jsonl": columns,
    "commands.txt": commands,
    "header.json": header,
    "points.jsonl": journal,
    "comparison.json": comparison,
}


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_contract_is_as_it_was(name: str, tmp_path: Path) -> None:
    assert CONTRACTS[name](tmp_path) + "\n" == (GOLDEN / name).read_text()


def test_a_folder_of_the_first_schema_loads_to_the_digit() -> None:
    run = load_run(GOLDEN / "schema1")
    expected = json.loads((GOLDEN / "schema1.final.json").read_text())
    assert run.final == expected
    assert len(run.points) == len((GOLDEN / "schema1" / "points.jsonl").read_text().splitlines())


if __name__ == "__main__":
    import tempfile

    GOLDEN.mkdir(exist_ok=True)
    for name, make in CONTRACTS.items():
        with tempfile.TemporaryDirectory() as folder:
            (GOLDEN / name).write_text(make(Path(folder)) + "\n")
    sys.stdout.write(f"written: {', '.join(CONTRACTS)}\n")
