"""A film of annotated frames, with the sound as it was."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssd34.errors import OptionError
from ssd34.files.atomic import written_whole
from ssd34.video.film import Film, Sound, load_av
from ssd34.video.source import FILMS

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container.output import OutputContainer
    from av.video.stream import VideoStream

WRITTEN = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Endings of films that are written, and FFmpeg's name of the form."""

ENCODERS = {
    "libx264": {"preset": "veryfast", "crf": "23", "bf": "0"},
    "libopenh264": {},
    "mpeg4": {"qscale": "4"},
}
"""What may encode, best first; an FFmpeg without GPL code lacks the first."""

_TICK = Fraction(1, 90_000)
_WAITING = 1000
_BT709 = 1
_LIMITED = 1


def choose_target(save: Path, film: Film) -> Path:
    """The file that ``--save`` means: itself, or one in it, named after the source.

    A film in another form than `WRITTEN`, and every stream, becomes Matroska, which holds any sound
    and can be played also where writing it was broken off.

    Raises:
        OptionError: a film of this ending is not written.
    """
    ending = save.suffix.lower()
    if ending in WRITTEN and not save.is_dir():
        return save
    if ending in FILMS and not save.is_dir():
        raise OptionError(f"--save {save}: expected a film in {', '.join(WRITTEN)}, or a folder")
    own = film.source.path.suffix if film.source.path else ""
    return save / f"{film.source.stem}{own if own.lower() in WRITTEN else '.mkv'}"


class FilmWriter:
    """Writes frames and sound. The first frame says how large the film is.

    Attributes:
        frames: how many were written.
        silent: kinds of sound that the form cannot hold, or that the source does not describe, and
            the endings of films that can hold it.
    """

    def __init__(self, path: Path, *, rate: Fraction, sounds: Sequence[AudioStream]) -> None:
        """Open a film.

        Args:
            path: the file; its ending is one of `WRITTEN`.
            rate: frames a second, about; each frame has a time of its own.
            sounds: streams of sound that will come, of a source that is still open.

        Raises:
            OSError: the file cannot be opened.
        """
        self._av = load_av()
        self.container: OutputContainer = self._av.open(
            str(path), "w", format=WRITTEN[path.suffix.lower()]
        )
        encoder = next(name for name in ENCODERS if name in self._av.codecs_available)
        self._video: VideoStream = self.container.add_stream(
            encoder, rate=rate, options=ENCODERS[encoder]
        )
        self._sounds: dict[int, tuple[AudioStream, str]] = {}
        self.silent: dict[str, list[str]] = {}
        for one in sounds:
            kind = one.codec_context.name
            ways = self._ways_to_hold(one.codec_context.codec.canonical_name)
            if not one.codec_context.sample_rate:
                self.silent[f"{kind} of unknown rate"] = []
            elif path.suffix.lower() in ways:
                self._sounds[one.index] = self.container.add_stream_from_template(one), kind
            else:
                self.silent[kind] = ways
        self._waiting: deque[Sound] = deque(maxlen=_WAITING)
        self._reached: dict[int, float] = {}
        self._tick = -1
        self.frames = 0

    def _ways_to_hold(self, codec: str) -> list[str]:
        """The endings of films that can hold a codec."""
        ways = []
        for ending, form in WRITTEN.items():
            with self._av.open(os.devnull, "w", format=form) as film:
                if codec in film.supported_codecs:
                    ways.append(ending)
        return ways

    def write(self, picture: NDArray[np.uint8] | Image.Image, time: float) -> None:
        """Write a frame.

        Args:
            picture: (H, W, 3) uint8 RGB or a Pillow image of mode RGB. Of another size than the
                first one, it is scaled to that.
            time: seconds since the beginning, later than the frame before.

        Raises:
            OSError: the film cannot be written.
        """
        pixels = np.asarray(picture)
        if not self.frames:
            self._begin(pixels.shape[1], pixels.shape[0])
        video = self._video
        even = ((0, -pixels.shape[0] % 2), (0, -pixels.shape[1] % 2), (0, 0))
        if any(after for _, after in even):  # what encodes halves the colours' size
            pixels = np.pad(pixels, even, mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(
            video.width, video.height, "yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED
        )
        self._tick = max(round(time / _TICK), self._tick + 1)
        frame.pts, frame.time_base = self._tick, _TICK
        self.container.mux(video.encode(frame))
        self.frames += 1
        while self._waiting:
            self.write_sound(self._waiting.popleft())

    def _begin(self, width: int, height: int) -> None:
        context = self._video.codec_context
        context.width, context.height = width + width % 2, height + height % 2
        context.pix_fmt = "yuv420p"
        context.time_base = _TICK
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED

    def write_sound(self, sound: Sound) -> None:
        """Write a packet of sound, as it is; one of another kind than announced is left out.

        Raises:
            OSError: the film cannot be written.
        """
        if not self.frames:
            self._waiting.append(sound)
            return
        packet = sound.packet
        stream, kind = self._sounds.get(sound.index, (None, ""))
        base = packet.time_base
        if stream is None or sound.kind != kind or not base:
            return
        shift = round(sound.shift / base)
        packet.dts = (packet.pts if packet.dts is None else packet.dts) + shift
        packet.pts = None if packet.pts is None else packet.pts + shift
        time = float(packet.dts * base)
        if time <= self._reached.get(stream.index, -float("inf")):
            return
        self._reached[stream.index] = time
        packet.stream = stream
        self.container.mux(packet)

    def close(self) -> None:
        """Write what is still in the encoder, and the end.

        Raises:
            OSError: the film cannot be written.
        """
        if self.frames:
            self.container.mux(self._video.encode(None))
        self.container.close()


@contextmanager
def film_written(path: Path, film: Film) -> Iterator[FilmWriter]:
    """A writer whose film takes the place of `path` when the block ends without error.

    Args:
        path: the file; its ending is one of `WRITTEN`.
        film: gives the rate and the sound.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        writer = FilmWriter(temporary, rate=film.rate, sounds=film.sounds)
        try:
            yield writer
            writer.close()
        except BaseException:
            with suppress(Exception):
                writer.container.close()
            raise
