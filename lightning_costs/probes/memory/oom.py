"""Memory that ran out: whether an error says so, in which phase, and what was held, without allocating anything."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.memory.tensors import TensorMemory, memory_breakdown
from lightning_costs.probes.opcount.counter import StepOpCounter

#: What torch's CPU allocator (Linux, Windows) and cuBLAS say; other errors are known by their classes.
_SAYS = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory|CUBLAS_STATUS_ALLOC_FAILED")
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB|TiB)")
_FACTORS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
#: Errors that are looked through for a cause.
_DEPTH = 8
_STEPS = ("training_step", "validation_step", "test_step", "predict_step")
#: Most entries of the allocator's history that are kept for a snapshot.
HISTORY = 100_000


def out_of_memory_error(error: BaseException | None) -> BaseException | None:
    """The error in a chain of causes that says that memory ran out; None if none does.

    Example:
        >>> out_of_memory_error(MemoryError()) is not None, out_of_memory_error(RuntimeError("shapes differ"))
        (True, None)
    """
    for _ in range(_DEPTH):
        if error is None:
            return None
        ran_out = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if ran_out or (isinstance(error, RuntimeError) and _SAYS.search(str(error))):
            return error
        error = error.__cause__ or error.__context__
    return None


def asked_bytes(text: str) -> int | None:
    """How much the allocation that failed was for, by the error's text.

    Example:
        >>> asked_bytes("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 79.1 GiB")
        1610612736
        >>> asked_bytes("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes. Error code 12")
        400
    """
    found = _ASKED.search(text)
    return None if found is None else int(float(found[1]) * _FACTORS[found[2]])


def where_it_ran_out(trace: TracebackType | None) -> tuple[str, str]:
    """In which step of a module or loop an error arose, '' if in none, and in which phase, by the names of frames.

    Recomputation inside a backward pass belongs to it. Lightning calls the step inside of the optimizer's, so what
    was entered last decides.
    """
    step, phase = "", ""
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        name, module = frame.f_code.co_name, str(frame.f_globals.get("__name__", ""))
        if phase == "backward":
            continue
        if name in _STEPS:
            step, phase = name, "forward"
        elif module == "torch.autograd" and name == "backward":
            phase = "backward"
        elif module.startswith("torch.optim"):
            phase = "optimizer"
        elif module.startswith("torch.utils.data"):
            phase = "input"
        elif name == "_call_impl" and module == "torch.nn.modules.module":
            phase = "forward"
    return step, phase


def out_of_memory_facts(error: BaseException, context: ProbeContext) -> dict[str, Any]:
    """What is known of memory that ran out, for the header, in bytes.

    Args:
        error: The error, from `out_of_memory_error`.
        context: What its probes hold: what is held by kind is read now, or as it was read last if a walk over many
            tensors would delay the error.
    """
    step, phase = where_it_ran_out(error.__traceback__)
    facts: dict[str, Any] = {"in": step, "phase": phase, "error": type(error).__name__}
    if (asked := asked_bytes(str(error))) is not None:
        facts["asked_bytes"] = asked
    held = _held(context)
    census = context.attached(StepOpCounter)
    if census is not None and census.memory is not None:
        held["activation_bytes"] = census.memory.activation_bytes
        facts["peak_bytes"] = dict(census.memory.peak_bytes)
    facts["held_bytes"] = held
    if context.on_cuda:
        stats = torch.cuda.memory_stats(context.device)
        facts["allocated_bytes"] = stats["allocated_bytes.all.current"]
        facts["reserved_bytes"] = stats["reserved_bytes.all.current"]
        facts["capacity_bytes"] = torch.cuda.get_device_properties(context.device).total_memory
    return facts


#: Parameters whose walk takes a few milliseconds. Of more, what is held is taken from the last look.
_MOST_WALKED = 500


def _held(context: ProbeContext) -> dict[str, int]:
    if context.module is None:
        return {}
    parameters = list(context.module.parameters())
    if len(parameters) <= _MOST_WALKED:
        return asdict(memory_breakdown(context.module, context.optimizers()))
    memory = context.attached(TensorMemory)
    if memory is None or memory.last is None:
        return {"param_bytes": sum(parameter.nbytes for parameter in parameters)}
    return {**asdict(memory.last), "grad_bytes": memory.grad_peak_bytes or 0}


def recording_history() -> bool:
    """Whether torch records the history of allocations now."""
    enabled = getattr(torch._C, "_cuda_isHistoryEnabled", None)  # absent from builds without CUDA
    return enabled is not None and bool(enabled())


class MemoryHistory:
    """torch's history of allocations on CUDA devices, for a snapshot if memory runs out; one of the user's is left."""

    def __init__(self) -> None:
        self._own = not recording_history()
        if self._own:
            torch.cuda.memory._record_memory_history(max_entries=HISTORY)

    def write(self, path: Path) -> None:
        """Write what https://docs.pytorch.org/memory_viz shows."""
        torch.cuda.memory._dump_snapshot(str(path))

    def stop(self) -> None:
        """Record no more."""
        if self._own:
            torch.cuda.memory._record_memory_history(enabled=None)
