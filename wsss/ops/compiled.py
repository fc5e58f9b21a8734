"""Loops that numba compiles to machine code, for operations that torch would do in many passes over memory.

Compiled code is stored beside the source (or in the user's cache folder, if that folder is read-only), so that it is
compiled once per machine: actors and later runs load it. `python -m wsss.ops.compiled_ahead` compiles ahead.

Only IEEE arithmetic is used: no reordering of sums and no fused multiply-add, so results do not depend on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

numba.config.SLP_VECTORIZE = 1  # neighbouring channels become one vector; numba leaves this out by default

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """Compile a function of arrays and numbers at its first call with arguments of these types.

    The compiled code is kept on disk. Where no folder can be written, every process compiles it anew.
    """
    try:
        made: Loop = numba.njit(cache=True, nogil=True)(loop)
    except RuntimeError:  # numba found no folder for its cache
        made = numba.njit(nogil=True)(loop)
    return made


def inlined(loop: Loop) -> Loop:
    """Make a function part of the compiled functions that call it, so that their constants are constants in it too."""
    made: Loop = numba.njit(inline="always")(loop)
    return made
