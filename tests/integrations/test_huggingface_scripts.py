"""`lightning-costs run` around scripts as transformers' examples are written, and around TRL's own, unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_costs import load_runs

pytest.importorskip("datasets", reason="datasets is not installed: pip install datasets")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")
pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.filterwarnings("default")]

#: After examples/pytorch/language-modeling/run_clm.py: arguments by HfArgumentParser, a text file by `load_dataset`,
#: tokens in blocks by `map`, training that resumes, metrics and state saved, evaluation at the end.
CAUSAL = """
import math, os, sys
from dataclasses import dataclass, field
from itertools import chain
from datasets import load_dataset
from transformers import (AutoConfig, AutoModelForCausalLM, AutoTokenizer, HfArgumentParser, Trainer,
                          TrainingArguments, default_data_collator, set_seed)

@dataclass
class DataArguments:
    train_file: str = field(default=None)
    tokenizer_name: str = field(default=None)
    block_size: int = field(default=16)

def main():
    data_args, training_args = HfArgumentParser((DataArguments, TrainingArguments)).parse_args_into_dataclasses()
    set_seed(training_args.seed)
    raw = load_dataset("text", data_files={"train": data_args.train_file})["train"].train_test_split(0.2, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(data_args.tokenizer_name)
    tokens = raw.map(lambda rows: tokenizer(rows["text"]), batched=True, remove_columns=["text"])
    def blocks(rows):
        joined = {name: list(chain(*rows[name])) for name in rows}
        whole = len(joined["input_ids"]) // data_args.block_size * data_args.block_size
        cut = {name: [ids[at:at + data_args.block_size] for at in range(0, whole, data_args.block_size)]
               for name, ids in joined.items()}
        cut["labels"] = cut["input_ids"].copy()
        return cut
    tokens = tokens.map(blocks, batched=True)
    config = AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), n_positions=16, n_embd=16, n_layer=1, n_head=2)
    model = AutoModelForCausalLM.from_config(config)
    trainer = Trainer(model=model, args=training_args, train_dataset=tokens["train"], eval_dataset=tokens["test"],
                      processing_class=tokenizer, data_collator=default_data_collator)
    result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    metrics = trainer.evaluate()
    metrics["perplexity"] = math.exp(metrics["eval_loss"])
    trainer.save_metrics("eval", metrics)
    trainer.create_model_card(tasks="text-generation")

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, a model and texts, so that no hub is asked."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("local")
    words = [f"w{number}" for number in range(50)]
    vocabulary = {word: number for number, word in enumerate(["<eos>", "<unk>", *words])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="<eos>", unk_token="<unk>", pad_token="<eos>"
    )
    config = transformers.GPT2Config(
        vocab_size=52, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    texts = [" ".join(words[(at + number) % 50] for number in range(12)) for at in range(80)]
    (folder / "train.txt").write_text("\n".join(texts) + "\n")
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def under_run(folder: Path, *command: str) -> Any:
    ours = [sys.executable, "-m", "lightning_costs", "run", "--save-dir", str(folder / "costs"), "--"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "WANDB_MODE": "disabled"}
    done = subprocess.run(
        [*ours, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


OPTIONS = ("--output_dir", "out", "--report_to", "none", "--use_cpu", "--per_device_train_batch_size", "4")


def test_a_causal_language_model_trains_resumes_and_evaluates(tmp_path: Path, local: Path) -> None:
    (tmp_path / "run_clm.py").write_text(CAUSAL)
    given = ("--train_file", str(local / "train.txt"), "--tokenizer_name", str(local / "model"))
    command = (sys.executable, "run_clm.py", *given, *OPTIONS, "--eval_strategy", "epoch")
    under_run(tmp_path, *command, "--num_train_epochs", "1", "--save_strategy", "epoch")
    (run,) = load_runs(tmp_path / "costs")
    steps = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"]
    assert (run.header["status"], run.final["steps"], run.header["script"]) == ("finished", steps, "run_clm.py")
    assert run.final["tokens"] == 16 * run.final["samples"]
    assert run.final["flop"]
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    under_run(tmp_path, *command, "--num_train_epochs", "2", "--resume_from_checkpoint", str(checkpoint))
    (run,) = load_runs(tmp_path / "costs")
    assert (len(run.header["attempts"]), run.final["steps"]) == (2, 2 * steps)


def test_trls_own_script_is_measured(tmp_path: Path, local: Path) -> None:
    pytest.importorskip("trl", reason="trl is not installed: pip install trl")
    data = ("--dataset_name", str(local / "data"), "--dataset_text_field", "text", "--max_length", "16")
    model = ("--model_name_or_path", str(local / "model"), "--dtype", "float32")
    more = ("--max_steps", "6", "--bf16", "False", "--save_strategy", "no")
    under_run(tmp_path, sys.executable, "-m", "trl.scripts.sft", *model, *data, *OPTIONS, *more)
    (run,) = load_runs(tmp_path / "costs")
    assert (run.header["status"], run.final["steps"], run.final["samples"]) == ("finished", 6.0, 24.0)
    assert run.header["setup"]["trainer"] == "SFTTrainer"
    assert run.final["flop"]
