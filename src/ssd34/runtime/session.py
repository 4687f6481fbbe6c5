"""A detector file, ready to run: the contract is checked here, an engine computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssd34.core import contract
from ssd34.core.external_data import check_weights_inside
from ssd34.core.preprocess import preprocess, resize
from ssd34.errors import ModelError, OptionError
from ssd34.files.checkpoint import is_named_checkpoint
from ssd34.machine import MAX_THREADS, thread_budget
from ssd34.runtime.engine import AUTO, DEFAULT_ENGINE, ONNXRUNTIME, Engine
from ssd34.runtime.engine_choice import EngineChoice, choose_faster_engine, open_engine

Outputs = tuple[NDArray[Any], ...]
"""What the network gave for one picture: loc (4, A) and conf (channels, A) of a raw file, else
boxes (D, 4) in fractions, labels (D,) and scores (D,)."""

REMEDY = "make the file with: ssd34 export"


class Session:
    """A detector file, ready to run. It pickles as path and options.

    Attributes:
        raw: whether it ends at loc and conf instead of detections.
        takes_bytes: whether it takes uint8 pictures and normalises them itself.
        batch: pictures that it takes at once; None: any number.
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
            threads: that one run uses; None: what this process may use.
            engine: ``"onnxruntime"``, ``"openvino"``, ``"native"``, ``"cuda"``, or ``"auto"``: the
                fastest.
            streams: runs that will be under way at once, in threads of the caller.

        Raises:
            ModelError: missing, broken, with weights in other files, or not a detector of this
                family.
            MissingExtraError: the engine is not installed, or has no GPU; ``"auto"`` does not
                raise it.
            OptionError: there is no such engine, or threads are no number from 1 to 1024.
        """
        whole = isinstance(threads, int | np.integer)
        if threads is not None and not (whole and 1 <= threads <= MAX_THREADS):
            raise OptionError(
                f"threads {threads!r}: expected a whole number from 1 to {MAX_THREADS}, or None "
                "for what this process may use"
            )
        if not path.is_file():
            raise ModelError(f"{path}: no such model file; expected an ONNX file or 'default'")
        if is_named_checkpoint(path):
            raise ModelError(
                f"{path}: a checkpoint; make an ONNX file of it first with: ssd34 export"
            )
        check_weights_inside(path)
        self.path = path
        self.threads = int(threads or thread_budget())
        self.streams = streams
        name = ONNXRUNTIME if engine == AUTO else engine
        self.engine: Engine = open_engine(path, name=name, threads=self.threads, streams=streams)
        inputs, outputs = self.engine.inputs, self.engine.outputs
        faults = contract.find_port_faults(inputs, outputs, self.engine.metadata)
        if faults:
            raise ModelError(f"{path}: not an SSD detector: {faults[0]}; {REMEDY}")
        self.spec, self.labels = contract.read_identity(self.engine.metadata)
        self.raw = set(contract.RAW_OUTPUTS) <= {port.name for port in outputs}
        self.takes_bytes = inputs[0].type == "tensor(uint8)"
        assert inputs[0].sizes  # else it had faults
        self.batch = inputs[0].sizes[0]
        self._input = inputs[0].name
        self.choice: EngineChoice | None = None
        if engine == AUTO:
            side = self.spec.image_size
            noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
            self.engine, self.choice = choose_faster_engine(
                self.engine, path, self.input_for(noise), threads=self.threads, streams=streams
            )

    def __reduce__(self) -> tuple[Callable[[Path], Session], tuple[Path]]:
        """Path and options: what is unpickled or copied deeply loads the file again."""
        options: dict[str, Any] = {
            "threads": self.threads, "engine": self.engine.name, "streams": self.streams
        }  # fmt: skip
        return partial(type(self), **options), (self.path.absolute(),)

    def prepare(
        self, image: NDArray[np.uint8] | Image.Image, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[Any]:
        """One picture, (H, W, 3) uint8 RGB or a Pillow image of mode RGB, as this file takes it,
        the first axis being 1; `out`, (1, 3, S, S) float32, may be written into."""
        size = self.spec.image_size
        return resize(image, size)[None] if self.takes_bytes else preprocess(image, size, out=out)

    def input_for(self, image: NDArray[np.uint8] | Image.Image) -> NDArray[Any]:
        """A picture (H, W, 3) uint8 RGB as this file's input; where that is a fixed number of
        pictures, the same one as often."""
        return self._join([self.prepare(image)])

    def compute(self, prepared: Sequence[NDArray[Any]]) -> list[Outputs]:
        """What the file gives for each of one or more pictures, as `prepare` makes them, at most as
        many as it takes at once; ModelError where the outputs are not those of its network."""
        images = self._join(prepared)
        names = contract.RAW_OUTPUTS if self.raw else contract.DETECTION_OUTPUTS
        outputs = self.engine.run(names, {self._input: images})
        values = dict(zip(names, outputs, strict=True))
        if faults := contract.find_value_faults(values, pictures=len(images), spec=self.spec):
            raise ModelError(f"{self.path}: gave {faults[0]}; {REMEDY}")
        found: list[Outputs] = list(zip(*outputs, strict=True))[: sum(map(len, prepared))]
        if self.raw:
            return found
        # Files for several pictures fill up with detections of score 0.
        return [tuple(values[one[2] > 0] for values in one) for one in found]

    def _join(self, prepared: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The file's input; where that is a fixed number of pictures, the last one fills up."""
        missing = (self.batch or 0) - sum(map(len, prepared))
        rows = [*prepared, *[prepared[-1]] * missing]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)
