"""A detector file, ready to run: the contract is checked here, an engine computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssd34.core.contract import DETECTION_OUTPUTS, PUBLISHED, RAW_OUTPUTS, identity
from ssd34.core.counted import counted
from ssd34.core.labels import LabelSet
from ssd34.core.preprocess import preprocess, resize
from ssd34.core.spec import ModelSpec
from ssd34.data.checkpoint import is_named_checkpoint
from ssd34.errors import ModelError, OptionError
from ssd34.machine import thread_budget
from ssd34.runtime.engine import AUTO, DEFAULT_ENGINE, ONNXRUNTIME, Engine, Port, open_engine
from ssd34.runtime.engine_choice import EngineChoice, faster_engine

CONTRACT = (
    "one input of float32 [N, 3, S, S] or uint8 [N, S, S, 3] and the outputs bboxes, labels, "
    "scores (detections) or loc, conf (raw)"
)
_DETECTION_PORTS: dict[str, tuple[str, tuple[int | None, ...]]] = {
    "bboxes": ("float32", (None, None, 4)),
    "labels": ("int64", (None, None)),
    "scores": ("float32", (None, None)),
}
_LAYOUTS = {"float32": "NCHW", "uint8": "NHWC"}


class Session:
    """A detector file, ready to run. It pickles as path and options.

    Attributes:
        path: the file.
        spec: the network's shape.
        labels: its classes.
        raw: whether it ends at loc and conf instead of detections.
        takes_bytes: whether it takes uint8 pictures and normalises them itself.
        batch: pictures that it takes at once; None: any number.
        threads: how many one run uses.
        streams: runs that may be under way at once.
        engine: what runs it.
        choice: how the engine was chosen; None: it was asked for by name.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        engine: str = DEFAULT_ENGINE,
        streams: int = 1,
    ) -> None:
        """
        Args:
            path: an ONNX file.
            threads: that one run uses; None: what this process may use.
            engine: ``"onnxruntime"``, ``"openvino"``, or ``"auto"``: both are measured.
            streams: runs that will be under way at once, in threads of the caller.

        Raises:
            ModelError: missing, broken, or not a detector of this family.
            MissingExtraError: the engine is not installed; ``"auto"`` does not raise it.
            OptionError: there is no such engine, or threads are no number of 1 or more.
        """
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise OptionError(
                f"threads {threads!r}: expected a whole number of 1 or more, or None for what this "
                "process may use"
            )
        if not path.is_file():
            raise ModelError(f"{path}: no such model file; expected an ONNX file or 'default'")
        if is_named_checkpoint(path):
            raise ModelError(
                f"{path}: a checkpoint; make an ONNX file of it first with: ssd34 export"
            )
        self.path = path
        self.threads = threads or thread_budget()
        self.streams = streams
        self.engine: Engine = open_engine(
            path,
            name=ONNXRUNTIME if engine == AUTO else engine,
            threads=self.threads,
            streams=streams,
        )
        outputs = [port.name for port in self.engine.outputs]
        self.raw = set(RAW_OUTPUTS) <= set(outputs)
        inputs = self.engine.inputs
        layout = _LAYOUTS.get(inputs[0].dtype) if len(inputs) == 1 else None
        shape: list[Any] = list(inputs[0].shape) if layout else []
        usable = (
            layout is not None
            and len(shape) == 4
            and shape[layout.index("C")] == 3
            and isinstance(side := shape[layout.index("H")], int)
            and side == shape[layout.index("W")]
            and (self.raw or set(DETECTION_OUTPUTS) <= set(outputs))
        )
        if not usable:
            got = ", ".join(str(port) for port in inputs)
            raise ModelError(
                f"{path}: not an SSD detector: expected {CONTRACT}; it has the input {got} and "
                f"the outputs {', '.join(outputs)}"
            )
        self._input = inputs[0].name
        self.takes_bytes = layout == "NHWC"
        self.batch = shape[0]
        self.spec, self.labels = self._identity(side)
        if self.raw:
            self._check_raw_shapes()
        else:
            self._check_detection_ports()
        self.choice: EngineChoice | None = None
        if engine == AUTO:
            noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
            self.engine, self.choice = faster_engine(
                self.engine, path, self.input_for(noise), threads=self.threads, streams=streams
            )

    def __reduce__(self) -> tuple[Callable[[Path], Session], tuple[Path]]:
        """Path and options: what is unpickled or copied deeply loads the file again."""
        options: dict[str, Any] = {
            "threads": self.threads, "engine": self.engine.name, "streams": self.streams
        }  # fmt: skip
        return partial(type(self), **options), (self.path.absolute(),)

    def _check_raw_shapes(self) -> None:
        boxes, channels = self.spec.num_default_boxes, self.spec.num_channels
        expected = {"loc": [4, boxes], "conf": [channels, boxes]}
        outputs = self.engine.outputs
        shapes = {o.name: list(o.shape[1:]) for o in outputs if o.name in expected}
        if shapes != expected:
            raise ModelError(
                f"{self.path}: its outputs {shapes} do not fit its network, expected {expected}; "
                "make the file with: ssd34 export"
            )

    def _check_detection_ports(self) -> None:
        """As far as the file says: sides may be free, and an engine may not know the rank."""
        for port in self.engine.outputs:
            if port.name not in _DETECTION_PORTS:
                continue
            dtype, form = _DETECTION_PORTS[port.name]
            fits = not port.shape or (
                len(port.shape) == len(form)
                and all(None in (a, b) or a == b for a, b in zip(port.shape, form, strict=True))
            )
            if port.dtype != dtype or not fits:
                raise ModelError(
                    f"{self.path}: not an SSD detector: its output {port}: expected "
                    f"{Port(port.name, dtype, form)}; make the file with: ssd34 export"
                )

    def _identity(self, side: int) -> tuple[ModelSpec, LabelSet]:
        """Spec and classes from the metadata, else from the published contract."""
        try:
            found = identity(self.engine.metadata)
        except ModelError as error:
            raise ModelError(f"{self.path}: {error}") from None
        spec, labels = found or PUBLISHED
        if spec.image_size == side:
            return spec, labels
        if found:
            raise ModelError(
                f"{self.path}: its metadata says {spec.image_size} pixels, the graph takes {side}"
            )
        raise ModelError(
            f"{self.path}: has no ssd34 metadata and is not the published network "
            f"(its input is {side} pixels, expected {spec.image_size}); "
            "make the file with: ssd34 export"
        )

    def prepare(
        self,
        image: NDArray[np.uint8] | Image.Image,
        *,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[Any]:
        """One picture as this file takes it, the first axis being 1.

        Args:
            image: (H, W, 3) uint8 RGB, or a Pillow image of mode RGB.
            out: (1, 3, S, S) float32 that may be written into.
        """
        size = self.spec.image_size
        return resize(image, size)[None] if self.takes_bytes else preprocess(image, size, out=out)

    def input_for(self, image: NDArray[np.uint8] | Image.Image) -> NDArray[Any]:
        """A picture (H, W, 3) uint8 RGB as this file's input.

        Where the file takes a fixed number of pictures, the same one as often.
        """
        return self.repeated(self.prepare(image))

    def repeated(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """What `prepare` gave as often as this file takes pictures."""
        return tensor if self.batch in (None, 1) else np.repeat(tensor, self.batch, axis=0)

    def run_raw(self, images: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The file's input for N pictures to loc (N, 4, A) and conf (N, channels, A).

        Raises:
            ModelError: the outputs are not of the same pictures and default boxes.
        """
        assert self.raw
        loc, conf = self.engine.run(RAW_OUTPUTS, {self._input: images})
        if loc.shape != (len(images), 4, conf.shape[-1]) or len(conf) != len(images):
            raise self._mismatched(RAW_OUTPUTS, (loc, conf), len(images))
        return loc, conf

    def _mismatched(
        self, names: Sequence[str], outputs: Sequence[NDArray[Any]], pictures: int
    ) -> ModelError:
        got = ", ".join(f"{k} {list(v.shape)}" for k, v in zip(names, outputs, strict=True))
        return ModelError(
            f"{self.path}: gave {got} for {counted(pictures, 'picture')}: not of the same "
            "detections; make the file with: ssd34 export"
        )

    def run_detections(
        self, images: NDArray[Any]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]]:
        """The file's input for N pictures to each one's boxes (D, 4) in fractions, labels (D,)
        and scores (D,).

        Raises:
            ModelError: the outputs do not belong together, or a label is none of the file's.
        """
        assert not self.raw
        outputs = self.engine.run(DETECTION_OUTPUTS, {self._input: images})
        shapes = [values.shape for values in outputs]
        if shapes != [(*shapes[2], 4), shapes[2], shapes[2]] or shapes[2][:1] != images.shape[:1]:
            raise self._mismatched(DETECTION_OUTPUTS, outputs, len(images))
        # Files for several pictures fill up with detections of score 0.
        found = [
            (boxes[scores > 0], labels[scores > 0], scores[scores > 0])
            for boxes, labels, scores in zip(*outputs, strict=True)
        ]
        for _, labels, _ in found:
            unknown = labels[(labels < 1) | (labels > len(self.labels))]
            if len(unknown):
                raise ModelError(
                    f"{self.path}: gave the label {unknown[0]}, expected 1 to {len(self.labels)}; "
                    "make the file with: ssd34 export"
                )
        return found
