"""Where the numbers of a report come from."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from ssd34.machine import this_cpu

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


def machine(*, threads: int | None = None) -> dict[str, str]:
    """The processor, how many the system has, and the threads that were used."""
    cpu = this_cpu()
    facts = {
        "processor": cpu.model,
        "processors": str(cpu.processors),
        "features": ", ".join(name for name, there in (cpu.features or {}).items() if there),
        "system": cpu.system,
        "threads": "" if threads is None else str(threads),
    }
    return {name: value for name, value in facts.items() if value}
