"""A published data set into a folder, ready to be read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd34.errors import DatasetError, OptionError
from ssd34.files.archive import require_space, unpack
from ssd34.files.atomic import write_json
from ssd34.files.cache import PublishedFile
from ssd34.files.lock import folder_locked
from ssd34.files.web import download

ATTEMPTS = 20
"""How often an address may break off: the largest archive takes hours."""

ARCHIVES = "archives"
"""Folder for the zips, and for what is known of those that were unpacked."""
_UNPACKED = "unpacked.json"

Progress = Callable[[str, int, int], None]
"""Called with what is done, and of it the bytes done and the bytes in all."""


def download_data(
    data: PublishedData,
    folder: Path,
    *,
    keep_archives: bool = False,
    progress: Progress = lambda _what, _done, _total: None,
) -> None:
    """Have a data set in a folder, whole and checked; what is there is not fetched again.

    Each zip lies in ``archives/`` until it is unpacked, or for good where that is asked for.
    Folders and files appear under their own names only when they are whole; the next call resumes
    an interrupted one.

    Raises:
        DownloadError: no address had an archive.
        DatasetError: something else is at a place of the data set, or there is too little room.
        OSError: the folder cannot be written.
    """
    archives = folder / ARCHIVES
    with folder_locked(archives, waiting=lambda who: progress(f"waiting for {who}", 0, 0)):
        require_space(folder, _needed(data, folder, keep_archives=keep_archives))
        for archive in data.archives:
            missing = _missing(archive, folder)
            if not missing:
                continue
            file = archive.file
            target = archives / file.name
            download(
                file, target, attempts=ATTEMPTS,
                progress=lambda done, file=file: progress(file.name, done, file.size),  # type: ignore[misc]
            )  # fmt: skip
            _unpack(archive, missing, folder, progress)
            if not keep_archives:
                target.unlink()


def _unpack(archive: Archive, missing: list[str], folder: Path, progress: Progress) -> None:
    name = archive.file.name
    place = folder / ARCHIVES / f"{Path(name).stem}.unpacking"
    unpack(
        folder / ARCHIVES / name, place, missing,
        progress=lambda done, total: progress(f"unpacking {name}", done, total),
    )  # fmt: skip
    # First the receipt, then the parts: a part without one would count as somebody else's.
    receipts = _receipts(folder)
    for part in missing:
        files, size = _measure(place / part)
        receipts[part] = {
            "archive": name, "sha256": archive.file.sha256, "files": files, "bytes": size
        }  # fmt: skip
    write_json(folder / ARCHIVES / _UNPACKED, receipts)
    for part in missing:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (place / part).replace(folder / part)
    shutil.rmtree(place)


def _missing(archive: Archive, folder: Path) -> list[str]:
    """The parts that are not there yet; DatasetError where something else is in their place."""
    receipts = _receipts(folder)
    missing = []
    for part in archive.parts:
        place = folder / part
        if not os.path.lexists(place):
            missing.append(part)
            continue
        receipt = receipts.get(part, {})
        if receipt.get("sha256") != archive.file.sha256:
            raise DatasetError(
                f"{place}: is there already, and not from this command; move it away, or choose "
                "another folder (--output)"
            )
        files, size = _measure(place)
        if (files, size) != (receipt.get("files"), receipt.get("bytes")):
            raise DatasetError(
                f"{place}: was changed since it was unpacked ({files} files of {size} bytes, "
                f"expected {receipt.get('files')} of {receipt.get('bytes')}); move it away and "
                "run this again"
            )
    return missing


def _receipts(folder: Path) -> dict[str, dict[str, Any]]:
    """What was unpacked before, by part."""
    try:
        values = json.loads((folder / ARCHIVES / _UNPACKED).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {part: value for part, value in values.items() if isinstance(value, dict)}


def _measure(place: Path) -> tuple[int, int]:
    """Files and bytes of a file or folder, without hidden ones, which desktops put there."""
    if not place.is_dir():
        return 1, place.stat().st_size
    sizes = [
        (Path(where) / name).stat().st_size
        for where, _, names in os.walk(place)
        for name in names
        if not name.startswith(".")
    ]
    return len(sizes), sum(sizes)


def _needed(data: PublishedData, folder: Path, *, keep_archives: bool) -> int:
    """The most bytes that will lie on the disk beyond what does now."""
    lying = most = 0
    for archive in data.archives:
        missing = _missing(archive, folder)
        if not missing:
            continue
        name = archive.file.name
        place = folder / ARCHIVES
        there = sum(
            path.stat().st_size for path in (place / name, place / f"{name}.part") if path.is_file()
        )
        begun = place / f"{Path(name).stem}.unpacking"
        parts = sum(archive.parts[part] for part in missing)
        parts -= min(parts, _measure(begun)[1] if begun.is_dir() else 0)
        rest = max(0, archive.file.size - there)
        most = max(most, lying + rest + parts)
        lying += parts + (rest if keep_archives else -min(there, archive.file.size))
    return max(most, lying)


# No address could be tried where this was written. The first is the one on cocodataset.org; the
# second is the storage behind it, which answers by https, too.
_COCO = ("http://images.cocodataset.org/", "https://s3.amazonaws.com/images.cocodataset.org/")


@dataclass(frozen=True)
class Archive:
    """One zip of a data set, and the files and folders in it with the bytes of each, unpacked."""

    file: PublishedFile
    parts: dict[str, int]


@dataclass(frozen=True)
class PublishedData:
    """A data set for download: name, zips, and splits with their annotation files in it."""

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


def find_published_data(name: str) -> PublishedData:
    """The data set of a name; OptionError, which lists them, where there is none."""
    try:
        return PUBLISHED_DATA[name]
    except KeyError:
        known = ", ".join(PUBLISHED_DATA)
        raise OptionError(f"{name}: no data set of this name; expected one of {known}") from None
