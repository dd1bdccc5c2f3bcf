"""The names of Lightning that are not public and that `probes/trainer.py` uses: seen on 2.6.6, here or gone."""

from __future__ import annotations

from operator import attrgetter

import pytest
from lightning_models import NAMESPACES, classifier, data, namespace, trainer

PRIVATE = (
    "fit_loop.run",
    "fit_loop._should_accumulate",
    "fit_loop._combined_loader",
    "fit_loop._data_fetcher",
    "fit_loop.epoch_loop.batch_progress.current.completed",
    "fit_loop.epoch_loop._batches_that_stepped",
    "fit_loop.epoch_loop._num_ready_batches_reached",
    "fit_loop.epoch_loop._on_before_fetch",
    "fit_loop.epoch_loop._on_after_fetch",
    "fit_loop.epoch_loop.batch_idx",
    "fit_loop.epoch_loop.val_loop.run",
    "fit_loop.epoch_loop.automatic_optimization.run",
    "fit_loop.epoch_loop.manual_optimization.run",
    "_logger_connector._callback_metrics",
    "_logger_connector.log_eval_end_metrics",
    "_logger_connector.update_train_step_metrics",
    "_logger_connector.update_train_epoch_metrics",
    "strategy.backward",
    "strategy.optimizers",
    "strategy._optimizers",
)


@pytest.mark.parametrize("name", NAMESPACES)
def test_private_names_that_the_adapter_uses_are_there(name: str) -> None:
    pl = namespace(name)
    fitted = trainer(pl, max_steps=1)
    fitted.fit(classifier(pl), data())
    for private in PRIVATE:
        attrgetter(private)(fitted)
