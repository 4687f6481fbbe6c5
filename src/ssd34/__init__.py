"""ssd34: a Single Stage Detector, from training data to a proven file on a CPU.

>>> from ssd34 import Detector
>>> found = Detector.load().detect("examples/chelsea.jpg")
>>> found.names
('cat',)
"""

from ssd34.core.detections import Detection, Detections
from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.core.postprocess import BEST, MLPERF, MLPERF_UNCLAMPED, ZOO, Policy, named_policy
from ssd34.core.spec import SPECS, ModelSpec, named_spec
from ssd34.data.image_io import read_image
from ssd34.errors import (
    CheckpointError,
    DatasetError,
    DivergenceError,
    DownloadError,
    ImageError,
    MissingExtraError,
    ModelError,
    OptionError,
    Ssd34Error,
    TrainingError,
)
from ssd34.runtime.detector import Detector
from ssd34.runtime.draw import draw
from ssd34.version import __version__

load = Detector.load

__all__ = [
    "BEST",
    "COCO_LABELS",
    "MLPERF",
    "MLPERF_UNCLAMPED",
    "SPECS",
    "ZOO",
    "CheckpointError",
    "DatasetError",
    "Detection",
    "Detections",
    "Detector",
    "DivergenceError",
    "DownloadError",
    "ImageError",
    "LabelSet",
    "MissingExtraError",
    "ModelError",
    "ModelSpec",
    "OptionError",
    "Policy",
    "Ssd34Error",
    "TrainingError",
    "__version__",
    "draw",
    "load",
    "named_policy",
    "named_spec",
    "read_image",
]
