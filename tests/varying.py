"""Trainings whose steps vary though the shapes of their batches do not, or vary without end; and the truth of each.

The truth is counted step by step in a training of the same seed without the package, by torch's FlopCounterMode.
"""

import random
from functools import partial

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

WIDTH, ROWS = 16, 8


class Varying(pl.LightningModule):
    """Twelve layers; `work` says what a step does with them.

    Args:
        work: Of the module, the batch and its index: the loss.
        seed: Of what varies at random.
    """

    def __init__(self, work, seed=0):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(12))
        self.head = nn.Linear(WIDTH, 4)
        self.work, self.chance, self.steps = work, random.Random(seed), 0

    def through(self, x, layers):
        for layer in layers:
            x = torch.tanh(layer(x))
        return x

    def training_step(self, batch, batch_idx):
        loss = self.work(self, batch, batch_idx)
        self.steps += 1
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.001)


def early_exit(m, x, n):
    depth = 1 + m.chance.randrange(12)
    return m.head(m.through(x, m.layers[:depth])).square().mean()


def layer_drop(m, x, n, share=0.3):
    kept = [layer for layer in m.layers if m.chance.random() > share]
    return m.head(m.through(x, kept)).square().mean()


def grows(m, x, n):
    depth = 1 + 11 * min(m.steps, 400) // 400
    return m.head(m.through(x, m.layers[:depth])).square().mean()


def look_at_first(m, x, n):
    if n == 0:
        with torch.no_grad():
            m.through(torch.randn(2000, WIDTH), m.layers)
    return m.head(m.through(x, m.layers)).square().mean()


def look_every_50(m, x, n):
    if m.steps % 50 == 0:
        m.head(m.through(torch.randn(500, WIDTH), m.layers)).mean().item()
    return m.head(m.through(x, m.layers)).square().mean()


def lazy_penalty(m, x, n, every=4):
    x = x.requires_grad_() * 1.0
    out = m.head(m.through(x, m.layers))
    loss = out.square().mean()
    if m.steps % every == 0:
        (grad,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        loss = loss + grad.square().mean()
    return loss


def expert_rows(m, x, n):
    """Each row goes to one of four experts at random; their rows vary, their sum does not: but only two train."""
    to = [m.chance.randrange(4) for _ in x]
    out = [
        m.through(x[[r for r, e in enumerate(to) if e == k]], m.layers[3 * k : 3 * k + 3 * (k % 2 + 1)])
        for k in range(4)
    ]
    return m.head(torch.cat(out)).square().mean()


def unpad(m, x, n):
    rows = x[: 1 + m.chance.randrange(ROWS)]
    return m.head(m.through(rows, m.layers)).square().mean()


def rare_and_long(m, x, n):
    rows = x if m.chance.random() > 0.2 else x.repeat(4, 1)
    return m.head(m.through(rows, m.layers)).square().mean()


def masked_loss(m, x, n):
    """The loss is over a random part of what is computed: the work is the same."""
    return m.head(m.through(x, m.layers))[: 1 + m.chance.randrange(ROWS)].clone().mul(2.0).square().mean()


def freezes(m, x, n, at=130):
    if m.steps == at:
        for layer in m.layers[:8]:
            layer.requires_grad_(False)
    return m.head(m.through(x, m.layers)).square().mean()


def thaws(m, x, n):
    if m.steps == 0:
        m.layers.requires_grad_(False)
    if m.steps == 170:
        m.layers.requires_grad_(True)
    return m.head(m.through(x, m.layers)).square().mean()


def teacher_from(m, x, n, at=10):
    loss = m.head(m.through(x, m.layers)).square().mean()
    if m.steps >= at:
        with torch.no_grad():
            target = m.through(x, m.layers)
        loss = loss + (m.through(x, m.layers) - target).square().mean()
    return loss


def silent_teacher(m, x, n):
    """From step 100 on a teacher runs, and nothing that autograd notes differs."""
    target = x
    if m.steps >= 100:
        with torch.no_grad():
            target = m.through(x, m.layers)
    return (m.through(x, m.layers) - target).square().mean()


def inner_steps(m, x, n):
    """Meta-learning: a random number of inner gradients."""
    loss = m.head(m.through(x, m.layers)).square().mean()
    for _ in range(m.chance.randrange(3)):
        torch.autograd.grad(m.head(m.through(x, m.layers)).sum(), list(m.head.parameters()))
    return loss


def recursion(m, x, n):
    """Adaptive computation: the same layer a random number of times."""
    for _ in range(1 + int(m.chance.expovariate(0.5))):
        x = torch.tanh(m.layers[0](x))
    return m.head(x).square().mean()


def resamples(m, x, n):
    """Rejection sampling under no_grad until something is accepted."""
    with torch.no_grad():
        while m.chance.random() < 0.5:
            m.through(x, m.layers)
    return m.head(m.through(x, m.layers)).square().mean()


def nothing_now_and_then(m, x, n):
    return None if m.chance.random() < 0.2 else m.head(m.through(x, m.layers)).square().mean()


def checkpoints_some(m, x, n):
    if m.chance.random() < 0.5:
        return m.head(checkpoint(m.through, x, m.layers, use_reentrant=False)).square().mean()
    return m.head(m.through(x, m.layers)).square().mean()


def curriculum(m, x, n):
    rows = x[: 1 + (ROWS - 1) * min(m.steps, 250) // 250]
    return m.head(m.through(rows, m.layers)).square().mean()


def two_losses(m, x, n):
    out = m.through(x, m.layers)
    loss = m.head(out).square().mean()
    return loss + (out @ out.T).mean() if m.chance.random() < 0.3 else loss


def fixed(m, x, n):
    return m.head(m.through(x, m.layers)).square().mean()


def lengths(seed):
    """Texts of ever new lengths, padded to the longest of their batch."""
    chance = random.Random(seed)
    return [torch.randn(4, 2 + int(chance.lognormvariate(4, 0.6)), WIDTH) for _ in range(100)]


def attends(m, x, n):
    x = m.through(x, m.layers[:6])
    return (
        m.head(x @ (x.transpose(1, 2) @ x)).square().mean()
        if x.shape[1] < 2
        else m.head((x @ x.transpose(1, 2)) @ x).square().mean()
    )


def graphs(seed):
    """Graphs of ever new numbers of nodes and edges."""
    chance = random.Random(seed)
    found = []
    for _ in range(100):
        nodes, edges = 5 + chance.randrange(200), 5 + chance.randrange(600)
        found.append({"x": torch.randn(nodes, WIDTH), "edge_index": torch.randint(nodes, (2, edges))})
    return found


def passes_messages(m, batch, n):
    x, (source, target) = batch["x"], batch["edge_index"]
    x = m.through(x, m.layers[:3])
    sent = m.layers[4](x[source])
    return m.head(x.index_add(0, target, sent)).square().mean()


def of_rows(seed):
    return [torch.randn(ROWS, WIDTH) for _ in range(100)]


#: Name: what a step does, and what the loader gives.
TRAININGS = {
    "early exit at random": (early_exit, of_rows),
    "layer drop": (layer_drop, of_rows),
    "layers added in training": (grows, of_rows),
    "a look at 2,000 samples in an epoch's first batch": (look_at_first, of_rows),
    "a look every 50 steps": (look_every_50, of_rows),
    "lazy gradient penalty": (lazy_penalty, of_rows),
    "lazy gradient penalty, every 16": (partial(lazy_penalty, every=16), of_rows),
    "expert rows that vary": (expert_rows, of_rows),
    "unpadding by lengths": (unpad, of_rows),
    "one in five steps four times as long": (rare_and_long, of_rows),
    "freezing in mid-epoch": (freezes, of_rows),
    "thawing in mid-epoch": (thaws, of_rows),
    "a teacher from step 10 on": (teacher_from, of_rows),
    "a silent teacher from step 100 on": (silent_teacher, of_rows),
    "inner gradients, a random number": (inner_steps, of_rows),
    "adaptive computation": (recursion, of_rows),
    "rejection sampling": (resamples, of_rows),
    "steps that return None": (nothing_now_and_then, of_rows),
    "checkpointing at random": (checkpoints_some, of_rows),
    "curriculum of growing rows": (curriculum, of_rows),
    "a second loss at random": (two_losses, of_rows),
    "lengths without end": (attends, lengths),
    "graphs without end": (passes_messages, graphs),
    "a loss over a part at random": (masked_loss, of_rows),
    "nothing varies": (fixed, of_rows),
}


class EveryStep(pl.Callback):
    """Counts every step by torch's own counter."""

    def __init__(self):
        self.flop = 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.mode = FlopCounterMode(display=False)
        self.mode.__enter__()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.mode.__exit__(None, None, None)
        self.flop += self.mode.get_total_flops()


def train(name, callbacks, *, epochs=3, seed=0, **trainer):
    """Train one of them; the module is returned."""
    work, data = TRAININGS[name]
    torch.manual_seed(seed)
    module = Varying(work, seed)
    fit = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer,
    )
    fit.fit(module, DataLoader(data(seed), batch_size=None))
    return module


def true_flop(name, **options):
    """What all its steps cost."""
    counter = EveryStep()
    train(name, [counter], **options)
    return counter.flop
