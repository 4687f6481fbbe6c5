"""What the user named, as a film, a stream or a camera."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from ssd34.errors import DownloadError, OptionError, VideoError
from ssd34.images.read import SUFFIXES as PICTURES

FILMS = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
     ".vob", ".wmv", ".flv", ".3gp", ".ogv", ".mxf", ".h264", ".264", ".h265", ".265", ".hevc",
     ".mjpeg", ".mjpg", ".y4m", ".ivf")
)  # fmt: skip
"""File name endings of films. A file with another ending is taken for a picture."""

_PLAYLISTS = frozenset((".m3u8", ".m3u", ".mpd", ".sdp"))
_ASKED = 10.0
"""Seconds within which a server says what lies at an address without a known ending."""

_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "tcp", "udp", "rtp", "srt")


@dataclass(frozen=True)
class VideoSource:
    """A film, a stream or a camera.

    Attributes:
        name: for people: without user name and password.
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
    """The film, stream or camera among what was named; None: all are pictures. OptionError: there
    is something else beside it. VideoError: the file does not exist."""
    found = next((video for source in sources if (video := _video_of(source))), None)
    if found is not None and len(sources) > 1:
        raise OptionError(
            f"{found.name}: expected one film, stream or camera alone, got {len(sources)} "
            "sources; give each a command of its own"
        )
    if found is not None and found.path is not None and not found.path.exists():
        raise VideoError(f"{found.path}: expected a film, there is no such file; check the path")
    return found


def _video_of(source: str) -> VideoSource | None:
    path = Path(source)
    try:
        parts = urlsplit(source if "://" in source else "")
    except ValueError as error:
        raise OptionError(f"{source}: is no address ({error}); check it") from None
    if parts.scheme in _SCHEMES:
        if parts.scheme in ("http", "https") and _is_picture(source, parts):
            return None
        return VideoSource(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), source)
    if re.fullmatch(r"/dev/video\d+", source):
        return VideoSource(source, source, "v4l2")
    if re.fullmatch(r"\d+", source, re.ASCII) and not path.exists():
        if sys.platform == "darwin":
            return VideoSource(f"camera {source}", source, "avfoundation")
        return VideoSource(f"camera {source}", f"/dev/video{source}", "v4l2")
    if path.suffix.lower() not in FILMS or path.is_dir():
        return None
    # Without file: a name that begins like an address would be taken for one.
    return VideoSource(source, f"file:{path}", path=path)


def _is_picture(url: str, parts: SplitResult) -> bool:
    """Whether a picture lies at an address of the web, by its ending or else by what the server
    says. Where it says nothing, or a user name stands there, as cameras want it, it is none."""
    ending = Path(parts.path).suffix.lower()
    if ending in PICTURES or ending in FILMS or ending in _PLAYLISTS or "@" in parts.netloc:
        return ending in PICTURES
    from ssd34.files.web import read_content_type

    try:
        return read_content_type(url, timeout=_ASKED).startswith("image/")
    except DownloadError:
        return False
