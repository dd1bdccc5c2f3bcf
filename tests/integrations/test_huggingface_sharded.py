"""Trainer and Accelerate under DDP, ZeRO and FSDP: one training costs the same operations, and holds its own memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")
pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate")
pytestmark = [pytest.mark.slow, pytest.mark.integration]

#: Accelerate shards on a CPU if its state has several processes before it asks for a plugin, and by FSDP only if these
#: have GPUs, as it is made to believe. FSDP's first version refuses the CPU's device. Seen on Accelerate 1.15.
SETUP = """
import json, os, sys
os.environ["DS_ACCELERATOR"] = "cpu"
kind, accumulate, steps, resume = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] or None
if kind.startswith("zero"):
    import deepspeed, deepspeed.ops
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
import accelerate, torch
from accelerate.utils import DistributedType
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
torch.set_num_threads(1)
state = accelerate.PartialState(cpu=True, backend="gloo")
if kind.startswith("fsdp"):
    begin = accelerate.state.AcceleratorState.__init__
    def __init__(self, *args, **kwargs):
        if not accelerate.state.AcceleratorState._shared_state:
            accelerate.PartialState(cpu=True, backend="gloo")
            accelerate.PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        begin(self, *args, **kwargs)
    accelerate.state.AcceleratorState.__init__ = __init__
torch.manual_seed(0)
data = [{"input_ids": torch.arange(12) + n, "labels": torch.arange(12) + n} for n in range(32)]
config = GPT2Config(vocab_size=50, n_positions=12, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
model = GPT2LMHeadModel(config)
groups = [{"params": [p for p in model.parameters() if (p.ndim > 1) == many]} for many in (True, False)]
zero = {"zero_optimization": {"stage": int(kind[-1]), "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False, "gradient_clipping": 1.0,
        "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": accumulate} if kind[:4] == "zero" else None

def said(run, **more):
    if state.is_main_process:
        setup = {name: run.header["setup"].get(name) for name in ("strategy", "zero_stage")}
        trained = run.points.filter(run.points["trigger"] == "train")["param_bytes"].to_list()
        facts = {"attempts": len(run.header["attempts"]), "trained_param_bytes": trained[1], **setup, **more}
        whole = {"heard": run.header["ranks"]["heard"], "status": run.header["status"], **run.final, **facts}
        print(json.dumps(whole))
"""
TRAINER = """
from lightning_costs.integrations.huggingface import CostCallback
fsdp = {"fsdp": "full_shard auto_wrap",
        "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["GPT2Block"]}}
args = TrainingArguments(
    "out", per_device_train_batch_size=2, per_device_eval_batch_size=2, num_train_epochs=2, max_steps=steps,
    use_cpu=True, logging_steps=2, report_to="none", save_strategy="steps", save_steps=4, disable_tqdm=True,
    eval_strategy="epoch", gradient_accumulation_steps=accumulate, deepspeed=zero,
    **(fsdp if kind.startswith("fsdp") else {}))
own = CostCallback(save_dir="costs", infer=False)
loading = []
if zero:
    load = deepspeed.DeepSpeedEngine.load_checkpoint
    deepspeed.DeepSpeedEngine.load_checkpoint = lambda *args, **kwargs: (
        loading.append(own._accounts.current), load(*args, **kwargs))[1]
Trainer(model, args, train_dataset=data, eval_dataset=data[:8], callbacks=[own]).train(resume_from_checkpoint=resume)
if state.is_main_process:
    said(own.run, loading=loading)
"""
LOOP = """
from accelerate import Accelerator, DeepSpeedPlugin, FullyShardedDataParallelPlugin
from lightning_costs.integrations.huggingface import measure_accelerator
plugins = {"deepspeed_plugin": DeepSpeedPlugin(hf_ds_config=zero)} if zero else {}
if zero:
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
if kind.startswith("fsdp"):
    plugins = {"fsdp_plugin": FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["GPT2Block"])}
accelerator = Accelerator(gradient_accumulation_steps=accumulate, **plugins)
costs = measure_accelerator(accelerator, save_dir="costs", infer=False, log_every_n_steps=2)
loaders = [torch.utils.data.DataLoader(rows, 2) for rows in (data, data[:8])]
optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.0)
model, optimizer, train, held_out = accelerator.prepare(model, optimizer, *loaders)
for epoch in range(2):
    model.train()
    for batch in train:
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch).loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        for batch in held_out:
            model(**batch)
accelerator.end_training()
said(costs.run)
"""
#: What is the same however the model is sharded. Parameters in shards are read before the first evaluation: it leaves
#: them gathered until the next step.
SAME = (
    *("samples", "tokens", "steps", "optimizer_steps", "batches", "epochs", "params", "trainable_params"),
    *("flop", "model_flop", "mac", "forward_flop", "evaluate_flop", "status", "heard"),
)
PARAMS = 7584
_seen: dict[tuple[str, str, int], dict[str, Any]] = {}


def trained(
    folder: Path, loop: str, kind: str, accumulate: int, *, steps: int = -1, resume: str = ""
) -> dict[str, Any]:
    script = folder / "train.py"
    script.write_text(SETUP + loop)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    done = subprocess.run(
        [*launch, kind, str(accumulate), str(steps), resume],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "measuring costs failed" not in done.stderr
    said: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"heard')))
    return said


@pytest.mark.parametrize(
    ("loop", "accumulate", "kind"),
    [(TRAINER, 1, "zero1"), (TRAINER, 1, "zero3"), (TRAINER, 1, "fsdp2"), (LOOP, 2, "zero2"), (LOOP, 2, "fsdp2")],
    ids=["trainer-zero1", "trainer-zero3", "trainer-fsdp2", "loop-zero2", "loop-fsdp2"],
)
def test_a_model_that_is_sharded_costs_what_a_replicated_one_does_and_holds_less(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, loop: str, accumulate: int, kind: str
) -> None:
    if kind.startswith("zero"):
        pytest.importorskip("deepspeed", reason="deepspeed is not installed: pip install 'lightning-costs[deepspeed]'")
    if (loop, "ddp", accumulate) not in _seen:
        _seen[loop, "ddp", accumulate] = trained(tmp_path_factory.mktemp("ddp"), loop, "ddp", accumulate)
    plain, sharded = _seen[loop, "ddp", accumulate], trained(tmp_path, loop, kind, accumulate)
    assert {name: sharded[name] for name in SAME} == {name: plain[name] for name in SAME}
    assert (plain["steps"], plain["samples"], plain["status"], plain["heard"]) == (16 / accumulate, 64, "finished", 2)
    assert sharded["strategy"] == ("deepspeed" if kind.startswith("zero") else "fsdp")
    whole, stage = 4 * PARAMS, int(kind[-1]) if kind.startswith("zero") else None
    assert sharded["zero_stage"] == stage
    kinds = ("trained_param_bytes", "master_bytes", "opt_state_bytes")
    assert [plain[name] / whole for name in kinds] == pytest.approx([2, 0, 4], rel=0.01)
    expected = {None: [1, 0, 2], 1: [2, 1, 2], 2: [2, 1, 2], 3: [1, 1, 2]}[stage]
    assert [sharded[name] / whole for name in kinds] == pytest.approx(expected, rel=0.01)
    assert plain["grad_bytes"] == 2 * whole
    assert sharded["grad_bytes"] >= whole  # what the optimizer takes; ZeRO's lie between backward pass and update


def test_a_training_of_an_engine_that_resumes_continues_its_totals_and_books_loading(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed: pip install 'lightning-costs[deepspeed]'")
    trained(tmp_path, TRAINER, "zero2", 1, steps=8)
    second = trained(tmp_path, TRAINER, "zero2", 1, steps=8, resume=str(tmp_path / "out" / "checkpoint-4"))
    assert [second[name] for name in ("attempts", "steps", "samples", "lost_samples")] == [2, 12, 48, 16]
    assert second["loading"] == ["restore"]
