"""What a detector file's readers and writers agree on: names, and how a file says what it is. The
outputs' names are the published files'."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ssd34.core.counted import counted
from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.core.score_calibration import ScoreCalibration
from ssd34.core.spec import SPECS, ModelSpec
from ssd34.errors import ModelError, OptionError

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

METADATA_SCORES = "ssd34.score_calibration"
"""Metadata key of the score calibration that the file's biases hold, as JSON."""

NOTE_INT8_STEPS = "int8_steps"
"""In a checkpoint's notes, after quantization-aware training: each value's name to its scale and
zero point."""

PUBLISHED = (SPECS["ssd1200-resnet34"], COCO_LABELS)
"""What files without metadata are: the published network."""


def identity(metadata: Mapping[str, str]) -> tuple[ModelSpec, LabelSet] | None:
    """Spec and classes in a file's metadata; None where it has neither, as in the published files.

    Raises:
        ModelError: one of the two is missing or broken, or they do not fit each other.
    """
    if not {METADATA_SPEC, METADATA_LABELS} & set(metadata):
        return None
    return parsed_identity(metadata, spec_key=METADATA_SPEC, labels_key=METADATA_LABELS)


def score_calibration(metadata: Mapping[str, str]) -> ScoreCalibration | None:
    """The score calibration that an ONNX file's biases hold; None: they hold none.

    Raises:
        ModelError: it is broken.
    """
    try:
        return ScoreCalibration.in_metadata(metadata, METADATA_SCORES)
    except OptionError as error:
        raise ModelError(f"broken ssd34 metadata ({error})") from None


def parsed_identity(
    metadata: Mapping[str, str], *, spec_key: str, labels_key: str
) -> tuple[ModelSpec, LabelSet]:
    """Spec and classes, which have to be there as JSON under these keys.

    Raises:
        ModelError: one of the two is missing or broken, or they do not fit each other.
    """
    try:
        spec = ModelSpec.from_dict(json.loads(metadata[spec_key]))
        labels = LabelSet.from_dict(json.loads(metadata[labels_key]))
        boxes = spec.num_default_boxes
    except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError,
            OptionError) as error:  # fmt: skip
        raise ModelError(f"broken ssd34 metadata ({error})") from None
    if spec.num_classes != len(labels) or boxes < 1:
        raise ModelError(
            f"the metadata's network has {counted(spec.num_classes, 'class')} and "
            f"{counted(boxes, 'default box')}, and the metadata names "
            f"{counted(len(labels), 'class')}"
        )
    return spec, labels
