"""A plain DeepSpeed loop, measured: no Lightning, any number of processes, ZeRO stage and accumulation as you say.

Trains an MLP on the handwritten digits that ship with scikit-learn. On CPUs or GPUs, by either launcher:

    torchrun --nproc_per_node 2 examples/deepspeed_digits.py --stage 2
    deepspeed --num_gpus 2 examples/deepspeed_digits.py --stage 3 --bf16

    DS_ACCELERATOR=cpu deepspeed --num_accelerators 2 examples/deepspeed_digits.py

then `lightning-costs show costs/<run id>`. To make it yours, change `digits` (the data) and the network.
"""

from __future__ import annotations

import argparse
import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before deepspeed is imported

import deepspeed
import deepspeed.ops
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_costs import Recorder
from lightning_costs.integrations.deepspeed import watch

BATCH_SIZE = 32


def digits() -> tuple[TensorDataset, TensorDataset]:
    """8x8 grey images of digits: 1,437 to train on, 360 to validate on."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, held_out = order[:1437], order[1437:]
    return TensorDataset(x[train], y[train]), TensorDataset(x[held_out], y[held_out])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", type=int, default=2, choices=(0, 1, 2, 3))
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--save-dir", default="costs")
    parser.add_argument("--local_rank", type=int, help="from DeepSpeed's launcher")
    args = parser.parse_args()

    if os.environ.get("DS_ACCELERATOR") == "cpu":  # else DeepSpeed compiles a collective for a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed("gloo")
    else:
        deepspeed.init_distributed()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 10))
    engine, *_ = deepspeed.initialize(
        model=net,
        optimizer=torch.optim.AdamW(net.parameters(), lr=2e-3),  # torch's own: nothing is compiled
        config={
            "train_micro_batch_size_per_gpu": BATCH_SIZE,
            "gradient_accumulation_steps": args.accumulate,
            "zero_optimization": {"stage": args.stage, "reduce_bucket_size": 1_000_000},
            "bf16": {"enabled": args.bf16},
        },
    )
    train_set, held_out = digits()
    sampler = DistributedSampler(train_set, drop_last=True)
    loader = DataLoader(train_set, BATCH_SIZE, sampler=sampler, drop_last=True)
    dtype = torch.bfloat16 if args.bf16 else torch.float32

    def accuracy() -> float:
        engine.eval()
        with torch.no_grad():
            x, y = (tensor.to(engine.device) for tensor in held_out.tensors)
            right = (engine(x.to(dtype)).argmax(1) == y).float().mean()
        engine.train()
        return float(right)

    recorder = Recorder(
        module=engine.module, name="digits", monitor="val/acc", mode="max", save_dir=args.save_dir,
        dataset_samples=len(train_set), log_every_n_steps=10,
    )  # fmt: skip
    with recorder, watch(engine, recorder):
        for epoch in range(args.epochs):
            sampler.set_epoch(epoch)
            for x, y in recorder.wrap_loader(loader):
                with recorder.h2d_transfer():
                    x, y = x.to(engine.device, dtype), y.to(engine.device)
                loss = nn.functional.cross_entropy(engine(x).float(), y)
                engine.backward(loss)
                engine.step()
            recorder.epoch_done()
            with recorder.bucket("evaluate"):
                quality = {"val/acc": accuracy()}
            recorder.log_metrics(quality)
    if engine.global_rank == 0:
        print(f"val/acc {quality['val/acc']:.3f}")
        print(f"next: lightning-costs show {recorder.path}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
