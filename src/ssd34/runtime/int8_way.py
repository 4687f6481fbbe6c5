"""How this machine computes an int8 file: the fast way, or the slower exact one."""

from __future__ import annotations

import json
from pathlib import Path

from ssd34.core.contract import METADATA_QUANTIZATION
from ssd34.runtime.engine import ONNXRUNTIME, Engine
from ssd34.runtime.saturation import int8_saturates

FAST = "fast"
EXACT = "exact (no VNNI)"
"""Slower; see `ssd34.runtime.onnxruntime_engine.session_options`."""

_COMPUTES = (b"QuantizeLinear", b"QLinearConv")
"""Operators by which values become int8, or are computed as such. DequantizeLinear alone, which has
another q, belongs to files that only store their weights so."""


def int8_way(path: Path, engine: Engine) -> str | None:
    """`FAST` or `EXACT`; None for a file that computes in float.

    A file that does not say how it was quantized counts as one with weights of 8 bits.

    Args:
        path: the file.
        engine: it, loaded.
    """
    content = path.read_bytes()
    if not any(operator in content for operator in _COMPUTES):
        return None
    if engine.name != ONNXRUNTIME or not int8_saturates():
        return FAST
    try:
        narrow = bool(json.loads(engine.metadata[METADATA_QUANTIZATION])["reduce_range"])
    except (KeyError, TypeError, ValueError):
        narrow = False
    return FAST if narrow else EXACT
