"""CostMonitor: a Lightning callback that tells a Recorder what happens. It computes nothing itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, final

import numpy
import torch

from lightning_costs.budget import CostBudget
from lightning_costs.core.accounts import Accounts
from lightning_costs.core.budget import budget_told, share_used
from lightning_costs.core.forecast import Expected
from lightning_costs.core.goal import check_goal
from lightning_costs.core.harmless import harmless
from lightning_costs.core.indicator import Indicator
from lightning_costs.core.legible import legible, legible_data
from lightning_costs.core.records import CurvePoint, RunRecord
from lightning_costs.core.summary import lost_words, summary_rows
from lightning_costs.core.tariff import Tariff
from lightning_costs.core.units import MISSING, human
from lightning_costs.probes import engine
from lightning_costs.probes.clock import now_s, run_begins_s
from lightning_costs.probes.namespaces import Callback
from lightning_costs.probes.pipeline_engines import pipelines_of
from lightning_costs.probes.places import of_trainer
from lightning_costs.probes.stride import work_of
from lightning_costs.probes.trainer import TrainerView
from lightning_costs.recorder import Recorder, came_to
from lightning_costs.stores.book import Status, status_after
from lightning_costs.stores.rows import begin_wandb, columns, end_wandb, link_wandb, row

__all__ = ["CostBudget", "CostMonitor"]

_log = logging.getLogger("lightning_costs")
#: One key in a checkpoint, with plain containers: `state_dict` would collide with a second monitor's.
_CHECKPOINT_KEY = "lightning_costs"
#: What the progress bar shows, so far and at the end of training.
_BAR = ("total_s", "energy_j", "cloud_usd")


@final
class CostMonitor(Callback):
    """Measures what a training costs and writes it next to its quality. Add it to a Trainer's callbacks.

    Args:
        monitor: Name of the quality metric that comparisons use; by default that of the trainer's
            ModelCheckpoint or EarlyStopping.
        mode: Whether more of it is better ('max') or less ('min').
        targets: Quality targets declared before the run.
        save_dir: Where run folders go.
        name: What people call the run.
        batch_size_fn: Samples in a batch, where its tensors do not tell.
        length_fn: Tokens in a batch; from shapes, so that no device is waited for.
        indicators: Costs to measure: `[*default_indicators(), Mine()]`.
        tariff: Prices and place; else from LIGHTNING_COSTS_* variables or the user's file.
        log: Whether loggers get the complete cost curves or the headline ones only.
        log_every_n_steps: Optimizer steps between two points; the trainer's by default.
        infer: Whether the cost of a forward pass is measured after training. "auto": on a single device, for a
            twentieth of the training's time, 5 s at most; True: for up to 5 s; False: not.

    Raises:
        ValueError: For a monitor without mode, or an unknown `log` or `infer`.

    Example:
        ::

            trainer = Trainer(callbacks=[CostMonitor(monitor="val/acc", mode="max")])
            trainer.fit(model, data)
    """

    #: Made by `lightning-costs run`, not by the script: it yields to a monitor that the script has.
    yields = False

    def __init__(
        self,
        *,
        monitor: str | None = None,
        mode: Literal["max", "min"] | None = None,
        targets: Sequence[float] = (),
        save_dir: str | Path = "costs",
        name: str | None = None,
        batch_size_fn: Callable[[Any], int] | None = None,
        length_fn: Callable[[Any], int] | None = None,
        indicators: Sequence[Indicator] | None = None,
        tariff: Tariff | None = None,
        log: Literal["complete", "headline"] = "complete",
        log_every_n_steps: int | None = None,
        infer: Literal["auto"] | bool = "auto",
    ) -> None:
        super().__init__()
        check_goal(monitor, mode)
        if log not in ("complete", "headline"):
            raise ValueError(f"log must be 'complete' or 'headline', got {log!r}")
        if infer not in ("auto", True, False):
            raise ValueError(f"infer must be 'auto', True or False, got {infer!r}")
        self._monitor, self._mode, self._targets = monitor, mode, tuple(targets)
        self._save_dir, self._name, self._log = Path(save_dir), name, log
        self._batch_size_fn, self._length_fn = batch_size_fn, length_fn
        self._indicators = indicators
        self._tariff = Tariff.find(tariff)
        self._every, self._infer = log_every_n_steps, infer
        self._made_s = now_s()
        self._accounts: Accounts | None = None
        self._session: _Session | None = None
        self.run: RunRecord | None = None

    @property
    def recorder(self) -> Recorder | None:
        """The recorder of the fit in progress."""
        return self._session.recorder if self._session is not None else None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Make the recorder and put the shadows; probes open here, so energy is measured from here on."""
        if stage != "fit" or trainer.fast_dev_run or self._session is not None or self._superfluous(trainer):
            return
        try:
            self._begin(trainer, pl_module)
        except Exception:
            if not self.yields:  # what the script's author wrote is the author's to mend
                raise
            _log.exception("this fit is not measured; it goes on. Please report this")

    def _superfluous(self, trainer: Any) -> bool:
        """Whether another measures: the script's own, or the first of several, where Trainers share a callback list."""
        monitors = [callback for callback in trainer.callbacks if isinstance(callback, CostMonitor)]
        return self.yields and self is not next((m for m in monitors if not m.yields), monitors[0])

    def _begin(self, trainer: Any, pl_module: Any) -> None:
        self._accounts = self._accounts_of_this_run()
        monitor, mode = self._goal(trainer)
        every = trainer.log_every_n_steps if self._every is None else self._every
        cuda = trainer.strategy.root_device.type == "cuda"
        place, everyone = of_trainer(trainer)
        recorder = Recorder(
            module=pl_module,
            optimizers=lambda: trainer.strategy.optimizers,
            monitor=monitor,
            mode=mode,
            targets=self._targets,
            save_dir=self._save_dir,
            name=self._name,
            batch_size_fn=self._batch_size_fn,
            length_fn=self._length_fn,
            indicators=self._indicators,
            tariff=self._tariff,
            device=trainer.strategy.root_device,
            devices=trainer.num_devices * trainer.num_nodes if cuda else trainer.num_nodes,
            nodes=trainer.num_nodes,
            log_every_n_steps=every,
            place=place,
            places=everyone,
            infer=self._infer is not False and trainer.world_size == 1,
            accounts=self._accounts,
        )
        self._session = _Session(trainer, self, recorder, headline_only=self._log == "headline")
        self._session.start()
        for callback in trainer.callbacks:
            if isinstance(callback, CostBudget):
                callback.watch(self._session)

    def _accounts_of_this_run(self) -> Accounts:
        """The run's clock began with the process, or where the run before ended: seconds of finders are in it."""
        began_s = run_begins_s(self._made_s)
        if self._accounts is not None and self._accounts.begun_s >= began_s - 0.5:
            return self._accounts
        return Accounts(now_s, began_s)

    def _goal(self, trainer: Any) -> tuple[str | None, Literal["max", "min"] | None]:
        if self._monitor is not None:
            return self._monitor, self._mode
        for callback in [*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks]:
            monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
            if monitor and mode in ("max", "min"):
                return monitor, mode
        return None, None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A batch is done."""
        if (session := self._session) is not None and not (session.stride.same and session.stride.again()):
            session.batch_ended(batch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Training is over and the model still on its device: what a forward pass costs is measured here."""
        if self._session is not None and self._infer is not False and trainer.world_size == 1:
            self._session.infer(budget_s=5.0 if self._infer is True else None)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Identity and totals go into the checkpoint."""
        if self._session is not None and self._session.view.in_training:
            self._session.save(checkpoint)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """A resumed run continues its totals."""
        if self._session is not None and _CHECKPOINT_KEY in checkpoint and not self._session.recorder.training:
            self._session.load(checkpoint)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """The fit is over."""
        if stage == "fit":
            self._close(trainer, "finished")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The fit ended by an error or by Ctrl-C: everything spent is written. Lightning calls no teardown then."""
        self._close(trainer, status_after(type(exception)))

    def _close(self, trainer: Any, status: Status) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        session.view.unwatch()
        trained = session.recorder.run_id != ""
        self.run = session.close(status)
        if trained:
            self._accounts = None
        elif self._accounts is not None:  # a finder's fit: its seconds stay for the run that follows
            self._accounts.rebase("setup")


@final
class _Session:
    """One fit: listens to the trainer's view and tells the recorder."""

    def __init__(self, trainer: Any, owner: CostMonitor, recorder: Recorder, *, headline_only: bool) -> None:
        self.recorder = recorder
        self.accounts, self.stride = recorder.accounts, recorder.stride
        self.view = TrainerView(trainer, owner, self)
        self._trainer = trainer
        self._columns = columns(recorder.declarations, headline_only=headline_only)
        self._headline = columns(recorder.declarations, headline_only=True)
        self._row_step: int | None = None
        self._costs: Mapping[str, float | None] = {}
        self._bar: str | None = ""
        self._announced = self._pipelined = False
        self.broken = False
        self.looking = False
        self.timing_device = False

    def stop_measuring(self) -> None:
        """Something went wrong in here: say so once, and leave the training alone from now on."""
        self.broken = True
        self.looking = False
        self.view.unwatch()
        _log.exception("measuring costs failed and stops here; training goes on. Please report this")

    @harmless
    def start(self) -> None:
        self.recorder.open()
        self.timing_device = self.recorder.timing_device
        self.stride.noted = self.noted if self.timing_device else None
        self.view.watch()

    # The trainer's view tells ------------------------------------------------------------------------------

    @harmless
    def training_begins(self) -> None:
        self.stride.take_events()
        self.recorder.wrapped(self._trainer.strategy.model)
        self._find_pipeline()
        self.recorder.begin()

    def _find_pipeline(self) -> None:
        """A pipeline that the module holds is watched: one is built in `configure_model`, or in the first step."""
        found = [] if self._pipelined else pipelines_of(self._trainer.lightning_module)
        if not found:
            return
        self._pipelined = True
        if len(found) > 1:
            _log.warning("%d pipelines are among the module's attributes; the first is watched", len(found))
        try:
            self.recorder.watch_pipeline(found[0])
        except Exception as error:  # noqa: BLE001 - an engine of an unknown version: the other costs are measured
            _log.warning("the pipeline among the module's attributes is not watched: %r", error)

    @harmless
    def training_ended(self) -> None:
        self.recorder.training_ended()

    @harmless
    def before(self, batch: object, position: Hashable) -> AbstractContextManager[None] | None:
        if not self._announced and len(self.view.loaders) > 1:
            self.recorder.batches_have_parts(self.view.parts)
        count = self.recorder.before(batch, position)
        self.looking = self.recorder.looking
        return count

    @harmless
    def before_alike(self) -> None:
        self.recorder.before_alike()

    @harmless
    def noted(self) -> None:
        self.recorder.stepped_alike()

    @harmless
    def worked(self) -> None:
        self.recorder.worked()

    @harmless
    def copying(self) -> None:
        self.recorder.copying()

    @harmless
    def copied(self) -> None:
        self.recorder.copied()

    @harmless
    def before_evaluation(self, batch: object, loader: int) -> AbstractContextManager[None] | None:
        return self.recorder.before_evaluation(batch, loader)

    @harmless
    def look_inside(self) -> None:
        self.recorder.look_inside()

    @harmless
    def batch_ended(self, batch: object) -> None:
        view, recorder = self.view, self.recorder
        if self.stride.same:  # it looked like the last batch, and was another step after all
            self.stride.same = False
            recorder.not_alike()
        events = self.stride.take_events()
        work = work_of(events)
        first = not self._announced
        if first:  # the loaders are known from the first batch on
            with self.accounts.inside("other"):
                recorder.describe(_facts(self._trainer, view.loaders))
                self._find_pipeline()
        if view.epoch_complete:
            recorder.epoch_done()
        recorder.step(batch, optimizer_steps=len(work[0]), work=work, emit=False, events=events)
        if first:
            with self.accounts.inside("other"):
                self._announce()
        step = view.row_step + 1
        if recorder.due(step) and not view.accumulating:
            self._stamp()
            self._point(recorder.emit("train"))
        recorder.expect(0 if view.accumulates else view.batches_before_last, step)

    @harmless
    def evaluated(self, metrics: Mapping[str, float]) -> None:
        self._stamp()
        self._point(self.recorder.quality(metrics))

    @harmless
    def epoch_logged(self, metrics: Callable[[], Mapping[str, float]]) -> None:
        """A metric of the training itself is the quality: its epochs' ends are points too."""
        monitor = self.recorder.header["monitor"]
        if monitor is not None and monitor in (logged := metrics()):
            self._stamp()
            self._point(self.recorder.emit("epoch", logged))

    @harmless
    def infer(self, budget_s: float | None) -> None:
        if self.view.in_training:
            self.recorder.infer(context=self._trainer.precision_plugin.forward_context, budget_s=budget_s)

    @harmless
    def save(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[_CHECKPOINT_KEY] = self.recorder.state()

    @harmless
    def load(self, checkpoint: Mapping[str, Any]) -> None:
        self.recorder.resume(checkpoint[_CHECKPOINT_KEY])

    def close(self, status: Status) -> RunRecord | None:
        """The fit is over: write the run's end; one whose measuring broke off did not finish as a run."""
        was_broken, self.broken = self.broken, False
        return self._finish("failed" if was_broken else status)

    @harmless
    def _finish(self, status: Status) -> RunRecord | None:
        self.recorder.training_ended()
        run = self.recorder.end(status)
        if self.recorder.run_id and self._trainer.is_global_zero:
            final = {**self.recorder.final, **came_to(run)}
            end_wandb(self._trainer.loggers, final, self.recorder.header.get("pipeline"))
            link_wandb(self._trainer.loggers, self.recorder.header, self.recorder.final)
            try:
                _print_summary(self.recorder, run)
            except Exception as error:  # noqa: BLE001 - a terminal that is gone or speaks ASCII only
                _log.warning("the summary of costs could not be printed: %r", error)
        return run

    def row(self) -> Mapping[str, float]:
        return row(self._costs, self._columns) if self._row_step == self.view.row_step else {}

    def bar(self) -> str:
        if self._bar is None:
            self._bar = self._in_words()
        return self._bar

    def _in_words(self) -> str:
        """Cost so far, and at the end of training with its interval; what of a budget is used."""
        declared = self.recorder.declarations
        units = {name: declared[name].unit for name in _BAR if name in declared}
        amounts = [(self._costs.get(name), unit) for name, unit in units.items()]
        said = " · ".join(human(amount, unit) for amount, unit in amounts if amount is not None)
        ahead = self.ahead()
        ends = [ahead[name].words(unit) for name, unit in units.items() if name in ahead]
        used = share_used(self.recorder.header, self._costs)
        of_budget = f" ({human(used, 'fraction')} of the budget)" if used is not None else ""
        return f"{said}{of_budget} → {' · '.join(ends)}" if ends else f"{said}{of_budget}"

    # A budget asks ------------------------------------------------------------------------------------------

    def ahead(self) -> Mapping[str, Expected]:
        """Totals at the end of training as planned."""
        costs = self.recorder.totals
        steps, calls = costs.get("steps"), costs.get("optimizer_steps")
        return self.recorder.forecast(self.view.planned_steps(calls_a_step=calls / steps if calls and steps else 1.0))

    @property
    def step(self) -> int:
        """The step that points of this moment are stamped with."""
        return self.view.row_step

    def _announce(self) -> None:
        """Tell loggers about the run, now that it has its folder: what is in the header goes into their config."""
        self._announced = True
        if self._trainer.is_global_zero:
            begin_wandb(self._trainer.loggers, self.recorder.declarations, self.recorder.header)

    # Points -------------------------------------------------------------------------------------------------

    def _stamp(self) -> None:
        self.recorder.at(step=self.view.row_step, epoch=self._trainer.current_epoch)

    def _point(self, point: CurvePoint) -> None:
        self._costs, self._bar = point.costs, None
        self._row_step = self.view.row_step
        if point.trigger == "train":
            self.view.open_next_row()
        if self._trainer.world_size == 1:
            headline = row(point.costs, self._headline)
        elif point.trigger == "evaluate" or point.trigger == "epoch":
            # Every rank has to see the same, or their decisions part.
            headline = self.recorder.agreed(row(point.costs, self._headline), point.trigger)
        else:
            return
        if headline:
            # Tensors, in float64: EarlyStopping asks for tensors, and float32 rounds 67128463. One is made for all;
            # fresh ones, as somebody may keep the last.
            values = torch.from_numpy(numpy.array(list(headline.values()), dtype=numpy.float64)).unbind()
            self.view.publish(dict(zip(headline, values, strict=True)))


def _facts(trainer: Any, loaders: Sequence[Any]) -> dict[str, Any]:
    """The trainer's part of the setup."""
    dataset, samples = _dataset(loaders)
    return {
        "precision": str(trainer.precision),
        "strategy": type(trainer.strategy).__name__,
        **engine.facts(trainer.strategy.model),
        "accelerator": type(trainer.accelerator).__name__,
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "planned_batches_per_epoch": _finite(trainer.num_training_batches),
        "batch_size": getattr(loaders[0], "batch_size", None) if len(loaders) == 1 else None,
        "dataset": dataset,
        "dataset_samples": samples,
        "schedulers": [type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs],
    }


def _finite(value: float) -> int | None:
    return int(value) if value != float("inf") else None


def _dataset(loaders: Sequence[Any]) -> tuple[str | None, int | None]:
    """Class name of the training set, and its size where it has one."""
    datasets = [getattr(loader, "dataset", None) for loader in loaders]
    names = ", ".join(type(d).__name__ for d in datasets if d is not None) or None
    samples = 0
    for dataset in datasets:
        try:
            samples += len(dataset)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            return names, None
    return names, samples or None


def _print_summary(recorder: Recorder, run: RunRecord | None) -> None:
    """About ten rows in human units, and what to try next."""
    from rich.console import Console
    from rich.table import Table

    header: Mapping[str, Any] = legible_data(recorder.header)
    rows = summary_rows(header, recorder.final)
    table = Table(title=f"What {header['name']} cost", title_justify="left", box=None, show_header=False)
    for line in rows:
        if line.text != MISSING:
            table.add_row(line.label, line.text)
    console = Console(markup=False, emoji=False)  # a run's name is no markup
    console.print(table)
    if lost := lost_words(header, recorder.final):
        console.print(lost, highlight=False, soft_wrap=True)
    for told in budget_told(header, recorder.final):
        console.print(told, highlight=False, soft_wrap=True)
    if lacking := [line.label for line in rows if line.text == MISSING]:
        console.print(f"missing: {', '.join(lacking)}; the command below says why", highlight=False, soft_wrap=True)
    if run is not None:
        console.print(f"next: lightning-costs show {legible(str(recorder.path))}", highlight=False, soft_wrap=True)
