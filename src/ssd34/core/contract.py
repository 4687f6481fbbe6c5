"""What a detector file's readers and writers agree on: names, how a file says what it is, and what
its inputs, outputs and their values have to be. The outputs' names are the published files'."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.core.spec import SPECS, ModelSpec
from ssd34.errors import ModelError, OptionError
from ssd34.text import counted

DETECTION_OUTPUTS = ("bboxes", "labels", "scores")
"""Outputs of a file that picks detections itself."""

RAW_OUTPUTS = ("loc", "conf")
"""Outputs of a file that ends at the network."""

TAIL_INPUTS = ("tail.loc", "tail.conf")
"""What the same two are called inside a file that computes detections from them."""

METADATA_SPEC = "ssd34.spec"
METADATA_LABELS = "ssd34.labels"
METADATA_QUANTIZATION = "ssd34.quantization"
METADATA_SCORES = "ssd34.score_calibration"
"""Keys of an ONNX file's metadata, all JSON: the spec, the classes, how an int8 file was quantized,
the score calibration that the biases hold."""

NOTE_INT8_STEPS = "int8_steps"
"""After quantization-aware training, a checkpoint's note of each value's scale and zero point."""

PUBLISHED = (SPECS["ssd1200-resnet34"], COCO_LABELS)
"""What files without metadata are: the published network."""

Form = tuple[int | None, ...]
"""A shape; None stands for any size."""


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Attributes:
        type: as ONNX Runtime writes it, for example ``"tensor(float)"``.
        shape: a number for a fixed dimension, a name or None for a free one; None as a whole: not
            even the number of dimensions is known.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        return f"{self.name} {self.form}"

    @property
    def form(self) -> str:
        """Type and shape, for messages."""
        if self.shape is None:
            return f"{self.type} of any shape"
        return f"{self.type} [{', '.join('?' if s is None else str(s) for s in self.shape)}]"

    @property
    def sizes(self) -> Form | None:
        """The shape without the names of its free dimensions."""
        if self.shape is None:
            return None
        return tuple(size if isinstance(size, int) else None for size in self.shape)


def fits(shape: Sequence[int | None], form: Sequence[int | None]) -> bool:
    """Whether a shape has the fixed dimensions of a form."""
    return len(shape) == len(form) and all(
        wanted in (None, size) for size, wanted in zip(shape, form, strict=True)
    )


def find_port_faults(
    inputs: Sequence[Port], outputs: Sequence[Port], metadata: Mapping[str, str]
) -> list[str]:
    """What keeps inputs and outputs from being those of a detector with this metadata.

    An output may leave dimensions free; its values are looked at when the file runs.
    """
    try:
        stated = _read_stated_identity(metadata)
    except ModelError as error:
        return [str(error)]
    spec, _ = stated or PUBLISHED
    whose = (
        f"as the metadata of {spec.name} says"
        if stated
        else f"as of the published {spec.name}, which a file without ssd34 metadata has to be"
    )
    faults = []
    by_name = {port.name: port for port in outputs}
    expected = _outputs_of(spec, raw=set(RAW_OUTPUTS) <= set(by_name))
    if not set(expected) <= set(by_name):
        got = ", ".join(by_name) or "none"
        faults.append(
            f"outputs {got}: expected {', '.join(DETECTION_OUTPUTS)} or {', '.join(RAW_OUTPUTS)}"
        )
        expected = {}
    side = spec.image_size
    images: dict[str, Form] = {
        "tensor(float)": (None, 3, side, side),
        "tensor(uint8)": (None, side, side, 3),
    }
    image = inputs[0] if len(inputs) == 1 else None
    if image is None or image.type not in images or not fits(image.sizes or (), images[image.type]):
        got = ", ".join(map(str, inputs)) or "none"
        faults.append(
            f"input {got}: expected one of tensor(float) [N, 3, {side}, {side}] or tensor(uint8) "
            f"[N, {side}, {side}, 3], {whose}"
        )
    for name, (kind, form) in expected.items():
        port = by_name[name]
        may_fit = port.sizes is None or (
            len(port.sizes) == len(form)
            and all(None in (a, b) or a == b for a, b in zip(port.sizes, form, strict=True))
        )
        if port.type != kind or not may_fit:
            faults.append(f"output {port}: expected {Port('', kind, form).form}, {whose}")
    return faults


def _outputs_of(spec: ModelSpec, *, raw: bool) -> dict[str, tuple[str, Form]]:
    """Type and form of each output."""
    if raw:
        return {
            "loc": ("tensor(float)", (None, 4, spec.num_default_boxes)),
            "conf": ("tensor(float)", (None, spec.num_channels, spec.num_default_boxes)),
        }
    return {
        "bboxes": ("tensor(float)", (None, None, 4)),
        "labels": ("tensor(int64)", (None, None)),
        "scores": ("tensor(float)", (None, None)),
    }


SCORE_SLACK = 1e-3
BOX_SLACK = 0.01
"""How far rounding may take a score over 0 or 1, and a box's right side left of its left one, in
fractions of the picture."""

OUTSIDE, FARTHEST = 1.0, 10.0
"""How far outside the picture, in its sides, the centre of most boxes and of any box may lie. An
untrained network's boxes scatter so far; boxes in pixels lie farther."""

LARGEST_OFFSET, LARGEST_LOGIT = 400.0, 1e6
"""Of loc, twice what an untrained network gives; of conf, where a trained one gives some tens."""


def find_value_faults(
    outputs: Mapping[str, NDArray[Any]], *, pictures: int, spec: ModelSpec
) -> list[str]:
    """What keeps a file's outputs from being raw ones of its network, or detections."""
    if set(RAW_OUTPUTS) <= set(outputs):
        raw = (outputs[name] for name in RAW_OUTPUTS)
        return find_raw_faults(*raw, pictures=pictures, spec=spec)
    found = (outputs[name] for name in DETECTION_OUTPUTS)
    return find_detection_faults(*found, pictures=pictures, num_classes=spec.num_classes)


def find_detection_faults(
    boxes: NDArray[Any],
    labels: NDArray[Any],
    scores: NDArray[Any],
    *,
    pictures: int,
    num_classes: int,
) -> list[str]:
    """What keeps a file's outputs from being detections: boxes (N, D, 4) xyxy in fractions of the
    picture, labels (N, D) from 1, scores (N, D) from 0 to 1. Where the score is 0, box and label
    only fill up."""
    values = zip(DETECTION_OUTPUTS, (boxes, labels, scores), strict=True)
    if boxes.shape != (*scores.shape, 4) or labels.shape != scores.shape or scores.ndim != 2 or (
        len(scores) != pictures
    ):  # fmt: skip
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in values)
        return [f"{shapes} for {counted(pictures, 'picture')}: not of the same detections"]
    faults = []
    # NaN is neither above nor below anything.
    wrong = scores[~((scores >= -SCORE_SLACK) & (scores <= 1 + SCORE_SLACK))]
    if len(wrong):
        faults.append(f"score {wrong[0]:g}: expected 0 to 1")
    real = ~(scores <= 0)
    unknown = np.unique(labels[real & ((labels < 1) | (labels > num_classes))])
    faults += [f"label {label}: expected 1 to {num_classes}" for label in unknown]
    found = boxes[real].astype(np.float64)
    finite = np.isfinite(found).all(axis=1)
    known = np.where(np.isfinite(found), found, np.nan)  # inf - inf would warn
    centres = (known[:, :2] + known[:, 2:]) / 2
    outside = np.abs(centres - 0.5).max(axis=1) - 0.5  # in sides of the picture, from its edge
    most = OUTSIDE if np.median(outside[finite] if finite.any() else 0) > OUTSIDE else FARTHEST
    ordered = (known[:, 2:] - known[:, :2] >= -BOX_SLACK).all(axis=1)
    usable = finite & (outside <= most) & ordered
    if not usable.all():
        box = ", ".join(f"{value:g}" for value in found[~usable][0])
        faults.append(
            f"box [{box}]: expected left, top, right, bottom in fractions of the picture, 0 to 1 "
            "or a little more"
        )
    return faults


def find_raw_faults(
    loc: NDArray[Any], conf: NDArray[Any], *, pictures: int, spec: ModelSpec
) -> list[str]:
    """What keeps a file's outputs from being a network's raw ones: offsets `loc` (N, 4, A) and
    logits `conf` (N, channels, A)."""
    forms = {name: (pictures, *form[1:]) for name, (_, form) in _outputs_of(spec, raw=True).items()}
    if loc.shape != forms["loc"] or conf.shape != forms["conf"]:
        return [
            f"loc {list(loc.shape)}, conf {list(conf.shape)} for {counted(pictures, 'picture')}: "
            f"expected loc {list(forms['loc'])}, conf {list(forms['conf'])}"
        ]
    faults = []
    for name, values, largest, what in (
        ("loc", loc, LARGEST_OFFSET, "offsets from the default boxes"),
        ("conf", conf, LARGEST_LOGIT, "logits"),
    ):
        low, high = values.min(), values.max()  # NaN where one of the values is
        if not (low >= -largest and high <= largest):
            wrong = low if not low >= -largest else high
            faults.append(
                f"{name} with the value {wrong:g}: expected {what}, {-largest:g} to {largest:g}"
            )
    # Logits are below 0 somewhere, so that the sum is hardly ever made.
    if not faults and conf.min() >= 0 and np.allclose(conf.sum(axis=1), 1, atol=1e-3):
        faults.append("conf with probabilities: expected logits, from before the softmax")
    return faults


def read_identity(metadata: Mapping[str, str]) -> tuple[ModelSpec, LabelSet]:
    """Spec and classes in a file's metadata; where it has neither, those of the published files.
    ModelError where one of them is missing or broken, or they do not fit each other."""
    return _read_stated_identity(metadata) or PUBLISHED


def _read_stated_identity(metadata: Mapping[str, str]) -> tuple[ModelSpec, LabelSet] | None:
    """The same; None where the metadata has neither, as in the published files."""
    if not {METADATA_SPEC, METADATA_LABELS} & set(metadata):
        return None
    return parse_identity(metadata, spec_key=METADATA_SPEC, labels_key=METADATA_LABELS)


def read_score_calibration(metadata: Mapping[str, str]) -> ScoreCalibration | None:
    """The score calibration that an ONNX file's biases hold, if any; ModelError if it is broken."""
    try:
        return ScoreCalibration.in_metadata(metadata, METADATA_SCORES)
    except OptionError as error:
        raise ModelError(f"broken ssd34 metadata ({error})") from None


def parse_identity(
    metadata: Mapping[str, str], *, spec_key: str, labels_key: str
) -> tuple[ModelSpec, LabelSet]:
    """Spec and classes, there as JSON under these keys; ModelError as `read_identity`."""
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


LARGEST_WEIGHT, LARGEST_NARROW_WEIGHT = 127, 64
"""Weights of 8 and 7 bits are at most so many steps: two products of narrow ones with bytes add up
within 16 bits."""

LARGEST_BIAS = 2.0**30
"""Steps; leaves the other half of int32 to the sum of products."""


CONFIDENCE_BIASES = r"heads\.conf\.\d+\.bias"
"""What the biases of the confidence heads are called, as a regular expression."""


@dataclass(frozen=True, kw_only=True)
class ScoreCalibration:
    """What makes a score of 0.7 mean right in 7 of 10 cases.

    Training with hard-negative mining, the detector sees fewer negatives than there are, so the
    background's logit comes out too low. An offset on it puts that right, folded into the biases of
    the confidence heads: the graph stays as it is and every engine computes it.

    `background_offset` is added to the background's logit of every default box: finite, above 0
    every score falls, below 0 every score rises.
    """

    background_offset: float

    def __post_init__(self) -> None:
        value = self.background_offset
        if type(value) not in (int, float) or not math.isfinite(value):
            raise OptionError(f"expected a finite background_offset, got {value!r}")

    def apply(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated logits (channels, A) float32 of raw ones; channel 0 is background."""
        calibrated = logits.copy()
        calibrated[0] += np.float32(self.background_offset)
        return calibrated

    def fold(self, bias: NDArray[np.float32], *, channels: int) -> NDArray[np.float32]:
        """A confidence head's bias (channels * boxes,) float32, ordered by class, calibrated."""
        return self.apply(bias.reshape(channels, -1)).reshape(-1)

    def unfold(self, bias: NDArray[np.float32], *, channels: int) -> NDArray[np.float32]:
        """The inverse of `fold`, up to rounding."""
        negative = ScoreCalibration(background_offset=-self.background_offset)
        return negative.fold(bias, channels=channels)

    def to_json(self) -> str:
        """The form in files' metadata."""
        return json.dumps({"background_offset": self.background_offset})

    @classmethod
    def in_metadata(cls, metadata: Mapping[str, str], key: str) -> ScoreCalibration | None:
        """The one under a key of a file's metadata, if any; OptionError where it is broken."""
        if key not in metadata:
            return None
        try:
            values: Any = json.loads(metadata[key])
            return cls(background_offset=values["background_offset"])
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise OptionError(f"broken score calibration ({error})") from None
