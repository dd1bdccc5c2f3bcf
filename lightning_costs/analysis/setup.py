"""What the setups of runs have in common and what they differ in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lightning_costs.analysis.schema import Plain, Setups

#: What stands before a hyperparameter's name in a setup.
HYPERPARAMETERS = "hyperparameters."
#: Names of what a training results in; they stand last in a column's name: 'val/loss', 'final_top1_acc', 'hits@10'.
_MEASURES = frozenset(
    "loss nll elbo ppl perplexity bpb bpc acc accuracy top1 top5 err error f1 fscore auc auroc auprc recall miou "
    "dice mcc mse rmse mae mape r2 psnr ssim lpips fid bleu rouge meteor wer cer ndcg mrr hits score".split()
)
#: Words that make a setting of a measure's name: what is to be reached is chosen before the training.
_CHOSEN = frozenset("target goal threshold tol tolerance".split())
_WORDS = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")


def is_outcome(name: str, value: object) -> bool:
    """Whether a fact of a run is what its training resulted in, by its name, and so no setting.

    Example:
        >>> [is_outcome(name, "0.31") for name in ("loss", "hyperparameters.final_val_loss", "testAcc", "acc@1", "F1")]
        [True, True, True, True, True]
        >>> [is_outcome(name, "0.31") for name in ("loss_weight", "target_loss", "glosses", "lr", "depth")]
        [False, False, False, False, False]
        >>> is_outcome("loss", "focal"), is_outcome("score", True), is_outcome("loss", None)
        (False, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    words = [word.lower() for word in _WORDS.findall(name)]
    while len(words) > 1 and words[-1].isdigit():  # 'acc@1', 'loss.0'
        words.pop()
    return bool(words) and words[-1] in _MEASURES and not _CHOSEN.intersection(words)


def setting_named(setup: Mapping[str, Plain], name: str) -> Plain:
    """A setting by its name, that of a hyperparameter alone too; None if there is none.

    Example:
        >>> setting_named({"devices": 1, "hyperparameters.depth": 4}, "depth")
        4
    """
    return setup[name] if setup.get(name) is not None else setup.get(HYPERPARAMETERS + name)


def flatten(setup: Mapping[str, object], prefix: str = "") -> dict[str, Plain]:
    """A nested setup as one level, keys joined by dots, entries of a list of tables by number.

    What is no plain value even then is written as JSON.

    Example:
        >>> flatten({"devices": {"count": 8, "names": ["H100"]}, "precision": "bf16"})
        {'devices.count': 8, 'devices.names': '["H100"]', 'precision': 'bf16'}
    """
    flat: dict[str, Plain] = {}
    for key, value in setup.items():
        name = f"{prefix}{key}"
        if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif value is None or isinstance(value, str | int | float | bool):
            flat[name] = value
        else:
            flat[name] = json.dumps(value, sort_keys=True, default=str)
    return flat


def run_settings(header: Mapping[str, Any]) -> dict[str, Plain]:
    """A run's hyperparameters and setup as one level.

    Example:
        >>> run_settings({"hyperparameters": {"lr": 0.1}, "setup": {"hardware": {"cpu": "EPYC"}}})
        {'hyperparameters.lr': 0.1, 'hardware.cpu': 'EPYC'}
    """
    return flatten(header.get("hyperparameters") or {}, "hyperparameters.") | flatten(header.get("setup") or {})


def split_setups(setups: Mapping[str, Mapping[str, Plain]]) -> Setups:
    """Split flattened setups into what is the same for every run and what differs.

    Args:
        setups: By run label. A key that a run does not have is None there, and differs from any value.

    Example:
        >>> split_setups({"a": {"precision": "32", "devices": 1}, "b": {"precision": "16", "devices": 1}})
        {'same': {'devices': 1}, 'different': {'precision': {'a': '32', 'b': '16'}}}
    """
    keys = sorted({key for setup in setups.values() for key in setup})
    same: dict[str, Plain] = {}
    different: dict[str, dict[str, Plain]] = {}
    for key in keys:
        values = {label: setup.get(key) for label, setup in setups.items()}
        first, *others = values.values()
        # 1 and True are equal in Python; a batch size of 1 and a switch that is on are not the same.
        if all(json.dumps(other) == json.dumps(first) for other in others):
            same[key] = first
        else:
            different[key] = values
    return {"same": same, "different": different}
