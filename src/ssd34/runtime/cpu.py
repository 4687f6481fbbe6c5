"""What processor this is, as far as it decides how fast a network runs."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssd34.threads import thread_budget

_CPUINFO = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")

FEATURES = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "bf16": ("avx512_bf16",),
    "amx": ("amx_tile",),
}
"""Instruction sets that change the speed, and any of the kernel's flags that stands for each.
VNNI multiplies bytes, BF16 half-width floats; AMX has tiles of both."""


@dataclass(frozen=True)
class Cpu:
    """A processor.

    Attributes:
        model: its name.
        system: operating system and instruction set.
        processors: logical ones of the machine.
        thread_budget: how many of them this process may use.
        features: which of `FEATURES` it has; None: the system does not say.
    """

    model: str
    system: str
    processors: int
    thread_budget: int
    features: dict[str, bool] | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return asdict(self)


def this_cpu(cpuinfo: Path = _CPUINFO) -> Cpu:
    """The processor that this process runs on."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    entries: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        entries.setdefault(name.strip(), value.strip())
    flags = set(entries.get("flags", "").split())
    return Cpu(
        model=entries.get("model name") or platform.processor() or "unknown",
        system=f"{platform.system()} {platform.machine()}",
        processors=os.cpu_count() or 1,
        thread_budget=thread_budget(),
        features=(
            {name: bool(flags & set(any_of)) for name, any_of in FEATURES.items()}
            if flags
            else None
        ),
    )


def peak_memory(status: Path = _STATUS) -> int | None:
    """The most memory that this process has had in RAM, in bytes; None: the system does not say.

    Linux is asked for the high-water mark of this program: the usual counter (``ru_maxrss``)
    starts at what the parent had when it started this process.
    """
    try:
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else 1024 * most
