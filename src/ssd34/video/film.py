"""An open film or stream: packets to upright frames with times that only grow, and its sound."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssd34.errors import VideoError, require
from ssd34.images.read import MAX_PIXELS, LargeImageError
from ssd34.video.source import VideoSource

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

TIMEOUT = 10.0
"""Seconds that a stream may be silent before it counts as broken."""

_ENDLESS = ("hls", "dash", "mpjpeg")
"""Forms whose size is that of a list, to which more may be added."""

_RATE = Fraction(25)
_STEP = 0.001
_BACK = 1.0
_MISSING = 1.0


def load_av() -> Any:
    """PyAV; MissingExtraError where it is not installed."""
    return require("av", extra="video", why="a film, a stream or a camera")


@dataclass(frozen=True, eq=False)
class Frame:
    """A decoded frame, not turned yet.

    Attributes:
        number: in the source, from 0, those that are passed over included.
        time: seconds since the beginning, as a player shows it.
        matrix: how it is to be turned, see `turn_upright`.
        aspect: width to height of one of its pixels, once it is turned.
    """

    number: int
    time: float
    picture: VideoFrame
    matrix: bytes | None
    aspect: Fraction

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, upright."""
        pixels = np.asarray(self.picture.to_ndarray(format="rgb24"), np.uint8)
        return pixels if self.matrix is None else turn_upright(pixels, self.matrix)


@dataclass(frozen=True, eq=False)
class Sound:
    """A packet of a film's sound, not decoded: index of its stream, name of its codec, and seconds
    to add to its time. The packet's own stream must not be asked: it may be closed by now."""

    packet: Packet[Any]
    shift: float
    index: int
    kind: str


def turn_upright(pixels: NDArray[np.uint8], matrix: bytes) -> NDArray[np.uint8]:
    """Turn and mirror (H, W, 3) pixels by quarters, as a display matrix says.

    Of its nine 32-bit numbers the first two say where a step to the right leads, the fourth and
    fifth a step down. Source: ISO/IEC 14496-12, 8.3.2; FFmpeg's libavutil/display.h.
    """
    right_x, right_y, _, down_x, down_y, *_ = np.frombuffer(matrix, np.int32, 9).tolist()
    across, down = right_x, down_y
    if _is_quarter(matrix):
        pixels, across, down = pixels.swapaxes(0, 1), down_x, right_y
    pixels = pixels[:, ::-1] if across < 0 else pixels
    return np.ascontiguousarray(pixels[::-1] if down < 0 else pixels)


def _is_quarter(matrix: bytes) -> bool:
    right_x, right_y, _, down_x, down_y, *_ = np.frombuffer(matrix, np.int32, 9).tolist()
    return bool(abs(right_x) + abs(down_y) < abs(right_y) + abs(down_x))


class Clock:
    """Times of frames, which only grow, from timestamps that may be missing or jump back.

    Attributes:
        shift: seconds to add to the source's timestamps; None: not known before the first frame.
        now: time of the last frame, seconds; -1 before the first one.
    """

    def __init__(self, period: float, *, start: float | None, begins: float = 0.0) -> None:
        """A frame without timestamp comes a period after the one before. The beginning has the
        timestamp `start`, or that of the first frame, and the time `begins`."""
        self.period, self.begins, self.now = period, begins, -1.0
        self.shift = None if start is None else begins - start

    def tick(self, stamp: float | None) -> float:
        """The time of the next frame, of its timestamp in seconds."""
        usual = self.now + self.period if self.now >= 0 else self.begins
        if self.shift is None and stamp is not None:
            self.shift = usual - stamp
        wanted = usual if stamp is None or self.shift is None else stamp + self.shift
        if stamp is not None and wanted <= self.now - _BACK:  # the timestamps begin again
            self.shift, wanted = usual - stamp, usual
        self.now = max(wanted, 0.0, self.now + min(_STEP, self.period))
        return self.now


class Film:
    """An open film, stream or camera.

    Attributes:
        live: it does not wait for us.
        rate: frames a second, as it says.
        frames: how many there will be, about; None: it does not say, or is live.
        broken: damaged frames after the first one; some decoders show what is left of them.
        cut: where a truncated film ends, in words; empty: it is whole.
    """

    def __init__(
        self,
        source: VideoSource,
        *,
        max_pixels: int = MAX_PIXELS,
        timeout: float = TIMEOUT,
        begins: float = 0.0,
        first: int = 0,
    ) -> None:
        """Open a source whose beginning has the time `begins` and whose first frame the number
        `first`. The timeout is in seconds, and not for films.

        Raises:
            VideoError: it cannot be opened, or shows nothing.
            LargeImageError: its frames are too large.
            MissingExtraError: PyAV is not installed.
        """
        self._av = load_av()
        self.source, self.max_pixels = source, max_pixels
        self.container = self._open(timeout)
        streams = self.container.streams
        cover = self._av.stream.Disposition.attached_pic  # of an album
        shown = [one for one in streams.video if one.codec_context and not one.disposition & cover]
        if not shown:
            kinds = ", ".join(sorted({stream.type for stream in streams})) or "nothing"
            raise VideoError(f"{source.name}: expected moving pictures, it holds {kinds} only")
        self.video = shown[0]
        self._check_size(self.video)
        self.sounds = [one for one in streams.audio if one.codec_context]
        length, start = self.container.duration, self.container.start_time
        sized = self.container.size > 0 and self.container.format.name not in _ENDLESS
        downloaded = source.address.startswith("http") and (length is not None or sized)
        self.live = source.path is None and not downloaded
        self.length = 0.0 if self.live else max(0, length or 0) / 1_000_000
        self.video.thread_type = "SLICE" if self.live else "AUTO"
        self.rate = Fraction(self.video.average_rate or self.video.guessed_rate or _RATE)
        about = self.video.frames or math.ceil(self.length * self.rate)
        self.frames = None if self.live or not about else about
        # FFmpeg counts the frames of such forms at an invented rate.
        untimed = self._av.format.Flags.no_timestamps.value & self.container.format.flags
        self._by_arrival = self.live and untimed
        start = None if start is None or self.live else start / 1_000_000
        self.clock = Clock(float(1 / self.rate), start=start, begins=begins)
        self.broken, self.cut = 0, ""
        self._first = self._number = first
        self._reached = 0.0
        self._rotation: int | None = None
        self._matrix: bytes | None = None
        self._aspect = Fraction(1)

    def _open(self, timeout: float) -> Any:
        source = self.source
        options = {"rtsp_flags": "prefer_tcp"} if source.address.startswith("rtsp") else {}
        if source.path is not None:  # a file may be a list of addresses in disguise
            options = {"protocol_whitelist": "file"}
        try:
            return self._av.open(
                source.address, format=source.form, options=options, metadata_errors="replace",
                timeout=None if source.path else timeout,
            )  # fmt: skip
        except (self._av.error.HTTPClientError, self._av.error.HTTPServerError) as error:
            raise VideoError(f"{source.name}: {self._reason(error)}; check the address") from None
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(
                f"{source.name}: cannot be opened as a film, stream or camera "
                f"({self._reason(error)}); check it, and for a stream whether it runs"
            ) from None

    def _reason(self, error: Exception) -> str:
        """Why FFmpeg failed, without the address, in which a password may stand."""
        if isinstance(error, self._av.error.ExitError):
            return "it was silent for too long"
        return str(getattr(error, "strerror", None) or type(error).__name__).lower()

    def _check_size(self, shown: Any) -> None:
        if shown.width * shown.height > self.max_pixels:
            raise LargeImageError(
                f"{self.source.name}: frames of {shown.width} x {shown.height} pixels are more "
                f"than the limit of {self.max_pixels}; scale the film down"
            )

    def read(self) -> Iterator[Frame | Sound]:
        """Every frame and packet of sound, in the order of the file.

        Damaged frames are counted. A film that breaks off ends there.

        Raises:
            VideoError: a live stream broke, or not one frame could be decoded.
            LargeImageError: a frame is too large.
        """
        try:
            for packet in self.container.demux(self.video, *self.sounds):
                yield from self._items(packet)
        except self._av.FFmpegError as error:
            if self.live:
                raise VideoError(self._reason(error)) from None
            self.cut = f"{self._reached:.1f} s ({self._reason(error)})"
            yield from self._frames(None)
        if not self.live and self._number == self._first:
            web = "" if self.source.path else ", or its server gives no parts of it: download it"
            raise VideoError(
                f"{self.source.name}: no frame could be decoded; the film is broken{web}"
            )
        if not self.cut and self.length - self._reached > _MISSING:
            self.cut = f"{self._reached:.1f} of {self.length:.1f} s"

    def _items(self, packet: Any) -> Iterator[Frame | Sound]:
        end = packet.dts if packet.pts is None else packet.pts
        if end is not None and packet.time_base and self.clock.shift is not None:
            end = (end + (packet.duration or 0)) * packet.time_base
            self._reached = max(self._reached, float(end) + self.clock.shift)
        if packet.stream.index == self.video.index:
            yield from self._frames(packet)
        elif packet.size and packet.dts is not None and self.clock.shift is not None:
            stream = packet.stream
            yield Sound(packet, self.clock.shift, stream.index, stream.codec_context.name)

    def _frames(self, packet: Any) -> Iterator[Frame]:
        """The frames that a packet completes; None: those that are still in the decoder."""
        try:
            pictures = self.video.codec_context.decode(packet)
        except self._av.FFmpegError:
            self.broken += self._number > self._first
            return
        for picture in pictures:
            self._check_size(picture)
            self.broken += picture.is_corrupt and self._number > self._first
            timed = picture.pts is not None and picture.time_base
            stamp = float(picture.pts * picture.time_base) if timed else None
            now = self.clock.tick(time.monotonic() if self._by_arrival else stamp)
            self._reached = max(self._reached, now + self.clock.period)
            if picture.rotation != self._rotation:
                # Not of every frame: to look keeps a frame's memory until the garbage collection.
                matrix = picture.side_data.get("DISPLAYMATRIX")
                self._rotation, self._matrix = picture.rotation, matrix and bytes(matrix)
                aspect = Fraction(self.video.sample_aspect_ratio or 1)
                turned = self._matrix and _is_quarter(self._matrix)
                self._aspect = 1 / aspect if turned else aspect
            yield Frame(self._number, now, picture, self._matrix, self._aspect)
            self._number += 1

    def close(self) -> None:
        """Let go of the file or the connection."""
        self.container.close()
