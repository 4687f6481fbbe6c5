"""The models that have a name: those in the package, and the published ones with their addresses,
sizes and SHA-256 as published (mAP is on COCO val2017); and the file that a path or a name stands
for."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd34.errors import ModelError, OptionError
from ssd34.files.cache import PublishedFile, cache_folder
from ssd34.files.checkpoint import is_named_checkpoint

_FOLDER = "validated/vision/object_detection_segmentation/ssd/model"

# No address could be tried where this was written. The forms are those that other projects use for
# files of the same repositories. GitHub's LFS downloads of onnx/models ended in July 2025: the
# second mirror may answer with an error or a pointer file, and `download` then says so.
_ZOO = (
    f"https://huggingface.co/onnxmodelzoo/legacy_models/resolve/main/{_FOLDER}/",
    f"https://media.githubusercontent.com/media/onnx/models/main/{_FOLDER}/",
)
# The second is the archived copy that NVIDIA's sample projects name as the mirror of the first.
_BENCHMARK = (
    "https://zenodo.org/record/3228411/files/",
    "https://web.archive.org/web/20221201213043/https://zenodo.org/record/3228411/files/",
)

SPARSE_IDS = (
    "from a metric that compared contiguous labels with sparse COCO ids: nine classes were "
    "dropped, and crowd regions counted as ordinary objects; never compare it with numbers "
    "by pycocotools"
)
"""What is wrong with some of the published mAP numbers."""


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """One published ONNX file and what is known about it.

    Attributes:
        test_data: the archive of the model with a tested input and its outputs, if there is one.
        form: of int8: ``"QOperator"`` or ``"QDQ"``; else empty.
        published_map: COCO box mAP that its publisher states.
        map_caveat: what is wrong with that number; empty where it is by pycocotools.
        licence: SPDX identifier.
    """

    name: str
    model: PublishedFile
    test_data: PublishedFile | None
    opset: int
    form: str = ""
    published_map: float
    map_caveat: str = ""
    licence: str = "Apache-2.0"

    @property
    def precision(self) -> str:
        """``"float32"`` or ``"int8"``."""
        return "int8" if self.form else "float32"


def _file(name: str, size: int, sha256: str, *, mirrors: tuple[str, ...] = _ZOO) -> PublishedFile:
    return PublishedFile(name, size, sha256, tuple(mirror + name for mirror in mirrors))


def _zoo_model(
    name: str, model: tuple[int, str], test_data: tuple[int, str], **facts: Any
) -> PublishedModel:
    files = _file(f"{name}.onnx", *model), _file(f"{name}.tar.gz", *test_data)
    return PublishedModel(name=name, model=files[0], test_data=files[1], **facts)


_MODELS = (
    _zoo_model(
        "ssd-10",
        (80363696, "80013dd940efc1462c616143b461ef35885bcc1706e0670b66623293b4b52c59"),
        (78515627, "5ff54f161d58e02bfc751d3264d58d484485785e71827cf2dd14620bf354c2d0"),
        opset=10,
        published_map=0.195,
    ),
    _zoo_model(
        "ssd-12",
        (80366315, "5ec1e058e666ef980a6213ac40088877865aafb2b6676b9af204b3828e4bb9d5"),
        (90592544, "43e57501da34abe0c01ea30902303bdb14f590f59c18fbb15ea3473810b0e86b"),
        opset=12,
        published_map=0.1898,
        map_caveat=SPARSE_IDS,
    ),
    _zoo_model(
        "ssd-12-int8",
        (20485276, "56d2c03a8c74c03f704509ccfcd91763991c6e1b92f63da730fb2b3d07565453"),
        (31816976, "723c25c6040e1d5f7fd7ce736e236b09d6881f6f2cc6e7a79a999f3e69f86571"),
        opset=12,
        form="QOperator",
        published_map=0.1892,
        map_caveat=SPARSE_IDS,
    ),
    _zoo_model(
        "ssd-12-qdq",
        (20479614, "fba599b77e556525844e4e1022a9f60969b0e9130baa03640539cb0b58f474a2"),
        (26976158, "2cd791e3ee5f472a208d292ef766f6b4f04c71463dcf290f9393dcce8b81d6d6"),
        opset=12,
        form="QDQ",
        published_map=0.1863,
        map_caveat=SPARSE_IDS,
    ),
    # The inference benchmark's own file. Opset and mAP are those of the benchmark's list, the
    # licence that of its repository; the Zenodo record's own licence field could not be read.
    PublishedModel(
        name="resnet34-ssd1200",
        model=_file(
            "resnet34-ssd1200.onnx",
            80363696,
            "b417a8186967f1e78670b0075aa72a10e5c7d1a6d5c08af9d13dc97f3d29ef0d",
            mirrors=_BENCHMARK,
        ),
        test_data=None,
        opset=8,
        published_map=0.20,
    ),
)

PUBLISHED = {model.name: model for model in _MODELS}
"""Every published model by name."""


def find_published(name: str) -> PublishedModel:
    """The published model of that name; ModelError, with close names or all, for none."""
    if name not in PUBLISHED:
        close = difflib.get_close_matches(name, PUBLISHED, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(PUBLISHED)}"
        raise ModelError(f"{name}: no such published model; {hint}")
    return PUBLISHED[name]


_TORCHVISION = ("https://download.pytorch.org/models/",)

IMAGENET_BACKBONES = {
    f"{name}-{sha256[:8]}": _file(f"{name}-{sha256[:8]}.pth", size, sha256, mirrors=_TORCHVISION)
    for name, size, sha256 in (
        ("resnet34", 87319819, "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f"),
        ("resnet18", 46830571, "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"),
    )
}
"""torchvision's files by the name that the user says, which begins with the backbone's. The
benchmark started from ``resnet34-333f7ec4``, the same weights in torch's first format, which is not
read any more (source: pytorch/vision, issue 2068 and pull request 3620)."""


def name_backbone(backbone: str) -> str:
    """The name of the ImageNet weights for a backbone, such as ``"resnet34"``."""
    [name] = (name for name in IMAGENET_BACKBONES if name.split("-")[0] == backbone)
    return name


FOREIGN = (".pth", ".pt", ".pytorch")
"""What torch's own files end in."""


def find_float_file(model: str) -> Path:
    """The file of a checkpoint, an ONNX file or a model's name. It is not opened, and its reader
    tells of a checkpoint that is missing. ModelError where it is neither a file nor a known name,
    OptionError for a file of torch's, which has to be converted first."""
    if is_named_checkpoint(Path(model)):
        return Path(model)
    path = model_path(model)
    if path.suffix.lower() in FOREIGN:
        raise OptionError(f"{model}: turn it into a checkpoint first, with: ssd34 convert")
    return path


EMBEDDED = {
    "default": "ssd300-resnet34-coco-13-qdq.onnx",
    "default-float": "ssd300-resnet34-coco.onnx",
}
"""Models that come with the package, by name."""


def model_path(name: str | Path) -> Path:
    """The file of a model given by path or by name, of an embedded or a published one.

    Raises:
        ModelError: neither a file nor a known name, or a published file that is not on this
            machine; nothing is downloaded here.
    """
    if str(name) in EMBEDDED:
        return Path(__file__).parent.parent / "weights" / EMBEDDED[str(name)]
    if str(name) in PUBLISHED:
        return find_cached_model(str(name))
    path = Path(name)
    if os.path.isdir(path):
        raise ModelError(f"{path}: is a folder; expected an ONNX file")
    if not os.path.isfile(path):
        raise ModelError(
            f"{name}: no such model; expected the path of an ONNX file or one of "
            f"{', '.join([*EMBEDDED, *PUBLISHED])}"
        )
    return path


def cache_path(file: PublishedFile) -> Path:
    """Where that file lies, or would lie."""
    return cache_folder() / "models" / file.name


def is_cached(file: PublishedFile) -> bool:
    """Whether it is there with the published size; its SHA-256 was checked when it came."""
    path = cache_path(file)
    return os.path.isfile(path) and path.stat().st_size == file.size


def find_cached_model(name: str) -> Path:
    """The ONNX file of a published model that has been pulled or put there by hand; ModelError,
    which says what to do, where it is not there or has another size."""
    file = find_published(name).model
    path = cache_path(file)
    if is_cached(file):
        return path
    state = "not on this machine"
    if os.path.isfile(path):
        state = f"its file here has {path.stat().st_size} bytes instead of {file.size}"
    raise ModelError(
        f"{name}: {state}; run: ssd34 models pull {name}; or put {file.name} at {path} "
        f"({file.size} bytes, SHA-256 {file.sha256})"
    )
