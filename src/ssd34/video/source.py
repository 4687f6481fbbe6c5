"""What the user named, as a film, a stream or a camera."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ssd34.errors import OptionError, VideoError
from ssd34.images.read import SUFFIXES as PICTURES

FILMS = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
     ".vob", ".wmv", ".flv", ".3gp", ".ogv", ".mxf", ".h264", ".264", ".h265", ".265", ".hevc",
     ".mjpeg", ".mjpg", ".y4m", ".ivf")
)  # fmt: skip
"""File name endings of films. A file with another ending is taken for a picture."""

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "tcp", "udp", "rtp", "srt")
"""What an address of a stream begins with."""

_DEVICE = re.compile(r"/dev/video\d+")


@dataclass(frozen=True)
class VideoSource:
    """A film, a stream or a camera.

    Attributes:
        name: for people, and for what it is called in results: without user name and password.
        address: what FFmpeg opens.
        form: FFmpeg's name of the input, of a camera; None: it finds out.
        path: the file, of a film; None: it is none.
    """

    name: str
    address: str
    form: str | None = None
    path: Path | None = None

    @property
    def stem(self) -> str:
        """A file name without ending that says which source it was."""
        if self.path is not None:
            return self.path.stem
        return re.sub(r"[^\w.-]+", "-", self.name.partition("?")[0]).strip("-.") or "stream"


def find_video(sources: Sequence[str]) -> VideoSource | None:
    """The film, stream or camera among what was named; None: all are pictures.

    A number is a camera, unless a file or folder has that name.

    Raises:
        OptionError: there is something else beside it.
        VideoError: the file does not exist.
    """
    kinds = [_video_of(source) for source in sources]
    found = [kind for kind in kinds if kind is not None]
    if not found:
        return None
    if len(kinds) > 1:
        raise OptionError(
            f"{found[0].name}: expected one film, stream or camera alone, got {len(kinds)} "
            "sources; give each a command of its own"
        )
    path = found[0].path
    if path is not None and not path.exists():
        raise VideoError(f"{path}: expected a film, there is no such file; check the path")
    return found[0]


def _video_of(source: str) -> VideoSource | None:
    scheme, colon, _ = source.partition("://")
    if colon and scheme.lower() in SCHEMES:
        parts = urlsplit(source)
        if parts.scheme in ("http", "https") and Path(parts.path).suffix.lower() in PICTURES:
            return None
        return VideoSource(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), source)
    path = Path(source)
    if source.isdecimal() and source.isascii() and not path.exists():
        return _camera(int(source))
    if _DEVICE.fullmatch(source):
        return VideoSource(source, source, "v4l2")
    if path.suffix.lower() not in FILMS or path.is_dir():
        return None
    # Else a file whose name begins like an address would be taken for one.
    return VideoSource(source, f"file:{path}", path=path)


def _camera(number: int) -> VideoSource:
    """A camera by its number. Not tried: no machine with a camera was at hand."""
    if sys.platform == "darwin":
        return VideoSource(f"camera {number}", str(number), "avfoundation")
    if sys.platform == "win32":
        raise OptionError(
            f"camera {number}: on Windows a camera has no number; give the address of a stream"
        )
    return VideoSource(f"camera {number}", f"/dev/video{number}", "v4l2")
