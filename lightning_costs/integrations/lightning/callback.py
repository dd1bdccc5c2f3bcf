"""CostMonitor: a Lightning callback that passes the Trainer's events to a Recorder. It computes nothing itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from pathlib import Path
from types import MethodType
from typing import Any, Literal, final

from lightning_costs.indicators.base import Indicator
from lightning_costs.integrations.lightning.budget import CostBudget
from lightning_costs.integrations.lightning.compat import Callback
from lightning_costs.integrations.lightning.final_table import AfterProgressBar
from lightning_costs.integrations.lightning.hooks import HOOKS_OF_A_STEP, FitEntered
from lightning_costs.integrations.lightning.session import CHECKPOINT_KEY, TrainingSession
from lightning_costs.integrations.lightning.trainer_view import saved_hyperparameters
from lightning_costs.integrations.options import MonitorOptions
from lightning_costs.patching.fail_safe import never_harmful, raised_by_signal
from lightning_costs.patching.patches import Shadow
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.clock import RunBegin, now_s
from lightning_costs.probes.context import Count
from lightning_costs.ranks.topology import trainer_topology
from lightning_costs.recording.recorder import Recorder
from lightning_costs.recording.run_state import Status, status_from_exception
from lightning_costs.records.monitor import targets_of, validate_targets
from lightning_costs.records.time_buckets import TimeBuckets
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.loggers import Log
from lightning_costs.storage.sink import Sink

__all__ = ["CostBudget", "CostMonitor"]

_log = logging.getLogger("lightning_costs")


@final
class _HookUnlessRecorded:
    """A hook that is not there (None) for a step that is noted already: Lightning calls only what can be called.

    What Lightning does around a callback's hook costs as much as all that we do at such a step.
    """

    def __init__(self, hook: Callable[..., None]) -> None:
        self._hook = hook
        update_wrapper(self, hook)  # type: ignore[arg-type]

    def __get__(self, monitor: CostMonitor | None, kind: type[CostMonitor]) -> Callable[..., None] | None:
        if monitor is None:
            return self._hook
        session = monitor._session
        if session is not None and session.repeats.recorded and kind.on_train_batch_end is self._hook:
            return None
        return MethodType(self._hook, monitor)


class CostMonitor(Callback):
    """Measures what a training costs and writes it next to its quality. Add it to a Trainer's callbacks.

    Args:
        monitor: Name of the quality metric, for comparisons; by default that of the trainer's
            ModelCheckpoint or EarlyStopping. One that is logged in training steps alone is read at train points.
        mode: Whether more of it is better ('max') or less ('min').
        targets: Quality targets declared before the run, one or several.
        save_dir: Folder for run folders, on this machine; a relative path starts at the working directory.
        name: Name of the run, for people.
        batch_size_fn: Number of samples in a batch, if its tensors do not show it.
        length_fn: Number of tokens in a batch. Compute it from shapes, so that it does not wait for the device.
        indicators: Costs to measure: `[*default_indicators(), Mine()]`.
        tariff: Prices and place, as a Tariff, a mapping of its fields or the path of a TOML file; else from
            LIGHTNING_COSTS_* variables or the user's file.
        log: Costs for the loggers: 'complete', 'headline', or 'none'. Headline costs are also in
            `trainer.callback_metrics`, and some in the progress bar. With 'none', all three stay unchanged.
        log_every_n_steps: Optimizer steps between two points, 0 for points at evaluations and the end only; the
            trainer's by default.
        count: How operators are counted, for FLOPs and columns derived from them. "auto": in a few steps, without
            changing their results. "eager": compiled code runs eagerly in those, which changes last digits. "off":
            not at all. The default is LIGHTNING_COSTS_COUNT (0 is "off"), otherwise "auto".
        infer: Whether the cost of a forward pass is measured after training. "auto": on a single device, for at most
            a twentieth of the training's time and 5 s. True: for up to 5 s. False: never.
        trace: Whether a few steps now and then run under torch's profiler: what a step is made of, and communication
            that is not hidden. The last trace is kept in the run folder.
        sinks: Further receivers of the header and the points, on rank 0 (`lightning_costs.Sink`).
        hyperparameters: Settings that identify the run, besides those that the module and the data module save
            by `save_hyperparameters`. Secrets are left out.
        owner: Whose run it is; by default as LIGHTNING_COSTS_OWNER says.
        prediction: What the run is predicted to cost, as `predict` returns it or a JSON file of it; its end says plan
            against actual. By default the file that LIGHTNING_COSTS_PREDICTION names.
        oom_snapshot: Whether torch's memory snapshot is written to the run folder if a CUDA device's memory runs out.
            It records each allocation, which costs some microseconds each.

    Raises:
        ValueError: For a monitor without mode, a mode without monitor, targets that no metric is for, an unknown
            `log`, `count`, `infer` or `trace`. Also for an object that is no sink, and a `save_dir` that is no
            folder of this machine.

    Examples:
        ```python
        trainer = Trainer(callbacks=[CostMonitor(monitor="val/acc", mode="max")])
        trainer.fit(model, data)
        ```
    """

    #: Made by `lightning-costs run`, not by the script: it yields to a monitor that the script has.
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
        infer: Literal["auto"] | bool = "auto",
        trace: bool = False,
        sinks: Sequence[Sink] = (),
        hyperparameters: Mapping[str, Any] | None = None,
        owner: str | None = None,
        prediction: object = None,
        oom_snapshot: bool = False,
    ) -> None:
        super().__init__()
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
            infer=infer,
            trace=trace,
            sinks=sinks,
            hyperparameters=hyperparameters,
            owner=owner,
            prediction=prediction,
            oom_snapshot=oom_snapshot,
        )
        self._begin_of_run = RunBegin()
        self._accounts: TimeBuckets | None = None
        self._session: TrainingSession | None = None
        self._printed: AfterProgressBar | None = None
        self._logs: Any = None
        self._entered: FitEntered | None = None
        self._warned_of_second = False
        #: What a checkpoint that is saved after the fit holds of it.
        self._ended: dict[str, Any] | None = None
        self.run: RunRecord | None = None

    @property
    def recorder(self) -> Recorder | None:
        """The recorder of the fit in progress."""
        return self._session.recorder if self._session is not None else None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy, a pickle or a spawned process gets: the arguments, and nothing of a fit in progress."""
        state = {name: value for name, value in vars(self).items() if not isinstance(value, Shadow)}
        for name in (*HOOKS_OF_A_STEP, "log_dict"):  # with the module's own, the module would go along
            state.pop(name, None)
        return {**state, "_session": None, "_accounts": None, "_printed": None, "_entered": None, "_logs": None}

    @property
    def log(self) -> Any:
        """The module's `log`, which a Trainer gives its callbacks when it begins to fit."""
        return self._logs

    @log.setter
    def log(self, value: Any) -> None:
        self._logs = value
        self._enter(getattr(value, "__self__", None))

    @never_harmful
    def _enter(self, module: Any) -> None:
        trainer = getattr(module, "_trainer", None)
        if trainer is not None and str(getattr(trainer.state.fn, "value", "")) == "fit":
            self._leave()
            if _first_monitor(trainer) is self:
                self._entered = FitEntered(trainer)

    def _leave(self) -> None:
        if self._entered is not None:
            self._entered.lift()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Make the recorder and put the shadows; probes open here, so energy is measured from here on."""
        try:
            self._leave()
            if stage == "fit" and not trainer.fast_dev_run and self._is_free(trainer):
                self._begin(trainer, pl_module)
        except Exception as error:
            is_argument = isinstance(error, ValueError) and not self.is_fallback  # which is the author's to mend
            if is_argument or raised_by_signal(error):
                raise
            _log.exception("measuring could not start; this fit continues without it. Please report this")
            for callback in trainer.callbacks:
                if isinstance(callback, CostBudget):
                    callback.let_down()

    def _is_free(self, trainer: Any) -> bool:
        """Whether this monitor measures the fit that begins; if another one does, log that once."""
        session = self._session
        if session is not None and session.of(trainer):
            return False
        if session is not None and session.running:
            _log.warning(
                "this fit is not measured: its CostMonitor measures another Trainer's fit, which has not ended. Give "
                "each Trainer a monitor of its own"
            )
            return False
        if session is not None:  # a fit that ended without a word to its callbacks
            self._close(session, "failed")
        first = _first_monitor(trainer) or self
        if first is not self and not self.is_fallback:
            self._say_one_measures()
        return first is self

    def _say_one_measures(self) -> None:
        if not self._warned_of_second:
            self._warned_of_second = True
            _log.warning(
                "one CostMonitor measures a fit, the first of the Trainer's callbacks; another, or the same one again, "
                "does nothing. Leave it out"
            )

    def _session_of(self, trainer: Any) -> TrainingSession | None:
        """The fit in progress, if it is this Trainer's."""
        session = self._session
        return session if session is not None and session.of(trainer) else None

    def _begin(self, trainer: Any, pl_module: Any) -> None:
        self._ended = None
        places = [place for place, callback in enumerate(trainer.callbacks) if callback is self]
        if len(places) > 1:  # each hook would come twice
            trainer.callbacks = [c for n, c in enumerate(trainer.callbacks) if n not in places[1:]]
            self._say_one_measures()
        self._accounts = self._accounts_of_this_run()
        monitor, mode = _goal(trainer)
        options = self._options
        if not self.is_fallback:
            validate_targets(options.monitor or monitor, targets_of(options.targets))
        if not trainer.log_every_n_steps and options.log_every_n_steps is None:
            _log.warning(
                "the Trainer has log_every_n_steps=0: costs have points at evaluations and the end only. "
                "CostMonitor(log_every_n_steps=50) makes more"
            )
        cuda = trainer.strategy.root_device.type == "cuda"
        place, everyone = trainer_topology(trainer)
        recorder = self._options.recorder(
            world_size=trainer.world_size,
            every_n_steps=trainer.log_every_n_steps,
            module=pl_module,
            optimizers=lambda: trainer.strategy.optimizers,
            monitor=monitor,
            mode=mode,
            device=trainer.strategy.root_device,
            devices=trainer.num_devices * trainer.num_nodes if cuda else trainer.num_nodes,
            nodes=trainer.num_nodes,
            place=place,
            places=everyone,
            accounts=self._accounts,
            hyperparameters=saved_hyperparameters(trainer, pl_module),
        )
        given = options.hyperparameters or {}
        self._session = TrainingSession(trainer, self, recorder, log=options.log, hyperparameters=given)
        self._session.start()
        for callback in trainer.callbacks:
            if isinstance(callback, CostBudget):
                callback.watch(self._session.points)

    def _accounts_of_this_run(self) -> TimeBuckets:
        """The run's clock began with the process, or where the run before ended: seconds of finders are in it."""
        began_s = self._begin_of_run.seconds()
        if self._accounts is not None and self._accounts.begun_s >= began_s - 0.5:
            return self._accounts
        accounts = TimeBuckets(now_s, began_s)
        accounts.startup_s["imports"] = self._begin_of_run.imports_s(began_s)
        if self._entered is not None:
            self._entered.split(accounts)
        return accounts

    @_HookUnlessRecorded
    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch is done."""
        session = self._session
        if session is not None and session.trainer is trainer and not session.repeats.recorded:
            session.steps.on_batch_end(batch)

    @never_harmful
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """An epoch ended; one whose last batch did not look like the last is complete if nothing was left to fetch."""
        if (session := self._session_of(trainer)) is not None:
            session.steps.on_epoch_end()

    @never_harmful
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Training is over and the model still on its device: what a forward pass costs is measured here."""
        session = self._session_of(trainer)
        if session is not None and self._options.infers(trainer.world_size):
            session.measure_inference(self._options.infer)

    @never_harmful
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Identity and totals go into the checkpoint."""
        session = self._session_of(trainer)
        if session is not None and session.view.in_training:
            session.save(checkpoint)
        elif self._session is None and self._ended is not None:
            checkpoint[CHECKPOINT_KEY] = self._ended

    @never_harmful
    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """A resumed run continues its totals."""
        session = self._session_of(trainer)
        if session is not None and CHECKPOINT_KEY in checkpoint and not session.recorder.hooks.run.training:
            session.load(checkpoint)

    @never_harmful
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """The fit is over."""
        if stage == "fit" and (session := self._session_of(trainer)) is not None:
            self._close(session, "finished")

    @never_harmful
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The fit ended by an error or by Ctrl-C: everything spent is written. Lightning calls no teardown then."""
        self._leave()
        if (session := self._session_of(trainer)) is not None:
            session.note_error(exception)
            self._close(session, status_from_exception(type(exception)))
        elif self._printed is not None:  # another callback's teardown raised before the bar's
            self._printed.now()

    def _close(self, session: TrainingSession, status: Status) -> None:
        self._session = None
        session.take_off()
        trained = session.recorder.run_id != ""
        self.run = session.close(status)
        self._printed = session.printed
        if trained:
            self._accounts = None
            self._ended = session.ended
            self._begin_of_run.ended()
        elif self._accounts is not None:  # a finder's fit: its seconds stay for the run that follows
            self._accounts.reset_to("setup")


def _first_monitor(trainer: Any) -> CostMonitor | None:
    """The monitor that measures this Trainer's fits: the script's first one, before one of `lightning-costs run`."""
    monitors = [callback for callback in trainer.callbacks if isinstance(callback, CostMonitor)]
    return next((monitor for monitor in monitors if not monitor.is_fallback), monitors[0] if monitors else None)


def _goal(trainer: Any) -> tuple[str | None, Literal["max", "min"] | None]:
    """What the Trainer's ModelCheckpoint or EarlyStopping takes for quality."""
    for callback in [*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks]:
        monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        if monitor and mode in ("max", "min"):
            return monitor, mode
    return None, None
