"""Published data sets: their archives, sizes, checksums, and what is unpacked from them."""

from __future__ import annotations

from dataclasses import dataclass

from ssd34.errors import OptionError
from ssd34.zoo.catalogue import PublishedFile

# No address could be tried where this was written. The first is the one on cocodataset.org; the
# second is the storage behind it, which answers by https, too.
_COCO = ("http://images.cocodataset.org/", "https://s3.amazonaws.com/images.cocodataset.org/")


@dataclass(frozen=True)
class Archive:
    """One zip of a data set.

    Attributes:
        file: size, SHA-256, where it is.
        parts: files and folders in it, and the bytes that each takes unpacked.
    """

    file: PublishedFile
    parts: dict[str, int]


@dataclass(frozen=True)
class PublishedData:
    """A data set for download.

    Attributes:
        name: what the user says.
        archives: its zips.
        splits: name of each, and its annotation file below the folder.
    """

    name: str
    archives: tuple[Archive, ...]
    splits: dict[str, str]


def _coco(folder: str, name: str, size: int, sha256: str) -> PublishedFile:
    return PublishedFile(name, size, sha256, tuple(f"{base}{folder}/{name}" for base in _COCO))


# COCO's makers publish no checksums. Sizes and SHA-256 are those on which independent projects
# that have fetched the files agree, TensorFlow Datasets among them.
_TRAIN = _coco(
    "zips", "train2017.zip", 19336861798,
    "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
)  # fmt: skip
_VAL = _coco(
    "zips", "val2017.zip", 815585330,
    "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
)  # fmt: skip
_ANNOTATIONS = _coco(
    "annotations", "annotations_trainval2017.zip", 252907541,
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
)  # fmt: skip

# The pictures are JPEG, which a zip hardly shrinks.
_TRAIN_PICTURES = {"train2017": 19_400_000_000}
_VAL_PICTURES = {"val2017": 816_000_000}
_TRAIN_BOXES = {"annotations/instances_train2017.json": 469_785_474}
_VAL_BOXES = {"annotations/instances_val2017.json": 19_987_840}

PUBLISHED_DATA = {
    data.name: data
    for data in (
        PublishedData(
            "coco-val2017",
            (Archive(_ANNOTATIONS, _VAL_BOXES), Archive(_VAL, _VAL_PICTURES)),
            {"val2017": "annotations/instances_val2017.json"},
        ),
        PublishedData(
            "coco-2017",
            (
                Archive(_ANNOTATIONS, _TRAIN_BOXES | _VAL_BOXES),
                Archive(_VAL, _VAL_PICTURES),
                Archive(_TRAIN, _TRAIN_PICTURES),
            ),
            {
                "train2017": "annotations/instances_train2017.json",
                "val2017": "annotations/instances_val2017.json",
            },
        ),
    )
}
"""By name."""


def published_data(name: str) -> PublishedData:
    """Look a data set up by name.

    Raises:
        OptionError: there is none; the message lists them.
    """
    try:
        return PUBLISHED_DATA[name]
    except KeyError:
        known = ", ".join(PUBLISHED_DATA)
        raise OptionError(f"{name}: no data set of this name; expected one of {known}") from None
