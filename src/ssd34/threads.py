"""How many threads this process may use: affinity and quota, not the host's core count."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def thread_budget(cgroup: Path = _CGROUP) -> int:
    """Processors that this process may use, at least 1.

    The smaller of the CPU affinity and the container's CPU quota (cgroup v2 or v1), rounded up.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        allowed = os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, min(allowed, math.ceil(quota) if quota else allowed))


def _quota(cgroup: Path) -> float | None:
    try:
        limit, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()[:2]
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        microseconds = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period_us = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text(encoding="utf-8"))
        return microseconds / period_us if microseconds > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
