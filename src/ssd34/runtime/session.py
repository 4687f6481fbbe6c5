"""ONNX Runtime behind one small class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ssd34.core.labels import COCO_LABELS, LabelSet
from ssd34.core.spec import SPECS, ModelSpec
from ssd34.errors import ModelError, OptionError
from ssd34.runtime.threads import thread_budget

CONTRACT = (
    "one input of float32 [N, 3, S, S] and the outputs bboxes, labels, scores (detections) or "
    "loc, conf (raw)"
)
_DETECTIONS = ("bboxes", "labels", "scores")
_RAW = ("loc", "conf")


class Session:
    """A detector file, ready to run.

    Attributes:
        path: the file.
        spec: the network's shape.
        labels: its classes.
        raw: whether it ends at loc and conf instead of detections.
        threads: how many it uses.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """
        Args:
            path: an ONNX file.
            threads: None: what this process may use.

        Raises:
            ModelError: missing, broken, or not a detector of this family.
        """
        if not path.is_file():
            raise ModelError(f"{path}: no such model file; expected an ONNX file or 'default'")
        self.path = path
        self.threads = threads or thread_budget()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library has no common base of its own
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{path}: not an ONNX file that can be run ({reason})") from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = [output.name for output in outputs]
        self.raw = set(_RAW) <= set(names)
        form = inputs[0].shape if len(inputs) == 1 else []
        usable = (
            len(form) == 4
            and form[1] == 3
            and isinstance(form[2], int)
            and form[2] == form[3]
            and inputs[0].type == "tensor(float)"
            and (self.raw or set(_DETECTIONS) <= set(names))
        )
        if not usable:
            got = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise ModelError(
                f"{path}: not an SSD detector: expected {CONTRACT}; it has the input {got} and "
                f"the outputs {', '.join(names)}"
            )
        self._input = inputs[0].name
        self.spec, self.labels = self._identity(int(form[2]))
        if self.raw:
            boxes, channels = self.spec.num_default_boxes, self.spec.num_channels
            expected = {"loc": [4, boxes], "conf": [channels, boxes]}
            shapes = {o.name: list(o.shape[1:]) for o in outputs if o.name in expected}
            if shapes != expected:
                raise ModelError(
                    f"{path}: its outputs {shapes} do not fit its network, expected {expected}; "
                    "make the file with: ssd34 export"
                )

    def _identity(self, side: int) -> tuple[ModelSpec, LabelSet]:
        """Spec and classes from the metadata, else from the published contract."""
        metadata = self._session.get_modelmeta().custom_metadata_map
        if not {"ssd34.spec", "ssd34.labels"} <= set(metadata):
            published = SPECS["ssd1200-resnet34"]
            if side != published.image_size:
                raise ModelError(
                    f"{self.path}: has no ssd34 metadata and is not the published network "
                    f"(its input is {side} pixels, expected {published.image_size}); "
                    "make the file with: ssd34 export"
                )
            return published, COCO_LABELS
        try:
            spec = ModelSpec.from_dict(json.loads(metadata["ssd34.spec"]))
            labels = LabelSet.from_dict(json.loads(metadata["ssd34.labels"]))
        except (KeyError, ValueError, TypeError, AttributeError, OptionError) as error:
            raise ModelError(f"{self.path}: broken ssd34 metadata ({error})") from None
        if spec.image_size != side or spec.num_classes != len(labels):
            raise ModelError(
                f"{self.path}: its metadata says {spec.image_size} pixels and {spec.num_classes} "
                f"classes, the graph takes {side} pixels and names {len(labels)} classes"
            )
        return spec, labels

    def run_raw(
        self, images: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(N, 3, S, S) normalised pictures to loc (N, 4, A) and conf (N, channels, A)."""
        assert self.raw
        loc, conf = self._session.run(list(_RAW), {self._input: images})
        return loc, conf

    def run_detections(
        self, image: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """One (1, 3, S, S) picture to boxes (D, 4) in fractions, labels (D,), scores (D,)."""
        assert not self.raw
        boxes, labels, scores = self._session.run(list(_DETECTIONS), {self._input: image})
        return boxes[0], labels[0], scores[0]
