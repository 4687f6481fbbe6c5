"""Where the numbers of a report come from."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_LIBRARIES = ("ssd34", "hotcoco", "onnxruntime", "numpy", "pillow", "matplotlib", "jinja2")


@dataclass(frozen=True)
class Provenance:
    """How the numbers came about; all of it is shown as it is.

    Attributes:
        command: the command line.
        created: when, with time zone.
        inputs: model, data, policy and the like, and their hashes.
        versions: of the software.
        machine: processor, threads, system.
    """

    command: str
    created: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Python, this package and the libraries that have a part in the numbers."""
    found = {"Python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(*, threads: int | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """The processor, how many of its cores the system shows, and the threads that were used."""
    facts = {
        "processor": _processor(cpuinfo),
        "cores": str(os.cpu_count() or "unknown"),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }
    return facts if threads is None else {**facts, "threads": str(threads)}


def _processor(cpuinfo: Path) -> str:
    try:
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:  # not on this system
        pass
    return platform.processor() or platform.machine() or "unknown"
