"""Archives with a model and its test data, unpacked so that they can do no harm."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from ssd34.data.disk import naming
from ssd34.errors import ModelError

SUFFIXES = (".tar.gz", ".tgz")
MAX_BYTES = 2 * 2**30
"""Largest archive, unpacked."""
MAX_MEMBERS = 1000
_MAX_HEADER_BYTES = 2**20
_CHUNK_BYTES = 2**16


class DamagedArchiveError(ModelError):
    """Cut off, changed, or no archive at all."""


class _BoundedGzip(gzip.GzipFile):
    """Decompresses no more than `MAX_BYTES` and hands out no giant header.

    tarfile reads extended headers whole, of whatever size the archive claims.
    """

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

    Only files and folders are taken. Anything else, names that lead out of the folder, and more
    than `MAX_BYTES` or `MAX_MEMBERS` are refused before anything is written.

    Raises:
        DamagedArchiveError: not a whole gzipped tar archive.
        ModelError: one that should not be unpacked.
        OSError: it cannot be read, or the temporary folder not written.
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
    """All members, once every one of them is found harmless.

    Raises:
        ModelError: one is not.
    """
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

    Nothing but names and content is taken over: no owners, modes or times. A file is always a new
    one, so that nothing that lies there, a link least of all, is written through.

    Raises:
        ModelError: a member of its name, or a file in place of its folder, is there.
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
