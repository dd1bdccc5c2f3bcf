"""The command `predict`: from runs, from a function that makes a model, or from a script that trains for some steps."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Mapping
from json import dumps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightning_costs.cli.places import make_writable
from lightning_costs.report.terminal.console import Terminal, say

if TYPE_CHECKING:
    from lightning_costs.model_cost.cost import ModelCost
    from lightning_costs.prediction.prediction import Prediction
    from lightning_costs.run.record import RunRecord

#: Steps that a script trains for if it is to be predicted.
TRIAL_STEPS = 60


def predict_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...|SCRIPT[:FUNCTION]",
            help="A run folder; more of them calibrate, or show how quality scales. Or FILE.py:FUNCTION, which returns "
            "(model, batch) or the arguments of measure. Or a script, which trains for some steps.",
        ),
    ],
    on: Annotated[
        list[str] | None, typer.Option(help="A card, as 'H200'; again for more, 'all' for the table's.")
    ] = None,
    devices: Annotated[list[int] | None, typer.Option(help="How many; again for more.", min=1)] = None,
    strategy: Annotated[
        str | None, typer.Option(help="ddp, fsdp, zero1 to zero3, tp, pp, or several as tp4+pp2+zero1.")
    ] = None,
    microbatches: Annotated[int | None, typer.Option(help="Of a pipeline.", min=1)] = None,
    steps: Annotated[float | None, typer.Option(help="Optimizer steps of the whole training.")] = None,
    samples: Annotated[float | None, typer.Option(help="Samples of the whole training, instead of steps.")] = None,
    batch_size: Annotated[float | None, typer.Option(help="Samples of a step on one replica.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, tf32, bf16-mixed, bf16-true and the like.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, momentum, adam, sam, or a class's name.")] = None,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Activations are made again.")] = False,
    link: Annotated[float | None, typer.Option("--link-gb-per-s", help="From a device to others of its node.")] = None,
    network: Annotated[
        float | None, typer.Option("--network-gb-per-s", help="From a device to those of other nodes.")
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Make the model on this machine, and time it.")] = False,
    monitor: Annotated[str | None, typer.Option(help="Metric of the runs, for --target.")] = None,
    mode: Annotated[str | None, typer.Option(help="max or min.")] = None,
    target: Annotated[float | None, typer.Option(help="Quality to reach, by the scaling of several runs.")] = None,
    tariff: Annotated[Path | None, typer.Option(help="TOML file of prices and place.")] = None,
    errors: Annotated[
        Path | None, typer.Option(help="Folder of runs that were predicted: their errors recalibrate intervals.")
    ] = None,
    trial_steps: Annotated[int, typer.Option(help="Steps that a script trains for.", min=10)] = TRIAL_STEPS,
    json: Annotated[Path | None, typer.Option("--json", help="Write the predictions as JSON to this file.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Write cost against devices, as PDF, SVG or PNG.")] = None,
) -> None:
    """Predict what a training will cost, here, on another card, or on more of them, and whether it fits."""
    from lightning_costs.analysis.data import plain
    from lightning_costs.prediction.predict import predict
    from lightning_costs.pricing.tariff import Tariff

    make_writable(json, figure)
    found = _sources(sources, here=here, trial_steps=trial_steps)
    law = None
    if target is not None:
        law, samples = _to_target(found, monitor, mode, target)
    how: dict[str, Any] = {
        "strategy": strategy,
        "microbatches": microbatches,
        "steps": steps,
        "samples": samples,
        "batch_size": batch_size,
        "precision": precision,
        "optimizer": optimizer,
        "checkpointing": checkpointing,
        "link_bytes_per_s": None if link is None else 1e9 * link,
        "network_bytes_per_s": None if network is None else 1e9 * network,
        "tariff": Tariff.from_file(tariff) if tariff is not None else None,
        "calibrate_with": [] if target is not None else found[1:],
        "errors": _errors(errors),
    }
    counts: list[int] | list[None] = devices or [None]
    made = [predict(found[0], on=card, devices=count, **how) for card in _cards(on) for count in counts]
    _show(made, law)
    if json is not None:
        answer = {"predictions": [one.as_dict() for one in made], "scaling": None if law is None else law.as_dict()}
        json.write_text(dumps(plain(answer), indent=1) + "\n", encoding="utf-8")
        say(f"wrote {json}")
    if figure is not None:
        from lightning_costs.report.charts.prediction import write_prediction_figure

        say(f"wrote {write_prediction_figure(made, figure)}")


def _cards(on: list[str] | None) -> list[str] | list[None]:
    if on == ["all"]:
        from lightning_costs.prediction.cards import card_names

        return card_names().split(", ")
    return on or [None]


def _sources(sources: list[str], *, here: bool, trial_steps: int) -> list[Any]:
    first = sources[0]
    path, _, function = first.rpartition(":")
    if path.endswith(".py"):
        return [_measured(path, function, here=here)]
    if first.endswith(".py"):
        return [_tried(sources, trial_steps)]
    from lightning_costs.sources.loader import find_runs

    runs = [find_runs([source]).runs for source in sources]
    if lacking := [source for source, found in zip(sources, runs, strict=True) if not found]:
        raise ValueError(f"expected a run at {lacking[0]}, found none; a model is FILE.py:FUNCTION")
    return [run for found in runs for run in found]


def _measured(path: str, function: str, *, here: bool) -> ModelCost:
    """What `measure` finds of what a function returns: on the meta device, or here."""
    import torch

    from lightning_costs.model_cost.measure import measure

    made = runpy.run_path(path, run_name="lightning_costs_predict").get(function)
    if not callable(made):
        raise ValueError(f"{path} has no function {function!r}")
    with torch.device("cpu" if here and not torch.cuda.is_available() else "cuda" if here else "meta"):
        given = made()
    if isinstance(given, tuple) and len(given) == 2:
        given = {"model": given[0], "batch": given[1]}
    if not isinstance(given, Mapping) or not {"model", "batch"} <= given.keys():
        raise ValueError(
            f"{function} must return (model, batch), or a mapping of measure's arguments, got {type(given)}"
        )
    return measure(**{"times": here, **given})


def _tried(command: list[str], steps: int) -> RunRecord:
    """The run of a script that trained for some steps, as `lightning-costs run` measures it."""
    from lightning_costs.sources.loader import load_runs

    with TemporaryDirectory() as folder:
        run = ["run", "--budget", f"steps={steps}", "--save-dir", folder, "--", sys.executable, *command]
        done = subprocess.run(
            [sys.executable, "-m", "lightning_costs", *run], stdout=2, check=False
        )  # stdout is the table's
        runs = load_runs(folder)
        if not runs:
            raise ValueError(
                f"{command[0]} left no run within {steps} steps; it ended with exit code {done.returncode}"
            )
        last = runs[-1]
        assert last.points is not None  # read while the folder is there
        return last


def _to_target(found: list[Any], monitor: str | None, mode: str | None, target: float) -> tuple[Any, float]:
    from lightning_costs.prediction.quality_law import fit_quality_law

    law = fit_quality_law(found, monitor=monitor, mode=mode)
    found.sort(key=lambda run: -(run.final.get("samples") or 0.0))
    return law, law.needed(target).middle


def _errors(folder: Path | None) -> list[float]:
    """Errors of a project's predictions, in widths."""
    if folder is None:
        return []
    from lightning_costs.run.plan import plan_errors
    from lightning_costs.sources.loader import find_runs

    runs = find_runs([str(folder)]).runs
    return [one.widths for run in runs for one in plan_errors(run.header, run.final) if one.widths is not None]


def _show(made: list[Prediction], law: Any) -> None:
    from lightning_costs.report.terminal import prediction as view

    console = Terminal()
    if law is not None:
        console.print(law.words(), soft_wrap=True)
    if len(made) == 1:
        console.print(view.prediction_title(made[0]), style="bold", soft_wrap=True)
        console.print(view.prediction_table(made[0]))
        notes = view.prediction_notes(made[0])
    else:
        console.print(f"Predicted, not measured: {made[0].name}", style="bold", soft_wrap=True)
        console.print(view.beside_table(made))
        notes = view.beside_notes(made)
    for note in notes:
        console.print(note, soft_wrap=True)
