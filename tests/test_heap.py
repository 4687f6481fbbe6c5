import sys
from pathlib import Path

import numpy as np
import pytest

from ssd34.machine import trim_heap

MEGABYTE = 2**20


def resident():
    """Bytes of this process in memory."""
    import resource

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_pieces_between_used_ones_go_back():
    freed = [np.ones(MEGABYTE // 100) for _ in range(800)]  # 80 kB each: small enough for the heap
    kept = freed[::8]
    before = resident()
    del freed
    trim_heap()
    assert before - resident() > 30 * MEGABYTE
    assert len(kept) == 100


def test_without_the_function_nothing_happens(monkeypatch):
    monkeypatch.setattr("ssd34.machine._malloc_trim", lambda: None)
    trim_heap()
