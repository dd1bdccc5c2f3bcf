"""Predictions against measurements on this machine's card, held out: every setting is predicted from others.

Small models are trained for some seconds each with the package's Recorder, at two batch sizes and in several formats.
Then each setting is predicted (a) from the other batch size, (b) from the other format, and (c) from a count on the
meta device alone, with efficiencies that the runs of all other models on this card calibrate. Printed as Markdown: step
time, energy and peak memory, predicted and measured, with errors and whether the 80 % interval holds the measurement.

    python benchmarks/prediction_proof.py [--seconds 6] [--quick] [--only gpt lstm] [--json FILE] [--out FILE]

`--keep DIR` leaves the run folders there, and `--from DIR` predicts from such folders instead of training: on any
machine, as often as the model changes.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from hardware_proof import Block as TransformerBlock
from hardware_proof import Bottleneck, Gpt, Lstm, labels, next_token, resnet50, sdpa, squares
from torch import Tensor, nn

from lightning_costs import ModelCost, Recorder, load_run, measure, predict
from lightning_costs.prediction.prediction import Prediction
from lightning_costs.run.record import RunRecord

#: Steps before the clock runs: counted steps, compilers, autotuning.
WARMUP_STEPS = 12


class Moe(nn.Module):
    """Blocks whose feed-forward layers are experts, one a token, dispatched by one-hot products (GShard)."""

    def __init__(self, width: int = 512, depth: int = 6, experts: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(width, 8, sdpa, True) for _ in range(depth))
        self.routes = nn.ModuleList(nn.Linear(width, experts) for _ in range(depth))
        self.up = nn.ParameterList(0.02 * torch.randn(experts, width, 4 * width) for _ in range(depth))
        self.down = nn.ParameterList(0.02 * torch.randn(experts, 4 * width, width) for _ in range(depth))
        self.experts = experts

    def forward(self, x: Tensor) -> Tensor:
        for block, route, up, down in zip(self.blocks, self.routes, self.up, self.down, strict=True):
            x = block(x)
            n = x.shape[1]
            capacity = 2 * n // self.experts
            gate, chosen = route(x).softmax(-1).max(-1)
            one_hot = F.one_hot(chosen, self.experts).to(x.dtype)
            place = ((one_hot.cumsum(1) - 1) * one_hot).sum(-1).long().clamp(max=capacity - 1)
            dispatch = one_hot[..., None] * F.one_hot(place, capacity).to(x.dtype)[..., None, :]
            inside = torch.einsum("bnec,bnd->becd", dispatch, x)
            out = torch.einsum("becf,efd->becd", F.gelu(torch.einsum("becd,edf->becf", inside, up)), down)
            x = x + gate[..., None] * torch.einsum("bnec,becd->bnd", dispatch, out)
        return x


class Vit(nn.Module):
    def __init__(self, width: int = 384, depth: int = 12) -> None:
        super().__init__()
        self.patches, self.places = nn.Conv2d(3, width, 16, 16), nn.Parameter(torch.zeros(196, width))
        self.blocks = nn.Sequential(*[TransformerBlock(width, 6, sdpa, False) for _ in range(depth)])
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2) + self.places).mean(1))


class Convnext(nn.Module):
    """Depthwise convolutions and pointwise products."""

    def __init__(self, width: int = 128, depth: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.deep = nn.ModuleList(nn.Conv2d(width, width, 7, padding=3, groups=width) for _ in range(depth))
        self.wide = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for deep, wide in zip(self.deep, self.wide, strict=True):
            x = x + wide(deep(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


class Pointwise(nn.Module):
    """What memory bounds: norms and activations, hardly a product."""

    def __init__(self, width: int = 2048, depth: int = 12) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = x + torch.tanh(F.gelu(norm(x)))
        return x


def mlp(width: int, depth: int) -> nn.Module:
    layers = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def tokens(n: int, vocab: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda size: (torch.randint(0, vocab, (size, n)),)


def floats(*shape: int, classes: int = 0) -> Callable[[int], tuple[Tensor, ...]]:
    def make(size: int) -> tuple[Tensor, ...]:
        x = torch.randn(size, *shape)
        return (x, torch.randint(0, classes, (size,))) if classes else (x,)

    return make


class Case(NamedTuple):
    """A model, its batches, its loss, the two batch sizes, and the formats that it is trained in."""

    net: Callable[[], nn.Module]
    batch: Callable[[int], tuple[Tensor, ...]]
    loss: Callable[[nn.Module, Any], Tensor]
    sizes: tuple[int, int]
    precisions: tuple[str, ...]
    compiled: bool = False


def cases(quick: bool) -> dict[str, Case]:
    if quick:
        return {
            "gpt": Case(lambda: Gpt(64, 2, 2, 32, 128), tokens(32, 128), next_token, (4, 8), ("fp32", "bf16-mixed")),
            "mlp": Case(lambda: mlp(64, 3), floats(64, classes=10), labels, (16, 32), ("fp32",)),
            "conv": Case(
                lambda: nn.Sequential(Bottleneck(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                floats(3, 16, 16, classes=10),
                labels,
                (4, 8),
                ("fp32",),
            ),
        }
    gpt = tokens(512, 50304)
    return {
        "gpt": Case(lambda: Gpt(n=512), gpt, next_token, (8, 16), ("bf16-mixed", "tf32")),
        "gpt-compiled": Case(lambda: Gpt(n=512), gpt, next_token, (8, 16), ("bf16-mixed",), True),
        "gpt-fp32": Case(lambda: Gpt(512, 6, 8, 256, 32000), tokens(256, 32000), next_token, (8, 16), ("fp32", "tf32")),
        "gpt-tiny": Case(lambda: Gpt(128, 6, 4, 64, 1000), tokens(64, 1000), next_token, (8, 32), ("bf16-mixed",)),
        "vit": Case(lambda: Vit(), floats(3, 224, 224, classes=1000), labels, (64, 128), ("bf16-mixed",)),
        "resnet50": Case(resnet50, floats(3, 224, 224, classes=1000), labels, (64, 128), ("tf32", "bf16-mixed")),
        "lstm": Case(lambda: Lstm(), floats(32, 1024), squares, (64, 128), ("tf32",)),
        "moe": Case(lambda: Moe(), floats(512, 512), squares, (8, 16), ("bf16-mixed",)),
        "mlp-tiny": Case(lambda: mlp(64, 4), floats(64, classes=10), labels, (64, 512), ("fp32",)),
        "mlp-wide": Case(lambda: mlp(4096, 4), floats(4096, classes=10), labels, (2048, 4096), ("tf32", "bf16-mixed")),
        "convnext": Case(lambda: Convnext(), floats(3, 224, 224, classes=1000), labels, (32, 64), ("bf16-mixed",)),
        "pointwise": Case(lambda: Pointwise(), floats(512, 2048), squares, (16, 32), ("fp32",)),
    }


class Setting(NamedTuple):
    case: str
    size: int
    precision: str


@dataclass
class Row:
    """One amount, predicted and measured."""

    setting: Setting
    how: str
    amount: str
    predicted: float
    low: float
    high: float
    measured: float

    @property
    def error(self) -> float:
        return abs(self.predicted / self.measured - 1)

    @property
    def inside(self) -> bool:
        return self.low <= self.measured <= self.high


@dataclass
class Proof:
    device: torch.device
    seconds: float
    folder: Path
    runs: dict[Setting, RunRecord] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def train(self, setting: Setting, case: Case) -> None:
        """Train one setting for some seconds, measured by a Recorder."""
        switches(setting.precision)
        fresh(self.device)
        torch.manual_seed(0)
        net = case.net().to(self.device)
        batch = tuple(part.to(self.device) for part in case.batch(setting.size))
        called = torch.compile(net) if case.compiled else net
        optimizer = torch.optim.AdamW(net.parameters(), 1e-4)
        recorder = Recorder(
            module=called,
            optimizers=[optimizer],
            device=self.device,
            save_dir=self.folder,
            log_every_n_steps=1000,
            name="-".join(map(str, setting)),
            setup={"precision": setting.precision},
        )
        with recorder:
            steps, until = 0, math.inf
            while steps < WARMUP_STEPS + 5 or time.perf_counter() < until:
                with recorder.train_batch(batch):
                    with autocast(setting.precision, self.device):
                        loss = case.loss(called, batch)
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                recorder.step(batch)
                steps += 1
                if steps == WARMUP_STEPS:
                    wait(self.device)
                    until = time.perf_counter() + self.seconds
            wait(self.device)
        assert recorder.path is not None
        self.runs[setting] = load_run(recorder.path)

    def read(self, folder: Path, chosen: dict[str, Case]) -> None:
        """The runs that `--keep` left, by their names: CASE-SIZE-PRECISION."""
        for path in sorted(folder.glob("*/header.json")):
            run = load_run(path.parent)
            found = re.fullmatch(r"(.+)-(\d+)-(fp32|tf32|bf16-mixed)", run.name)
            if found is not None and found[1] in chosen:
                self.runs[Setting(found[1], int(found[2]), found[3])] = run

    def count(self, setting: Setting, case: Case) -> ModelCost:
        """The setting's step on the meta device, in float32: the prediction turns it into the format."""
        switches("fp32" if setting.precision == "bf16-mixed" else setting.precision)
        with torch.device("meta"):
            net, batch = case.net(), tuple(part.to("meta") for part in case.batch(setting.size))
        return measure(
            net,
            batch,
            forward=lambda net, batch: case.loss(net, batch),
            loss=lambda loss, _: loss,
            optimizer=lambda params: torch.optim.AdamW(params, 1e-4),
            samples=setting.size,
            times=False,
        )

    def rows(self, every: dict[str, Case]) -> Iterator[Row]:
        for setting in self.runs:
            for other, how in others(setting, self.runs):
                made = predict(self.runs[other], batch_size=setting.size, precision=setting.precision)
                yield from self._against(setting, how, made)
            case = every[setting.case]
            try:
                count = self.count(setting, case)
            except Exception as error:  # noqa: BLE001 - a model that the meta device cannot run: said in the report
                self.failed[f"{setting} counted on meta"] = repr(error)[:200]
                continue
            card = next(iter(self.runs.values())).header["setup"]["hardware"].get("device", "cpu")
            calibrated = [
                run for known, run in self.runs.items() if known.case.split("-")[0] != setting.case.split("-")[0]
            ]
            for how, runs in (("count alone", []), ("count, other models' runs", calibrated)):
                if how == "count alone" or runs:
                    made = predict(count, on=card, precision=setting.precision, steps=1, calibrate_with=runs)
                    yield from self._against(setting, how, made)

    def _against(self, setting: Setting, how: str, made: Prediction) -> Iterator[Row]:
        final = self.runs[setting].final
        whole = predict(self.runs[setting], steps=1)  # of itself: the mean step and power as they were measured
        power = "device_w" if "device_w" in whole.amounts else "power_w"
        for name in ("step_s", power, "peak_mem_bytes"):
            measured = final.get("peak_mem_bytes") if name == "peak_mem_bytes" else whole[name]
            found = made.amounts.get(name)
            if found is None or found.low is None or found.high is None or not measured:
                if name in made.missing:
                    self.failed[f"{setting} {how}: {name}"] = made.missing[name]
                continue
            predicted, low, high = found.middle, found.low, found.high
            if name == power:  # joules a step
                step, at = made.amounts["step_s"], whole["step_s"]
                spread = math.hypot(math.log(high / predicted), math.log((step.high or 1) / step.middle))
                predicted, measured = predicted * step.middle, measured * (at or 0)
                low, high, name = predicted / math.exp(spread), predicted * math.exp(spread), "step_j"
            yield Row(setting, how, name, predicted, low, high, measured)


def others(setting: Setting, known: dict[Setting, RunRecord]) -> Iterator[tuple[Setting, str]]:
    """What a setting is predicted from: the other batch size, the other format."""
    for other in known:
        if other.case != setting.case or other == setting:
            continue
        if other.precision == setting.precision:
            yield other, f"batch {other.size}"
        elif other.size == setting.size:
            yield other, f"format {other.precision}"


def switches(precision: str) -> None:
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16-mixed" else nullcontext()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def fresh(device: torch.device) -> None:
    """Nothing of the setting before is left in memory, in the compiler or in the peak."""
    gc.collect()
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


_UNITS = {"step_s": (1e3, "ms"), "step_j": (1.0, "J"), "peak_mem_bytes": (2**-20, "MiB")}
_LIMITS = {"step_s": (0.08, 0.15), "step_j": (0.12, 0.12), "peak_mem_bytes": (0.03, 0.03)}


def report(rows: list[Row], failed: dict[str, str], about: str) -> str:
    lines = [f"## Predicted and measured: {about}", ""]
    lines += ["| predicted from | amount | predictions | median error | worst | in the 80 % interval | wanted |"]
    lines += ["|---|---|---:|---:|---:|---:|---|"]
    kinds = {"batch": "another batch size", "format": "another format"}
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        how = kinds.get(row.how.split(" ")[0], row.how)
        grouped.setdefault((how, row.amount), []).append(row)
    for (how, amount), found in grouped.items():
        errors = [row.error for row in found]
        held = f"{sum(row.inside for row in found)} of {len(found)}"
        median, worst = _LIMITS[amount]
        lines.append(
            f"| {how} | {amount} | {len(found)} | {statistics.median(errors):.1%} | {max(errors):.1%} | {held} "
            f"| median {median:.0%}, worst {worst:.0%} |"
        )
    lines += [
        "",
        "| model | batch | format | predicted from | amount | predicted | 80 % interval | measured | error | in |",
    ]
    lines += ["|---|---:|---|---|---|---:|---:|---:|---:|---|"]
    for row in rows:
        factor, unit = _UNITS[row.amount]
        cells = [f"{factor * x:.4g}" for x in (row.predicted, row.low, row.high, row.measured)]
        lines.append(
            f"| {row.setting.case} | {row.setting.size} | {row.setting.precision} | {row.how} | {row.amount} ({unit}) "
            f"| {cells[0]} | {cells[1]} to {cells[2]} | {cells[3]} | {row.predicted / row.measured - 1:+.1%} "
            f"| {'yes' if row.inside else 'no'} |"
        )
    lines += ["", *(f"- {what}: {why[:120]}" for what, why in failed.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--quick", action="store_true", help="three tiny models for a moment each")
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, help="keep the run folders here")
    parser.add_argument("--from", dest="kept", type=Path, help="predict from the run folders in here, without training")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning_costs").setLevel(logging.ERROR)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = {name: case for name, case in cases(given.quick).items() if not given.only or name in given.only}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        proof = Proof(device, 0.2 if given.quick else given.seconds, given.keep or Path(folder))
        if given.kept:
            proof.read(given.kept, chosen)
        for name, case in {} if given.kept else chosen.items():
            for precision in case.precisions:
                for size in case.sizes:
                    setting = Setting(name, size, precision)
                    try:
                        proof.train(setting, case)
                    except Exception as error:  # noqa: BLE001 - one model must not end the others: said in the report
                        proof.failed[str(setting)] = repr(error)[:300]
                    print(f"{time.perf_counter() - began:6.1f} s  {setting}", file=sys.stderr, flush=True)
        rows = list(proof.rows(chosen))
    setup = next(iter(proof.runs.values())).header["setup"]
    card, trained_by = setup["hardware"].get("device", "cpu"), setup["software"]["torch"]
    text = report(rows, proof.failed, f"{card}, torch {trained_by}, {time.perf_counter() - began:.0f} s in all")
    print(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    if given.json:
        plain = [{**vars(row), "setting": list(row.setting)} for row in rows]
        given.json.write_text(json.dumps(plain, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
