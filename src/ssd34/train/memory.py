"""How much memory is free: the machine's, and the container's where there is a limit."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def free_memory(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Bytes that can be taken without swapping; half of the machine's where it does not say; 0
    where nothing is known."""
    return min([_of_machine(proc), *_of_container(cgroup)])


def _of_machine(proc: Path) -> int:
    try:
        for line in (proc / "meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return 0


def _of_container(cgroup: Path) -> list[int]:
    """What is left of its limit, of cgroup v2 or v1; empty where there is none."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            left = int((cgroup / limit).read_text(encoding="utf-8")) - int(
                (cgroup / used).read_text()
            )
            return [max(0, left)]
        except (OSError, ValueError):
            continue
    return []
