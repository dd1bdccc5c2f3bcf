"""The loop of a script's own, seen from outside: what sessions of frameworks without a loop share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.util import Finalize
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from lightning_costs.integrations.fetched_ahead import Evaluation, FetchedAhead, weakly
from lightning_costs.integrations.options import MonitorOptions
from lightning_costs.integrations.session import BatchInWork, Session, error_that_ended_the_script
from lightning_costs.patching.fail_safe import fail_safe, never_harmful
from lightning_costs.patching.optimizers import hook_optimizer_step
from lightning_costs.patching.patches import Patches
from lightning_costs.probes.clock import RunBegin, now_s
from lightning_costs.probes.loaders import plan_of
from lightning_costs.recording.recorder import Recorder
from lightning_costs.recording.run_state import status_from_exception
from lightning_costs.records.time_buckets import TimeBuckets
from lightning_costs.run.record import RunRecord

_running: list[LoopSession] = []


class LoopSession(Session):
    """The loop of a script that no hook surrounds: what was set up for it, and the run in progress.

    A batch begins where a training loader is asked for it and ends where the next one is; it counts if an optimizer
    stepped or a backward pass was reported. The run begins with the first iteration over a loader, or the first update,
    and ends with the process, or if the next session trains.
    """

    def __init__(self, options: MonitorOptions, begin: RunBegin) -> None:
        super().__init__(goes_on="the script")
        self.options, self.run_begin = options, begin
        #: What is on modules and optimizers of the user's.
        self.on_objects = Patches()
        self._modules: list[nn.Module] = []
        self.wrappers: list[nn.Module] = []
        self._optimizers: list[Callable[[], Any]] = []
        self.where: dict[str, Any] = {}
        self._trained_on: WeakSet[Any] = WeakSet()
        self._evaluation: Evaluation | None = None
        self._iterations = self._batches_of_epoch = 0
        self._ahead = FetchedAhead()
        #: Whether an evaluation came last, and whether its batches show by forward passes of modules that were set up.
        self._evaluated = self._forwards_tell = False
        self._reading: Any = None
        self.world_size = 1
        #: When checkpoints began to be loaded and how long that took, before there was a run.
        self._loads: list[tuple[float, float]] = []

    def users_loader(self, loader: Any) -> Any:
        """The loader that the user handed over."""
        raise NotImplementedError

    def before_begin(self, recorder: Recorder) -> None:
        """The run is about to begin: what a framework adds; nothing by default."""

    # Calls of the framework's hooks ---------------------------------------------------------------------------

    @fail_safe
    def add(self, modules: Sequence[nn.Module], optimizers: Sequence[Any], wrappers: Sequence[nn.Module]) -> None:
        """Modules and optimizers were set up: they are the run's, if they are new."""
        self.wrappers += [wrapper for wrapper in wrappers if all(wrapper is not known for known in self.wrappers)]
        self._modules += [module for module in modules if all(module is not known for known in self._modules)]
        for optimizer in optimizers:
            if all(optimizer is not known() for known in self._optimizers):
                self._optimizers.append(weakly(optimizer))  # one that the script replaces takes its state with it
                stepped = partial(self._stepped, len(self._optimizers) - 1)
                hook_optimizer_step(optimizer, stepped, self.on_objects, self, apart=optimizers)

    def batches(self, loader: Any, fetched: Iterator[Any]) -> Iterator[Any]:
        """The loader's batches; what is reported between them never raises."""
        yield from (self._evaluating if self._evaluates(loader) else self._training)(loader, fetched)

    @fail_safe
    def _evaluates(self, loader: Any) -> bool:
        """Gradients are off, or every module is in eval mode; but fine-tuning may train in that mode."""
        if not torch.is_grad_enabled():
            return True
        return loader not in self._trained_on and not any(module.training for module in self._modules)

    def backward(self, loss: object = None) -> None:
        """A backward pass: what is worked on is trained on."""
        if self.alike is None:
            self._it_trains()
        self.on_backward(loss)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Around loading a checkpoint: a part of setting up, if the run has not begun."""
        began_s = now_s()
        try:
            yield
        finally:
            if self.recorder is None:
                self._loads.append((began_s, now_s() - began_s))

    def backward_ended(self) -> None:
        """It is over."""
        self.on_backward_end()

    @fail_safe
    def logged(self, metrics: Mapping[str, Any]) -> None:
        """The metric that was named, wherever it is logged; without a name, what is logged after an evaluation."""
        monitor = self.options.monitor
        if self._evaluated if monitor is None else monitor in metrics:
            self.log_metrics(metrics)
        elif self.recorder is not None:
            self.hooks.run.note_logged(map(str, metrics))

    def _stepped(self, index: int) -> None:
        if (alike := self.alike) is not None:
            alike.updates.append(index)
        else:
            self._updated(index)

    @fail_safe
    def _updated(self, index: int) -> None:
        self._it_trains()
        if self.batch is None:
            self._begin()
        self.on_update(index)

    @fail_safe
    def _it_trains(self) -> None:
        """Fine-tuning in eval mode is no evaluation after all."""
        evaluation, batch = self._evaluation, self.batch
        if evaluation is None:
            if batch is None and self.recorder is not None:  # one that came from elsewhere, between or after loaders
                self._to_training()
            return
        if batch is not None and not (batch.updates and self._evaluates(evaluation.loader)):
            self._training_goes_on()
        else:
            self.end_batch()
            self._evaluation = None
            evaluation.trains = True
            self.repeating = False  # this batch began in no way that could be compared
            self.count.end(discard=True)
            if self.recorder is not None:
                self.hooks.steps.left_evaluation()
            self._trained_on.add(evaluation.loader)
            hooks = self._begin().hooks
            if self._reading is not evaluation.loader:
                self._reads(evaluation.loader)
            hooks.steps.on_batch_start(evaluation.content)  # it is too late to count it: one of its kind will be
            self.batch = BatchInWork(evaluation.content, evaluation.loader)
            self.batch.forwards = int(evaluation.worked_on)
            if self.phases is not None:
                self.phases.work_begins()

    def _training_goes_on(self) -> None:
        """An evaluation in the midst of a batch is over, though its loader may give more: that stays open."""
        self._evaluation_ended(self._evaluation, left=True)
        if self.hooks.steps.accounts.current == "evaluate":
            self._to_training()
        if (phases := self.phases) is not None:
            phases.resume()

    @property
    def _in_training(self) -> bool:
        """Whether time goes to training: what else is done then is in no phase of it."""
        return self.recorder is not None and self.hooks.steps.accounts.current == "train"

    def _to_training(self) -> None:
        """Time goes to training, if it went to anything else."""
        accounts = self.hooks.steps.accounts
        if self.hooks.run.training and accounts.current != "train":
            accounts.reset_to("train")

    def forward(self, inputs: object = ()) -> None:
        """A forward pass: the batch in work is not passed over, or is another one that was fetched before."""
        if self.alike is None:
            self._forward_begins(inputs)
        elif self._evaluation is None:
            self.alike.forwards += 1

    @fail_safe
    def _forward_begins(self, inputs: object) -> None:
        if (evaluation := self._evaluation) is not None:
            if self.batch is None or self._evaluates(evaluation.loader):
                evaluation.worked_on = self._forwards_tell = True
                return
            self._training_goes_on()
        if (ahead := self._ahead.take(inputs)) is not None and self.recorder is not None:
            if self.batch is not None and not (self.batch.updates or self.batch.backwards):
                self._ahead.add(self.batch)
                self.drop_batch()
            self.end_batch()
            self._to_training()  # the loader's end may have been met
            self.begin_batch(ahead.content, loader=ahead.loader)
        if self.batch is not None:
            self.batch.forwards += 1
        if self.batch is not None or (torch.is_grad_enabled() and self._in_training):
            self.on_forward()  # without a loader, only what may be trained on

    def _alive(self) -> list[Any]:
        return [optimizer for known in self._optimizers if (optimizer := known()) is not None]

    # Loaders ------------------------------------------------------------------------------------------------

    def _training(self, loader: Any, fetched: Iterator[Any]) -> Iterator[Any]:
        self._iteration_begins(loader)
        try:
            while True:
                self._fetch_begins(loader)
                try:
                    batch = next(fetched)
                except BaseException as error:
                    self._fetched()
                    if not isinstance(error, StopIteration):
                        raise
                    self._exhausted(loader)
                    return
                self._batch_begins(loader, batch)
                yield batch
                del batch
        finally:
            self._iteration_ended(loader)

    @fail_safe
    def _iteration_begins(self, loader: Any) -> None:
        if self._optimizers and self._modules:
            self._begin()
        self._iterations += 1
        self._evaluated = False
        self._trained_on.add(loader)
        if self._reading is loader:
            self._reading = None

    @fail_safe
    def _fetch_begins(self, loader: Any) -> None:
        if self._evaluation is not None:
            self._evaluation_ended(self._evaluation)
        batch = self.batch
        if batch is not None and (batch.updates or batch.backwards):
            self._work_ended(None)
        elif batch is not None and batch.loader is loader:  # it was passed over, or its turn comes later
            self.drop_batch()
            self._ahead.add(batch)
        if self.recorder is not None and self.hooks.run.training:
            accounts = self.hooks.steps.accounts
            if accounts.current != "train":
                accounts.reset_to("train")
            accounts.enter("data_wait")

    @fail_safe
    def _fetched(self) -> None:
        if self.recorder is not None and self.hooks.steps.accounts.current == "data_wait":
            self.hooks.steps.accounts.exit()

    @fail_safe
    def _batch_begins(self, loader: Any, content: object) -> None:
        if self.recorder is None:
            return
        accounts = self.hooks.steps.accounts
        if accounts.current == "data_wait":
            accounts.exit()
        if self.batch is not None:  # a second loader's batch belongs to the one in work
            return
        if self._reading is not loader:
            self._reads(loader)
        self._work_begins(content, loader)
        if self._ahead:  # a forward pass may be another batch's
            self.alike = None

    def _reads(self, loader: Any) -> None:
        """The batch in work is this loader's, its first one if it was begun again."""
        self._reading = loader
        self.hooks.steps.begins_epoch_of([self.users_loader(loader)])
        self.hooks.steps.repeats.disarm()  # many trainings do in an epoch's first step what they do in no other

    def _work_ended(self, emit: bool | None) -> bool:
        repeat = super()._work_ended(emit)
        if repeat:
            self._batches_of_epoch += 1
        elif self.repeating and self.recorder is not None:
            self.hooks.steps.allow_repeats(math.inf)
        return repeat

    def on_batch_done(self, batch: BatchInWork) -> None:
        """The first one's loader is the training data; epochs are counted by batches."""
        self._batches_of_epoch += 1
        if self.recorder is not None and not self.recorder.run_id:
            loader = self.users_loader(batch.loader)
            self.describe_data([loader], {"batch_size": plan_of(loader).size})

    @fail_safe
    def _exhausted(self, loader: Any) -> None:
        if self.recorder is not None and self._batches_of_epoch:
            self.hooks.steps.epoch_done()
            self._batches_of_epoch = 0

    @fail_safe
    def _iteration_ended(self, loader: Any) -> None:
        """The loader is at its end, or was left: by `break`, or by an error in the middle of a batch."""
        if self.batch is not None and self.batch.loader is loader:
            if self.batch.updates:
                self.end_batch()
            else:
                self.drop_batch()
        self._iterations -= 1
        if not self._iterations and self.recorder is not None and self.hooks.run.training:
            self.hooks.run.training_ended()

    def _evaluating(self, loader: Any, fetched: Iterator[Any]) -> Iterator[Any]:
        if self.batch is not None and self.batch.updates and not self._iterations:
            self.end_batch()
        depth = self._evaluation_resumes(None)
        evaluation, left = None, False
        try:
            for batch in fetched:
                evaluation, left = self._evaluation_begins(loader, batch), True
                yield batch
                left = False
                del batch
                if evaluation is not None and evaluation.trains:
                    yield from self._training(loader, fetched)
                    return
                depth = self._evaluation_resumes(depth)
                self._evaluation_ended(evaluation)
        finally:
            self._evaluation_ended(evaluation, left=left)
            self.leave(depth)
            if (phases := self.phases) is not None:
                phases.resume()

    @fail_safe
    def _evaluation_resumes(self, depth: int | None) -> int | None:
        """Time goes to evaluation; again, if an open iterator gives one more batch."""
        if self.recorder is None or self.hooks.steps.accounts.current == "evaluate":
            return depth
        if (phases := self.phases) is not None:
            phases.pause()
        return self.enter("evaluate")

    @fail_safe
    def _evaluation_begins(self, loader: Any, content: object) -> Evaluation:
        evaluation = Evaluation(loader, content)
        self.count.end(discard=True)  # in the midst of a training batch: what follows is not its work
        self._evaluated, self._evaluation, self.alike = True, evaluation, None
        if self.recorder is not None:
            self.count.begin(self.hooks.steps.on_eval_batch_start(content))
        return evaluation

    @fail_safe
    def _evaluation_ended(self, evaluation: Evaluation | None, *, left: bool = False) -> None:
        """Its work is done, or it was left: by `break` after some work, or without any."""
        if evaluation is not None and evaluation is self._evaluation:
            self._evaluation = None
            self.count.end()
            if left and self._forwards_tell and not evaluation.worked_on and self.recorder is not None:
                self.hooks.steps.left_evaluation()

    # The run ------------------------------------------------------------------------------------------------

    def _begin(self) -> Recorder:
        """The run in progress; the first time, those of other sessions end."""
        if self.recorder is not None:
            return self.recorder
        for other in [session for session in _running if not session._iterations]:
            other.end_run(error_that_ended_the_script())
        accounts = TimeBuckets(now_s, self.run_begin.seconds())
        for began_s, took_s in self._loads:
            if began_s >= accounts.begun_s:
                accounts.book("restore", took_s)
                accounts.restores_are_reported = True
        self._loads.clear()
        accounts.startup_s["imports"] = self.run_begin.imports_s(accounts.begun_s)
        recorder = self.options.recorder(
            world_size=self.world_size,
            module=self._module(),
            optimizers=self._alive,
            accounts=accounts,
            **self.where,
        )
        recorder.hooks.run.set_wrapped_module(nn.ModuleList(self.wrappers) if self.wrappers else None)
        self.before_begin(recorder)
        recorder.begin()
        self.recorder, steps = recorder, recorder.hooks.steps
        steps.repeats.on_record = steps.on_repeat_end if self.repeating and steps.timing_device else None
        # Not atexit: this runs in processes that multiprocessing starts too, and in no fork of the script's own.
        self._at_exit = Finalize(None, lambda: self.end_run(error_that_ended_the_script()), exitpriority=100)
        _running.append(self)
        return recorder

    def _module(self) -> nn.Module | None:
        """What is trained; None where the script set up optimizers alone, so that what asks for modules is missing."""
        if len(self._modules) == 1:
            return self._modules[0]
        return nn.ModuleList(self._modules) if self._modules else None

    @never_harmful
    def end_run(self, error: BaseException | None = None) -> RunRecord | None:
        """The run in progress is over: its process ends, another session trains, or the script says so."""
        if self.recorder is None:
            return None
        _running.remove(self)
        self._at_exit.cancel()
        was_broken, self.broken = self.broken, False
        self._before_end(error, measures=error is None and not was_broken)
        self.broken |= was_broken
        self.note_error(error)
        run = self.finish(status_from_exception(type(error) if error is not None else None))
        self.run_begin.ended()
        self.say_next()
        self.recorder = None
        return run

    @never_harmful
    def let_go(self, error: BaseException | None = None) -> RunRecord | None:
        """End the run in progress and forget what was set up for it: what is set up next is another run's."""
        run = self.end_run(error)
        self.batch = self.alike = self._evaluation = self._reading = None
        self._modules, self.wrappers, self._optimizers = [], [], []
        self._ahead, self._batches_of_epoch = FetchedAhead(), 0
        self.on_objects.restore()
        return run

    @fail_safe
    def _before_end(self, error: BaseException | None, *, measures: bool) -> None:
        if isinstance(error, Exception):
            self.hooks.steps.say_how(error)
        if self.batch is not None and self.batch.updates:
            self.end_batch()
        else:
            self.drop_batch()  # what counts its operators is taken off
        if measures and self.options.infers(self.world_size):
            self.benchmark_inference(self.options.infer)


def end_runs() -> None:
    """End the runs in progress now, as the end of the process would: in a notebook, or before something else runs."""
    for session in list(_running):
        session.end_run(error_that_ended_the_script())
