"""Detector: pictures in, detections out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.core.detections import Detections
from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import ZOO, Picked, Policy, postprocess
from ssd34.core.spec import ModelSpec
from ssd34.data.image_io import MAX_PIXELS, read_image, rgb_array
from ssd34.errors import ImageError, ModelError
from ssd34.runtime.session import Session
from ssd34.zoo.cache import cached_model
from ssd34.zoo.catalogue import PUBLISHED

DEFAULT_SCORE = 0.3
"""Detections below this score are left out unless asked for."""

EMBEDDED = {"default": "ssd300-resnet18-coco.onnx"}
"""Models that come with the package, by name."""

Picture = str | Path | bytes | NDArray[np.uint8] | Image.Image
"""What `Detector.detect` takes: a path, an encoded file's bytes, an (H, W, 3) uint8 RGB array,
or a Pillow image."""


def model_path(name: str | Path) -> Path:
    """The file of a model given by path or by name, of an embedded or a published one.

    Raises:
        ModelError: neither a file nor a known name, or a published file that is not on this
            machine; nothing is downloaded here.
    """
    if str(name) in EMBEDDED:
        return Path(__file__).parent.parent / "weights" / EMBEDDED[str(name)]
    if str(name) in PUBLISHED:
        return cached_model(str(name))
    path = Path(name)
    if os.path.isdir(path):
        raise ModelError(f"{path}: is a folder; expected an ONNX file")
    if not os.path.isfile(path):
        raise ModelError(
            f"{name}: no such model; expected the path of an ONNX file or one of "
            f"{', '.join([*EMBEDDED, *PUBLISHED])}"
        )
    return path


class Detector:
    """A loaded model.

    Example:
        >>> from ssd34 import Detector
        >>> detector = Detector.load()
        >>> for found in detector.detect("examples/chelsea.jpg"):
        ...     print(found.name)
        cat
    """

    def __init__(self, session: Session, *, policy: Policy = ZOO) -> None:
        """
        Args:
            session: a loaded file.
            policy: used where the file ends at raw outputs; a file with its own tail keeps it.
        """
        self.session = session
        self.policy = policy
        self._default_boxes = default_boxes_cxcywh(session.spec) if session.raw else None

    @classmethod
    def load(
        cls,
        model: str | Path = "default",
        *,
        threads: int | None = None,
        policy: Policy = ZOO,
    ) -> Detector:
        """Load a model by path or name.

        Args:
            model: path of an ONNX file; ``"default"``, which comes with the package; or the name
                of a published file that is in the cache.
            threads: None: what this process may use.
            policy: used where the file ends at raw outputs.

        Raises:
            ModelError: missing, broken, or not a detector of this family.
        """
        return cls(Session(model_path(model), threads=threads), policy=policy)

    @property
    def spec(self) -> ModelSpec:
        """The network's shape."""
        return self.session.spec

    @property
    def labels(self) -> LabelSet:
        """The classes."""
        return self.session.labels

    def detect(
        self,
        image: Picture,
        *,
        score: float = DEFAULT_SCORE,
        max_pixels: int = MAX_PIXELS,
    ) -> Detections:
        """Find objects in one picture.

        Args:
            image: a path, encoded bytes, an (H, W, 3) uint8 RGB array, or a Pillow image.
            score: leave out what scores less.
            max_pixels: refuse files with more pixels.

        Raises:
            ImageError: the picture cannot be read.
        """
        pixels = self.read(image, max_pixels=max_pixels)
        picked = self.pick(pixels)
        height, width = pixels.shape[:2]
        return Detections.from_picked(
            picked, label_set=self.labels, width=width, height=height, score=score
        )

    def detect_many(
        self, images: Iterable[Picture], *, score: float = DEFAULT_SCORE
    ) -> Iterator[Detections]:
        """`detect` for one picture after the other, lazily."""
        for image in images:
            yield self.detect(image, score=score)

    @staticmethod
    def read(image: Picture, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """Any kind of picture as an (H, W, 3) uint8 RGB array."""
        if isinstance(image, np.ndarray):
            return image
        if isinstance(image, Image.Image):
            return rgb_array(image)
        if isinstance(image, str | Path):
            return read_image(Path(image), max_pixels=max_pixels)
        if isinstance(image, bytes):
            return read_image(image, max_pixels=max_pixels)
        raise ImageError(
            "expected a path, encoded bytes, an (H, W, 3) uint8 RGB array or a Pillow image, got "
            f"{type(image).__name__}"
        )

    def pick(self, image: NDArray[np.uint8]) -> Picked:
        """Everything that the policy lets through, whatever its score, in fractions of the
        picture, for one picture (H, W, 3) uint8 RGB."""
        return self.run(self.session.input_for(image))

    def run(self, tensor: NDArray[Any]) -> Picked:
        """`pick` for the result of `Session.input_for`: the network and the policy alone."""
        if self._default_boxes is None:
            return Picked(*self.session.run_detections(tensor)[0])
        loc, conf = self.session.run_raw(tensor)
        return postprocess(
            loc[0], conf[0], default_boxes_cxcywh=self._default_boxes, policy=self.policy
        )
