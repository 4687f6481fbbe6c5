"""ONNX Runtime and OpenVINO, imported here alone, so that they send and write nothing.

Both look up a host and write to the home folder when they are imported without precautions. What
the caller has set or imported before is left as it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ssd34.errors import require

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # the library reads it when it is loaded

import onnxruntime as onnxruntime

from ssd34.files.tree import text_of

_TELEMETRY = "openvino_telemetry"


def open_onnx(path: Path, options: Any) -> Any:
    """ONNX Runtime's session of a file on the CPU; it takes paths as UTF-8, whatever the locale."""
    return onnxruntime.InferenceSession(text_of(path), options, providers=["CPUExecutionProvider"])


def load_openvino() -> ModuleType:
    """OpenVINO, whose conversion tools find no package to report their use with.

    That package fails where the home folder cannot be written.

    Raises:
        MissingExtraError: it is not installed.
    """
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return require("openvino", extra="openvino", why="the engine openvino")
    finally:
        if hidden:
            sys.modules.pop(_TELEMETRY, None)
