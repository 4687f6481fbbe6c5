"""Freed memory back to the system, where the C library keeps it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def trim_heap() -> None:
    """Give freed memory back; does nothing where the C library is not glibc.

    glibc keeps freed tensors for the next ones, but aligned ones do not fit into the gaps that the
    last left, so the heap grows by every tensor of a large network.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found
