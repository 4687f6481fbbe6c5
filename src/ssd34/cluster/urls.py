"""Pictures behind URLs, read by fsspec."""

from __future__ import annotations

import glob
import posixpath
import re
import time
from dataclasses import dataclass
from typing import Any

from ssd34.cluster.pictures import (
    Picture,
    Pictures,
    Store,
    check_bytes,
    is_picture_name,
    list_pictures,
)
from ssd34.errors import ImageError, OptionError, require
from ssd34.files.tree import MAX_FILE_BYTES, normalise_name

_TRIES = 3
_TAGS = ("ETag", "etag", "md5Hash")
"""What the stores call that which changes with a file."""


@dataclass(frozen=True)
class _UrlStore(Store):
    """Pictures below a URL; reading is mostly waiting."""

    system: Any
    root: str
    readers = 8

    def read(self, picture: Picture) -> bytes:
        """Tried again where it may have been the network."""
        name = picture.name
        for tried in range(1, _TRIES + 1):
            try:
                where = f"{self.root}/{name}" if self.root else name
                data: bytes = self.system.cat_file(where, start=0, end=MAX_FILE_BYTES + 1)
            except Exception as error:  # each protocol has its own
                if isinstance(error, FileNotFoundError | PermissionError) or tried == _TRIES:
                    raise ImageError(f"{name}: {_reason(error)}") from None
                time.sleep(2 ** (tried - 1))
            else:
                check_bytes(name, len(data))
                return data
        raise AssertionError


def _reason(error: Exception) -> str:
    """Without the text of the error, in which there may be a password."""
    status = getattr(error, "status", None)
    return f"cannot be read ({type(error).__name__}{f' {status}' if status else ''})"


def list_behind_url(url: str) -> Pictures:
    """The pictures below a URL, those that match a pattern, or one.

    Raises:
        ImageError: none are there, or they cannot be listed.
        OptionError: what reads such URLs is not installed.
        MissingExtraError: fsspec is not installed.
    """
    fsspec = require("fsspec", extra="batch", why="reading from URLs")
    shown = re.sub(r"//[^/@]*@", "//", url.partition("?")[0])
    try:
        system, path = fsspec.core.url_to_fs(url)
        if glob.has_magic(path):
            found = system.glob(path, detail=True)
        elif is_picture_name(path):
            found = {path: system.info(path)}
        else:
            found = system.find(path, detail=True)
    except (ImportError, ValueError) as error:
        raise OptionError(f"{shown}: {error}; install what reads such URLs") from None
    except Exception as error:  # each protocol has its own
        raise ImageError(
            f"{shown}: {_reason(error)}; expected a folder, a pattern or a picture"
        ) from None
    files = {name: info for name, info in sorted(found.items()) if is_picture_name(name)}
    root = re.split(r"[*?\[]", path)[0].rpartition("/")[0] if glob.has_magic(path) else path
    root = posixpath.dirname(root) if root in files else root.rstrip("/")
    names = [name.removeprefix(f"{root}/") for name in files]
    if any(normalise_name(name) != name for name in names):
        raise ImageError(f"{shown}: lists names that lead out of it; give the folder itself")
    stamps = (
        [info.get("size"), *(str(info[tag]) for tag in _TAGS if tag in info)]
        for info in files.values()
    )
    return list_pictures(_UrlStore(system, root), shown, names, stamps)
