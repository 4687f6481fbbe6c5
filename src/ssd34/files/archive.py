"""Parts of a known zip into a folder, and any tarball of a model: whole or not at all, and never
outside."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from ssd34.errors import DatasetError, ModelError
from ssd34.files.atomic import naming

_BLOCK = 1 << 20


def unpack(
    archive: Path,
    folder: Path,
    parts: Sequence[str],
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Bring parts of a zip whose content is known, files and folders such as ``val2017``, into a
    folder under their names in the archive; what an interrupted call left is checked by CRC and
    kept. Nothing else may write there. `progress` is called with the bytes done and of all.

    Raises:
        DatasetError: the archive is damaged.
        OSError: the folder cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [
                member for member in opened.infolist()
                if not member.is_dir() and any(_is_in(member.filename, part) for part in parts)
            ]  # fmt: skip
            total = sum(member.file_size for member in members)
            done = 0
            progress(done, total)
            for member in members:
                target = folder / member.filename
                if not _is_there(target, member):
                    with naming(target, needs=member.file_size):
                        opened.extract(member, folder)
                done += member.file_size
                progress(done, total)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DatasetError(
            f"{archive}: broken archive ({error}); delete it and fetch it again"
        ) from None


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}/")


def _is_there(target: Path, member: zipfile.ZipInfo) -> bool:
    crc = 0
    try:
        with target.open("rb") as file:
            while block := file.read(_BLOCK):
                crc = zlib.crc32(block, crc)
            return file.tell() == member.file_size and crc == member.CRC
    except FileNotFoundError:
        return False


def require_space(folder: Path, size: int) -> None:
    """DatasetError unless the disk of a folder, which need not exist, has `size` bytes free."""
    place = folder.absolute()
    while not os.path.isdir(place):
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < size:
        raise DatasetError(
            f"{folder}: {size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; free some, "
            "or choose a folder on another disk (--output)"
        )


SUFFIXES = (".tar.gz", ".tgz")
MAX_BYTES = 2 * 2**30
"""Largest archive, unpacked."""
MAX_MEMBERS = 1000
_MAX_HEADER_BYTES = 2**20
_CHUNK_BYTES = 2**16


class DamagedArchiveError(ModelError):
    """Cut off, changed, or no archive at all."""


class _BoundedGzip(gzip.GzipFile):
    """Decompresses no more than `MAX_BYTES` and hands out no giant header: tarfile reads extended
    headers whole, of whatever size the archive claims."""

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes."""
        if size is None or not 0 <= size <= _MAX_HEADER_BYTES:
            raise ModelError(f"it has a header of {size} bytes")
        self._check(self.tell() + size)
        return super().read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in the decompressed data."""
        self._check(offset)
        return super().seek(offset, whence)

    def _check(self, place: int) -> None:
        # A little more than the files may have: padding and headers.
        if place > MAX_BYTES + (MAX_MEMBERS + 1) * 4096:
            raise ModelError(f"it holds more than {MAX_BYTES} bytes")


def is_archive(path: Path) -> bool:
    """Whether the name is one of a packed archive."""
    return path.name.lower().endswith(SUFFIXES)


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """A temporary folder with the files of a tarball; it goes when the block ends.

    Only files and folders are taken. ModelError for anything else, names that lead out of the
    folder, and more than `MAX_BYTES` or `MAX_MEMBERS`, before anything is written;
    DamagedArchiveError where it is not a whole gzipped tar archive.
    """
    with tempfile.TemporaryDirectory(prefix="ssd34-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            with _BoundedGzip(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                members = _checked_members(tar)
                while stream.read(_MAX_HEADER_BYTES):
                    pass  # to the end, where gzip keeps its own checksum
                for member in members:
                    _write(tar, member, folder)
        except ModelError as error:
            raise ModelError(f"{archive}: not unpacked: {error}") from None
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError,
                OverflowError, RecursionError) as error:  # fmt: skip
            reason = " ".join(str(error).split())[:200]
            raise DamagedArchiveError(
                f"{archive}: not a whole gzipped tar archive ({reason})"
            ) from None
        yield folder


def _checked_members(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """All members, once every one of them is found harmless; else ModelError."""
    members: list[tarfile.TarInfo] = []
    names: set[PurePosixPath] = set()
    total = 0
    for member in tar:
        shown = repr(member.name[:100])
        path = PurePosixPath(member.name)
        if (
            path.is_absolute()
            or ".." in path.parts
            or PureWindowsPath(member.name).drive
            or "\\" in member.name
            or "\0" in member.name
        ):
            raise ModelError(f"{shown} leads out of the folder")
        if not (member.isreg() or member.isdir()) or member.issparse():
            raise ModelError(f"{shown} is neither a plain file nor a folder")
        total += member.size
        if member.size < 0 or total > MAX_BYTES:
            raise ModelError(f"{shown} brings it to {total} bytes, at most {MAX_BYTES}")
        if member.isreg() and path in names:
            raise ModelError(f"{shown} is in it twice")
        names.add(path)
        members.append(member)
        if len(members) > MAX_MEMBERS:
            raise ModelError(f"it has more than {MAX_MEMBERS} members")
    return members


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write a checked member by hand: the first releases of Python 3.11 have no safe extraction.

    Nothing but names and content is taken over. A file is always a new one, so that nothing that
    lies there, a link least of all, is written through.
    """
    target = folder.joinpath(*PurePosixPath(member.name).parts)
    try:
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None  # a plain file
        with naming(target, needs=member.size), content, target.open("xb") as file:
            shutil.copyfileobj(content, file, _CHUNK_BYTES)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise ModelError(f"{member.name[:100]!r} has the place of another member") from None
