"""Floating-point operations of dense factorisations and solvers, as torch's operators run them.

Leading orders after Golub & Van Loan, 'Matrix Computations' (4th ed.). The terms for rectangular matrices are those
of LAPACK working note 41, appendix C (https://www.netlib.org/lapack/lawnspdf/lawn41.pdf). What iterates until it
converges (eigenvalues, singular values) depends on the values and has no formula. Every entry takes an operator's
args and its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

LinalgFormula = Callable[[Any, Any], int]


def _batch(matrix: Any) -> int:
    return prod(matrix.shape[:-2])


def _cholesky(args: Any, out: Any) -> int:
    """n³/3 (Golub & Van Loan, section 4.2.5); L D Lᵀ likewise."""
    return int(_batch(args[0]) * args[0].shape[-1] ** 3 // 3)


def _lu(args: Any, out: Any) -> int:
    """s² (l - s/3) for sides s <= l: 2 n³/3 for a square matrix (Golub & Van Loan, section 3.2.9; LAWN 41: getrf)."""
    short, long = sorted(args[0].shape[-2:])
    return int(_batch(args[0]) * short**2 * (3 * long - short) // 3)


def _triangular(side: int, solution: Any) -> int:
    """n² for each right-hand side (Golub & Van Loan, section 3.1)."""
    return int(side * solution.numel())


def _factored(args: Any, out: Any) -> int:
    """2 n² for each right-hand side: two triangular solves with the factors that are there."""
    factor = args[1] if args[1].is_floating_point() or args[1].is_complex() else args[0]
    return 2 * _triangular(factor.shape[-1], out)


def _reflected(rows: int, columns: int, reflectors: int) -> int:
    """Q's columns out of its reflectors: 4 m n k - 2 (m + n) k² + 4 k³/3 (LAWN 41: orgqr)."""
    return int(4 * rows * columns * reflectors - 2 * (rows + columns) * reflectors**2 + 4 * reflectors**3 // 3)


def _qr(args: Any, out: Any) -> int:
    """R, as twice L U (Golub & Van Loan, section 5.2.2), and Q where the mode wants one."""
    rows, columns = args[0].shape[-2:]
    q = out[0]
    made = _reflected(rows, q.shape[-1], min(rows, columns)) if q.numel() else 0
    return 2 * _lu(args, out) + int(_batch(args[0])) * made


def _orgqr(args: Any, out: Any) -> int:
    """As in Q R, from the reflectors given."""
    rows, columns = out.shape[-2:]
    return int(_batch(out)) * _reflected(rows, columns, args[1].shape[-1])


def _ormqr(args: Any, out: Any) -> int:
    """2 k c (2 m - k): k reflectors of length m applied to c vectors (LAWN 41: ormqr)."""
    left = args[3] if len(args) > 3 else True
    length, vectors = out.shape[-2:] if left else (out.shape[-1], out.shape[-2])
    reflectors = args[1].shape[-1]
    return int(_batch(out) * 2 * reflectors * vectors * (2 * length - reflectors))


#: By operator; a complex matrix takes four times as many (see `formulas`).
LINALG: Mapping[str, LinalgFormula] = {
    **dict.fromkeys(("aten.cholesky", "aten.linalg_cholesky_ex", "aten.linalg_ldl_factor_ex"), _cholesky),
    # 2 n³/3 from the factor (LAWN 41: potri).
    "aten.cholesky_inverse": lambda args, out: int(_batch(args[0]) * 2 * args[0].shape[-1] ** 3 // 3),
    **dict.fromkeys(("aten.linalg_lu_factor_ex", "aten.linalg_lu", "aten._lu_with_info"), _lu),
    **dict.fromkeys(("aten._linalg_det", "aten._linalg_slogdet"), _lu),
    "aten.linalg_solve_triangular": lambda args, out: _triangular(args[0].shape[-1], out),
    "aten.triangular_solve": lambda args, out: _triangular(args[1].shape[-1], out[0]),
    **dict.fromkeys(("aten.cholesky_solve", "aten.linalg_lu_solve", "aten.linalg_ldl_solve"), _factored),
    # 2 n³/3 to factorise and 2 n² for each right-hand side (Golub & Van Loan, section 3.4). An inverse is torch's
    # solution for the identity (BatchLinearAlgebra.cpp, linalg_inv_ex_out): 8 n³/3; LAPACK's getri takes 2 n³.
    **dict.fromkeys(
        ("aten._linalg_solve_ex", "aten.linalg_inv_ex"),
        lambda args, out: _lu(args, out) + 2 * _triangular(args[0].shape[-1], out[0]),
    ),
    # R of Q R: 2 s² (l - s/3), sides s <= l (Golub & Van Loan, section 5.2.2).
    "aten.geqrf": lambda args, out: 2 * _lu(args, out),
    "aten.linalg_qr": _qr,
    "aten.linalg_householder_product": _orgqr,
    "aten.ormqr": _ormqr,
}
