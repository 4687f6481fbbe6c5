"""What a job is: its options, its parts, and the file by which a second start knows it again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ssd34.cluster.pictures import Picture, Pictures, Store
from ssd34.core.labels import LabelSet
from ssd34.core.preprocess import CARD
from ssd34.errors import ModelError, OptionError
from ssd34.files.atomic import compute_sha256, write_json
from ssd34.images.read import MAX_PIXELS
from ssd34.runtime.detector import DEFAULT_SCORE, Detector
from ssd34.runtime.engine import DEFAULT_ENGINE, ENGINES
from ssd34.version import __version__
from ssd34.zoo.names import model_path

FORMAT = "ssd34-batch-1"
JOB_FILE = "job.json"
MANIFEST = "manifest.json"
PARTS = "parts"

_SPELLED = {
    "pictures_sha256": "list of the pictures' names, sizes and dates (SHA-256)",
    "model_sha256": "model file (SHA-256)",
}

_SMALLEST, _LARGEST, _WANTED = 32, 1000, 64
"""Pictures of a part: so many that a job has some 64 of them, within these limits."""


@dataclass(frozen=True)
class BatchOptions:
    """What decides the content of the output.

    Attributes:
        model: an ONNX file or a model's name.
        score: leave out what scores less, 0..1.
        policy: NMS policy for a file that ends at raw outputs; None: zoo.
        classes: only these; none: all.
        preprocessing: one of `ssd34.core.preprocess.PREPROCESSINGS`.
        engine: one of `ENGINES`; what is measured to be faster may differ between machines, so
            ``auto`` is refused.
        max_pixels: larger pictures become rows with an error.
        part_size: pictures of a part; None: by the number of pictures.
    """

    model: str = "default"
    score: float = DEFAULT_SCORE
    policy: str | None = None
    classes: tuple[str, ...] = ()
    preprocessing: str = CARD
    engine: str = DEFAULT_ENGINE
    max_pixels: int = MAX_PIXELS
    part_size: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise OptionError(f"score {self.score!r}: expected a number from 0 to 1")
        if self.engine not in ENGINES:
            raise OptionError(f"engine {self.engine!r}: expected one of {', '.join(ENGINES)}")
        if self.part_size is not None and self.part_size < 1:
            raise OptionError(f"expected 1 picture or more in a part, got {self.part_size}")

    def load(self, *, threads: int | None) -> Detector:
        """The detector; errors as of `Detector.load`, and OptionError: it has no such class."""
        detector = Detector.load(
            self.model, threads=threads, policy=self.policy, engine=self.engine,
            preprocessing=self.preprocessing,
        )  # fmt: skip
        for name in self.classes:
            detector.labels.label(name)
        return detector


@dataclass(frozen=True)
class Task:
    """What every worker is given; it pickles. The job's identity is written into each part; the
    engine is the name and version of what computes."""

    options: BatchOptions
    store: Store
    identity: str
    model_sha256: str
    engine: str

    def load(self, *, threads: int) -> Detector:
        """The detector; ModelError where its file, or the engine's version, is not that with which
        the job was started."""
        detector = self.options.load(threads=threads)
        path = detector.session.path
        if compute_sha256(path) != self.model_sha256:
            raise ModelError(f"{path}: not the file with which the job was started; copy that one")
        if engine_of(detector) != self.engine:
            raise ModelError(
                f"expected {self.engine} on every machine, got {engine_of(detector)}; install that"
            )
        return detector


def engine_of(detector: Detector) -> str:
    """Name and version of what computes."""
    engine = detector.session.engine
    return f"{engine.name} {engine.version}"


@dataclass(frozen=True)
class BatchJob:
    """Pictures and options, divided into parts of `part_size` pictures, but the last. The facts are
    everything that decides the output, JSON-ready."""

    pictures: Pictures
    labels: LabelSet
    facts: dict[str, Any]
    task: Task
    part_size: int

    @cached_property
    def starts(self) -> range:
        """The first picture of each part."""
        return range(0, len(self.pictures), self.part_size)

    def size(self, part: int) -> int:
        """Pictures of a part."""
        return min(self.part_size, len(self.pictures) - self.starts[part])

    def pictures_of(self, part: int) -> list[Picture]:
        """The pictures of a part, in order."""
        return self.pictures.some(self.starts[part], self.starts[part] + self.size(part))


def plan_job(pictures: Pictures, options: BatchOptions) -> BatchJob:
    """Load the model once, so that what is wrong is said at once, and name the job; errors as of
    `BatchOptions.load`."""
    path = model_path(options.model)
    if path == Path(options.model):  # not a name, which each machine finds for itself
        options = replace(options, model=str(path.absolute()))
    detector = options.load(threads=1)
    size = options.part_size or min(_LARGEST, max(_SMALLEST, len(pictures) // _WANTED))
    facts: dict[str, Any] = {
        "format": FORMAT,
        "ssd34": __version__,
        "model_sha256": compute_sha256(path),
        "engine": engine_of(detector),
        "score": options.score,
        "policy": options.policy,
        "classes": list(options.classes),
        "preprocessing": options.preprocessing,
        "max_pixels": options.max_pixels,
        "pictures": len(pictures),
        "pictures_sha256": pictures.sha256,
        "part_size": size,
    }
    identity = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    task = Task(options, pictures.store, identity, facts["model_sha256"], facts["engine"])
    return BatchJob(pictures, detector.labels, facts, task, size)


def holds_parts(folder: Path, *, below: Path) -> bool:
    """Whether a folder is where a job below another folder, or in it, writes its parts."""
    if folder.name != PARTS or not folder.parent.is_relative_to(below):
        return False
    try:
        facts = json.loads((folder.parent / JOB_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and facts.get("format") == FORMAT


def claim_folder(folder: Path, job: BatchJob) -> None:
    """Write the job's file into a folder, or find the same job there. OptionError: another job is
    there, or files that are none of a job's."""
    file = folder / JOB_FILE
    try:
        before = json.loads(file.read_bytes())
    except FileNotFoundError:
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if others:
            raise OptionError(
                f"{folder}: expected an empty folder or one of this job, got {others[0]!r} and no "
                f"{JOB_FILE}; choose another folder"
            ) from None
        write_json(file, job.facts)
        return
    except ValueError:
        before = {}
    known = before if isinstance(before, dict) else {}
    differ = [key for key, value in job.facts.items() if known.get(key) != value]
    if differ:
        first = differ[0]
        raise OptionError(
            f"{folder}: holds the output of another job, whose {_SPELLED.get(first, first)} was "
            f"{known.get(first)!r:.80}, not {job.facts[first]!r:.80}; choose another folder, or "
            "delete this one"
        )
