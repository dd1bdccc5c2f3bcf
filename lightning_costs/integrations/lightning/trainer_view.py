"""What a Lightning Trainer and its module say of themselves, in names that are not public. Seen on Lightning 2.6.6."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.records.hyperparameters import Plain, plain_hyperparameters


@final
class TrainerView:
    """Reads a Trainer, and changes nothing of it but what it publishes."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        #: Whether the fit loop runs.
        self.in_training = False

    @property
    def row_step(self) -> int:
        """The step that Lightning stamps on the row of this moment."""
        return int(self._trainer.fit_loop.epoch_loop._batches_that_stepped)

    @property
    def logged_in_steps(self) -> dict[str, Any]:
        """The last values, on the device, of metrics that the module logs in training steps, by the loggers' names."""
        results = self._trainer.fit_loop.epoch_loop._results
        logged = [each for each in results.values() if each.meta.on_step and not each.has_reset]
        return {each.meta.forked_name(True): each._forward_cache for each in logged}

    @property
    def accumulates(self) -> bool:
        """Whether Lightning accumulates gradients over batches."""
        return self._trainer.accumulate_grad_batches != 1  # type: ignore[no-any-return]

    @property
    def accumulating(self) -> bool:
        """Whether the batch in work ends without an optimizer step."""
        return self.accumulates and bool(self._trainer.fit_loop._should_accumulate())

    @property
    def epoch_complete(self) -> bool:
        """Whether the batch in work is the epoch's last."""
        progress = self._trainer.fit_loop.epoch_loop.batch_progress
        return bool(progress.is_last_batch) or progress.current.ready == self._trainer.fit_loop.max_batches

    @property
    def exhausted(self) -> bool:
        """Whether the loaders had nothing left when they were asked for the next batch, and all was trained on."""
        loop = self._trainer.fit_loop
        fetcher, progress = loop._data_fetcher, loop.epoch_loop.batch_progress
        return fetcher is not None and bool(fetcher.done) and progress.current.completed >= fetcher.fetched

    @property
    def epoch_begins(self) -> bool:
        """Whether the batch in work is the epoch's first."""
        return int(self._trainer.fit_loop.epoch_loop.batch_progress.current.ready) == 1

    @property
    def batches_before_last(self) -> float:
        """Batches that follow in this epoch before its last one; 0 if the last one is unknown."""
        batches = self._trainer.fit_loop.max_batches
        if batches == math.inf:
            return 0
        return float(batches - self._trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1)

    @property
    def loaders(self) -> list[Any]:
        """The training data loaders, known from the first batch on."""
        combined = self._trainer.fit_loop._combined_loader
        return list(combined.flattened) if combined is not None else []

    def parts(self, batch: Any) -> list[Any]:
        """What each training loader gave, None from one at its end: a batch of several loaders has their structure."""
        combined = self._trainer.fit_loop._combined_loader
        return [batch] if combined is None else _parts(combined.iterables, batch)

    @property
    def calls(self) -> int:
        """Calls of optimizers that Lightning counts and `max_steps` limits: those that it was given."""
        return int(self._trainer.global_step)

    def planned_steps(self, *, calls_a_step: float, steps_a_batch: float = 1.0) -> float:
        """Steps (batches in which an optimizer stepped) that the whole training will have; inf if it has no end.

        EarlyStopping, `max_time` and `should_stop` may end it sooner.

        Args:
            calls_a_step: Calls of optimizers in a step, as `calls` has them: `max_steps` counts them.
            steps_a_batch: Share of batches with a step, if a script decides that.
        """
        trainer, loop = self._trainer, self._trainer.fit_loop
        steps = math.inf
        if loop.max_epochs not in (-1, None) and loop.max_batches != math.inf:
            of_epoch = loop.max_batches * steps_a_batch
            if self.accumulates:
                of_epoch = math.ceil(loop.max_batches / trainer.accumulate_grad_batches)
            steps = of_epoch * loop.max_epochs
        if trainer.max_steps != -1 and calls_a_step:
            steps = min(steps, trainer.max_steps / calls_a_step)
        return steps

    def publish(self, metrics: Mapping[str, Any]) -> None:
        """Put metrics where EarlyStopping, ModelCheckpoint and search libraries look."""
        self._trainer._logger_connector._callback_metrics.update(metrics)


def _parts(iterables: Any, batch: Any) -> list[Any]:
    """The batch along the structure of the loaders, in their order; an exhausted loader gives None."""
    if isinstance(iterables, Mapping):
        return [part for key, each in iterables.items() for part in _parts(each, batch[key])]
    if isinstance(iterables, list | tuple):
        return [part for each, own in zip(iterables, batch, strict=True) for part in _parts(each, own)]
    return [batch]


def saved_hyperparameters(trainer: Any, pl_module: Any) -> dict[str, Plain]:
    """Plain hyperparameters by name; if both saved one of a name, the module's.

    `hparams` itself is not read if nothing was saved: Lightning would put an empty one into the object.
    """
    found: dict[str, Plain] = {}
    for owner in (getattr(trainer, "datamodule", None), pl_module):
        if owner is not None and "_hparams" in getattr(owner, "__dict__", {}):
            try:
                found |= plain_hyperparameters(owner.hparams)
            except Exception as error:  # noqa: BLE001 - whatever the user's object holds, its training continues
                reraise_from_signal(error)
                continue
    return found
