"""Detector: pictures in, detections out."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.core.detections import Detections
from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import POLICIES, ZOO, Picked, Policy, named_policy, postprocess
from ssd34.core.preprocess import CARD, FAST, PREPROCESSINGS
from ssd34.core.spec import ModelSpec
from ssd34.errors import OptionError
from ssd34.images.draw import draw
from ssd34.images.read import MAX_PIXELS, Picture, fetched, is_address, load_picture
from ssd34.images.reduced import Reduced, read_square, stretch
from ssd34.machine import overlapped
from ssd34.runtime.engine import DEFAULT_ENGINE
from ssd34.runtime.session import Outputs, Session
from ssd34.text import counted
from ssd34.zoo.names import model_path

DEFAULT_SCORE = 0.5
"""Detections below this score are left out unless asked for: in the command line, in Python, by the
server, and as objects of a data set that a model labels.

Where scores are calibrated, as the embedded model's are, it is where a detection is as likely right
as wrong, so each that is shown is rather right. Of the embedded model's at this score or more 75 in
100 are right, from 0.3 on 61, and from 0.7 on 85 (docs/measured/embedded.json). Evaluation takes
all."""

SPARE = 4
"""Most inputs that are kept to be written into again."""


@dataclass(eq=False)
class PreparedPicture:
    """A picture on its way to the network, for one `Detector.find`.

    Attributes:
        tensor: the file's input; None once it was used.
        width, height: of the original picture, pixels.
        path: its file, where it has one.
    """

    tensor: NDArray[Any] | None
    width: int
    height: int
    path: Path | None = None


@dataclass(frozen=True, eq=False, repr=False)
class PictureDetections(Detections):
    """What a `Detector` found in one picture.

    Attributes:
        path: the picture's file; None where it came from an address, as bytes, an array or a
            Pillow image, which are not kept.
    """

    path: Path | None = None

    def draw(self, image: Picture | None = None) -> Image.Image:
        """A copy of the picture with boxes, names and scores, of mode RGB.

        Args:
            image: the picture; None: the file that it was found in.

        Raises:
            OptionError: there is no file, and no picture was given.
            ImageError: the picture cannot be read.
        """
        picture = image if image is not None else self.path
        if picture is None:
            raise OptionError("it came from no file; expected the picture to draw on: draw(image)")
        return draw(picture, self)

    def _repr_jpeg_(self) -> bytes | None:
        """The picture with its boxes, which a notebook shows; None where it has no file."""
        if self.path is None:
            return None
        stream = io.BytesIO()
        self.draw().save(stream, "JPEG")
        return stream.getvalue()


class Detector:
    """A loaded model. It pickles as path and options, and is loaded again where it is unpickled.

    Example:
        >>> from ssd34 import Detector
        >>> detector = Detector.load()
        >>> for found in detector.detect("examples/chelsea.jpg"):
        ...     print(found.name)
        cat
    """

    def __init__(
        self, session: Session, *, policy: Policy | str | None = None, preprocessing: str = CARD
    ) -> None:
        """A loaded file with a policy and a preprocessing; see `load`."""
        if preprocessing not in PREPROCESSINGS:
            raise OptionError(
                f"unknown preprocessing {preprocessing!r}; expected one of "
                f"{', '.join(PREPROCESSINGS)}"
            )
        self.session = session
        self.policy = _policy_for(session, policy)
        self.preprocessing = preprocessing
        self._default_boxes = default_boxes_cxcywh(session.spec) if session.raw else None
        self._spare: deque[NDArray[np.float32]] = deque(maxlen=SPARE)

    def __reduce__(self) -> tuple[Callable[[Session], Detector], tuple[Session]]:
        """Session and options; see `Session.__reduce__`."""
        policy = self.policy if self.session.raw else None
        options: dict[str, Any] = {"policy": policy, "preprocessing": self.preprocessing}
        return partial(type(self), **options), (self.session,)

    @classmethod
    def load(
        cls,
        model: str | Path = "default",
        *,
        threads: int | None = None,
        policy: Policy | str | None = None,
        engine: str = DEFAULT_ENGINE,
        preprocessing: str = CARD,
    ) -> Detector:
        """Load a model by path or name.

        Args:
            model: path of an ONNX file; ``"default"``, which comes with the package; or the name of
                a published file that is in the cache.
            threads: None: what this process may use.
            policy: how to pick from a file that ends at raw outputs, or its name, see
                `ssd34.core.postprocess.POLICIES`; None: zoo.
            engine: ``"onnxruntime"``; ``"openvino"``, ``"native"`` or ``"cuda"`` (a GPU), extras;
                or ``"auto"``, which measures all and says in ``session.choice`` what it took.
            preprocessing: ``"card"``: bit for bit as on the published model card; ``"fast"``: less
                work where pictures are much larger than the network's input, see
                `ssd34.images.reduced`.

        Raises:
            ModelError: missing, broken, or not a detector of this family.
            MissingExtraError: the engine is not installed.
            OptionError: there is no such engine, preprocessing or policy, or the NMS is in the
                file, which no policy changes.
        """
        session = Session(model_path(model), threads=threads, engine=engine)
        return cls(session, policy=policy, preprocessing=preprocessing)

    @property
    def spec(self) -> ModelSpec:
        """The network's shape."""
        return self.session.spec

    @property
    def labels(self) -> LabelSet:
        """The classes."""
        return self.session.labels

    def detect(
        self, image: Picture, *, score: float = DEFAULT_SCORE, max_pixels: int = MAX_PIXELS
    ) -> PictureDetections:
        """Find objects in one picture.

        Args:
            image: a path, an address (``http://...`` or ``https://...``), encoded bytes, an
                (H, W, 3) uint8 RGB array, or a Pillow image.
            score: leave out what scores less, 0..1.
            max_pixels: refuse files with more pixels.

        Raises:
            ImageError: the picture cannot be read.
            OptionError: the score is not in 0..1.
        """
        _check_score(score)
        return self.find(self.prepare(image, max_pixels=max_pixels), score=score)

    def detect_many(
        self, images: Iterable[Picture], *, score: float = DEFAULT_SCORE
    ) -> Generator[PictureDetections, None, None]:
        """`detect` for one picture after the other, lazily: the next is read and made ready while
        the network works on this one.

        Raises:
            OptionError: at once: the score is not in 0..1, or one picture was given.
            ImageError: at its turn, for a picture that cannot be read.
        """
        _check_score(score)
        _check_several(images)
        return self._each(images, score=score)

    def _each(
        self, images: Iterable[Picture], *, score: float
    ) -> Generator[PictureDetections, None, None]:
        stopped = threading.Event()

        def prepare(image: Picture) -> PreparedPicture:
            if isinstance(image, str) and is_address(image):
                image = fetched(image, stopped=stopped)
            return self.prepare(image)

        coming = overlapped(prepare, images, ahead=1, threads=1, stopped=stopped)
        with closing(coming) as pictures:
            for prepared in pictures:
                yield self.find(prepared, score=score)

    def prepare(self, image: Picture, *, max_pixels: int = MAX_PIXELS) -> PreparedPicture:
        """The first half of `detect`: read, resize, normalise; ImageError where the picture cannot
        be read. May run in several threads."""
        if self.preprocessing == FAST:
            square = self._square(image, max_pixels=max_pixels)
            picture, size = square.picture, (square.width, square.height)
        else:
            picture = load_picture(image, max_pixels=max_pixels)
            size = picture.size
        path = None
        if isinstance(image, str | Path) and not is_address(image):
            path = Path(image)
        return PreparedPicture(self.session.prepare(picture, out=self._buffer()), *size, path)

    def find(self, prepared: PreparedPicture, *, score: float = DEFAULT_SCORE) -> PictureDetections:
        """The second half of `detect`: the network and the policy. Uses the prepared picture up,
        whose memory later ones get; OptionError where it was used already, or the score is not in
        0..1."""
        _check_score(score)
        return self.finish(prepared, self.compute(prepared), score=score)

    def compute(self, prepared: PreparedPicture) -> Outputs:
        """The first half of `find`: the network; OptionError where the prepared picture was used
        already."""
        tensor, prepared.tensor = prepared.tensor, None
        if tensor is None:
            raise OptionError("this prepared picture was used already; prepare it again")
        outputs = self.session.compute([tensor])[0]
        if not self.session.takes_bytes:
            self._spare.append(tensor)
        return outputs

    def finish(
        self, prepared: PreparedPicture, outputs: Outputs, *, score: float
    ) -> PictureDetections:
        """The second half of `find`: the policy, pixels and names."""
        found = PictureDetections.from_picked(
            self.pick(outputs, score=score), label_set=self.labels, width=prepared.width,
            height=prepared.height, score=score,
        )  # fmt: skip
        return replace(found, path=prepared.path)

    def _square(self, image: Picture, *, max_pixels: int) -> Reduced:
        side = self.spec.image_size
        if isinstance(image, str | Path | bytes):
            return read_square(fetched(image), side, max_pixels=max_pixels)
        picture = load_picture(image, max_pixels=max_pixels)
        return Reduced(stretch(picture, side), *picture.size)

    def _buffer(self) -> NDArray[np.float32] | None:
        try:
            return self._spare.pop()
        except IndexError:
            return None

    def detect_batch(
        self, images: Iterable[Picture], *, score: float = DEFAULT_SCORE
    ) -> list[PictureDetections]:
        """`detect` for several pictures in one run of the network.

        Raises:
            OptionError: the file takes another number of pictures at once, the score is not in
                0..1, or one picture was given.
            ImageError: a picture cannot be read.
        """
        _check_score(score)
        _check_several(images)
        chosen, batch = list(images), self.session.batch
        if batch not in (None, len(chosen)) or not chosen:
            taken = counted(batch, "picture") if batch else "one picture or more"
            raise OptionError(
                f"{self.session.path}: takes {taken} at once, got {len(chosen)}; export it with "
                "--batch dynamic"
            )
        prepared = [self.prepare(image) for image in chosen]
        outputs = self.session.compute([one.tensor for one in prepared if one.tensor is not None])
        return [
            self.finish(one, found, score=score)
            for one, found in zip(prepared, outputs, strict=True)
        ]

    def run(self, tensor: NDArray[Any], *, score: float = 0.0) -> Picked:
        """Everything that the policy lets through from the file's input, in fractions of the
        picture; what scores less than `score` may be missing."""
        return self.pick(self.compute_all(tensor)[0], score=score)

    def compute_all(self, tensor: NDArray[Any]) -> Sequence[Outputs]:
        """The network's outputs for each picture of the file's input."""
        return self.session.compute([tensor])

    def pick(self, outputs: Outputs, *, score: float = 0.0) -> Picked:
        """Everything that the policy lets through of what the network gave for one picture, in
        fractions of it; what scores less than `score` may be missing."""
        if self._default_boxes is None:
            return Picked(*outputs)
        return postprocess(
            *outputs, default_boxes_cxcywh=self._default_boxes, policy=self.policy.at_least(score)
        )


def _policy_for(session: Session, policy: Policy | str | None) -> Policy:
    """The NMS policy asked for, where it can have an effect."""
    if policy is None:
        return ZOO
    if isinstance(policy, str):
        policy = named_policy(policy)
    if not isinstance(policy, Policy):
        raise OptionError(
            f"expected a Policy or the name of one ({', '.join(POLICIES)}), got "
            f"{type(policy).__name__}"
        )
    if not session.raw:
        raise OptionError(
            f"{session.path}: has the NMS in the file, so the NMS policy {policy.name!r} "
            "would change nothing; leave it out, or make another file with ssd34 export --policy "
            "or --tail none"
        )
    return policy


def _check_score(score: float) -> None:
    """Refuse what is no number from 0 to 1, NaN included."""
    if not isinstance(score, int | float | np.integer | np.floating) or not 0 <= score <= 1:
        raise OptionError(f"score {score!r}: expected a number from 0 to 1")


def _check_several(images: Iterable[Picture]) -> None:
    """Refuse one picture, whose characters, bytes or rows would be taken for pictures."""
    one = isinstance(images, str | bytes | Path | Image.Image)
    if one or (isinstance(images, np.ndarray) and images.ndim in (2, 3)):
        raise OptionError(
            f"expected several pictures, got one {type(images).__name__}; use detect for one"
        )
