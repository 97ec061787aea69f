"""Loops over voxels as machine code. Importing this loads numba (100 MB), so only kernels do, when first called."""

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Return a function that is compiled at its first call, and lets other threads run meanwhile.

    The code is kept beside the source, or in the user's cache folder; where neither can be written, each process
    compiles anew.
    """
    try:
        return cast("F", njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba found no folder for its cache
        return cast("F", njit(nogil=True)(function))
