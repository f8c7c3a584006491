"""Functions that are compiled to machine code."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

COUNTS, COSTS, MASK = (f"Array({kind}, 1, 'C', readonly=True)" for kind in ("int64", "float64", "boolean"))
"""Arrays that a kernel reads, in signatures."""

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(signature: str) -> Callable[[Function], Function]:
    """Compiled when this module is imported, and kept on disk where numba finds a folder for that."""

    def compile_now(function: Function) -> Function:
        try:
            compiled: Function = numba.njit(signature, cache=True)(function)
        except RuntimeError:
            compiled = numba.njit(signature)(function)
        return compiled

    return compile_now


def helper(function: Function) -> Function:
    """Compiled into the kernels that call it."""
    compiled: Function = numba.njit(function)
    return compiled
