"""What CostMonitor adds to the start and the end of a process, and to its memory.

Fresh processes train two steps, in turn without and with a monitor. Shown are the medians of their differences, each
between two processes that ran one after the other, with the quartiles: seconds of the whole process, of importing,
of `setup` (where the probes open), of the end of the fit, and the most memory that the process held.

    python benchmarks/startup.py [--rounds 10] [--namespace lightning.pytorch]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

TRAINING = """
import json, logging, resource, sys, time, warnings
warnings.filterwarnings("ignore")
import torch
from torch.utils.data import DataLoader
import {namespace} as pl
logging.getLogger("{namespace}").setLevel(logging.ERROR)
took_s = {{}}

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(32, 2)
    def training_step(self, batch, index):
        return self.net(batch).sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
    def on_train_start(self):
        took_s["to the first step"] = time.perf_counter() - began_s

began_s = time.perf_counter()
callbacks = []
if {monitor}:
    from lightning_costs import CostMonitor
    callbacks = [CostMonitor(infer=False)]
took_s["import and making it"] = time.perf_counter() - began_s
trainer = pl.Trainer(
    max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, callbacks=callbacks,
)
model, data = Model(), DataLoader(torch.ones(16, 32), batch_size=8)
began_s = time.perf_counter()
trainer.fit(model, data)
took_s["fit"] = time.perf_counter() - began_s
took_s["after the first step"] = took_s["fit"] - took_s["to the first step"]
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({{**took_s, "MiB": memory / 2**20}}))
"""


def once(namespace: str, monitor: bool) -> dict[str, float]:
    """One process."""
    with tempfile.TemporaryDirectory() as folder:
        began_s = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", TRAINING.format(namespace=namespace, monitor=monitor)],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        took_s = time.perf_counter() - began_s
    return {"whole process": took_s, **json.loads(done.stdout.strip().splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--namespace", default="lightning.pytorch", choices=["lightning.pytorch", "pytorch_lightning"])
    options = parser.parse_args()
    once(options.namespace, True)  # fills the caches of both
    pairs = [(once(options.namespace, False), once(options.namespace, True)) for _ in range(options.rounds)]
    print(f"{options.namespace}, {options.rounds} pairs of processes: without, with, difference (quartiles)")
    for name in pairs[0][0]:
        without, with_it = (statistics.median(pair[which][name] for pair in pairs) for which in (0, 1))
        low, middle, high = statistics.quantiles([b[name] - a[name] for a, b in pairs], n=4)
        unit = "" if name == "MiB" else " s"
        print(f"{name:22}{without:9.3f}{unit}{with_it:9.3f}{unit}{middle:+9.3f}{unit} ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    main()
