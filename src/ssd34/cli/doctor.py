"""``ssd34 doctor``."""

from __future__ import annotations

import platform
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from ssd34.cli.console import emit_json, json_flag
from ssd34.errors import MissingExtraError
from ssd34.files.cache import cache_folder
from ssd34.machine import Cpu, describe_cpu, measure_free_memory
from ssd34.version import __version__

FEATURES = {
    "avx2": "AVX2",
    "avx512": "AVX-512",
    "vnni": "VNNI (int8 at full speed)",
    "bf16": "BF16 (training at twice the speed)",
    "amx": "AMX (int8 faster still, with the extra openvino)",
}
"""The processor's features that matter here, in words."""

LIBRARIES = (
    "onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "openvino", "llvmlite", "torch", "onnx",
    "hotcoco",
)  # fmt: skip
"""Distributions whose versions a report of a problem needs."""

_DRIVER = Path("/proc/driver/nvidia/version")
"""There on Linux where the driver of an NVIDIA GPU is loaded."""

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w,. -]+)\])?.*;.*extra == ['\"]([\w-]+)['\"]")


@click.command(short_help="Say what this installation and this processor can do.")
@json_flag
def doctor(*, as_json: bool) -> None:
    """Say what this installation and this processor can do, and what would be faster.

    Put what it prints into a report of a problem.

    Example: ssd34 doctor --json
    """
    found = examine(describe_cpu())
    if as_json:
        emit_json(found)
        return
    cpu = found["cpu"]
    known = cpu["features"]
    lines = {
        "ssd34": f"{found['ssd34']}, Python {found['python']}, {cpu['system']}",
        "processor": f"{cpu['model']}, {cpu['processors']} logical processors",
        "has": ", ".join(FEATURES[name] for name, there in known.items() if there)
        or "none of " + ", ".join(FEATURES.values())
        if known
        else "the system does not say which instructions",
        "threads": f"{cpu['thread_budget']} may be used by this process",
        "memory": f"{found['free_memory'] / 1e9:.1f} GB free",
        "libraries": ", ".join(f"{name} {v}" for name, v in found["libraries"].items() if v),
        "extras": ", ".join(name for name, lacks in found["extras"].items() if not lacks) or "none",
        "not installed": ", ".join(
            f"{name} ({', '.join(lacks)})" for name, lacks in found["extras"].items() if lacks
        ),
        "cache": found["cache"],
    }
    for name, text in lines.items():
        if text:
            click.echo(f"{name + ':':15}{text}")
    for advice in found["advice"]:
        click.echo(f"\n{advice}")


def examine(cpu: Cpu) -> dict[str, Any]:
    """What ``doctor`` prints, JSON-ready: versions, processor, extras and advice."""
    extras = {
        name: [one for one in needs if not _version(one)] for name, needs in _extras().items()
    }
    libraries = {name: _version(name) for name in LIBRARIES}
    advice = advise(cpu, installed={name for name, lacks in extras.items() if not lacks})
    return {
        "ssd34": __version__,
        "python": platform.python_version(),
        "cpu": cpu.to_dict(),
        "free_memory": measure_free_memory(),
        "libraries": libraries,
        "extras": extras,
        "cache": str(cache_folder()),
        "advice": advice + advise_on_cards({name for name, there in libraries.items() if there}),
    }


def advise(cpu: Cpu, *, installed: Collection[str]) -> list[str]:
    """What would make detection faster on a processor with these extras, or what to know about its
    speed, a sentence each."""
    advice = []
    has = cpu.features
    if has and has["amx"]:
        advice.append(
            "This processor has AMX, which ONNX Runtime does not use for int8. OpenVINO does, and "
            f"is about three times as fast: {_way_to('openvino', installed)}. The engine native "
            "has code for AMX, too, that has not run on such a processor yet and is used only "
            "where SSD34_NATIVE_LEVEL=amx is set."
        )
    elif has and has["avx2"]:
        advice.append(
            "The engine native gives the same detections as ONNX Runtime for int8 files, faster: "
            f"{_way_to('native', installed)}."
        )
    if has and not has["vnni"]:
        advice.append(
            "This processor has no VNNI: int8 files gain about half of what they gain with it. "
            "Measure it here: ssd34 benchmark default-float default."
        )
    if cpu.thread_budget < cpu.processors:
        advice.append(
            f"This process may use {cpu.thread_budget} of {cpu.processors} processors, by its "
            "affinity or its container's limit."
        )
    return advice


def advise_on_cards(libraries: Collection[str], driver: Path = _DRIVER) -> list[str]:
    """What to know about the engine cuda, where there is an NVIDIA driver, by its file, or one of
    the distributions is for it."""
    if "onnxruntime" in libraries and "onnxruntime-gpu" not in libraries and not driver.exists():
        return []
    try:
        from ssd34.runtime.cuda_engine import find_cuda_fault
        from ssd34.runtime.onnxruntime_engine import REINSTALL_GPU

        fault = find_cuda_fault()
    except MissingExtraError as error:
        return [f"{error}."]
    if {"onnxruntime", "onnxruntime-gpu"} <= set(libraries):
        return [f"onnxruntime and onnxruntime-gpu overwrite each other. Keep one: {REINSTALL_GPU}."]
    if fault:
        return [f"The engine cuda cannot run here: {fault}."]
    return [
        "The engine cuda finds its libraries and a driver: --engine cuda --model default-float."
    ]


def _way_to(engine: str, installed: Collection[str]) -> str:
    if engine in installed:
        return f"--engine {engine} (or auto) uses it"
    return f"pip install 'ssd34[{engine}]', then --engine auto"


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extras() -> dict[str, list[str]]:
    """The distributions that each extra needs, those of the extras that it contains included."""
    from importlib import metadata

    try:
        lines = metadata.requires("ssd34") or []
    except metadata.PackageNotFoundError:
        return {}
    direct: dict[str, list[tuple[str, list[str]]]] = {}
    for line in lines:
        if match := _REQUIREMENT.match(line):
            name, inner, extra = match.groups()
            direct.setdefault(extra, []).append((name, (inner or "").split(",")))

    def needs(extra: str) -> set[str]:
        names: set[str] = set()
        for name, inner in direct.get(extra, []):
            if name != "ssd34":
                names.add(name)
            else:
                names.update(*(needs(one.strip()) for one in inner))
        return names

    return {extra: sorted(needs(extra)) for extra in direct if extra != "dev"}
