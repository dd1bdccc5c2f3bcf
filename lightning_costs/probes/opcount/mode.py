"""The operators of one step, watched as they run: products, memory accesses, launches, phases, storages."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from functools import partial
from types import CodeType, FrameType
from typing import Any, NamedTuple, final

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.probes.device_peaks import tf32
from lightning_costs.probes.memory.storage_tracker import Phase, StorageTracker
from lightning_costs.probes.memory.tensors import storages
from lightning_costs.probes.opcount.bytes_accessed import (
    AccessPlan,
    access_plan,
    footprint_bytes,
    given,
    output_tensors,
    planned_bytes,
)
from lightning_costs.probes.opcount.collectives import Collective, collective, communicates
from lightning_costs.probes.opcount.formulas.registry import Formulas, current_formulas
from lightning_costs.records.missing import type_only
from lightning_costs.records.step_profile import QUANTITIES, ClassKey

#: Operators whose result is the weight that they were given, in another format or layout.
_RECASTS = frozenset(("aten._to_copy", "aten.clone", "aten.to", "aten.contiguous"))
#: Files whose functions run a forward pass again during the backward pass.
_RECOMPUTERS = (
    "torch/utils/checkpoint.py",
    "deepspeed/runtime/activation_checkpointing/checkpointing.py",
    "fairscale/nn/checkpoint/checkpoint_activations.py",
)


#: How torch.compile names its pointwise and reduction kernels (torch/_inductor/codegen/triton.py).
_FUSED = ("triton_poi_", "triton_red_", "triton_per_", "triton_for_")


@dataclass(slots=True)
class OpCounts:
    """Counts of one step, or of a part of it.

    `recomputed_flop` are those of `flop` that ran a forward product a second time. `calls` are operators that touched
    memory (views and allocations launch nothing). `elements` are outputs of products with a weight. `comm_bytes` are
    the payload of collectives and of messages sent.
    """

    flop: int = 0
    recomputed_flop: int = 0
    mac: int = 0
    access_bytes: int = 0
    calls: int = 0
    elements: int = 0
    comm_bytes: int = 0


class _Operator(NamedTuple):
    """What is known of an operator before its calls."""

    name: str
    recasts: bool
    #: Whether a formula may give its work.
    computes: bool
    #: Whether it needs none.
    plain: bool
    #: What bounds it: product, conv, attention, recurrent, other or collective.
    kind: str
    communicates: bool
    #: What the schema says of memory.
    plan: AccessPlan
    is_view: bool
    #: Runs it, past the frame that an overload of torch puts around it.
    run: Callable[..., Any]


#: Operators that were met, and the formulas by which they were looked up.
_met: tuple[Formulas | None, dict[Any, _Operator]] = (None, {})
_graph_task_id = torch._C._current_graph_task_id


@final
class OpCounterMode(TorchDispatchMode):
    """Counts the operators that run while it is on. Each runs as it is, with the arguments it was given.

    Args:
        weights: The parameters: products with them are the building blocks. A lazy one gets its shape in the step.
        lifetimes: Follows storages too; None counts only.
        first_backward: Called once, when the first backward pass begins.
        update_begins: Called when an update begins: parameters hold their gradients.
        counts: Whether operators are counted; False follows storages alone.
        gathered: Returns the weights of this moment, if they are in shards and put together only while in use.
        classifies: Whether operators are also counted by class.
    """

    #: Operators of higher order (flex attention, Triton kernels) pass through as they are.
    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """To forbid it, torch would import its compiler: seconds of the user's run. `_keep_uncompiled` does without."""
        return False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled code compiles and runs as it would without us; of it, the operators that it calls are seen."""
        return True

    def __init__(
        self,
        *,
        weights: Iterable[torch.Tensor] = (),
        lifetimes: StorageTracker | None = None,
        first_backward: Callable[[], None] | None = None,
        update_begins: Callable[[], None] | None = None,
        counts: bool = True,
        gathered: Callable[[], Iterable[torch.Tensor]] | None = None,
        classifies: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        _keep_uncompiled()
        global _met
        self._formulas = current_formulas()
        if _met[0] is not self._formulas:
            _met = self._formulas, {}
        self._operators = _met[1]
        weights = list(weights)
        self._weights = {storage._cdata for storage in storages(weights)}
        self._weight_shapes = {shape for w in weights if not is_lazy(w) for shape in (w.shape, w.shape[::-1])}
        self._gathered = gathered or ((lambda: weights) if any(map(is_lazy, weights)) else None)
        self._casts: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._lifetimes = lifetimes
        self._first_backward, self._update_begins = first_backward, update_begins
        self._counts, self._classifies = counts, classifies
        self._running = 0
        self._phase: Phase = "forward"
        self._recomputing = False
        #: The whole step.
        self.step = OpCounts()
        #: The first forward pass: up to the first backward pass.
        self.forward: OpCounts | None = None
        self.flop_by_dtype: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self._classes: dict[tuple[Phase, str, torch.dtype, int, int], list[int]] = {}
        #: Bytes by kind and process group, and calls.
        self.communication: Counter[Collective] = Counter()
        self.collectives: Counter[Collective] = Counter()
        #: Why counting stopped, if it did.
        self.failed: str | None = None
        #: Whether code that torch.compile wrote called an operator.
        self.compiled = False
        #: Whether operators of DTensors were seen, and whether a product was among them: this rank runs a part of it.
        self._defers = self.sharded = False
        #: Whether what runs is none of the step's: it is neither counted nor followed.
        self.away = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if types:
            try:
                if self._defers_to_shards(func, types, args, kwargs):
                    return NotImplemented
            except Exception as error:  # noqa: BLE001 - whatever an operator looks like, the user's step continues
                reraise_from_signal(error)
                self.failed = type_only("a step could not be watched", error)
        if self._lifetimes is None and getattr(func, "is_view", False):  # half of all operators, and they cost nothing
            return func._op(*args, **kwargs)
        operator: _Operator | None = None
        inputs: list[torch.Tensor] = []
        if self.failed is None and not self.away:
            try:
                if not self.compiled and "torch._inductor" in sys.modules:
                    self.compiled = _is_compiled(sys._getframe().f_back)
                inputs = given(args, kwargs)
                known = self._operators.get(func) or self._meet(func)
                self._turn(known.is_view, inputs)
                operator = known
            except Exception as error:  # noqa: BLE001 - whatever an operator looks like, the user's step continues
                reraise_from_signal(error)
                self.failed = type_only("a step could not be watched", error)
        self._running += 1
        try:
            out = (func if operator is None else operator.run)(*args, **kwargs)
        finally:
            self._running -= 1
        if operator is not None:
            try:
                self._after(operator, func, args, kwargs, inputs, out)
            except Exception as error:  # noqa: BLE001 - as above
                reraise_from_signal(error)
                self.failed = type_only(f"{func} could not be watched", error)
        return out

    def update_alone(self) -> None:
        """What follows is an optimizer's update, without the passes before it."""
        self._phase = "optimizer"

    def _defers_to_shards(self, func: Any, types: Iterable[type], args: Any, kwargs: dict[str, Any]) -> bool:
        """Whether DTensors are operated on: what runs on this rank are operators of its shards, which are seen next.

        At its global shape, each rank of the group would count all of it. Operators of local tensors, such as attention
        over this rank's heads, would still count for this rank alone, and no sum over ranks would be right.
        """
        module = sys.modules.get("torch.distributed.tensor")
        if module is None or not any(issubclass(kind, module.DTensor) for kind in types):
            return False
        self._defers = True
        if self.failed is None and not self.away:
            operator = self._operators.get(func) or self._meet(func)
            self._turn(operator.is_view, given(args, kwargs))  # a shard has no sign of whether it needs a gradient
            self.sharded = self.sharded or operator.computes
        return True

    def launched(self, kernel: str) -> None:
        """A Triton kernel is launched: uncounted, unless an operator that is watched launches it.

        Of torch.compile's own kernels only templates hold products; the others are named after what they are.
        """
        if not self._running and not kernel.startswith(_FUSED):
            self.uncounted[f"triton.{kernel}"] += 1

    def _turn(self, is_view: bool, inputs: list[torch.Tensor]) -> None:
        """Return the phase of the operator about to run.

        Backward is what the autograd engine runs. After it comes the optimizer. An operator with a gradient to record
        begins another forward pass (SAM's second one, the other network of a GAN). A view does not change the phase:
        frameworks detach the loss when all is over.
        """
        if _graph_task_id() != -1:
            if self.forward is None:
                self.forward = copy(self.step)
                if self._first_backward is not None:
                    self._first_backward()
            self._enter("backward", torch.is_grad_enabled() and _under_a_recomputer())
        elif self._phase != "forward":
            computes = not is_view and torch.is_grad_enabled()
            again = computes and any(tensor.requires_grad for tensor in inputs)
            self._enter("forward" if again else "optimizer", False)

    def _enter(self, phase: Phase, recomputing: bool) -> None:
        if phase == self._phase and recomputing == self._recomputing:
            return
        was, self._phase = self._phase, phase
        recomputed, self._recomputing = self._recomputing and not recomputing, recomputing
        if self._lifetimes is not None and (phase != was or recomputed):
            self._lifetimes.set_phase(phase)
        if phase == "optimizer" and was != phase and self._update_begins is not None:
            self._update_begins()

    def _after(
        self, operator: _Operator, func: Any, args: Any, kwargs: dict[str, Any], inputs: list[torch.Tensor], out: Any
    ) -> None:
        outputs = output_tensors(out)
        if self._defers and any(isinstance(output, FakeTensor) for output in outputs):
            return  # a DTensor asked for the shape of its result: nothing ran
        if self._counts:
            self._count(operator, func, args, kwargs, inputs, outputs, out)
        if self._lifetimes is not None:
            activation = self._phase == "forward" or self._recomputing
            self._lifetimes.on_op(inputs, outputs, activation=activation)

    def _count(
        self,
        operator: _Operator,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        inputs: list[torch.Tensor],
        outputs: list[Any],
        out: Any,
    ) -> None:
        tally = self.step
        if operator.recasts and self._has_weight(inputs):
            self._recast(outputs)
        work = self._formulas.work(func, args, kwargs, out) if operator.computes else None
        access_bytes = planned_bytes(operator.plan, args, kwargs, inputs, outputs)
        if access_bytes or work is not None:
            tally.access_bytes += access_bytes
            tally.calls += 1
            if self._classifies:
                kind, launches = _special(func, operator.kind, args, kwargs)
                self._classify(kind, launches, inputs, outputs, work.flop if work is not None else 0, access_bytes)
        if operator.communicates and (found := collective(operator.name, args, kwargs, out, _calling())) is not None:
            made, nbytes = found
            tally.comm_bytes += nbytes
            self.communication[made] += nbytes
            self.collectives[made] += 1
        if work is None:
            if not operator.plain:
                self.uncounted[operator.name] += 1
            return
        tally.flop += work.flop
        tally.mac += work.mac
        tally.recomputed_flop += work.flop if self._recomputing else work.recomputed_flop
        floating = next((tensor for tensor in inputs if tensor.is_floating_point() or tensor.is_complex()), None)
        if floating is not None:
            convolution = "+conv" if "conv" in operator.name else ""  # TF32 has a switch of its own for them
            self.flop_by_dtype[str(floating.dtype).removeprefix("torch.") + convolution] += work.flop
        if outputs and self._phase == "forward" and self._has_weight(inputs):
            tally.elements += outputs[0].numel()

    def _meet(self, func: Any) -> _Operator:
        name = str(getattr(func, "_overloadpacket", func))
        computes, plain = self._formulas.apply(func), self._formulas.plain(func)
        operator = self._operators[func] = _Operator(
            name=name,
            recasts=name in _RECASTS,
            computes=computes,
            plain=plain,
            kind=_kind(name, computes),
            communicates=communicates(name),
            plan=access_plan(func),
            is_view=getattr(func, "is_view", False),
            run=func._op if type(func) is torch._ops.OpOverload else func,
        )
        return operator

    def _classify(
        self, kind: str, calls: int, inputs: list[torch.Tensor], outputs: list[Any], flop: int, access_bytes: int
    ) -> None:
        """Add a call to its class. What has a weight's shape is a weight or a gradient, and no batch makes it grow."""
        tensors = [*inputs, *outputs]
        dtype = torch.int64
        for tensor in tensors:
            if tensor.is_floating_point():
                dtype = tensor.dtype
                break
        fixed = access_bytes
        if self._phase != "optimizer":
            shapes = self._weight_shapes
            try:
                fixed = sum([t.nbytes for t in tensors if t.shape in shapes])
            except RuntimeError:  # a sparse one has no bytes of its own, a nested one no shape
                fixed = sum(footprint_bytes(t) for t in tensors if not t.is_nested and t.shape in shapes)
        if not flop and kind != "collective":
            kind = "other"
        key = (self._phase, kind, dtype, (flop // calls).bit_length(), (access_bytes // calls).bit_length())
        held = self._classes.get(key)
        if held is None:
            held = self._classes[key] = [0, 0, 0, 0]
        held[0] += calls
        held[1] += flop
        held[2] += access_bytes
        held[3] += fixed if fixed < access_bytes else access_bytes

    @property
    def classes(self) -> Counter[tuple[ClassKey, str]]:
        """Launches, FLOPs and bytes by class of operator (`records.step_profile`)."""
        found: Counter[tuple[ClassKey, str]] = Counter()
        for (phase, kind, dtype, *sizes), amounts in self._classes.items():
            name = str(dtype).removeprefix("torch.") if dtype.is_floating_point else "integer"
            if name == "float32" and amounts[1] and tf32(convolutions=kind == "conv"):
                name = "tf32"  # on cards that have it
            for quantity, amount in zip(QUANTITIES, amounts, strict=True):
                found[(phase, kind, name, sizes[0], sizes[1]), quantity] += amount
        return found

    def _recast(self, outputs: list[torch.Tensor]) -> None:
        """A weight in another format is the same weight, for as long as it lives: addresses are used again."""
        for storage in storages(outputs):
            identity = storage._cdata
            self._weights.add(identity)
            self._casts[identity] = weakref.ref(storage, partial(self._discard_cast, identity))

    def _discard_cast(self, identity: int, _: object) -> None:
        self._weights.discard(identity)
        self._casts.pop(identity, None)

    def _has_weight(self, inputs: list[torch.Tensor]) -> bool:
        if self._gathered is not None:  # read again: a weight's address may hold an activation by now
            self._weights = {storage._cdata for storage in storages(self._gathered())} | self._casts.keys()
        return any(storage._cdata in self._weights for storage in storages(inputs))


def _kind(name: str, computes: bool) -> str:
    """The class of an operator by its name."""
    namespace, _, short = name.partition(".")
    if "c10d" in namespace:
        return "collective"
    if not computes:
        return "other"
    words = (("attention", "attention"), ("conv", "conv"), ("rnn", "recurrent"), ("lstm", "recurrent"))
    return next((kind for word, kind in words if word in short), "product")


def _special(func: Any, kind: str, args: Any, kwargs: dict[str, Any]) -> tuple[str, int]:
    """The kind of a call by its arguments, and its launches.

    Kernels of causal attention skip half of what is counted; convolutions of single channels run on no tensor core;
    a recurrent operator launches its time steps and layers one after the other.
    """
    if kind not in ("attention", "conv", "recurrent"):
        return kind, 1
    names = [argument.name for argument in getattr(getattr(func, "_schema", None), "arguments", ())]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if kind == "attention":
        return "causal" if given.get("is_causal") else kind, 1
    if kind == "conv":
        weight = given.get("weight")
        alone = weight is not None and weight.shape[1] == 1 and given.get("groups", 1) > 1
        return "depthwise" if alone else kind, 1
    layer = "mkldnn" in func.__name__  # which has one of the layers, and its time steps first
    x, packed = given["input"], given.get("batch_sizes")
    steps = len(packed) if packed else int(x.shape[1 if given.get("batch_first") and not layer else 0])
    return kind, max(1, steps * (1 if layer else given["num_layers"] * (1 + given["bidirectional"])))


def _calling() -> FrameType | None:
    """The frame whose code called the operator that is counted, outside this file."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (frame.f_code.co_filename == __file__ or _is_around(frame)):
        frame = frame.f_back
    return frame


def _keep_uncompiled() -> None:
    """What watches operators is not compiled: in a module that compiles in place, `module.compile()`, it would be."""
    dispatch = OpCounterMode.__torch_dispatch__
    if "torch._dynamo" in sys.modules and not hasattr(dispatch, "_torchdynamo_orig_callable"):
        OpCounterMode.__torch_dispatch__ = torch._dynamo.disable(dispatch)  # type: ignore[method-assign]


def _is_around(frame: FrameType) -> bool:
    """Whether a frame is what `_keep_uncompiled` put around the dispatch."""
    return frame.f_globals.get("__name__") == "torch._dynamo.eval_frame"


def _is_compiled(caller: FrameType | None) -> bool:
    """Whether torch.compile wrote the code that calls an operator; autograd calls some from threads without frames."""
    if caller is not None and _is_around(caller):
        caller = caller.f_back
    name = caller.f_globals.get("__name__") if caller is not None else None
    return isinstance(name, str) and name.startswith("torch._inductor.")


def _under_a_recomputer() -> bool:
    """Whether the operator runs inside activation checkpointing: looked for up to the call of the autograd engine.

    With `create_graph=True` the backward pass itself runs with gradients on, so that alone does not identify a phase.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code: CodeType = frame.f_code
        if code.co_name == "_engine_run_backward":
            return False
        if code.co_filename.replace("\\", "/").endswith(_RECOMPUTERS):
            return True
        frame = frame.f_back
    return False
