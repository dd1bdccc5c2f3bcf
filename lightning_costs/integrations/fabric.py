"""FabricMonitor: what happens in a Lightning Fabric script, told to a Recorder. It computes nothing itself."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from multiprocessing.util import Finalize
from typing import Any, final
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import nn

from lightning_costs.integrations import fabric_hooks as view
from lightning_costs.patching.fail_safe import fail_safe, never_harmful
from lightning_costs.probes.clock import RunBegin, now_s
from lightning_costs.probes.loaders import training_set
from lightning_costs.probes.opcount.detached import DetachedOpCounter
from lightning_costs.recording.recorder import Recorder
from lightning_costs.recording.run_state import status_from_exception
from lightning_costs.records.time_buckets import METERED_BUCKETS, TimeBuckets
from lightning_costs.storage.paths import run_root, shown

_log = logging.getLogger("lightning_costs")

_sessions: WeakKeyDictionary[Any, _Session] = WeakKeyDictionary()
_running: list[_Session] = []


@final
class FabricMonitor:
    """Measures what a Fabric script's training costs. It goes among the Fabric's callbacks; the script stays as it is.

    A batch begins where a training loader is asked for it and ends where the next one is; it counts where an
    optimizer stepped or `fabric.backward` ran. A loader that is iterated over with gradients off, or with every module
    in eval mode, is evaluation. Metrics that are logged after it, or the one named `monitor`, are the quality. Time
    outside of loaders is `other`. The run begins with the process and ends with it, or where the next Fabric trains.

    Args:
        namespace: 'lightning.fabric' or 'lightning_fabric'.
        options: Arguments of `CostMonitor`; `log` has no meaning here.
        begin: When its run begins, where it was made in another process.
    """

    def __init__(self, namespace: str, options: Mapping[str, Any], begin: RunBegin | None = None) -> None:
        self._namespace = namespace
        self.begin = begin or RunBegin()
        self.options = {name: value for name, value in options.items() if name != "log"}
        self.options["save_dir"] = run_root(self.options.get("save_dir", "costs"))
        view.patch_fabric(import_module(namespace).Fabric, _session_of)

    def __reduce__(self) -> tuple[type[FabricMonitor], tuple[str, Mapping[str, Any], RunBegin]]:
        return FabricMonitor, (self._namespace, self.options, self.begin)


def end_runs() -> None:
    """End the runs in progress now, as the end of the process would: in a notebook, or before something else runs."""
    for session in list(_running):
        session._end()


def _session_of(fabric: Any) -> _Session | None:
    session = _sessions.get(fabric)
    if session is None:
        monitor = next((c for c in view.callbacks(fabric) if isinstance(c, FabricMonitor)), None)
        if monitor is not None:
            session = _sessions[fabric] = _Session(monitor.options, monitor.begin)
    return session


def _weakly(thing: Any) -> Callable[[], Any]:
    """A way to a thing that does not keep it, where there is one."""
    try:
        return ref(thing)
    except TypeError:
        return lambda: thing


class _Batch:
    """A batch in work."""

    def __init__(self, loader: Any, content: object) -> None:
        self.loader, self.content = loader, content
        self.stepped: list[int] = []
        self.backwards = 0


class _Evaluation:
    """An iteration over a loader that looks like evaluation, until something is trained in it."""

    def __init__(self, loader: Any, content: object) -> None:
        self.loader, self.content = loader, content
        #: Whether something was trained in it, and whether a module that was set up made a forward pass.
        self.trains = self.on_batch_queued = False


@final
class _Session:
    """One Fabric: what was set up, and the run in progress."""

    def __init__(self, options: Mapping[str, Any], begin: RunBegin) -> None:
        self._options, self._run_begin = options, begin
        self._modules: list[nn.Module] = []
        self._wrappers: list[nn.Module] = []
        self._optimizers: list[Callable[[], Any]] = []
        self._where: dict[str, Any] = {}
        self._recorder: Recorder | None = None
        self._batch: _Batch | None = None
        self._trained_on: WeakSet[Any] = WeakSet()
        self._evaluation: _Evaluation | None = None
        self._iterations = self._batches_of_epoch = 0
        self._evaluated = False
        #: Whether the batches of evaluation show by forward passes of modules that were set up.
        self._forwards_tell = False
        self._reading: Any = None
        self._world_size = 1
        self.count = DetachedOpCounter()
        self.broken = self._said = False

    def disable(self) -> None:
        """Something went wrong in here: say so once, and leave the script alone from now on."""
        self.broken = True
        with suppress(Exception):
            self.count.end(discard=True)
        if not self._said:
            self._said = True
            _log.exception("measuring costs failed and stops here; the script goes on. Please report this")

    # The view tells -----------------------------------------------------------------------------------------

    @fail_safe
    def set_up(
        self, fabric: Any, modules: Sequence[nn.Module], optimizers: Sequence[Any], wrappers: Sequence[nn.Module]
    ) -> None:
        place, places = view.places(fabric)
        nodes, cuda = view.nodes(fabric), fabric.device.type == "cuda"
        self._world_size = fabric.world_size
        self._where = {
            "place": place,
            "places": places,
            "nodes": nodes,
            "device": fabric.device,
            "devices": fabric.world_size if cuda else nodes,
            "setup": view.fabric_setup(fabric),
        }
        self._wrappers += [wrapper for wrapper in wrappers if all(wrapper is not known for known in self._wrappers)]
        self._modules += [module for module in modules if all(module is not known for known in self._modules)]
        for optimizer in optimizers:
            if all(optimizer is not known() for known in self._optimizers):
                self._optimizers.append(_weakly(optimizer))  # one that the script replaces takes its state with it
                view.hook_fabric_step(optimizer, self._look_inside, partial(self._stepped, len(self._optimizers) - 1))

    def batches(self, loader: Any, fetched: Iterator[Any]) -> Iterator[Any]:
        """The loader's batches; what is told between them never raises."""
        yield from (self._evaluating if self._evaluates(loader) else self._training)(loader, fetched)

    @fail_safe
    def _evaluates(self, loader: Any) -> bool:
        """Gradients are off, or every module is in eval mode; but fine-tuning may train in that mode."""
        if not torch.is_grad_enabled():
            return True
        return loader not in self._trained_on and not any(module.training for module in self._modules)

    @fail_safe
    def backward(self) -> None:
        self._it_trains()
        if self._batch is not None:
            self._batch.backwards += 1
        self._look_inside()

    @contextmanager
    def saving(self) -> Iterator[None]:
        depth = self._push("checkpoint")
        try:
            yield
        finally:
            self._pop(depth)

    @fail_safe
    def logged(self, metrics: Mapping[str, Any]) -> None:
        """The metric that was named, wherever it is logged; without a name, what is logged after an evaluation."""
        monitor = self._options.get("monitor")
        wanted = self._evaluated if monitor is None else monitor in metrics
        if self._recorder is not None and wanted:
            numbers: dict[str, float] = {}
            for name, value in metrics.items():
                with suppress(TypeError, ValueError, RuntimeError):  # what is no number is no quality
                    numbers[str(name)] = float(value)
            self._recorder.log_metrics(numbers)

    @fail_safe
    def _look_inside(self) -> None:
        if self._recorder is not None:
            self._recorder.sample_memory()

    @fail_safe
    def _stepped(self, index: int) -> None:
        self._it_trains()
        self._look_inside()
        if self._batch is not None:
            self._batch.stepped.append(index)
        else:  # the batch came from elsewhere: steps are known, what is in them is not
            self._begin().step(None, work=(index,))

    def _it_trains(self) -> None:
        """Fine-tuning in eval mode is no evaluation after all."""
        evaluation, self._evaluation = self._evaluation, None
        if evaluation is not None:
            evaluation.trains = True
            self.count.end(discard=True)
            self._trained_on.add(evaluation.loader)
            self._reads(self._begin(), evaluation.loader)
            self._begin().on_batch_start(evaluation.content)  # it is too late to count it: one of its kind will be
            self._batch = _Batch(evaluation.loader, evaluation.content)

    @fail_safe
    def forward(self) -> None:
        if self._evaluation is not None:
            self._evaluation.on_batch_queued = self._forwards_tell = True

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
                except StopIteration:
                    self._exhausted(loader)
                    return
                finally:
                    self._pop()
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
        self._evaluation_ended(self._evaluation)
        batch = self._batch
        if batch is not None and (batch.stepped or batch.backwards):
            self._batch_ended()
        elif batch is not None and batch.loader is loader:  # it was passed over
            self.count.end(discard=True)
            self._batch = None
        if self._recorder is not None and self._recorder.training:
            if self._recorder.accounts.current != "train":
                self._recorder.accounts.reset_to("train")
            self._push("data_wait")

    @fail_safe
    def _batch_begins(self, loader: Any, content: object) -> None:
        if self._recorder is None or self._batch is not None:  # a second loader's batch belongs to the one in work
            return
        self._batch = _Batch(loader, content)
        self._reads(self._recorder, loader)
        self.count.begin(self._recorder.on_batch_start(content))

    def _reads(self, recorder: Recorder, loader: Any) -> None:
        """The batch in work is this loader's, its first one if it was begun anew."""
        if self._reading is not loader:
            self._reading = loader
            recorder.begins_epoch_of([view.users_loader(loader)])

    @fail_safe
    def _batch_ended(self) -> None:
        batch, self._batch = self._batch, None
        self.count.end()
        if batch is not None and self._recorder is not None:
            self._describe(batch.loader)
            self._batches_of_epoch += 1
            work = (tuple(batch.stepped), batch.backwards)
            self._recorder.step(batch.content, optimizer_steps=len(batch.stepped), work=work)

    @fail_safe
    def _exhausted(self, loader: Any) -> None:
        if self._recorder is not None and self._batches_of_epoch:
            self._recorder.epoch_done()
            self._batches_of_epoch = 0

    @fail_safe
    def _iteration_ended(self, loader: Any) -> None:
        """The loader is at its end, or was left: by `break`, or by an error in the middle of a batch."""
        if self._batch is not None and self._batch.loader is loader:
            if self._batch.stepped:
                self._batch_ended()
            else:
                self.count.end(discard=True)
                self._batch = None
        self._iterations -= 1
        if not self._iterations and self._recorder is not None and self._recorder.training:
            self._recorder.accounts.reset_to("other")

    def _evaluating(self, loader: Any, fetched: Iterator[Any]) -> Iterator[Any]:
        depth = self._push("evaluate")
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
                self._evaluation_ended(evaluation)
        finally:
            self._evaluation_ended(evaluation, left=left)
            self._pop(depth)

    @fail_safe
    def _evaluation_begins(self, loader: Any, content: object) -> _Evaluation:
        evaluation = _Evaluation(loader, content)
        self.count.end(discard=True)  # in the midst of a training batch: what follows is not its work
        self._evaluated, self._evaluation = True, evaluation
        if self._recorder is not None:
            self.count.begin(self._recorder.on_eval_batch_start(content))
        return evaluation

    @fail_safe
    def _evaluation_ended(self, evaluation: _Evaluation | None, *, left: bool = False) -> None:
        """Its work is done, or it was left: by `break` after some work, or without any."""
        if evaluation is not None and evaluation is self._evaluation:
            self._evaluation = None
            self.count.end()
            if left and self._forwards_tell and not evaluation.on_batch_queued and self._recorder is not None:
                self._recorder.left_evaluation()

    @fail_safe
    def _push(self, account: str) -> int | None:
        if self._recorder is None:
            return None
        if account in METERED_BUCKETS:
            self._recorder.accounts.notify_transition()
        return self._recorder.accounts.enter(account)

    @fail_safe
    def _pop(self, depth: int | None = None) -> None:
        accounts = self._recorder.accounts if self._recorder is not None else None
        if accounts is None or (depth is None and accounts.current != "data_wait"):
            return
        if accounts.current in METERED_BUCKETS:
            accounts.notify_transition()
        accounts.exit(depth)

    # The run ------------------------------------------------------------------------------------------------

    def _begin(self) -> Recorder:
        """The run in progress; the first time, those of other Fabrics end."""
        if self._recorder is not None:
            return self._recorder
        for other in [session for session in _running if not session._iterations]:
            other._end()
        options = dict(self._options)
        every, infer = options.pop("log_every_n_steps", None), options.pop("infer", "auto")
        recorder = Recorder(
            module=self._module(),
            optimizers=self._alive,
            log_every_n_steps=50 if every is None else every,
            infer=infer is not False and self._world_size == 1,
            accounts=TimeBuckets(now_s, self._run_begin.seconds()),
            **options,
            **self._where,
        )
        recorder.set_wrapped_module(nn.ModuleList(self._wrappers) if self._wrappers else None)
        recorder.begin()
        self._recorder = recorder
        # Not atexit: this runs in processes that multiprocessing starts too, and in no fork of the script's own.
        Finalize(None, self._end, exitpriority=100)
        _running.append(self)
        return recorder

    def _module(self) -> nn.Module | None:
        """What is trained; None where the script set up optimizers alone, so that what asks for modules is missing."""
        if len(self._modules) == 1:
            return self._modules[0]
        return nn.ModuleList(self._modules) if self._modules else None

    def _describe(self, loader: Any) -> None:
        if self._recorder is None or self._recorder.run_id:
            return
        found = training_set([view.users_loader(loader)])
        self._recorder.add_setup(
            {
                "batch_size": getattr(loader, "batch_size", None),
                "dataset": found.name,
                "dataset_samples": found.samples,
            },
            dataset_why=found.why,
        )

    @never_harmful
    def _end(self) -> None:
        """The run is over: its process ends, or another Fabric trains."""
        if (recorder := self._recorder) is None:
            return
        _running.remove(self)
        was_broken, self.broken = self.broken, False
        self._last(recorder, was_broken=was_broken)
        self._recorder = None

    @fail_safe
    def _last(self, recorder: Recorder, *, was_broken: bool) -> None:
        error = getattr(sys, "last_type", None)  # what Python printed as the script's end, if an error ended it
        if isinstance(raised := getattr(sys, "last_value", None), Exception):
            recorder.say_how(raised)
        if self._batch is not None and self._batch.stepped:
            self._batch_ended()
        infer = self._options.get("infer", "auto")
        if error is None and not was_broken and infer is not False and self._world_size == 1:
            recorder.benchmark_inference(budget_s=5.0 if infer is True else None)
        recorder.training_ended()
        recorder.end("failed" if was_broken else status_from_exception(error))
        self._run_begin.ended()
        if recorder.path is not None:
            print(f"next: lightning-costs show {shown(recorder.path)}", file=sys.stderr, flush=True)
