"""The names that a detector file's readers and writers agree on. The outputs' are the published
files'."""

from __future__ import annotations

DETECTION_OUTPUTS = ("bboxes", "labels", "scores")
"""Outputs of a file that picks detections itself."""

RAW_OUTPUTS = ("loc", "conf")
"""Outputs of a file that ends at the network."""

TAIL_INPUTS = ("tail.loc", "tail.conf")
"""What the same two are called inside a file that goes on from them to detections."""

METADATA_SPEC = "ssd34.spec"
"""Metadata key of the model spec, as JSON."""

METADATA_LABELS = "ssd34.labels"
"""Metadata key of the label set, as JSON."""

METADATA_QUANTIZATION = "ssd34.quantization"
"""Metadata key of how an int8 file was quantized, as JSON."""

NOTE_INT8_STEPS = "int8_steps"
"""In a checkpoint's notes, after quantization-aware training: each value's name to its scale and
zero point."""
