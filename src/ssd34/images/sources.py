"""What the user named, as a list of picture files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from ssd34.errors import ImageError
from ssd34.files.tree import check_folder, warn_of_unreadable
from ssd34.images.read import SUFFIXES, is_address

_MODELS = (".onnx", ".safetensors")
_LONGEST_NAME = 60
"""Characters, which are at most four bytes each."""


@dataclass(frozen=True)
class PictureFile:
    """A picture to look at: its file, its path below the folder that was named, or its own name,
    which never leads upwards, and its address, where it has one instead of a file."""

    path: Path
    relative: Path
    url: str | None = None

    @property
    def source(self) -> Path | str:
        """What a reader takes, and what results call it."""
        return self.url or self.path


def find_pictures(sources: Iterable[str], *, urls: bool = False) -> list[PictureFile]:
    """Files, folders (searched through, hidden files left out) and glob patterns to files; with
    `urls` also addresses of pictures, which are not asked here.

    A file that was named itself is taken whatever its ending. The order is that of the sources,
    sorted within each; a file found twice counts once.

    Raises:
        ImageError: a source does not exist, nothing is found in it, or an address has a password.
    """
    found: dict[str, PictureFile] = {}
    for source in sources:
        if urls and is_address(source):
            before, _, host = re.split("[/?#]", source)[2].rpartition("@")
            if before:
                raise ImageError(
                    f"{host}: expected an address without user name and password, as results name "
                    "it; download the picture first"
                )
            name = _name_in(source)
            found.setdefault(source, PictureFile(name, name, source))
            continue
        path = Path(source)
        if path.is_dir():
            check_folder(path)
            pictures = _in_folder(path)
            nothing = "holds no pictures"
        elif path.suffix.lower() == ".zip" and path.is_file():
            raise ImageError(
                f"{source}: an archive, no picture; unpack it, or measure on it with: ssd34 "
                "evaluate MODEL --data"
            )
        elif path.suffix.lower() in _MODELS and path.is_file():
            raise ImageError(
                f"{source}: a model, no picture; say which pictures, and name it with --model"
            )
        elif path.exists():
            pictures = [PictureFile(path, Path(path.name))]
            nothing = ""
        elif glob.has_magic(source) and not is_address(source):
            matches = (Path(name) for name in sorted(glob.glob(source, recursive=True)))
            pictures = [PictureFile(p, Path(p.name)) for p in matches if _is_picture(p)]
            nothing = "matches no pictures"
        else:
            raise ImageError(f"{source}: {_missing(source)}")
        if not pictures:
            endings = ", ".join(sorted(SUFFIXES))
            raise ImageError(f"{source}: {nothing} (looked for files ending in {endings})")
        for picture in pictures:
            found.setdefault(os.path.realpath(picture.path), picture)
    return list(found.values())


def _missing(source: str) -> str:
    if source == "-":
        return "expected a file; what comes on standard input is /dev/stdin"
    if is_address(source):
        return "an address; expected a file here, so download it first"
    return "no such file or folder; check the path"


def _name_in(url: str) -> Path:
    """The name that a picture from an address gets: the last part of its path."""
    name = re.split(r"[/\\]", unquote(re.split("[?#]", url)[0].partition("://")[2]))[1:]
    clean = re.sub(r"[\x00-\x1f\x7f:*?\"<>|]", "-", name[-1])[-_LONGEST_NAME:] if name else ""
    return Path(clean.lstrip(". ") or "picture")


def _in_folder(folder: Path) -> list[PictureFile]:
    pictures = []
    for root, folders, files in os.walk(folder, onerror=warn_of_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(root) / name
            if _is_picture(path):
                pictures.append(PictureFile(path, path.relative_to(folder)))
    return pictures


def _is_picture(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()
