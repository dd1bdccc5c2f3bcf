"""What a profiler saw of some steps, as plain data: device time by category, idle, and communication that is exposed.

All of it is arithmetic on intervals. A batch's interval on the device begins with its work on the host, or when the
batch before ended there if that is later. It ends with its last kernel. Idle is what neither a kernel nor a
copy covers in it. Communication is exposed while no other kernel runs (as Holistic Trace Analysis defines both).
"""

from __future__ import annotations

import gzip
import json
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal, NamedTuple

Interval = tuple[float, float]
Kind = Literal["kernel", "launch", "operator", "note"]

#: Patterns of kernels' names, in the order in which they are tried. Names of cuBLAS, cuDNN, CUTLASS, Triton and NCCL,
#: and of what ran in traces of an H200 (torch 2.11). A pointwise kernel of Triton is named after all that it fuses.
_KERNELS = (
    ("communication", r"nccl|rccl|nvshmem|symm_mem"),
    ("memory copies", r"^mem(cpy|set)|memcpy|memset"),
    ("elementwise and reduction", r"^triton_(poi|red|per|for)_"),
    ("attention", r"flash|fmha|attention|sdpa|flex_att"),
    ("convolutions", r"conv|fprop|dgrad|wgrad|winograd|implicit_gemm"),
    (
        "elementwise and reduction",
        r"elem(ent)?wise|reduce|softmax|norm|bn_(fw|bw)|gammabeta|multi_tensor|foreach|index|scatter|gather|embedding|"
        r"grad_weight|segment|dropout|fill|cat|copy|transpose|nchwtonhwc|nhwctonchw|pool|sort|scan|unique|cub::|loss|"
        r"unrolled|vectorized",
    ),
    ("matrix products", r"gemm|gemv|gett|nvjet|cutlass|cublas|xmma|mma|splitk|triton_(mm|tem|.*mm)|dot"),
)
#: Patterns of operators' names, without their namespace.
_OPERATORS = {
    "compiled code": r"compiled|inductor",
    "communication": r"^(c10d|gloo|nccl|_c10d)|all_?reduce|all_?gather|reduce_scatter|broadcast_$|all_?to_?all",
    "attention": r"attention|flash|sdpa",
    "convolutions": r"conv",
    "matrix products": r"^(addmm|mm|bmm|baddbmm|addbmm|matmul|linear|addmv|mv|dot|einsum|bilinear|_scaled_mm)|"
    r"^_grouped_mm|mkldnn.*linear|lstm|gru|rnn",
    "memory copies": r"^(copy_|_to_copy|to|clone|contiguous|_pin_memory|pin_memory|_local_scalar_dense|item)$",
}
_KERNEL = [(category, re.compile(pattern, re.IGNORECASE)) for category, pattern in _KERNELS]
_OPERATOR = {category: re.compile(pattern, re.IGNORECASE) for category, pattern in _OPERATORS.items()}


@lru_cache(maxsize=4096)
def kernel_category(name: str) -> str:
    """The category of a kernel or a copy.

    Example:
        >>> for name in ("sm90_xmma_gemm_bf16bf16_bf16f32", "ncclDevKernel_AllReduce_Sum_f32_RING", "Memcpy HtoD",
        ...     "void at::native::vectorized_elementwise_kernel<4>", "flash_fwd_kernel", "mystery"):
        ...     print(kernel_category(name))
        matrix products
        communication
        memory copies
        elementwise and reduction
        attention
        other
    """
    return next((category for category, pattern in _KERNEL if pattern.search(name)), "other")


@lru_cache(maxsize=4096)
def operator_category(name: str) -> str:
    """The category of an operator on a CPU.

    Example:
        >>> [operator_category(f"aten::{name}") for name in ("addmm", "convolution_backward", "add_", "copy_")]
        ['matrix products', 'convolutions', 'elementwise and reduction', 'memory copies']
        >>> [operator_category(name) for name in ("gloo:all_reduce", "AddmmBackward0", "Torch-Compiled Region: 0/0")]
        ['communication', 'other', 'compiled code']
    """
    namespace, _, plain = name.rpartition("::")
    for category, pattern in _OPERATOR.items():
        if pattern.search(plain) or (category == "communication" and pattern.search(name)):
            return category if namespace or category in ("communication", "compiled code") else "other"
    return "elementwise and reduction" if namespace == "aten" else "other"


class TraceEvent(NamedTuple):
    """Something with a begin and an end.

    Args:
        kind: 'kernel' for what a device does, copies too; 'launch' for the call that asked for it; 'operator' or
            'note' on the host.
        name: What.
        lane: Stream or thread.
        begun_s: On the profiler's clock.
        ended_s: On the profiler's clock.
        correlation: What a launch and its kernels have in common; 0 for nothing.
    """

    kind: Kind
    name: str
    lane: int
    begun_s: float
    ended_s: float
    correlation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedStep:
    """One step.

    Args:
        step_s: Its seconds: of a device, between the begins and ends of its batches' work there.
        by_category_s: Seconds in which something of a category ran; on a CPU those of operators themselves.
        idle_s: Seconds in which nothing ran; on a CPU those outside of operators.
        late_s: Those of `idle_s` in which what ran next was not launched yet: the device waited for the host.
        comm_s: Seconds of communication.
        exposed_comm_s: Those of it in which no other kernel ran.
    """

    step_s: float
    by_category_s: Mapping[str, float]
    idle_s: float
    late_s: float = 0.0
    comm_s: float = 0.0
    exposed_comm_s: float = 0.0

    def at_pace(self, step_s: float) -> TracedStep:
        """The step as long as steps are without a profiler, if it is longer: a host that is traced launches later.

        What a profiler adds is idle time of the device, so nothing else becomes less.
        """
        added_s = min(self.idle_s, max(0.0, self.step_s - step_s))
        if not added_s:
            return self
        late_s = self.late_s * (1 - added_s / self.idle_s)
        return replace(self, step_s=self.step_s - added_s, idle_s=self.idle_s - added_s, late_s=late_s)


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The union of intervals, in order.

    Example:
        >>> merged([(3, 4), (0, 2), (1, 3)])
        [(0, 4)]
    """
    found: list[Interval] = []
    for begun, ended in sorted(intervals):
        if ended <= begun:
            continue
        if found and begun <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], ended))
        else:
            found.append((begun, ended))
    return found


def length(intervals: Iterable[Interval]) -> float:
    """Seconds of intervals that do not overlap."""
    return sum(ended - begun for begun, ended in intervals)


def without(some: Iterable[Interval], others: Iterable[Interval]) -> list[Interval]:
    """What of some intervals the others leave.

    Example:
        >>> without([(0, 10)], [(2, 3), (5, 12)])
        [(0, 2), (3, 5)]
    """
    left, others = [], merged(others)
    ends = [other_ended for _, other_ended in others]
    for begun, ended in merged(some):
        at = begun
        for place in range(bisect_right(ends, begun), len(others)):
            other_begun, other_ended = others[place]
            if other_begun >= ended:
                break
            if other_begun > at:
                left.append((at, other_begun))
            at = max(at, other_ended)
        if at < ended:
            left.append((at, ended))
    return left


def device_steps(events: Sequence[TraceEvent], steps: Sequence[Sequence[Interval]]) -> list[TracedStep]:
    """What a device did in steps whose batches' work on the host went between these moments.

    The end of what ran on the device before the first step is not known: let it be one that is left out.
    """
    launches = {e.correlation: e for e in events if e.kind == "launch" and e.correlation}
    kernels = sorted((e for e in events if e.kind == "kernel"), key=lambda e: e.begun_s)
    batches = [(number, begun) for number, step in enumerate(steps) for begun, _ in step]
    begins = [begun for _, begun in batches]
    #: The last end of the kernels that each batch launched.
    ends = [0.0] * len(batches)
    for kernel in kernels:
        asked = launches.get(kernel.correlation)
        place = bisect_right(begins, asked.begun_s if asked is not None else kernel.begun_s) - 1
        if place >= 0:
            ends[place] = max(ends[place], kernel.ended_s)
    before = 0.0
    windows: list[list[Interval]] = [[] for _ in steps]
    for (number, begun), ended in zip(batches, ends, strict=True):
        if ended > (start := max(begun, before)):
            windows[number].append((start, ended))
            before = ended
    ran = _Kernels(kernels)
    return [_device_step(ran, launches, spans) for spans in windows]


class _Kernels:
    """Kernels in the order of their begins.

    Args:
        kernels: In that order; those of several streams overlap.
    """

    def __init__(self, kernels: Sequence[TraceEvent]) -> None:
        self._kernels = kernels
        self._begins = [kernel.begun_s for kernel in kernels]
        #: When all up to each one have ended.
        self._ends = list(accumulate((kernel.ended_s for kernel in kernels), max))

    def inside(self, span: Interval) -> list[tuple[str, Interval]]:
        """Names and intervals of those that ran in a span, as far as they are in it."""
        begun, ended = span
        some = self._kernels[bisect_right(self._ends, begun) : bisect_left(self._begins, ended)]
        return [(k.name, (max(k.begun_s, begun), min(k.ended_s, ended))) for k in some if k.ended_s > begun]

    def after(self, moment_s: float) -> TraceEvent | None:
        """The first that begins then or later."""
        place = bisect_left(self._begins, moment_s)
        return self._kernels[place] if place < len(self._kernels) else None


def _device_step(ran: _Kernels, launches: Mapping[int, TraceEvent], spans: list[Interval]) -> TracedStep:
    by_category: dict[str, list[Interval]] = defaultdict(list)
    late_s, idle = 0.0, list[Interval]()
    for span in spans:
        busy = ran.inside(span)
        for name, interval in busy:
            by_category[kernel_category(name)].append(interval)
        gaps = without([span], [interval for _, interval in busy])
        idle += gaps
        for begun, ended in gaps:
            kernel = ran.after(ended)
            asked = launches.get(kernel.correlation) if kernel is not None else None
            if asked is not None:
                late_s += min(max(asked.ended_s - begun, 0.0), ended - begun)
    communication = merged(by_category.get("communication", ()))
    computing = merged(
        interval
        for category, intervals in by_category.items()
        if category not in ("communication", "memory copies")
        for interval in intervals
    )
    by_category_s = {category: length(merged(intervals)) for category, intervals in by_category.items()}
    return TracedStep(
        step_s=length(spans),
        by_category_s={category: seconds for category, seconds in by_category_s.items() if seconds},
        idle_s=length(idle),
        late_s=late_s,
        comm_s=length(communication),
        exposed_comm_s=length(without(communication, computing)),
    )


def host_steps(events: Sequence[TraceEvent], steps: Sequence[Sequence[Interval]]) -> list[TracedStep]:
    """What a CPU did in steps: seconds of operators themselves, less those that they called, on all threads."""
    own = sorted(_own_seconds([e for e in events if e.kind == "operator"]), key=lambda each: each[0].begun_s)
    begins = [event.begun_s for event, _ in own]
    found = []
    for step in steps:
        by_category_s: dict[str, float] = defaultdict(float)
        covered: list[Interval] = []
        for begun, ended in step:
            for event, seconds in own[bisect_left(begins, begun) : bisect_left(begins, ended)]:
                by_category_s[operator_category(event.name)] += seconds
                covered.append((event.begun_s, event.ended_s))
        found.append(
            TracedStep(
                step_s=length(step),
                by_category_s=dict(by_category_s),
                idle_s=length(without(step, covered)),
                comm_s=by_category_s.get("communication", 0.0),
            )
        )
    return found


def _own_seconds(operators: Iterable[TraceEvent]) -> list[tuple[TraceEvent, float]]:
    """Operators with their seconds, less those of the ones inside them on their thread."""
    found: list[tuple[TraceEvent, float]] = []
    under_way: dict[int, list[list[Any]]] = defaultdict(list)
    for event in sorted(operators, key=lambda e: (e.begun_s, -e.ended_s)):
        stack = under_way[event.lane]
        while stack and stack[-1][0].ended_s <= event.begun_s:
            found.append((stack[-1][0], stack.pop()[1]))
        seconds = event.ended_s - event.begun_s
        if stack:
            stack[-1][1] -= min(seconds, stack[-1][0].ended_s - event.begun_s)
        stack.append([event, seconds])
    found += [(event, seconds) for stack in under_way.values() for event, seconds in stack]
    return found


#: Most events that are kept of a window.
MOST_EVENTS = 200_000


def perfetto(events: Sequence[TraceEvent]) -> bytes:
    """The events in the Trace Event Format that Perfetto and chrome://tracing read, gzipped.

    Lanes are numbered; of a name that looks like a path, its last part is left: nothing says whose machine it was.
    """
    events = sorted(events, key=lambda e: e.begun_s)[:MOST_EVENTS]
    zero_s = events[0].begun_s if events else 0.0
    lanes: dict[tuple[int, int], int] = {}
    rows: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
        for pid, name in enumerate(("host", "device"))
    ]
    for event in events:
        pid = int(event.kind == "kernel")
        tid = lanes.setdefault((pid, event.lane), len(lanes))
        ts, dur = 1e6 * (event.begun_s - zero_s), 1e6 * (event.ended_s - event.begun_s)
        at = {"pid": pid, "tid": tid, "ts": round(ts, 3)}
        rows.append({"ph": "X", "name": _plain(event.name), "cat": event.kind, "dur": round(dur, 3), **at})
        if event.correlation and event.kind in ("launch", "kernel"):
            flow = {"id": event.correlation, "name": "launch", "cat": "launch", **at}
            rows.append({"ph": "s", **flow} if event.kind == "launch" else {"ph": "f", "bp": "e", **flow})
    return gzip.compress(json.dumps({"traceEvents": rows, "displayTimeUnit": "ms"}).encode(), 3, mtime=0)


@lru_cache(maxsize=4096)
def _plain(name: str) -> str:
    return re.sub(r"(?:[A-Za-z]:)?[^\s<>(),:]*[/\\](?=[^\s/\\])", "", name)
