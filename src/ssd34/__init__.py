"""ssd34: a Single Stage Detector, from training data to a proven file on a CPU.

>>> from ssd34 import Detector
>>> found = Detector.load().detect("examples/chelsea.jpg")
>>> found.names
('cat',)
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ssd34.core.detections import Detection, Detections
from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.core.postprocess import BEST, MLPERF, MLPERF_UNCLAMPED, ZOO, Policy, named_policy
from ssd34.core.spec import SPECS, ModelSpec, named_spec
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
    VideoError,
    require,
)
from ssd34.images.draw import draw
from ssd34.images.read import read_image
from ssd34.runtime.detector import Detector
from ssd34.version import __version__

if TYPE_CHECKING:
    from ssd34.deploy.graph.export import ExportOptions as ExportOptions
    from ssd34.deploy.search.config import QuantizeConfig as QuantizeConfig
    from ssd34.workflows.evaluate import EvaluateOptions, evaluate
    from ssd34.workflows.export import Exported as Exported
    from ssd34.workflows.export import export as export
    from ssd34.workflows.quantize import Quantized as Quantized
    from ssd34.workflows.quantize import quantize as quantize
    from ssd34.workflows.scoring import Evaluation
    from ssd34.workflows.train import Trained, TrainJob, train

load = Detector.load

_WORKFLOWS = {
    **dict.fromkeys(("evaluate", "EvaluateOptions"), "evaluate"),
    "Evaluation": "scoring",
    **dict.fromkeys(("train", "TrainJob", "Trained"), "train"),
    **dict.fromkeys(("export", "ExportOptions", "Exported"), "export"),
    **dict.fromkeys(("quantize", "QuantizeConfig", "Quantized"), "quantize"),
}
"""Names that are imported when they are first asked for, and their modules in `workflows`. Those
that cannot be imported without an extra are not in `__all__`: the others can be had with ``*``."""


class _Room(ModuleType):
    """A room that has the name of a workflow: ``ssd34.evaluate(...)`` is that workflow."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _workflow(self.__name__.rpartition(".")[2])(*arguments, **options)


class _Package(ModuleType):
    """Makes such rooms callable whoever imports them first."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _WORKFLOWS and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def _workflow(name: str) -> Any:
    module = _WORKFLOWS[name]
    if module in ("export", "quantize"):
        for library in ("onnx", "msgspec") if module == "quantize" else ("onnx",):
            require(library, extra=module, why=f"ssd34.{name}")
    return getattr(import_module(f"ssd34.workflows.{module}"), name)


def __getattr__(name: str) -> Any:
    if name not in _WORKFLOWS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = _workflow(name)
    # Where there is a room of that name, it is here by now.
    return globals().get(name, found)


__all__ = [
    "BEST", "COCO_LABELS", "MLPERF", "MLPERF_UNCLAMPED", "SPECS", "ZOO", "CheckpointError",
    "DatasetError", "Detection", "Detections", "Detector", "DivergenceError", "DownloadError",
    "EvaluateOptions", "Evaluation", "ImageError", "LabelSet", "MissingExtraError", "ModelError",
    "ModelSpec", "OptionError", "Policy", "Ssd34Error", "TrainJob", "Trained", "TrainingError",
    "VideoError", "__version__", "draw", "evaluate", "load", "named_policy", "named_spec",
    "read_image", "train",
]  # fmt: skip
