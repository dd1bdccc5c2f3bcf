"""CostBudget: a Lightning callback that stops training at the first step past a limit, on all ranks at the same one."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import wraps
from typing import Any, Literal, Protocol, final

from lightning_costs.integrations.alerts import BudgetAlert, OnAlert, send
from lightning_costs.integrations.lightning.compat import Callback
from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.probes.clock import now_s
from lightning_costs.recording.recorder import Recorder
from lightning_costs.records.forecast import Forecast
from lightning_costs.records.formatting import format_amount
from lightning_costs.records.limits import Budget, LimitExceeded, validate_limit_columns, validate_limits
from lightning_costs.records.samples import Amount

_log = logging.getLogger("lightning_costs")


class MeasuredFit(Protocol):
    """The fit that is measured; `lightning_costs.integrations.lightning.fit_points` shows it."""

    recorder: Recorder

    @property
    def broken(self) -> bool:
        """Whether measuring has stopped."""

    @property
    def step(self) -> int:
        """The step that points of this moment are stamped with."""

    def ahead(self) -> Mapping[str, Forecast]:
        """Totals at the end of training, by column; empty while too little was seen."""


def _never_harmful(hook: Callable[..., None]) -> Callable[..., None]:
    """Wrap a hook: an internal error ends the budget, not the training."""

    @wraps(hook)
    def careful(self: CostBudget, *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, *args, **kwargs)
        except ValueError:  # limits that cannot be enforced
            raise
        except Exception as error:  # noqa: BLE001 - an internal error must not end the training
            reraise_from_signal(error)
            self._active = False
            _log.exception("the budget is no longer enforced; training continues without it. Please report this")

    return careful


@final
class CostBudget(Callback):
    """Stops training at the first step at or past a limit. Add it to a Trainer's callbacks, beside a `CostMonitor`.

    Limits apply to the run's totals, including earlier attempts. Training stops as by EarlyStopping, by
    `trainer.should_stop`: all ranks after the same step, with the Trainer's last evaluation, and not before
    `min_steps` and `min_epochs`. Rank 0 decides.

    Args:
        limits: Amount by counter column, in the column's unit: `{"cloud_usd": 50.0, "energy_j": 3.6e6}`.
        warn_at: Share of a limit at which one warning is logged.
        checkpoint: Whether a checkpoint is saved when training stops, so that it can continue under another limit.
            It is saved beside those of ModelCheckpoint, otherwise in `checkpoints` under `default_root_dir`.
        on_warn: Called on rank 0 with a `BudgetAlert` when `warn_at` is reached, once a limit, in a thread of its own;
            such as a `lightning_costs.integrations.alerts.Webhook`.
        on_stop: As `on_warn`, when a limit stops training.

    Raises:
        ValueError: For limits that are not finite numbers above 0, or a `warn_at` that is not a share. When a fit
            begins: for a limit that cannot be enforced (no CostMonitor, an unknown or missing column, no counter).

    Examples:
        ```python
        trainer = Trainer(callbacks=[CostMonitor(), CostBudget({"cloud_usd": 50.0})])
        trainer.fit(model, data)
        ```
    """

    def __init__(
        self,
        limits: dict[str, float],
        *,
        warn_at: float = 0.8,
        checkpoint: bool = True,
        on_warn: OnAlert | None = None,
        on_stop: OnAlert | None = None,
    ) -> None:
        super().__init__()
        self.limits = validate_limits(limits)
        if not 0 < warn_at <= 1:
            raise ValueError(f"warn_at must be a share above 0 and up to 1, got {warn_at!r}")
        for name, given in (("on_warn", on_warn), ("on_stop", on_stop)):
            if given is not None and not callable(given):
                raise ValueError(f"{name} must be a function of an alert, got {type(given).__name__}")
        self._warn_at, self._checkpoint = warn_at, checkpoint
        self._on_warn, self._on_stop = on_warn, on_stop
        self._watched: MeasuredFit | None = None
        self._let_down = False
        self._rest()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy, a pickle or a spawned process gets: the arguments, and nothing of a fit in progress."""
        fresh = type(self)(
            self.limits,
            warn_at=self._warn_at,
            checkpoint=self._checkpoint,
            on_warn=self._on_warn,
            on_stop=self._on_stop,
        )
        return {**vars(fresh)}

    def _rest(self) -> None:
        """No fit is in progress."""
        self._active = False
        self._budget = Budget(self.limits)
        self._global_step = self._steps = 0
        #: Steps without a check, and the moment after which there is one in any case, in a single process.
        self._left: float = 0
        self._until_s = math.inf
        self._stopped = self._foretold = False
        self._saved_at = -1
        self._counted = False

    def watch(self, watched: MeasuredFit) -> None:
        """A fit is measured: its totals are the ones that are limited."""
        if self._watched is None:
            self._watched = watched

    def let_down(self) -> None:
        """The monitor failed, which it said: there are no totals to limit."""
        self._let_down = True

    # Lightning's hooks: the same ones, in the same order, on every rank -----------------------------------------

    @_never_harmful
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Come after those whose hooks change what a step costs or leaves, the monitor above all."""
        if stage != "fit" or trainer.fast_dev_run:
            return
        self._rest()
        others = [callback for callback in trainer.callbacks if isinstance(callback, CostBudget)]
        if any(other._active and other.limits == self.limits for other in others):
            return  # Trainers that share a callback list: `lightning-costs run` gave each of them one
        self._active = True
        checkpoints = set(map(id, trainer.checkpoint_callbacks))
        saving = [callback for callback in trainer.callbacks if id(callback) in checkpoints]
        others = [
            callback for callback in trainer.callbacks if callback is not self and id(callback) not in checkpoints
        ]
        trainer.callbacks = [*others, self, *saving]  # a new list: the old one is being gone through

    @_never_harmful
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse limits that cannot be enforced, on every rank."""
        if self._active:
            refused = self._refused() if trainer.is_global_zero else None
            if (refused := trainer.strategy.broadcast(refused)) is not None:
                raise ValueError(refused)

    @_never_harmful
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """A resumed run may have spent it all."""
        if self._active:
            self._global_step = trainer.global_step
            self._look(trainer)

    @_never_harmful
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Check if a limit may be near; rank 0 has broadcast when that is."""
        if not self._active:
            return
        if (step := trainer.global_step) != self._global_step:
            self._global_step, self._counted = step, True
        elif self._counted or pl_module.automatic_optimization:  # else Lightning never sees the optimizers step
            return  # gradients accumulate
        self._steps += 1
        self._left -= 1
        if self._stopped:
            self._save_where_it_ends(trainer)
        elif self._left <= 0 or now_s() >= self._until_s:
            self._look(trainer)

    @_never_harmful
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Check after an evaluation, whose cost steps cannot predict."""
        if self._active and not trainer.sanity_checking and not self._stopped:
            self._look(trainer, evaluated=True)

    @_never_harmful
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Check after an epoch: epoch counts jump by one, so the pace cannot predict them."""
        if self._active and "epochs" in self.limits and not self._stopped:
            self._look(trainer)

    @_never_harmful
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The end of an epoch may be what a stop had to wait for."""
        if self._active and self._stopped and self._steps and self._saved_at != self._steps:
            self._save(trainer)

    @_never_harmful
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Note a checkpoint of this step by another callback: a second one is not needed."""
        self._saved_at = self._steps

    @_never_harmful
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """The fit is over."""
        if stage == "fit":
            self._watched, self._let_down = None, False
            self._rest()

    @_never_harmful
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The fit ended by an error."""
        self._watched, self._let_down = None, False
        self._rest()

    # What all ranks do together, after the same step ------------------------------------------------------------

    def _look(self, trainer: Any, *, evaluated: bool = False) -> None:
        """Rank 0 decides, and all hear of it: whatever goes wrong in deciding, every rank reaches the broadcast."""
        if trainer.is_global_zero:
            decided = self._decide(evaluated=evaluated)
        else:
            decided = None
            if (
                self._watched is not None
                and not self._watched.broken
                and not self._watched.recorder.hooks.points.totals_are_current
            ):
                self._watched.recorder.hooks.points.read()  # rank 0 has to know what this rank spent
        self._left, stop = trainer.strategy.broadcast(decided)
        if trainer.world_size > 1:
            self._until_s = math.inf  # a moment that one rank alone knows of
        if self._left == math.inf and not stop:
            self._active = False  # totals can no longer be read
        if stop:
            self._stopped = trainer.should_stop = True
            if self._steps:
                self._save_where_it_ends(trainer)
            if trainer.is_global_zero and not _can_stop(trainer):
                _log.warning(
                    "Lightning trains on until min_epochs=%s, min_steps=%s", trainer.min_epochs, trainer.min_steps
                )

    def _save_where_it_ends(self, trainer: Any) -> None:
        """Save within the epoch, so that a resume continues there. After it, Lightning would skip the epoch's rest."""
        if _can_stop(trainer) and self._saved_at != self._steps:
            self._save(trainer)

    def _save(self, trainer: Any) -> None:
        if not self._checkpoint:
            return
        folders = [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
        folder = next(filter(None, folders), os.path.join(trainer.default_root_dir, "checkpoints"))
        path = os.path.join(folder, f"budget-epoch={trainer.current_epoch}-step={trainer.global_step}.ckpt")
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            _log.warning("to continue, raise the limit and resume with ckpt_path=%r", path)

    # What rank 0 does -------------------------------------------------------------------------------------------

    def _refused(self) -> str | None:
        """Why the limits cannot be enforced, as far as that is known before training."""
        if self._watched is None and self._let_down:
            return None  # looking at it says so
        if self._watched is None:
            return "CostBudget needs a CostMonitor, whose totals it limits: add one to the Trainer's callbacks"
        recorder = self._watched.recorder
        try:
            validate_limit_columns(list(self.limits), recorder.hooks.points.declarations)
            recorder.add_metadata({"budget": {"limits": self.limits}})
            return recorder.hooks.points.unenforceable_limits(self.limits)
        except ValueError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - the others wait in the broadcast
            reraise_from_signal(error)
            _log.exception("the budget is no longer enforced; training continues without it. Please report this")
            self._watched = None  # looking at it says so
            return None

    def _decide(self, *, evaluated: bool) -> tuple[float, bool]:
        """Steps until all look again, and whether training stops here."""
        try:
            if self._watched is None or self._watched.broken:
                _log.error("the budget is no longer enforced: measuring stopped, for the reason above")
                return math.inf, False
            return self._looked(self._watched, evaluated=evaluated)
        except Exception as error:  # noqa: BLE001 - the others wait in the broadcast
            reraise_from_signal(error)
            _log.exception("the budget is no longer enforced; training continues without it. Please report this")
            return math.inf, False

    def _looked(self, watched: MeasuredFit, *, evaluated: bool) -> tuple[float, bool]:
        recorder, budget, steps = watched.recorder, self._budget, self._steps
        totals = recorder.totals
        if (
            evaluated or not recorder.hooks.points.totals_are_current or (steps and budget.near_limit(totals))
        ):  # a train point asks not every meter
            totals = recorder.hooks.points.read()
        most = recorder.hooks.points.steps_to_point(watched.step + 1)
        passed = budget.update(steps, now_s(), totals, most_steps=most)
        self._until_s = budget.next_s
        if lost := budget.newly_unenforceable(totals):
            _log.error("%s; training continues", recorder.hooks.points.unenforceable_limits(lost))
        if passed is not None:
            self._say_it_stops(watched, passed)
            return math.inf, True
        self._say_what_is_ahead(watched, totals)
        return budget.next_step - steps, False

    def _say_it_stops(self, watched: MeasuredFit, passed: LimitExceeded) -> None:
        about = {"by": "CostBudget", "step": watched.step, **asdict(passed)}
        watched.recorder.add_metadata({"stopped": about})
        unit = watched.recorder.hooks.points.declarations[passed.column].unit
        when = f"at step {watched.step}" if self._steps else "before this attempt"
        limit, amount = format_amount(passed.limit, unit), format_amount(passed.amount, unit)
        text = f"the budget of {limit} ({passed.column}) is used up: {amount} {when}; training stops"
        _log.warning("%s", text)
        self._alert("stop", watched, passed, text)

    def _alert(self, kind: Literal["warn", "stop"], watched: MeasuredFit, used: LimitExceeded, text: str) -> None:
        """Call the user's function; the run's name is its alone to send."""
        header = watched.recorder.header
        unit = watched.recorder.hooks.points.declarations[used.column].unit
        alert = BudgetAlert(kind=kind, run=str(header["name"]), unit=unit, step=watched.step, text=text, **asdict(used))
        send(alert, self._on_warn if kind == "warn" else self._on_stop)

    def _say_what_is_ahead(self, watched: MeasuredFit, totals: Mapping[str, Amount]) -> None:
        """Each once: that most of a limit is used, and that the plan of the training is beyond it."""
        declared = watched.recorder.hooks.points.declarations
        for used, left in self._budget.limits_nearly_reached(totals, self._warn_at):
            limit, share = (
                format_amount(used.limit, declared[used.column].unit),
                format_amount(used.amount / used.limit, "fraction"),
            )
            ends = f"all of it is at about step {watched.step + math.ceil(left)}" if left is not None else "it lasts"
            text = (
                f"{share} of the budget of {limit} ({used.column}) is used at step {watched.step}; at this pace {ends}"
            )
            _log.warning("%s", text)
            self._alert("warn", watched, used, text)
        if self._foretold or not self._budget.enforceable:
            return
        ahead = watched.ahead()
        known = {name: ahead[name] for name in self.limits if name in ahead and ahead[name].low is not None}
        self._foretold = bool(known)
        for name, expected in known.items():
            if expected.middle > self.limits[name]:
                unit = declared[name].unit
                _log.warning(
                    "training as planned would need %s, beyond the budget of %s (%s); it will stop sooner",
                    *(expected.words(unit), format_amount(self.limits[name], unit), name),
                )


def _can_stop(trainer: Any) -> bool:
    """Whether Lightning heeds a stop now."""
    return bool((trainer.min_epochs or 0) <= trainer.current_epoch and (trainer.min_steps or 0) <= trainer.global_step)
