"""An open film or stream: packets to upright frames with times that only grow, and its sound."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssd34.errors import VideoError, require
from ssd34.images.read import MAX_PIXELS, LargeImageError
from ssd34.video.source import VideoSource

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container.input import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

USUAL_RATE = Fraction(25)
"""Frames a second where a film does not say."""

TIMEOUT = 10.0
"""Seconds that a stream may be silent before it counts as broken."""

_STEP = 0.001
_BACK = 1.0
_MISSING = 1.0


def load_av() -> Any:
    """PyAV.

    Raises:
        MissingExtraError: it is not installed.
    """
    return require("av", extra="video", why="a film, a stream or a camera")


@dataclass(frozen=True, eq=False)
class Frame:
    """A decoded frame.

    Attributes:
        number: in the source, from 0; those that are passed over count.
        time: seconds since the beginning, as a player shows them.
        picture: as it was decoded, not turned yet.
    """

    number: int
    time: float
    picture: VideoFrame

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, upright."""
        pixels: NDArray[np.uint8] = self.picture.to_ndarray(format="rgb24")  # type: ignore[assignment]
        matrix = self.picture.side_data.get("DISPLAYMATRIX")
        return pixels if matrix is None else turn_upright(pixels, bytes(matrix))


@dataclass(frozen=True, eq=False)
class Sound:
    """A packet of a film's sound, as it is, not decoded.

    Attributes:
        packet: its time is still that of the source. Its stream must not be asked: the source may
            be closed by now.
        shift: seconds to add to its time.
        index: of its stream in the source.
        kind: name of its codec.
    """

    packet: Packet[AudioStream]
    shift: float
    index: int
    kind: str


def turn_upright(pixels: NDArray[np.uint8], matrix: bytes) -> NDArray[np.uint8]:
    """Turn and mirror (H, W, 3) pixels as a display matrix says, by quarters of a turn.

    Args:
        pixels: as stored.
        matrix: nine 32-bit numbers, of which the first two rows' first two columns say where a
            step to the right and one down lead. Source: ISO/IEC 14496-12, 8.3.2, and FFmpeg's
            libavutil/display.h, whose numbers are in the machine's byte order.
    """
    right_x, right_y, _, down_x, down_y, *_ = np.frombuffer(matrix, np.int32, 9).tolist()
    across, down = right_x, down_y
    if abs(right_x) + abs(down_y) < abs(right_y) + abs(down_x):
        pixels, across, down = pixels.swapaxes(0, 1), down_x, right_y
    if across < 0:
        pixels = pixels[:, ::-1]
    if down < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


class Clock:
    """Times of frames, which only grow, from timestamps that may be missing or jump back.

    Attributes:
        shift: seconds that are added to the source's timestamps; None: no frame came yet.
        now: of the last frame, seconds; -1 before the first one.
    """

    def __init__(self, period: float, *, start: float | None, begins: float = 0.0) -> None:
        """
        Args:
            period: seconds from frame to frame, where a frame has no timestamp.
            start: the timestamp of the beginning; None: that of the first frame.
            begins: what the beginning is called, in seconds.
        """
        self.period = period
        self.now = -1.0
        self.begins = begins
        self.shift = None if start is None else begins - start

    def tick(self, stamp: float | None) -> float:
        """The time of the next frame, of its timestamp in seconds."""
        usual = self.now + self.period if self.now >= 0 else self.begins
        if stamp is None:
            self.now = usual
            return usual
        if self.shift is None:
            self.shift = usual - stamp
        time = stamp + self.shift
        if time <= self.now - _BACK:  # the timestamps begin again
            self.shift += usual - time
            time = usual
        self.now = max(time, 0.0, self.now + _STEP)
        return self.now


class Film:
    """An open film, stream or camera.

    Attributes:
        live: it does not wait for us.
        rate: frames a second, as it says.
        frames: how many there will be, about; None: it does not say, or is live.
        sounds: its audio streams.
        broken: frames after the first one that were damaged; some decoders show what is left of
            one, others nothing.
        cut: where a truncated film ends, in words; None: it is whole.
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
        """
        Args:
            source: what to open.
            max_pixels: refuse larger frames.
            timeout: seconds that a stream may be silent.
            begins: time of its beginning, seconds.
            first: number of its first frame.

        Raises:
            VideoError: it cannot be opened, or shows nothing.
            LargeImageError: its frames are too large.
            MissingExtraError: PyAV is not installed.
        """
        self._av = load_av()
        self.source = source
        self.max_pixels = max_pixels
        self.container = self._open(timeout)
        try:
            self.video = self._choose()
            self._check_size(self.video.width, self.video.height)
        except Exception:
            self.container.close()
            raise
        self.sounds = [one for one in self.container.streams.audio if one.codec_context is not None]
        length = self.container.duration
        self.live = source.path is None and (
            length is None or not source.address.startswith("http")
        )
        self.length = None if self.live or not length or length < 0 else length / 1_000_000
        self.video.thread_type = "SLICE" if self.live else "AUTO"
        self.rate = self.video.average_rate or self.video.guessed_rate or USUAL_RATE
        self.frames = self._count()
        start = self.container.start_time
        self.clock = Clock(
            float(1 / self.rate),
            start=None if start is None or self.live else start / 1_000_000,
            begins=begins,
        )
        self.broken = 0
        self.cut: str | None = None
        self._first = self._number = first
        self._reached = 0.0

    def _open(self, timeout: float) -> InputContainer:
        options = {"rtsp_flags": "prefer_tcp"} if self.source.address.startswith("rtsp") else {}
        if self.source.path is not None:  # a file may be a list of addresses in disguise
            options["protocol_whitelist"] = "file"
        try:
            container: InputContainer = self._av.open(
                self.source.address, format=self.source.form, options=options,
                timeout=None if self.source.path else timeout, metadata_errors="replace",
            )  # fmt: skip
        except (self._av.FFmpegError, OSError, ValueError) as error:
            kind = "film" if self.source.path else "stream or camera"
            raise VideoError(
                f"{self.source.name}: cannot be opened as a {kind} ({reason_of(error)}); check the "
                f"{'file' if self.source.path else 'address, and whether it runs'}"
            ) from None
        return container

    def _choose(self) -> VideoStream:
        """The stream of pictures that is shown; the cover of an album is none."""
        cover = self._av.stream.Disposition.attached_pic
        for stream in self.container.streams.video:
            if not stream.disposition & cover and stream.codec_context is not None:
                return stream
        kinds = ", ".join(sorted({stream.type for stream in self.container.streams})) or "nothing"
        raise VideoError(f"{self.source.name}: expected moving pictures, it holds {kinds} only")

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise LargeImageError(
                f"{self.source.name}: frames of {width} x {height} pixels are more than the limit "
                f"of {self.max_pixels}; scale the film down"
            )

    def _count(self) -> int | None:
        if self.live:
            return None
        about = math.ceil(self.length * self.rate) if self.length else None
        return self.video.frames or about

    def read(self) -> Generator[Frame | Sound, None, None]:
        """Every frame and packet of sound, in the order of the file.

        Damaged frames are counted. A film that breaks off ends there.

        Raises:
            VideoError: a live stream broke, or not one frame could be decoded.
            LargeImageError: a frame is too large.
        """
        try:
            yield from self._packets()
        except self._av.FFmpegError as error:
            if self.live:
                raise VideoError(reason_of(error)) from None
            self.cut = f"{self._reached:.1f} s ({reason_of(error)})"
            yield from self._frames(None)
        if self.live:
            return
        if self._number == self._first:
            raise VideoError(f"{self.source.name}: no frame could be decoded; the film is broken")
        missing = (self.length or 0.0) - self._reached
        if self.cut is None and missing > _MISSING:
            self.cut = f"{self._reached:.1f} of {self.length:.1f} s"

    def _packets(self) -> Generator[Frame | Sound, None, None]:
        for packet in self.container.demux(self.video, *self.sounds):
            end = packet.pts if packet.pts is not None else packet.dts
            if end is not None and packet.time_base is not None and self.clock.shift is not None:
                end += packet.duration or 0
                self._reached = max(self._reached, float(end * packet.time_base) + self.clock.shift)
            if packet.stream.index == self.video.index:
                yield from self._frames(packet)
            elif packet.size and packet.dts is not None and self.clock.shift is not None:
                stream = packet.stream
                yield Sound(packet, self.clock.shift, stream.index, stream.codec_context.name)

    def _frames(self, packet: Any) -> Generator[Frame, None, None]:
        """The frames that a packet completes; None: those that are still in the decoder."""
        try:
            pictures = self.video.codec_context.decode(packet)
        except self._av.FFmpegError:
            self.broken += self._number > self._first
            return
        for picture in pictures:
            self.broken += picture.is_corrupt and self._number > self._first
            self._check_size(picture.width, picture.height)
            stamp = picture.pts
            base = picture.time_base
            time = self.clock.tick(None if stamp is None or not base else float(stamp * base))
            self._reached = max(self._reached, time + self.clock.period)
            yield Frame(self._number, time, picture)
            self._number += 1

    def close(self) -> None:
        """Let go of the file or the connection."""
        self.container.close()


def reason_of(error: Exception) -> str:
    """Why FFmpeg failed, without the address, in which a password may stand."""
    if isinstance(error, load_av().error.ExitError):
        return "it was silent for too long"
    return str(getattr(error, "strerror", None) or type(error).__name__).lower()
