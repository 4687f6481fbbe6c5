"""Parts of a zip into a folder: whole or not at all, and never outside."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from ssd34.data.disk import naming
from ssd34.data.files import BROKEN_ZIP
from ssd34.errors import DatasetError

_BLOCK = 1 << 20
MAX_FILES = 1_000_000
"""More members than this in the wanted parts are refused."""


def unpack(
    archive: Path,
    folder: Path,
    parts: Sequence[str],
    *,
    max_bytes: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Bring parts of an archive into a folder.

    What an interrupted call has left is checked by the archive's CRC and gone on with.

    Args:
        archive: a zip.
        folder: gets the parts under their names in the archive; nothing else may write there.
        parts: files and folders in the archive, such as ``val2017``.
        max_bytes: refuse if the parts hold more, unpacked.
        progress: called with the bytes done and the bytes of all.

    Raises:
        DatasetError: the archive is broken, lacks a part, has names that lead out, links, names
            twice, or too much; nothing outside `folder` was written.
        OSError: the folder cannot be written.
    """
    try:
        opened = zipfile.ZipFile(archive)
    except BROKEN_ZIP as error:
        raise _broken(archive, error) from None
    with opened:
        members = _members(opened, archive, parts, max_bytes=max_bytes)
        total = sum(member.file_size for member in members)
        done = 0
        progress(done, total)
        for member in members:
            target = folder / member.filename
            if not _is_there(target, member):
                target.parent.mkdir(parents=True, exist_ok=True)
                _extract(opened, archive, member, target)
            done += member.file_size
            progress(done, total)


def _members(
    opened: zipfile.ZipFile, archive: Path, parts: Sequence[str], *, max_bytes: int
) -> list[zipfile.ZipInfo]:
    """The files of the wanted parts, all of their names safe."""
    members = [
        member
        for member in opened.infolist()
        if not member.is_dir() and any(_is_in(member.filename, part) for part in parts)
    ]
    for part in parts:
        if not any(_is_in(member.filename, part) for member in members):
            raise DatasetError(f"{archive}: holds no {part}; fetch it again")
    if len(members) > MAX_FILES:
        raise DatasetError(f"{archive}: {len(members)} files, expected at most {MAX_FILES}")
    seen: set[str] = set()
    for member in members:
        name = member.filename
        if not _is_safe(name):
            raise DatasetError(f"{archive}: holds {name!r:.80}, a name that may lead out of it")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DatasetError(f"{archive}: holds {name!r:.80}, a link; expected plain files")
        # On some systems a.jpg and A.jpg are one file.
        if name.casefold() in seen:
            raise DatasetError(f"{archive}: holds {name!r:.80} twice")
        seen.add(name.casefold())
    size = sum(member.file_size for member in members)
    if size > max_bytes:
        raise DatasetError(
            f"{archive}: unpacks to {size} bytes, expected at most {max_bytes}; it is not unpacked"
        )
    return members


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}/")


def _is_safe(name: str) -> bool:
    if any(character in name for character in "\\:\0"):
        return False
    return all(piece not in ("", ".", "..") for piece in name.split("/"))


def _is_there(target: Path, member: zipfile.ZipInfo) -> bool:
    try:
        if target.stat().st_size != member.file_size:
            return False
        crc = 0
        with target.open("rb") as file:
            while block := file.read(_BLOCK):
                crc = zlib.crc32(block, crc)
    except FileNotFoundError:
        return False
    return crc == member.CRC


def _extract(opened: zipfile.ZipFile, archive: Path, member: zipfile.ZipInfo, target: Path) -> None:
    # Opened apart: an OSError of the target is about the disk, one of the source the archive.
    with naming(target, needs=member.file_size), target.open("wb") as file:
        try:
            source = opened.open(member)
        except BROKEN_ZIP as error:
            raise _broken(archive, error) from None
        with source:
            while True:
                try:
                    block = source.read(_BLOCK)  # checks the CRC at the end
                except BROKEN_ZIP as error:
                    raise _broken(archive, error) from None
                if not block:
                    return
                file.write(block)


def _broken(archive: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{archive}: broken archive ({error}); delete it and fetch it again")


def require_space(folder: Path, size: int) -> None:
    """Check that a disk has room.

    Args:
        folder: on that disk; need not exist.
        size: bytes that will be written.

    Raises:
        DatasetError: it has not.
    """
    place = folder.absolute()
    while not os.path.isdir(place):
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < size:
        raise DatasetError(
            f"{folder}: {size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; free some, "
            "or choose a folder on another disk (--output)"
        )
