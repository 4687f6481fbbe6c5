"""One model in its own process, which tells its memory from the others' and keeps their threads
apart. `Worker` is the side of the caller; ``python -m ssd34.benchmark.worker`` the other, told what
to run by lines of JSON."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ssd34.benchmark.loadgen import run_loadgen
from ssd34.errors import ImageError, MissingExtraError, ModelError, OptionError, Ssd34Error
from ssd34.files.atomic import compute_sha256
from ssd34.images.read import Picture, read_image
from ssd34.machine import measure_peak_memory
from ssd34.runtime.detector import DEFAULT_SCORE, Detector
from ssd34.runtime.engine_choice import find_int8_way
from ssd34.runtime.session import Session
from ssd34.runtime.timing import compute_tail_share, measure_node_times
from ssd34.zoo.names import model_path

_ERRORS = {kind.__name__: kind for kind in (ImageError, MissingExtraError, ModelError, OptionError)}
"""Those that cross from one process to the other as what they are."""
_FAREWELL = 10.0
"""Seconds for a process that has closed its output to end."""


class StageTimes(NamedTuple):
    """Milliseconds of one picture.

    Attributes:
        preprocess: decoding, resizing and normalising.
        network: the file, its own tail included.
        tail: the policy of raw files, pixels and names.
    """

    preprocess: float
    network: float
    tail: float


def measure_stages(detector: Detector, picture: Picture) -> StageTimes:
    """Where the time of one `Detector.detect` goes."""
    times = [time.perf_counter()]
    prepared = detector.prepare(picture)
    times.append(time.perf_counter())
    outputs = detector.compute(prepared)
    times.append(time.perf_counter())
    detector.finish(prepared, outputs, score=DEFAULT_SCORE)
    times.append(time.perf_counter())
    return StageTimes(*(1000 * (end - start) for start, end in pairwise(times)))


class Worker:
    """A model in its own process. Close it, or use it in a ``with`` block."""

    def __init__(
        self, model: str, *, engine: str, threads: int, streams: int, pictures: Sequence[Path]
    ) -> None:
        """Start it: the model is loaded as by `Session`, the pictures, or a drawn one where there
        are none, are kept in memory as they are on disk. Ssd34Error: whatever loading the model and
        reading the pictures raise."""
        self._model = model
        self._process = subprocess.Popen(
            # -P: -m alone would take modules, such as a platform.py, from the current folder first.
            [sys.executable, "-P", "-m", "ssd34.benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,  # an interruption is the caller's to handle
        )
        try:
            self.facts: dict[str, Any] = self.ask(
                "open", model=model, engine=engine, threads=threads, streams=streams,
                pictures=[str(picture) for picture in pictures],
            )  # fmt: skip
        except BaseException:
            self.close()
            raise

    def ask(self, command: str, **arguments: Any) -> Any:
        """Run a command of `_Model` there and wait for its answer; errors come out as what they
        are, and a ModelError if the process died."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps([command, arguments]) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self._ended()
            remedy = "its standard error, above, says why"
            if code < 0:  # by a signal, which is how a system short of memory does it
                remedy = "is there enough memory for it?"
            raise ModelError(f"{self._model}: its process ended with code {code}; {remedy}")
        values = json.loads(answer)
        if "error" in values:
            raise _ERRORS.get(values["error"], Ssd34Error)(values["message"])
        return values["result"]

    def _ended(self) -> int:
        """The exit code of the process, which answers no more; killed where it hangs at its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_FAREWELL)
        self._process.kill()
        return self._process.wait()

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):  # what it did not read any more
                    stream.close()
        self._process.kill()
        self._process.wait()


class _Model:
    """The worker's side; every public method is a command."""

    def open(
        self, *, model: str, engine: str, threads: int, streams: int, pictures: list[str]
    ) -> dict[str, Any]:
        """Load the model and the pictures; says what was loaded."""
        started = time.perf_counter()
        session = Session(model_path(model), threads=threads, engine=engine, streams=streams)
        loading = time.perf_counter() - started
        self._files = [Path(p) for p in pictures]
        self._pictures = [Path(p).read_bytes() for p in pictures] or [draw_picture()]
        self._detector = Detector(session)
        return {
            "model_sha256": compute_sha256(session.path),
            "spec": session.spec.name,
            "engine": session.engine.name,
            "engine_version": session.engine.version,
            "int8": find_int8_way(session.path, session.engine),
            "choice": session.choice.reason if session.choice else None,
            "batch": session.batch,
            "load_ms": round(1000 * loading, 1),
        }

    def detect(self, *, number: int) -> list[float]:
        """One picture; the milliseconds of its `StageTimes`."""
        return list(measure_stages(self._detector, self._picture(number)))

    def many(self, *, first: int, count: int, workers: int) -> float:
        """So many pictures from number `first` on, `workers` at once; milliseconds."""
        started = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            pictures = [self._picture(number) for number in range(first, first + count)]
            list(pool.map(self._detector.detect, pictures))
        return 1000 * (time.perf_counter() - started)

    def batch(self, *, first: int, count: int) -> float:
        """So many pictures from number `first` on in one run; milliseconds."""
        started = time.perf_counter()
        self._detector.detect_batch([self._picture(n) for n in range(first, first + count)])
        return 1000 * (time.perf_counter() - started)

    def loadgen(self, *, folder: str, **options: Any) -> dict[str, Any]:
        """See `run_loadgen`."""
        return run_loadgen(self._detector, self._pictures, folder=Path(folder), **options)

    def memory(self) -> int | None:
        """Bytes, see `measure_peak_memory`."""
        return measure_peak_memory()

    def tail_share(self) -> float | None:
        """Of the NMS in the file; loads it a second time."""
        session = self._detector.session
        tensor = session.input_for(read_image(self._picture(0)))
        name, threads = session.engine.name, session.threads
        return compute_tail_share(measure_node_times(session.path, name, tensor, threads=threads))

    def named(self, error: ImageError) -> ImageError:
        """The error with the name of the file: pictures are decoded from memory, many at once."""
        for file in self._files:
            try:
                read_image(file)
            except ImageError as found:
                return found
        return error

    def _picture(self, number: int) -> bytes:
        return self._pictures[number % len(self._pictures)]


def draw_picture() -> bytes:
    """A JPEG of 640 x 480 pixels for those who give none: smooth noise, nothing to find."""
    coarse = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


def main() -> None:
    """Answer commands until the input ends."""
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    model = _Model()
    for line in sys.stdin:
        command, arguments = json.loads(line)
        run: Callable[..., Any] = getattr(model, command)
        try:
            answer = {"result": run(**arguments)}
        except ImageError as error:
            answer = {"error": "ImageError", "message": str(model.named(error))}
        except Ssd34Error as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        except OSError as error:
            message = f"{error.filename}: {error.strerror}; check the path and its rights"
            answer = {"error": "ImageError", "message": message}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
