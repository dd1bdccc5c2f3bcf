"""What one operator takes, in floating-point operations, as a TorchDispatchMode sees it run.

A multiply-accumulate is two operations. Products and convolutions count, elementwise work (bias, softmax, norms,
GELU) does not, causal attention counts in full: torch.utils.flop_counter's convention, except that a complex
multiply-accumulate counts as the four real ones that it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, final

import torch
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.probes.opcount.formulas.attention import ATTENTION, ATTENTION_BACKWARD
from lightning_costs.probes.opcount.formulas.linalg import LINALG
from lightning_costs.probes.opcount.formulas.products import FFT, PRODUCTS

_MACS = PRODUCTS | ATTENTION

#: Whose operators need no formula, unless their name says that they do products.
_PLAIN = frozenset(
    (
        *("aten", "prim", "prims", "rngprims", "c10d", "_c10d_functional", "_c10d_functional_autograd"),
        *("c10d_functional", "_dtensor", "fsdp", "profiler", "symm_mem"),
    )
)
#: Questions to a library that are operators: DeepSpeed asks one at each update on a CPU.
_QUESTIONS = frozenset(f"mkldnn._is_mkldnn_{what}_supported" for what in ("acl", "bf16", "fp16"))
#: Words in a name that say so.
_PRODUCT = re.compile(
    r"\w*mm|(add)?mv|\w*dot|\w*matmul|einsum|inner|\w*conv(olution)?(\d?d)?|\w*linear|rnn|lstm|gru|attention|attn"
    r"|transformer|euclidean|[cp]dist|cov|corrcoef|nuclear|matrix|linalg|cholesky|lu|ldl|\w*qrf?|svd\w*|eig\w*|lobpcg"
    r"|(sp)?solve|p?inv|p?inverse|\w*det|lstsq|householder|i?[rh]?fft[2n]?|i?stft"
)
#: Names with such a word whose work is elementwise, or data movement.
_ELEMENTWISE = frozenset(
    (
        *("linalg_vector_norm", "linalg_cross", "linalg_diagonal", "linalg_vander", "linalg__powsum", "erf_inv"),
        *("_linalg_check_errors", "mkldnn_reorder_conv2d_weight", "mkldnn_reorder_conv3d_weight"),
        *("lu_unpack", "slice_inverse", "matrix_H", "fft_fftfreq", "fft_rfftfreq", "fft_fftshift", "fft_ifftshift"),
        *("_thnn_fused_lstm_cell", "_thnn_fused_lstm_cell_backward", "_thnn_fused_lstm_cell_backward_impl"),
        *("_thnn_fused_gru_cell", "_thnn_fused_gru_cell_backward", "_thnn_differentiable_lstm_cell_backward"),
        *("_thnn_differentiable_gru_cell_backward", "_cudnn_rnn_flatten_weight", "_use_cudnn_rnn_flatten_weight"),
    )
)


class OpWork(NamedTuple):
    """What an operator executed.

    Args:
        flop: Floating-point operations.
        mac: Multiply-accumulates among them, two operations each.
        recomputed_flop: Part of `flop` that makes again what the forward pass had made.
    """

    flop: int
    mac: int
    recomputed_flop: int = 0


@final
class Formulas:
    """torch's registered formulas (a user's own among them), and those that torch does not have.

    A user's formula wins over ours, ours over torch's.
    """

    def __init__(self) -> None:
        #: What was registered when they were looked up.
        self.registry = dict(flop_counter.flop_registry)
        self._torch: dict[Any, Any] = {}
        self._users: dict[Any, Any] = {}
        for packet, formula in self.registry.items():
            own = getattr(formula, "__module__", "").startswith("torch.")
            (self._torch if own else self._users)[packet] = formula

    def apply(self, func: Any) -> bool:
        """Whether `work` may know what a call took; it answers None to any call of another operator."""
        packet, name = getattr(func, "_overloadpacket", func), _name(func)
        if packet in self._users or packet in self._torch or name.startswith("triton_kernel_wrapper"):
            return True
        return name in _MACS or name in LINALG or name in FFT or (name.startswith("aten.") and not self.plain(func))

    def work(self, func: Any, args: Any, kwargs: Any, out: Any) -> OpWork | None:
        """What a call took; None if there is no formula, or it raised: see `plain` for whether one is needed."""
        packet, name = getattr(func, "_overloadpacket", func), _name(func)
        work = _tried(self._users_own, packet, name, args, kwargs, out)
        if work is not None:
            return work
        covered = name in _MACS or name in LINALG or name in FFT
        work = _tried(_ours, name, args, out) if covered else None
        if work is None and packet in self._torch:
            work = _tried(_registered, self._torch[packet], args, kwargs, out)
        if work is not None:
            return _with_recomputed(work, name, args) if name in ATTENTION_BACKWARD else work
        if name.startswith("aten.") and not self.plain(func):
            return _tried(_parts, self, func, args, kwargs)
        return None

    def plain(self, func: Any) -> bool:
        """Whether an operator needs no formula: elementwise, data movement, views, communication."""
        return _plain(_name(func))

    def _users_own(self, packet: Any, name: str, args: Any, kwargs: Any, out: Any) -> OpWork | None:
        formula = self._users.get(_kernel(kwargs) if name.startswith("triton_kernel_wrapper") else packet)
        return None if formula is None else _registered(formula, args, kwargs, out)


_latest = Formulas()


def current_formulas() -> Formulas:
    """The formulas of now: those that `torch.utils.flop_counter.register_flop_formula` registered since are seen."""
    global _latest
    if _latest.registry != flop_counter.flop_registry:
        _latest = Formulas()
    return _latest


@cache
def _name(func: Any) -> str:
    """Namespace and name, without the underscore of what works in place: aten.addmm for aten.addmm_.default."""
    return str(getattr(func, "_overloadpacket", func)).removesuffix("_")


@cache
def _plain(full_name: str) -> bool:
    namespace, _, name = full_name.partition(".")
    if namespace not in _PLAIN:
        return full_name in _QUESTIONS
    return name in _ELEMENTWISE or not any(_PRODUCT.fullmatch(word) for word in name.split("_"))


def _tried(formula: Callable[..., OpWork | None], *args: Any) -> OpWork | None:
    try:
        return formula(*args)
    except Exception as error:  # noqa: BLE001 - shapes that a formula does not expect go uncounted, and are reported as that
        reraise_from_signal(error)
        return None


def _of_mac(mac: int) -> OpWork:
    return OpWork(flop=2 * mac, mac=mac)


def _of_flop(flop: int) -> OpWork:
    return OpWork(flop=flop, mac=flop // 2)


def _registered(formula: Any, args: Any, kwargs: Any, out: Any) -> OpWork:
    """By the calling convention of torch.utils.flop_counter."""
    return _of_flop(int(formula(*args, **kwargs, out_val=out)))


def _ours(name: str, args: Any, out: Any) -> OpWork:
    """By our own formulas; a complex multiply-accumulate is four real ones (LAPACK working note 41, appendix C)."""
    if name in FFT:
        return OpWork(flop=FFT[name](args, out), mac=0)
    parts = 4 if isinstance(args[0], torch.Tensor) and args[0].is_complex() else 1
    if name in _MACS:
        return _of_mac(parts * _MACS[name](args, out))
    return _of_flop(parts * LINALG[name](args, out))


def _with_recomputed(work: OpWork, name: str, args: Any) -> OpWork:
    """One product of the five in fused attention's backward pass is query x key again.

    The five are three of the query's width and two of the value's (Dao et al. 2022, FlashAttention, section 3.1).
    """
    query, value = (args[n].shape[-1] for n in ATTENTION_BACKWARD[name])
    return work._replace(recomputed_flop=work.flop * query // (3 * query + 2 * value))


def _kernel(kwargs: Any) -> Any:
    """The Triton kernel that an operator launches: formulas are registered for it."""
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

    kernel: Any = kernel_side_table.get_kernel(kwargs["kernel_idx"])
    while not hasattr(kernel, "launch_metadata") and hasattr(kernel, "fn"):  # autotuned, or with heuristics
        kernel = kernel.fn
    return kernel


def _parts(formulas: Formulas, func: Any, args: Any, kwargs: Any) -> OpWork | None:
    """The work of the operators that a composite one is made of.

    With gradients on, torch takes it apart before a dispatch mode sees it; in inference mode it comes whole. It is
    taken apart on the meta device, where shapes alone exist: the step's tensors and random numbers are not touched.
    """
    args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.detach().to("meta"), (args, kwargs))
    total = _Sum(formulas)
    with torch.no_grad(), total:
        if func.decompose(*args, **kwargs) is NotImplemented:
            return None
    return total.work


@final
class _Sum(TorchDispatchMode):
    """Sums the work of the operators inside; None as soon as one is not known."""

    def __init__(self, formulas: Formulas) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._formulas = formulas
        self.work: OpWork | None = OpWork(0, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        work = self._formulas.work(func, args, kwargs, out)
        if work is not None and self.work is not None:
            self.work = OpWork(*(a + b for a, b in zip(self.work, work, strict=True)))
        elif not self._formulas.plain(func):
            self.work = None
        return out
