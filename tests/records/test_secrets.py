"""What a header must not hold, by name and by look, and what it must."""

from __future__ import annotations

import base64
import json
import math
import secrets
import uuid
from argparse import Namespace
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_costs.records.hyperparameters import plain_hyperparameters, seeds_among
from lightning_costs.records.secrets import is_secret_name, looks_secret, without_homes

SECRET_NAMES = """api_key apiKey API_KEY wandb_api_key openai_key hf_token HF_TOKEN accessToken access_token token
    auth_token auth authorization secret client_secret clientSecret password passwd db_password PASSWORD passphrase
    pwd credentials gcp_credentials aws_secret_access_key AWS_ACCESS_KEY_ID private_key ssh_key bearer cookie jwt dsn
    webhook_url connection_string db.password logger.api_key key session-token x_api_key sas_token licenseKey""".split()
SETTINGS = """lr learning_rate depth width max_epochs tokenizer tokenizer_name keypoints monkey batch_size
    weight_decay n_layer turkey authored hockey passes_per_epoch compass keyframe_rate activation bypass""".split()
NUMBERS = """max_tokens num_tokens tokens key_dim n_keys pad_token_id token_dropout tokens_per_batch num_keys
    context_tokens qk_key_size user_count num_users auth_heads vocab_tokens keys""".split()
# None of them opens anything: each has the form of its kind.
SECRETS = [
    "hf_" + "aBcD1234" * 4,
    "sk-" + "proj-" + "a1B2" * 10,
    "ghp_" + "aB3d" * 9,
    "github" + "_pat_11ABCDEFG0" + "x" * 20,
    "glpat-" + "abcdEFGH1234",
    "xox" + "b-123456789012-abcdefghijkl",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "AIza" + "SyA1234567890abcdefghijk",
    "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxIn0.c2ln",
    "pypi-" + "AgEIcHlwaS5vcmc",
    "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE",
    "Bearer " + "abcdef123456",
    "postgres://ada:lovelace@db.example/runs",
    "https://0123456789abcdef@sentry.example/7",
    "https://bucket.example/x?X-Amz-Signature=abc&sig=def",
    "s3://bucket/data?token=abc",
    "python train.py --api-key abc123",
    "password=hunter2",
    "DB_PASSWORD: hunter2",
    "AccountKey=abc==;EndpointSuffix=core",
    "ada@example.org",
    "0123456789abcdef0123456789abcdef01234567",
    "123e4567-e89b-12d3-a456-426614174000",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
]
TEXTS = """adamw cosine resnet50_fpn_v2_coco_pretrained meta-llama/Llama-3.1-8B-Instruct facebook/opt-125m bf16-mixed
    https://huggingface.co/datasets/ylecun/mnist s3://bucket/datasets/imagenet21k/train
    ViT-B-16-SigLIP2-256x256-L14-336px
    MyVeryLongLightningModuleNameOfTheFifth data/train-00001-of-00128.parquet epoch=10-step=4000.ckpt
    torch.optim.lr_scheduler.CosineAnnealingWarmRestarts 2026-01-02T03:04:05 gelu_pytorch_tanh
    sentence-transformers/paraphrase-multilingual-mpnet-base-v2 EleutherAI/pythia-1.4b-deduped""".split()


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_is_left_out_by_its_name(name):
    assert is_secret_name(name, "abc")
    assert plain_hyperparameters({name: "abc", "lr": 0.1}) == {"lr": 0.1}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_kept_by_its_name(name):
    assert plain_hyperparameters({name: "abc"}) == {name: "abc"}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_count_is_no_secret_whatever_it_counts(name):
    assert plain_hyperparameters({name: 7}) == {name: 7}


def test_a_number_is_a_secret_where_only_a_secret_has_that_name():
    assert plain_hyperparameters({"password": 1234, "token": 1234, "api_key": 1234, "pwd": 1.5}) == {}


@pytest.mark.parametrize("text", SECRETS, ids=range(len(SECRETS)))
def test_a_secret_is_left_out_by_its_look(text):
    assert looks_secret(text)
    assert plain_hyperparameters({"x": text, "y": [1, text], "z": {"a": (text,)}, text: 1}) == {}


@pytest.mark.parametrize("text", TEXTS)
def test_a_name_of_a_model_a_file_or_a_class_is_no_secret(text):
    assert plain_hyperparameters({"x": text}) == {"x": text}


@settings(derandomize=True)  # one key of some thousands reads as a name
@given(st.binary(min_size=24, max_size=64), st.sampled_from(["hex", "base64", "urlsafe", "uuid"]))
def test_a_random_key_is_known_by_its_look_in_whatever_form(seed, form):
    import random

    drawn = random.Random(seed).randbytes(32)
    text = {
        "hex": drawn.hex(),
        "base64": base64.b64encode(drawn).decode(),
        "urlsafe": base64.urlsafe_b64encode(drawn).decode().rstrip("="),
        "uuid": str(uuid.UUID(bytes=drawn[:16])),
    }[form]
    assert looks_secret(text)
    assert looks_secret(f"key is {text}, keep it")
    assert json.dumps(plain_hyperparameters({"x": text, "lr": 1})) == '{"lr": 1}'


def test_nearly_every_key_that_python_makes_is_known():
    keys = [make(32) for _ in range(500) for make in (secrets.token_hex, secrets.token_urlsafe)]
    assert sum(not looks_secret(key) for key in keys) <= 3


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300) | st.binary(max_size=3),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=20,
    )
)
def test_whatever_is_given_the_header_gets_plain_values_that_json_holds(value):
    found = plain_hyperparameters({"x": value})
    assert all(isinstance(item, str | int | float | bool | None) for item in found.values())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert all(len(item) <= 260 for item in found.values() if isinstance(item, str))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ada/data", "…/data"),
        ("/home/ada", "~"),
        ("/Users/ada/x/y.ckpt", "…/y.ckpt"),
        (r"C:\Users\ada\data", "…/data"),
        ("~ada/data", "…/data"),
        ("/scratch/ada/run/1", "…/1"),
        ("--data /home/ada/data", "--data ~/data"),
        ("file:///home/ada/x", "file://~/x"),
        ("data/home/x", "data/home/x"),
        ("a/b", "a/b"),
        ("/", "/"),
    ],
)
def test_a_path_names_nobody(text, shown):
    assert without_homes(text) == shown


class Act(Enum):
    GELU = 1


@dataclass
class Config:
    lr: float
    password: str


def test_what_is_no_plain_value_is_given_by_its_type_and_never_asked_for_its_text():
    class Net:
        def __repr__(self):
            raise AssertionError

    found = plain_hyperparameters(
        Namespace(
            net=Net(), act=Act.GELU, fn=math.sqrt, kind=Net, at=Path("a/b"), half=torch.bfloat16, many=list(range(999)),
            one=np.float32(0.5), tensor=torch.zeros(2), big=10**40, inf=math.inf, config=Config(0.1, "x"), none=None,
            empty={}, raw=b"x", _own=1,
        )
    )  # fmt: skip
    assert found == {
        "net": "<Net>", "act": "GELU", "fn": "sqrt", "kind": "Net", "at": "a/b", "half": "torch.bfloat16",
        "many": "<list of 999>", "one": 0.5, "tensor": "<Tensor>", "big": "<int of 133 bits>", "inf": "inf",
        "config.lr": 0.1, "none": None, "empty": "{}", "raw": "<bytes>",
    }  # fmt: skip


def test_settings_that_hold_themselves_end():
    loop: dict[str, object] = {"lr": 0.1}
    loop["self"] = loop
    assert plain_hyperparameters(loop)["self.self.lr"] == 0.1


def test_seeds_are_found_by_name():
    assert seeds_among({"seed": 1, "data.seed": 2, "split_seed": "3", "seeds": "x", "seed_all": 4, "lr": 5}) == {
        "seed": 1,
        "data.seed": 2,
        "split_seed": 3,
    }
