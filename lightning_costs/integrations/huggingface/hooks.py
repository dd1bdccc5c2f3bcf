"""A transformers Trainer seen from outside: its callbacks see no batch, so its own methods report what happens.

Everything is an instance shadow, lifted when the training ends. Seen on transformers 5.24.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Literal, Protocol, final

from lightning_costs.integrations.deepspeed.engine import engine_setup
from lightning_costs.patching.frames import method_owner
from lightning_costs.patching.optimizers import Sampling, hook_optimizer_step
from lightning_costs.patching.patches import Patches
from lightning_costs.records.hyperparameters import Plain, plain_hyperparameters

#: Settings of outputs and of how they are shown, which distinguish no training from another.
_NO_HYPERPARAMETERS = ("_dir", "run_name", "hub_", "push_to_hub", "report_to", "project", "disable_tqdm", "log_level")


class TrainerListener(Sampling, Protocol):
    """Receives the events of a training; `lightning_costs.integrations.huggingface.session` implements it."""

    def batch_begins(self, batch: object) -> None:
        """Forward and backward passes of a batch begin."""

    def on_backward(self, loss: object = None) -> None:
        """A backward pass begins."""

    def on_backward_end(self) -> None:
        """It is over."""

    def drop_batch(self) -> None:
        """Something in a batch raised."""

    def evaluated_batch_begins(self, batch: object) -> None:
        """A batch of an evaluation begins."""

    def evaluated_batch_ends(self, *, raised: bool = False) -> None:
        """Its work is done, or raised."""

    def fetched(self, batches: int, wanted: int) -> None:
        """`batches` of the `wanted` ones that an optimizer step takes could be fetched."""

    def before_saving(self) -> None:
        """A checkpoint is about to be written."""

    def enter(self, account: str) -> int | None:
        """Time goes to an account from now on."""

    def leave(self, depth: int | None) -> None:
        """Time goes to the account before."""

    def row(self, logs: Mapping[str, Any]) -> Mapping[str, float]:
        """Costs that join these logs in trackers."""

    def disable(self) -> None:
        """Called when an exception of the package is handled: the training is to be left alone."""


@final
class TrainerHooks:
    """Reports to a listener what happens in a Trainer.

    Args:
        trainer: The Trainer.
        listener: Receives the reports.
    """

    def __init__(self, trainer: Any, listener: TrainerListener) -> None:
        self._trainer, self._listener = trainer, listener
        self._shadows = Patches(listener.disable)
        self._watching = False

    def watch(self, *, rows: bool) -> None:
        """Put the shadows.

        Args:
            rows: Whether costs join the rows of trackers.
        """
        trainer, put, self._watching = self._trainer, self._shadows.wrap, True
        put(trainer, "get_batch_samples", self._fetching)
        put(trainer, "training_step", self._training, hot=True)
        put(trainer, "prediction_step", self._predicting)
        put(trainer, "evaluate", self._in_account("evaluate"))
        put(trainer, "_save_checkpoint", self._saving)
        put(engine_of(trainer.accelerator) or trainer.accelerator, "backward", self._backward, hot=True)
        if trainer.optimizer is not None:
            hook_optimizer_step(trainer.optimizer, _nothing, self._shadows, self._listener)
        for callback in trainer.callback_handler.callbacks if rows else ():
            if takes_rows(callback):
                put(callback, "on_log", self._joined)

    def unwatch(self) -> None:
        """Lift the shadows; the listener receives nothing more."""
        self._watching = False
        self._shadows.restore()

    def _fetching(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_batch_samples(epoch_iterator: Any, num_batches: int, *args: Any, **kwargs: Any) -> Any:
            depth = self._listener.enter("data_wait")
            try:
                result = original(epoch_iterator, num_batches, *args, **kwargs)
            finally:
                self._listener.leave(depth)
            self._listener.fetched(len(result[0]), num_batches)
            return result

        return get_batch_samples

    def _training(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._watching:
                return original(model, inputs, *args, **kwargs)
            self._listener.batch_begins(inputs)
            try:
                return original(model, inputs, *args, **kwargs)
            except BaseException:
                self._listener.drop_batch()
                raise

        return training_step

    def _backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def backward(*args: Any, **kwargs: Any) -> Any:
            if not self._watching:
                return original(*args, **kwargs)
            self._listener.on_backward(args[0] if args else None)
            try:
                return original(*args, **kwargs)
            finally:
                self._listener.on_backward_end()

        return backward

    def _predicting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def prediction_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self._listener.evaluated_batch_begins(inputs)
            try:
                result = original(model, inputs, *args, **kwargs)
            except BaseException:
                self._listener.evaluated_batch_ends(raised=True)
                raise
            self._listener.evaluated_batch_ends()
            return result

        return prediction_step

    def _saving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        saved = self._in_account("checkpoint")(original)

        def save_checkpoint(*args: Any, **kwargs: Any) -> Any:
            self._listener.before_saving()
            return saved(*args, **kwargs)

        return save_checkpoint

    def _in_account(self, account: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                depth = self._listener.enter(account)
                try:
                    return original(*args, **kwargs)
                finally:
                    self._listener.leave(depth)

            return call

        return wrap

    def _joined(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def on_log(*args: Any, **kwargs: Any) -> Any:
            if isinstance(logs := kwargs.get("logs"), Mapping):
                kwargs["logs"] = {**logs, **self._listener.row(logs)}
            return original(*args, **kwargs)

        return on_log


def _nothing() -> None:
    """Updates are reported by the Trainer's callbacks."""


def takes_rows(callback: object) -> bool:
    """Whether a callback sends logs to a tracker: one of transformers' own integrations, or by its name."""
    kinds = type(callback).__mro__
    return any(kind.__module__.startswith("transformers.integrations") for kind in kinds) and hasattr(
        callback, "on_log"
    )


def wandb_callbacks(trainer: Any) -> list[Any]:
    """The Trainer's callbacks that log to W&B."""
    every = trainer.callback_handler.callbacks
    return [each for each in every if any(kind.__name__ == "WandbCallback" for kind in type(each).__mro__)]


def calling_trainer() -> Any:
    """The Trainer whose method called, some frames up; None if none did. Callbacks are handed everything but it."""
    kind: Any = getattr(sys.modules.get("transformers.trainer"), "Trainer", None)
    frame: FrameType | None = sys._getframe(1) if kind is not None else None
    while frame is not None:
        caller = method_owner(frame, kind)
        if hasattr(type(caller), "training_step") and hasattr(type(caller), "create_optimizer_and_scheduler"):
            return caller
        frame = frame.f_back
    return None


def goal(args: Any) -> tuple[str | None, Literal["max", "min"] | None]:
    """What the arguments take for quality; nothing if they name no metric.

    Example:
        >>> from types import SimpleNamespace
        >>> goal(SimpleNamespace(metric_for_best_model="accuracy", greater_is_better=True))
        ('eval_accuracy', 'max')
    """
    metric = getattr(args, "metric_for_best_model", None)
    if not metric:
        return None, None
    name = metric if metric.startswith("eval_") else f"eval_{metric}"
    return name, "max" if args.greater_is_better else "min"


def set_arguments(args: Any) -> dict[str, Plain]:
    """Training arguments that are not the default ones, but those that say where things go."""
    given = {}
    for field in dataclasses.fields(args):
        value = getattr(args, field.name, None)
        if value == field.default or any(part in field.name for part in _NO_HYPERPARAMETERS):
            continue
        if isinstance(value := getattr(value, "value", value), bool | int | float | str):
            given[field.name] = value
    return plain_hyperparameters(given)


def steps_between_logs(trainer: Any) -> int | None:
    """Optimizer steps between two rows of training, if the arguments log by steps."""
    strategy = trainer.args.logging_strategy
    by_steps = str(getattr(strategy, "value", strategy)) == "steps"
    return int(trainer.state.logging_steps) if by_steps else None


def loop_facts(trainer: Any) -> dict[str, Any]:
    """The Trainer's part of the setup, under the names that Lightning's has."""
    args = trainer.args
    return {
        "trainer": type(trainer).__name__,
        "precision": "bf16-mixed" if args.bf16 else "16-mixed" if args.fp16 else "32-true",
        "strategy": str(getattr(trainer.accelerator.distributed_type, "value", "NO")).lower(),
        **engine_setup(trainer.model_wrapped),
        "max_epochs": args.num_train_epochs,
        "max_steps": trainer.state.max_steps,
        "accumulate_grad_batches": args.gradient_accumulation_steps,
        "gradient_clip_val": args.max_grad_norm or None,
        "batch_size": trainer.state.train_batch_size or args.train_batch_size,
        "schedulers": [type(trainer.lr_scheduler).__name__] if trainer.lr_scheduler is not None else [],
    }


def engine_of(accelerator: Any) -> Any:
    """DeepSpeed's engine, whose backward pass is one alone: the Accelerator's method updates the weights, too."""
    return getattr(getattr(accelerator, "deepspeed_engine_wrapped", None), "engine", None)


def users_loader(loader: Any) -> Any:
    """The torch loader inside the one that Accelerate prepared."""
    inner = getattr(loader, "base_dataloader", None)
    return loader if inner is None else inner  # one without a length has no truth value
