"""FLOPs that CostMonitor counts against what the chip's own counters say, in real trainings on one GPU.

`hfu` divides counted FLOPs per second by the stated peak. `ofu` multiplies the share of cycles in which tensor cores
were busy (NVML's GPM metrics: Hopper and newer) by the SM clock over the highest one (arXiv 2605.20799).
Both are of the same training seconds, past the warm-up. They differ by design if tiles are not full (ofu is more) and
if products run outside of the tensor cores (hfu is more).

    python benchmarks/hardware_proof.py [--seconds 12] [--only gpt2 resnet50-bf16 ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from lightning_costs import CostMonitor
from lightning_costs.run.record import RunRecord

#: Training seconds before the comparison begins: compilers, autotuning, counted steps.
WARMUP_STEPS = 20


class Batches(Dataset[Any]):
    """One batch, as often as it is asked for."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> Any:
        return self.batch


class Training(pl.LightningModule):
    """A model, its batch and its loss."""

    def __init__(
        self, net: nn.Module, batch: tuple[Tensor, ...], loss: Callable[[nn.Module, Any], Tensor], *, sam: bool = False
    ) -> None:
        super().__init__()
        self.net, self.batch, self.loss, self.sam = net, batch, loss, sam
        self.automatic_optimization = not sam

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        if not self.sam:
            return self.loss(self.net, batch)
        optimizer = self.optimizers()
        self.manual_backward(self.loss(self.net, batch))
        moved = []
        with torch.no_grad():
            grads = [p.grad for p in self.net.parameters() if p.grad is not None]
            scale = 0.05 / (torch.stack(torch._foreach_norm(grads)).norm() + 1e-12)
            for p in self.net.parameters():
                if p.grad is not None:
                    step = p.grad * scale
                    p.add_(step)
                    moved.append((p, step))
        self.net.zero_grad()
        self.manual_backward(self.loss(self.net, batch))
        with torch.no_grad():
            for p, step in moved:
                p.sub_(step)
        optimizer.step()
        optimizer.zero_grad()
        return None

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-4, fused=True)

    def train_dataloader(self) -> Any:
        return DataLoader(Batches(tuple(part.to(self.device) for part in self.batch)), batch_size=None)


class Block(nn.Module):
    """A transformer block with causal attention, as GPT-2's."""

    def __init__(self, width: int, heads: int, attend: Callable[..., Tensor], causal: bool) -> None:
        super().__init__()
        self.heads, self.attend, self.causal = heads, attend, causal
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in self.qkv(self.ln1(x)).chunk(3, -1))
        x = x + self.out(self.attend(q, k, v, self.causal).transpose(1, 2).reshape(b, n, d))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


def sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


class Flex:
    """flex_attention with a causal mask, compiled as its documentation asks."""

    def __init__(self, n: int) -> None:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        self.call = torch.compile(flex_attention)
        self.mask = create_block_mask(lambda b, h, q, kv: q >= kv, None, None, n, n, device="cuda")

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        return self.call(q, k, v, block_mask=self.mask)


class Gpt(nn.Module):
    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        n: int = 1024,
        vocab: int = 50304,
        attend: Callable[..., Tensor] = sdpa,
        remat: bool = False,
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Parameter(torch.zeros(n, width))
        self.blocks = nn.ModuleList(Block(width, heads, attend, True) for _ in range(depth))
        self.ln, self.head, self.remat = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False), remat

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.remat else block(x)
        return self.head(self.ln(x))


def next_token(net: nn.Module, batch: Any) -> Tensor:
    (ids,) = batch
    return F.cross_entropy(net(ids).flatten(0, 1), ids.flatten())


def labels(net: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(net(x), y)


def squares(net: nn.Module, batch: Any) -> Tensor:
    return net(*batch).float().square().mean()


class Vit(nn.Module):
    """ViT-B/16 at 224 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 768, 16, 16)
        self.places = nn.Parameter(torch.zeros(196, 768))
        self.blocks = nn.Sequential(*[Block(768, 12, sdpa, False) for _ in range(12)])
        self.ln, self.head = nn.LayerNorm(768), nn.Linear(768, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.ln(self.blocks(x)).mean(1))


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.net = nn.Sequential(
            nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.skip = (
            nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            if stride != 1 or inside != out
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.net(x) + self.skip(x))


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inside = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            layers.append(Bottleneck(inside, width, stride if i == 0 else 1))
            inside = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


class Experts(nn.Module):
    """A feed-forward layer of 16 experts, one a token, by grouped products."""

    def __init__(self, width: int = 1024, hidden: int = 4096, experts: int = 16) -> None:
        super().__init__()
        self.route = nn.Linear(width, experts)
        self.up = nn.Parameter(0.02 * torch.randn(experts, width, hidden))
        self.down = nn.Parameter(0.02 * torch.randn(experts, hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        gate, chosen = self.route(flat).softmax(-1).max(-1)
        order = chosen.argsort()
        ends = torch.bincount(chosen, minlength=self.up.shape[0]).cumsum(0).to(torch.int32)
        rows = flat[order].to(torch.bfloat16)
        hidden = F.gelu(torch._grouped_mm(rows, self.up.to(torch.bfloat16), offs=ends))
        out = torch._grouped_mm(hidden, self.down.to(torch.bfloat16), offs=ends)
        return x + (torch.zeros_like(flat).index_copy(0, order, out.to(flat.dtype)) * gate[:, None]).reshape(x.shape)


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.LSTM(1024, 1024, num_layers=3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


class Gnn(nn.Module):
    """Graph convolutions by gather and index_add, with products over nodes."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.lin = nn.ModuleList(nn.Linear(width, width) for _ in range(6))

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        for lin in self.lin:
            messages = lin(x)
            x = x + F.relu(torch.zeros_like(messages).index_add(0, target, messages[source]))
        return x


class Mamba(nn.Module):
    """A selective state-space block: projections, a short convolution, and a scan over chunks in plain torch."""

    def __init__(self, width: int = 1024, states: int = 16) -> None:
        super().__init__()
        inner = 2 * width
        self.inside, self.out = nn.Linear(width, 2 * inner), nn.Linear(inner, width)
        self.conv = nn.Conv1d(inner, inner, 4, padding=3, groups=inner)
        self.select, self.rate = nn.Linear(inner, 2 * states), nn.Linear(inner, 1)
        self.decay = nn.Parameter(torch.zeros(states))

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        u, gate = self.inside(x).chunk(2, -1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., :n].transpose(1, 2))
        b, c = self.select(u).chunk(2, -1)
        log_decay = -F.softplus(self.rate(u)).float().cumsum(1)
        scores = torch.einsum("bis,bjs->bij", c * torch.sigmoid(self.decay), b)
        weights = torch.exp((log_decay - log_decay.transpose(1, 2)).clamp(max=0)).tril() * scores.float()
        y = weights.to(u.dtype) @ u
        return x + self.out(y * F.silu(gate))


def ids(batch: int, n: int = 1024) -> tuple[Tensor, ...]:
    return (torch.randint(0, 50257, (batch, n)),)


def images(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, 3, 224, 224).to(memory_format=torch.channels_last), torch.randint(0, 1000, (batch,))


def graph(nodes: int = 100_000, edges: int = 400_000, width: int = 512) -> tuple[Tensor, ...]:
    return torch.randn(nodes, width), torch.randint(0, nodes, (edges,)), torch.randint(0, nodes, (edges,))


def trainings() -> dict[str, tuple[Callable[[], Training], str]]:
    """What is trained, by name, with Lightning's precision."""
    last = torch.channels_last
    return {
        "gpt2": (lambda: Training(Gpt(), ids(16), next_token), "bf16-mixed"),
        "gpt2-compiled": (lambda: Training(torch.compile(Gpt()), ids(16), next_token), "bf16-mixed"),
        "gpt2-checkpointed": (lambda: Training(Gpt(remat=True), ids(16), next_token), "bf16-mixed"),
        "gpt2-flex": (lambda: Training(Gpt(attend=Flex(1024)), ids(16), next_token), "bf16-mixed"),
        "gpt2-wide": (lambda: Training(torch.compile(Gpt(2048, 8, 16)), ids(8), next_token), "bf16-mixed"),
        "vit-b": (lambda: Training(Vit(), images(128), labels), "bf16-mixed"),
        "vit-b-sam": (lambda: Training(Vit(), images(128), labels, sam=True), "bf16-mixed"),
        "resnet50-bf16": (
            lambda: Training(resnet50().to(memory_format=last), images(128), labels),
            "bf16-mixed",
        ),
        "resnet50-tf32": (lambda: Training(resnet50().to(memory_format=last), images(128), labels), "32-true"),
        "experts": (
            lambda: Training(nn.Sequential(*[Experts() for _ in range(4)]), (torch.randn(16, 1024, 1024),), squares),
            "bf16-mixed",
        ),
        "lstm": (lambda: Training(Lstm(), (torch.randn(256, 128, 1024),), squares), "bf16-mixed"),
        "gnn": (lambda: Training(Gnn(), graph(), squares), "bf16-mixed"),
        "mamba": (
            lambda: Training(nn.Sequential(*[Mamba() for _ in range(8)]), (torch.randn(8, 1024, 1024),), squares),
            "bf16-mixed",
        ),
    }


class Until(pl.Callback):
    """Ends a training after so many seconds past the warm-up; it never waits for the device."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.began = seconds, math.inf

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= WARMUP_STEPS and self.began == math.inf:
            self.began = time.perf_counter()
        trainer.should_stop = time.perf_counter() - self.began > self.seconds


def train(make: Callable[[], Training], precision: str, seconds: float, folder: str) -> RunRecord:
    monitor = CostMonitor(save_dir=folder, infer=False)
    trainer = pl.Trainer(
        accelerator="gpu",
        devices=1,
        max_epochs=1,
        precision=precision,
        logger=False,
        log_every_n_steps=10,
        callbacks=[Until(seconds), monitor],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        trainer.fit(make())
    assert monitor.run is not None
    return monitor.run


def compared(run: RunRecord) -> dict[str, float | None]:
    """hfu, ofu and what is beside them, between the first reading past the warm-up and the last one."""
    points = run.points.filter(run.points["steps"] >= WARMUP_STEPS + 10)
    first, last = points.row(0, named=True), points.row(-1, named=True)

    def over(above: str, below: str) -> float | None:
        if first.get(above) is None or first.get(below) is None or last[below] == first[below]:
            return None
        return (last[above] - first[above]) / (last[below] - first[below])

    rate, peak = over("steady_flop", "steady_s"), last.get("peak_flop_per_s")
    clock = [c for c in points["sm_clock_hz"].to_list() if c is not None] if "sm_clock_hz" in points.columns else []
    return {
        "step_ms": 1e3 * (over("steady_s", "steps") or math.nan),
        "hfu": rate / peak if rate is not None and peak else None,
        "ofu": over("tensor_peak_s", "activity_s"),
        "tensor": over("tensor_active_s", "activity_s"),
        "sm": over("sm_active_s", "activity_s"),
        "dram": over("dram_active_s", "activity_s"),
        "clock_ghz": statistics.mean(clock) / 1e9 if clock else None,
        "peak_tflops": peak / 1e12 if peak else None,
        "throttled": over("throttled_s", "total_s"),
        "counted": len(run.header.get("opcount", {}) or {}),
    }


def shown(value: float | None, digits: int = 1, factor: float = 100.0) -> str:
    return "-" if value is None else f"{factor * value:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--only", nargs="+", help="names of trainings")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning_costs"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    import pynvml

    pynvml.nvmlInit()
    driver = pynvml.nvmlSystemGetDriverVersion()
    print(f"{torch.cuda.get_device_name()}, driver {driver}, torch {torch.__version__}, Lightning {pl.__version__}")
    print(f"{'training':20}{'ms a step':>10}{'hfu %':>8}{'ofu %':>8}{'gap':>7}{'tensor %':>10}{'SM %':>7}{'DRAM %':>8}"
          f"{'GHz':>6}{'peak TF':>9}{'throttled %':>12}")  # fmt: skip
    rows: dict[str, Any] = {}
    for name, (make, precision) in trainings().items():
        if args.only and name not in args.only:
            continue
        torch.manual_seed(1)
        with tempfile.TemporaryDirectory() as folder:
            try:
                run = train(make, precision, args.seconds, folder)
                row = compared(run)
                row["missing"] = {k: v for k, v in run.header["missing"].items() if k in ("flop", "tensor_active_s")}  # type: ignore[assignment]
            except Exception as error:  # noqa: BLE001 - one training that this torch cannot do leaves the others
                print(f"{name:20} {type(error).__name__}: {str(error)[:150]}")
                continue
        rows[name] = row
        gap = None if row["hfu"] is None or row["ofu"] is None else row["hfu"] - row["ofu"]
        print(f"{name:20}{row['step_ms']:10.2f}{shown(row['hfu']):>8}{shown(row['ofu']):>8}{shown(gap):>7}"
              f"{shown(row['tensor']):>10}{shown(row['sm']):>7}{shown(row['dram']):>8}"
              f"{shown(row['clock_ghz'], 2, 1):>6}{shown(row['peak_tflops'], 0, 1):>9}"
              f"{shown(row['throttled'], 0):>12}  {row['missing'] or ''}", flush=True)  # fmt: skip
        torch.cuda.empty_cache()
        torch._dynamo.reset()
    pairs = [(r["hfu"], r["ofu"]) for r in rows.values() if r["hfu"] is not None and r["ofu"] is not None]
    if len(pairs) > 2:
        gaps = [abs(a - b) for a, b in pairs]
        correlation = statistics.correlation([a for a, _ in pairs], [b for _, b in pairs])
        print(f"\n{len(pairs)} trainings: median gap {100 * statistics.median(gaps):.1f} points, largest "
              f"{100 * max(gaps):.1f}, correlation {correlation:.3f}")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
