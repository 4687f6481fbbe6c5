"""ONNX Runtime and OpenVINO, imported here alone, so that they send and write nothing.

Both look up a host and write to the home folder when they are imported without precautions. What
the caller has set or imported before is left as it is.
"""

from __future__ import annotations

import base64
import functools
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ssd34.errors import MissingExtraError, require
from ssd34.files.tree import text_of

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # the library reads it when it is loaded

REINSTALL_GPU = (
    "pip uninstall -y onnxruntime onnxruntime-gpu; pip install 'onnxruntime-gpu[cuda,cudnn]'"
)
"""Both packages write the same files: the last one installed wins, and to uninstall either takes
them from both."""

try:
    import onnxruntime as onnxruntime

    _ = onnxruntime.InferenceSession
except (ImportError, AttributeError) as error:
    raise MissingExtraError(
        f"ONNX Runtime is not installed or broken ({' '.join(str(error).split())[:200]}); install "
        f"it again: pip install --force-reinstall onnxruntime; or for a GPU: {REINSTALL_GPU}"
    ) from error

_TELEMETRY = "openvino_telemetry"


def open_onnx(model: Path | bytes, options: Any) -> Any:
    """ONNX Runtime's session of a file, or of what is in one, on the CPU; it takes paths as UTF-8,
    whatever the locale."""
    content = text_of(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def load_openvino() -> ModuleType:
    """OpenVINO, whose conversion tools find no package to report their use with: that package fails
    where the home folder cannot be written. MissingExtraError where it is not installed."""
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return require("openvino", extra="openvino", why="the engine openvino")
    finally:
        if hidden:
            sys.modules.pop(_TELEMETRY, None)


@functools.cache
def openvino_core() -> Any:
    """The one core of this process; MissingExtraError where OpenVINO is not installed.

    On Linux each core gives the thread that makes it another stack for signals, and puts back the
    one before when it ends. Two that end in the order in which they were made leave a stack that is
    gone: the next signal with a handler, Ctrl+C or the end of a process, would end this one.
    """
    return load_openvino().Core()


PROBE = base64.b64decode(
    "CAU6tgEKKAoBeAoBcwoBegoBdwoBcwoBdgoBdAoBehIBeSILUUxpbmVhckNvbnYSAWcqCxABQgFzSgQAAIA/KggQ"
    "AkIBekoBACofCAQIBAgBCAEQA0IBd0oQf39/f39/f39/f39/f39/fyoIEANCAXZKAQAqCxABQgF0SgQAAP5DWhsK"
    "AXgSFgoUCAISEAoCCAEKAggECgIIAQoCCAFiGwoBeRIWChQIAhIQCgIIAQoCCAQKAggBCgIIAUIECgAQCg=="
)
"""An ONNX file: a QLinearConv of four unsigned bytes with four weights of 127. Its exact answer to
bytes of 255 is 255."""


@functools.cache
def int8_saturates() -> bool:
    """Whether sums of unsigned times signed bytes come out too small here, as ONNX Runtime computes
    them by default.

    Processors with VNNI add the products at 32 bits; others add pairs of them at 16 bits first,
    which 255 * 127 * 2 exceeds. The system may not say what the processor has, so it is tried.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    (answer,) = open_onnx(PROBE, options).run(None, {"x": np.full((1, 4, 1, 1), 255, np.uint8)})
    return int(answer.min()) < 255
