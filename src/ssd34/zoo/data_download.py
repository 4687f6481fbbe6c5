"""A published data set into a folder, ready to be read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ssd34.data.atomic import write_text
from ssd34.data.lock import folder_locked
from ssd34.data.unpack import require_space, unpack
from ssd34.errors import DatasetError
from ssd34.zoo.datasets import Archive, PublishedData
from ssd34.zoo.download import PAUSE, TIMEOUT, download

ATTEMPTS = 20
"""How often an address may break off: the largest archive takes hours."""
ARCHIVES = "archives"
"""Folder for the zips, and for what is known of those that were unpacked."""
_UNPACKED = "unpacked.json"
_SLACK = 1.05
"""By how much more than expected an archive may unpack to."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, and of it the bytes done and the bytes in all."""


def _silent(_what: str, _done: int, _total: int) -> None:
    pass


def download_data(
    data: PublishedData,
    folder: Path,
    *,
    keep_archives: bool = False,
    progress: Progress = _silent,
    timeout: float = TIMEOUT,
    attempts: int = ATTEMPTS,
    pause: float = PAUSE,
) -> None:
    """Have a data set in a folder, whole and checked; what is there is not fetched again.

    Each zip lies in ``archives/`` until it is unpacked. Folders and files appear under their own
    names only when they are whole; an interrupted call is gone on with by the next.

    Args:
        data: which.
        folder: is made.
        keep_archives: leave the zips there.
        progress: see `Progress`.
        timeout: seconds without a byte.
        attempts: how often an address may break off.
        pause: seconds before it is asked again.

    Raises:
        DownloadError: no address had an archive; see `ssd34.zoo.download.download`.
        DatasetError: something else is at a place of the data set; too little room.
        OSError: the folder cannot be written.
    """
    archives = folder / ARCHIVES
    require_space(folder, _needed(data, folder, keep_archives=keep_archives))
    with folder_locked(archives, waiting=lambda who: progress(f"waiting for {who}", 0, 0)):
        for archive in data.archives:
            missing = _missing(archive, folder)
            if not missing:
                continue
            file = archive.file
            target = archives / file.name
            download(
                file.urls, target, size=file.size, sha256=file.sha256,
                progress=partial(_told, progress, file.name, total=file.size),
                timeout=timeout, attempts=attempts, pause=pause,
            )  # fmt: skip
            _unpack(archive, missing, folder, progress)
            if not keep_archives:
                target.unlink()


def _told(progress: Progress, what: str, done: int, *, total: int) -> None:
    progress(what, done, total)


def _unpack(archive: Archive, missing: list[str], folder: Path, progress: Progress) -> None:
    name = archive.file.name
    place = folder / ARCHIVES / f"{Path(name).stem}.unpacking"
    expected = int(_SLACK * sum(archive.parts[part] for part in missing))
    unpack(
        folder / ARCHIVES / name, place, missing, max_bytes=expected,
        progress=lambda done, total: progress(f"unpacking {name}", done, total),
    )  # fmt: skip
    # First the receipt, then the parts: a part without one would count as somebody else's.
    receipts = _receipts(folder)
    for part in missing:
        files, size = _measure(place / part)
        receipts[part] = {
            "archive": name, "sha256": archive.file.sha256, "files": files, "bytes": size
        }  # fmt: skip
    write_text(folder / ARCHIVES / _UNPACKED, json.dumps(receipts, indent=1) + "\n")
    for part in missing:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (place / part).replace(folder / part)
    shutil.rmtree(place)


def _missing(archive: Archive, folder: Path) -> list[str]:
    """The parts that are not there yet.

    Raises:
        DatasetError: something is in the place of a part that is not this part.
    """
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
