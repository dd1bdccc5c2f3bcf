"""CostCallback: a callback of `transformers.Trainer` that passes events to a Recorder and computes nothing itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Literal
from weakref import ref

from lightning_costs.indicators.base import Indicator
from lightning_costs.integrations.huggingface.hooks import (
    calling_trainer,
    engine_of,
    goal,
    set_arguments,
    steps_between_logs,
)
from lightning_costs.integrations.huggingface.session import TrainerSession
from lightning_costs.integrations.lightning.final_table import try_print_summary
from lightning_costs.integrations.options import EVERY_N_STEPS, MonitorOptions
from lightning_costs.patching.fail_safe import never_harmful
from lightning_costs.patching.patches import Patches, Shadow
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.clock import RunBegin, now_s
from lightning_costs.probes.context import Count
from lightning_costs.recording.run_state import Status, status_from_exception
from lightning_costs.records.monitor import targets_of, validate_targets
from lightning_costs.records.time_buckets import TimeBuckets
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.loggers import Log
from lightning_costs.storage.sink import Sink

try:
    from transformers import TrainerCallback
except ImportError:  # the error names it when one is made
    TrainerCallback = object

_log = logging.getLogger("lightning_costs")


class CostCallback(TrainerCallback):  # type: ignore[misc]
    """Measures what a training costs and writes it next to its quality. Add it to a Trainer's callbacks.

    Costs join the rows of the Trainer's `report_to` trackers as `cost/<name>`, before which most of transformers'
    integrations put `train/`.

    Args:
        monitor: Name of the quality metric that comparisons use, as in `eval_accuracy`; by default the arguments'
            `metric_for_best_model`.
        mode: Whether more of it is better ('max') or less ('min').
        targets: Quality targets declared before the run, one or several.
        save_dir: Where run folders go, on this machine; a relative path is taken from where the process is now.
        name: What people call the run.
        batch_size_fn: Samples in a batch, if its tensors do not show them.
        length_fn: Tokens in a batch; from shapes, so that no device is waited for.
        indicators: Costs to measure: `[*default_indicators(), Mine()]`.
        tariff: Prices and place, as `CostMonitor`'s.
        log: Whether trackers get the complete cost curves, the headline ones or none.
        log_every_n_steps: Optimizer steps between two points; by default the arguments' `logging_steps`.
        count: How operators are counted, as `CostMonitor`'s.
        trace: Whether a few steps now and then are profiled, as `CostMonitor`'s.
        infer: Whether the cost of a forward pass is measured after training, as `CostMonitor`'s.
        sinks: Outputs of the header and the points besides the run folder (`lightning_costs.Sink`), on rank 0.
        hyperparameters: Settings that identify the run, besides the training arguments that are not defaults.
        owner: Whose run it is; by default as LIGHTNING_COSTS_OWNER says.

    Raises:
        ValueError: As `CostMonitor` does.
        ImportError: transformers is not installed.

    Example:
        ::

            trainer = Trainer(model, args, train_dataset=data, callbacks=[CostCallback()])
            trainer.train()
    """

    #: Made by `lightning-costs run`, not by the script: it yields to a callback that the script has.
    is_fallback = False

    def __init__(
        self,
        *,
        monitor: str | None = None,
        mode: Literal["max", "min"] | None = None,
        targets: float | Sequence[float] = (),
        save_dir: str | Path = "costs",
        name: str | None = None,
        batch_size_fn: Callable[[Any], int] | None = None,
        length_fn: Callable[[Any], int] | None = None,
        indicators: Sequence[Indicator] | None = None,
        tariff: Tariff | Mapping[str, Any] | str | Path | None = None,
        log: Log = "complete",
        log_every_n_steps: int | None = None,
        count: Count | None = None,
        trace: bool = False,
        infer: Literal["auto"] | bool = "auto",
        sinks: Sequence[Sink] = (),
        hyperparameters: Mapping[str, Any] | None = None,
        owner: str | None = None,
    ) -> None:
        if TrainerCallback is object:
            raise ImportError("CostCallback needs transformers: pip install 'lightning-costs[huggingface]'")
        self._options = MonitorOptions(
            monitor=monitor,
            mode=mode,
            targets=targets,
            save_dir=save_dir,
            name=name,
            batch_size_fn=batch_size_fn,
            length_fn=length_fn,
            indicators=indicators,
            tariff=tariff,
            log=log,
            log_every_n_steps=log_every_n_steps,
            count=count,
            trace=trace,
            infer=infer,
            sinks=sinks,
            hyperparameters=hyperparameters,
            owner=owner,
        )
        self._run_begin = RunBegin()
        self._session: TrainerSession | None = None
        #: Where time goes before the run begins: a checkpoint is loaded before any callback is called.
        self._accounts: TimeBuckets | None = None
        #: What is printed once the progress bar is closed, and whether that moment will be known.
        self._words: Callable[[], None] | None = None
        self._says_late = False
        #: The run that ended last; None on other ranks than 0.
        self.run: RunRecord | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle gets: the arguments, and nothing of a training in progress."""
        return {**vars(self), "_session": None, "_words": None, "_says_late": False, "_accounts": None}

    # What the Trainer calls ---------------------------------------------------------------------------------

    @never_harmful
    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Its next `train` is shadowed: no callback receives an error that ends a training."""
        trainer = calling_trainer()
        if trainer is None:
            return
        shadows, own = Patches(_nothing_more), ref(self)
        accounts = self._accounts = TimeBuckets(now_s, self._run_begin.seconds())
        accounts.restores_are_reported = True
        accounts.startup_s["imports"] = self._run_begin.imports_s(accounts.begun_s)

        def ended(train: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                try:
                    return train(*args, **kwargs)
                except BaseException as error:
                    if (callback := own()) is not None:
                        callback._note(error)
                        callback._close(status_from_exception(type(error)))
                    raise
                finally:
                    shadows.lift()
                    if (callback := own()) is not None:
                        callback._say()

            return call

        def restoring(load: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                with accounts.bucket("restore"):
                    return load(*args, **kwargs)

            return call

        def preparing(prepare: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                prepared, engine = prepare(*args, **kwargs), engine_of(trainer.accelerator)
                if engine is not None and not isinstance(engine.load_checkpoint, Shadow):
                    shadows.wrap(engine, "load_checkpoint", restoring)
                return prepared

            return call

        shadows.wrap(trainer, "train", ended)
        shadows.wrap(trainer.accelerator, "prepare", preparing)
        for name in ("_load_from_checkpoint", "_load_optimizer_and_scheduler"):  # before `on_train_begin`
            shadows.wrap(trainer, name, restoring)
        self._says_late = bool(shadows)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """All is prepared: the run begins."""
        self._close("failed")  # a training that broke off with no word: a batch size that was too large, say
        trainer = calling_trainer()
        if trainer is None or not self._measures(trainer):
            return
        try:
            self._begin(trainer)
        except Exception as error:
            if isinstance(error, ValueError) and not self.is_fallback:  # an argument, which is the author's to mend
                raise
            _log.exception("measuring could not start; training continues without it. Please report this")

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Batches follow."""
        if self._session is not None:
            self._session.epoch_begins()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A batch whose gradients accumulate."""
        if self._session is not None:
            self._session.substep_ends()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A batch, the last one of an optimizer step."""
        if self._session is not None:
            self._session.step_ends()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """It may be a whole one."""
        if self._session is not None:
            self._session.epoch_ends()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Quality among them makes a point, if no tracker's row has made it."""
        if self._session is not None and isinstance(logs, Mapping):
            self._session.row(logs)

    @never_harmful
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training is over and the model still on its device: what a forward pass costs is measured here."""
        session = self._session
        if session is not None and self._options.infers(args.world_size):
            session.benchmark_inference(self._options.infer, session.trainer.compute_loss_context_manager)
        self._close("finished")

    # ----------------------------------------------------------------------------------------------------------

    def _measures(self, trainer: Any) -> bool:
        """Whether this callback is the one that measures: the script's first one, else that of the environment."""
        among = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, CostCallback)]
        first = next((callback for callback in among if not callback.is_fallback), among[0] if among else self)
        if first is not self and not self.is_fallback:
            _log.warning("one CostCallback measures a training, the Trainer's first; leave the others out")
        return first is self

    def _accounts_of_this_run(self) -> TimeBuckets:
        """Those that run since the Trainer was made, unless another run ended since."""
        accounts, self._accounts = self._accounts, None
        began_s = self._run_begin.seconds()
        if accounts is not None and accounts.begun_s >= began_s:
            return accounts
        return TimeBuckets(now_s, began_s)

    def _begin(self, trainer: Any) -> None:
        options, args = self._options, trainer.args
        monitor, mode = goal(args)
        if not self.is_fallback:
            validate_targets(options.monitor or monitor, targets_of(options.targets))
        devices = {"devices": args.n_gpu} if args.n_gpu > 1 else {}  # DataParallel: one process, several devices
        recorder = options.recorder(
            world_size=args.world_size,
            every_n_steps=steps_between_logs(trainer) or EVERY_N_STEPS,
            module=trainer.model,
            optimizers=lambda: [getattr(trainer.optimizer, "optimizer", trainer.optimizer)],
            monitor=monitor,
            mode=mode,
            device=args.device,
            accounts=self._accounts_of_this_run(),
            hyperparameters=set_arguments(args),
            **devices,
        )
        self._session = TrainerSession(trainer, recorder, log=options.log)
        # A training that an error ends in a later call of `train`: the process's end ends it.
        Finalize(self._session, _end_at_exit, args=(ref(self),), exitpriority=100)
        self._session.start()

    def _note(self, error: BaseException) -> None:
        if self._session is not None:
            self._session.note_error(error)

    @never_harmful
    def _close(self, status: Status) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        session.take_off()
        if session.batch is not None:
            session.drop_batch()
        self.run = session.finish(status)
        if session.recorder.run_id:
            self._run_begin.ended()
            self._words = partial(_say_cost, session, self.run, str(session.recorder.header["status"]))
        if not self._says_late:
            self._say()

    @never_harmful
    def _say(self) -> None:
        words, self._words, self._says_late = self._words, None, False
        if words is not None:
            words()


def _say_cost(session: TrainerSession, run: RunRecord | None, status: str) -> None:
    """What it cost, on rank 0; who waits for an error must not wait for a table."""
    if not session.trainer.is_world_process_zero():
        return
    if status == "finished":
        try_print_summary(session.recorder, run)
    elif status == "interrupted":
        session.say_next()


def _nothing_more() -> None:
    """A shadow of the package failed: the method that it covers was called all the same."""


def _end_at_exit(callback: Callable[[], CostCallback | None]) -> None:
    if (alive := callback()) is not None:
        alive._close("failed")
