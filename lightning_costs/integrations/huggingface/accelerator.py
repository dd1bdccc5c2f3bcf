"""Accelerate: the loop of a script's own, measured through the methods of its Accelerator."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final
from weakref import WeakSet

import torch
from torch import nn

from lightning_costs.integrations.deepspeed.engine import engine_setup
from lightning_costs.integrations.huggingface.hooks import users_loader
from lightning_costs.integrations.huggingface.loaders import unwatch_loaders, watch_loader
from lightning_costs.integrations.loop_session import LoopSession
from lightning_costs.integrations.options import MonitorOptions
from lightning_costs.patching.fail_safe import fail_safe, never_harmful
from lightning_costs.patching.patches import Hook, Patches
from lightning_costs.probes.clock import RunBegin
from lightning_costs.probes.loaders import plan_of
from lightning_costs.probes.repeat_steps import backward_event
from lightning_costs.recording.recorder import Recorder
from lightning_costs.records.hyperparameters import plain_hyperparameters
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.loggers import LoggerSink

#: The run's identity and totals, in a folder of `save_state`.
_STATE = "lightning_costs.json"
_PRECISION = {"no": "32-true", "fp16": "16-mixed", "bf16": "bf16-mixed"}
#: Where wrappers of modules hold theirs, by class. Accelerate's own `unwrap_model` imports DeepSpeed to ask.
_INSIDE = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "DeepSpeedEngine": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
}
_open: WeakSet[AcceleratorSession] = WeakSet()


def measure_accelerator(accelerator: Any, **options: Any) -> AcceleratorSession:
    """Measure what a loop with Accelerate costs, until `accelerator.end_training()` or the end of the process.

    A batch is what a prepared loader gives; it counts if an optimizer stepped in it, or `accelerator.backward` ran. A
    prepared loader that is iterated over with gradients off, or with every prepared model in eval mode, is evaluation.
    Metrics of `accelerator.log` after it, or the one named `monitor`, are the quality; costs join the rows that it
    sends to trackers. `init_trackers(config=)` gives hyperparameters; `save_state` keeps identity and totals, and
    `load_state` continues the run with them. After `free_memory()`, what is prepared is another run's.

    Args:
        accelerator: The script's, best before `prepare`.
        **options: Arguments of `CostCallback`.

    Returns:
        What measures; `close()` ends it, and `run` is then the run.

    Raises:
        ValueError: As `CostCallback` does; for what is no Accelerator, and if several of its processes train on the
            same samples (tensor, context and sequence parallelism, Megatron).

    Example:
        ::

            accelerator = Accelerator()
            measure_accelerator(accelerator, monitor="accuracy", mode="max")
            model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    """
    if not (hasattr(accelerator, "prepare") and hasattr(accelerator, "accumulate")):
        raise ValueError(f"measure_accelerator() needs an accelerate.Accelerator, got {type(accelerator).__name__}")
    sizes = getattr(accelerator, "parallelism_config", None)
    if getattr(sizes, "non_data_parallel_size", 1) > 1 or str(accelerator.distributed_type).endswith("MEGATRON_LM"):
        raise ValueError(
            "measure_accelerator() needs processes that train on samples of their own, got some that share them: "
            "give a Recorder their place= and places="
        )
    checked = MonitorOptions(**options)
    for session in list(_open):
        if session.accelerator is accelerator:
            session.close()
    return AcceleratorSession(accelerator, checked)


@final
class AcceleratorSession(LoopSession):
    """An Accelerator that is being measured: see `measure_accelerator`."""

    def __init__(self, accelerator: Any, options: MonitorOptions) -> None:
        super().__init__(options, RunBegin())
        self.accelerator = accelerator
        #: The last run that ended; on rank 0.
        self.run: RunRecord | None = None
        self._shadows = Patches(self.disable)
        self._resumed: Mapping[str, Any] | None = None
        self._rows: LoggerSink | None = None
        #: Whether DeepSpeed's engines make the backward passes; the Accelerator's method then updates the weights, too.
        self._by_engine = False
        _open.add(self)
        self._watch()

    def close(self) -> None:
        """End the run; the Accelerator, and what it prepared, is as it was."""
        self._let_go()
        self._shadows.restore()
        _open.discard(self)

    def take_off(self) -> None:
        """Lift what is on objects; the Accelerator still says when training ends."""
        unwatch_loaders(self)
        self.on_objects.restore()

    def users_loader(self, loader: Any) -> Any:
        """The torch loader inside, or its data and batch size, if processes share its batches."""
        inner = users_loader(loader)
        if self.world_size == 1 or not self.accelerator.split_batches:
            return inner
        size = plan_of(inner).size
        return SimpleNamespace(dataset=inner.dataset, batch_size=size and size // self.world_size)

    def before_begin(self, recorder: Recorder) -> None:
        """A checkpoint that was loaded is continued; trackers get costs."""
        if self._resumed is not None:
            recorder.load_state_dict(self._resumed)
        if self.options.log != "none" and self.accelerator.is_main_process:
            run = recorder.hooks.run
            self._rows = LoggerSink(
                lambda: self.accelerator.trackers,
                recorder.hooks.points.declarations,
                lambda: {**recorder.final, **run.outcome},
                headline_only=self.options.log == "headline",
                step_metric=None,
            )
            run.add_sink(self._rows)

    @fail_safe
    def _watch(self) -> None:
        accelerator, put = self.accelerator, self._shadows.wrap
        for name in ("prepare", "prepare_model", "prepare_optimizer", "prepare_data_loader", "skip_first_batches"):
            put(accelerator, name, self._preparing)
        put(accelerator, "backward", partial(self._in_backward, False), hot=True)
        put(accelerator, "save_state", self._within(self.saving))
        put(accelerator, "load_state", self._within(self.loading))
        put(accelerator, "free_memory", self._within(self._forgetting))
        put(accelerator, "end_training", self._within(self._ending))
        put(accelerator, "init_trackers", self._beginning_trackers)
        put(accelerator, "log", self._logging)
        for register, hook in (("save", self._saved), ("load", self._loaded)):
            handle = getattr(accelerator, f"register_{register}_state_pre_hook")(Hook(hook))
            self._shadows.add_cleanup(handle.remove)
        self._set_up([*accelerator._models, *accelerator._optimizers, *accelerator._dataloaders])

    @fail_safe
    def _set_up(self, prepared: Sequence[Any]) -> None:
        accelerator = self.accelerator
        self.world_size = accelerator.num_processes
        self.repeating = accelerator.gradient_accumulation_steps == 1
        self.where["device"] = accelerator.device
        self.where["setup"] = {
            "trainer": type(accelerator).__name__,
            "precision": _PRECISION.get(accelerator.mixed_precision, accelerator.mixed_precision),
            "strategy": accelerator.distributed_type.value.lower(),
            "accumulate_grad_batches": accelerator.gradient_accumulation_steps,
        }
        wrappers = [part for part in prepared if isinstance(part, nn.Module)]
        for engine in [wrapper for wrapper in wrappers if type(wrapper).__name__ == "DeepSpeedEngine"]:
            self.where["setup"] |= engine_setup(engine)
            if all(engine is not known for known in self.wrappers):
                self._by_engine = True
                self.on_objects.wrap(engine, "backward", partial(self._in_backward, True), hot=True)
        modules = [_users_module(part) for part in wrappers]
        for wrapper in wrappers:
            if all(wrapper is not known for known in self.wrappers):
                handle = wrapper.register_forward_pre_hook(Hook(self._entered), with_kwargs=True)
                self.on_objects.add_cleanup(handle.remove)
        self.add(modules, [part for part in prepared if isinstance(part, torch.optim.Optimizer)], wrappers)
        for part in prepared:
            if isinstance(part, torch.utils.data.DataLoader):
                watch_loader(part, self)

    # Calls of the Accelerator's methods, and of its hooks ----------------------------------------------------

    def _preparing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def prepare(*args: Any, **kwargs: Any) -> Any:
            prepared = original(*args, **kwargs)
            self._set_up(prepared if isinstance(prepared, tuple | list) else [prepared])
            return prepared

        return prepare

    def _in_backward(self, of_engine: bool, original: Callable[..., Any]) -> Callable[..., Any]:
        def backward(*args: Any, **kwargs: Any) -> Any:
            if of_engine is not self._by_engine:
                return original(*args, **kwargs)
            if (alike := self.alike) is not None:  # the calls below, without their cost
                alike.backwards.append(backward_event(args[0] if args else None))
                return original(*args, **kwargs)
            self.backward(args[0] if args else None)
            try:
                return original(*args, **kwargs)
            finally:
                self.backward_ended()

        return backward

    def _within(self, context: Callable[[], AbstractContextManager[None]]) -> Callable[..., Callable[..., Any]]:
        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                with context():
                    return original(*args, **kwargs)

            return call

        return wrap

    def _beginning_trackers(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def init_trackers(project_name: str, config: Any = None, *args: Any, **kwargs: Any) -> Any:
            if config:
                self.where["hyperparameters"] = plain_hyperparameters(config)
            return original(project_name, config, *args, **kwargs)

        return init_trackers

    def _logging(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def log(values: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(values, Mapping):
                self.logged(values)
                values = {**values, **(self._rows.take() if self._rows is not None else {})}
            return original(values, *args, **kwargs)

        return log

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        self._let_go()
        yield

    @contextmanager
    def _ending(self) -> Iterator[None]:
        self.close()
        yield

    def _entered(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not torch.compiler.is_compiling():
            self.forward((args, kwargs))

    def _let_go(self) -> None:
        """The run ends; nothing holds what was prepared."""
        self.run = self.let_go(sys.exception()) or self.run
        unwatch_loaders(self)

    @never_harmful
    def _saved(self, models: Any, weights: Any, folder: str) -> None:
        if self.recorder is not None and not self.broken:
            state = self.recorder.state_dict()
            if self.accelerator.is_main_process:
                Path(folder, _STATE).write_text(json.dumps(state), encoding="utf-8")

    @never_harmful
    def _loaded(self, models: Any, folder: str) -> None:
        if (file := Path(folder, _STATE)).exists():
            self._resumed = json.loads(file.read_text(encoding="utf-8"))


def _users_module(module: nn.Module) -> nn.Module:
    while (inside := module._modules.get(_INSIDE.get(type(module).__name__, ""))) is not None:
        module = inside
    return module
