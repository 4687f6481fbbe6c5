"""A command that is told to end (SIGTERM) ends as one that is interrupted (Ctrl-C)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ends_as_interrupted() -> Iterator[None]:
    """Within the block SIGTERM raises KeyboardInterrupt, so that temporary files are removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
