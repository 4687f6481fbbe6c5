"""A film of annotated frames, with the sound as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssd34.errors import OptionError, VideoError
from ssd34.files.atomic import written_whole
from ssd34.images.read import SUFFIXES
from ssd34.video.film import Film, Sound, load_av
from ssd34.video.source import FILMS

WRITTEN = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Endings of films that are written, and FFmpeg's name of the form."""

ENCODERS = {"libx264": {"preset": "veryfast", "crf": "23", "bf": "0"}, "mpeg4": {"qscale": "4"}}
"""What may encode, best first; an FFmpeg without GPL code lacks the first. Without frames that
point forwards (bf), the first frame's time is that of the film's beginning."""

_OFTEN = {"cluster_time_limit": "1000", "flush_packets": "1"}
"""Matroska that is on the disk after a second, and can be played when the process was killed."""

_TICK = Fraction(1, 90_000)
_BT709 = 1
_LIMITED = 1


def choose_target(save: Path, film: Film) -> Path:
    """The file that ``--save`` means: itself, or one in it, named after the source.

    A film that is not in one of the forms of `WRITTEN`, and every stream, becomes Matroska.

    Raises:
        OptionError: a film of this ending is not written.
    """
    ending = save.suffix.lower()
    if ending in FILMS | SUFFIXES and not save.is_dir():
        if ending in WRITTEN:
            return save
        raise OptionError(f"--save {save}: expected a film in {', '.join(WRITTEN)}, or a folder")
    own = film.source.path.suffix if film.source.path else ""
    return save / f"{film.source.stem}{own if own.lower() in WRITTEN else '.mkv'}"


class FilmWriter:
    """Writes frames and sound; OSError where that fails. The first frame gives the size. `silent`:
    kinds of sound that the form cannot hold, or that the source does not describe."""

    def __init__(self, path: Path, film: Film) -> None:
        """Open a file with one of the endings of `WRITTEN`, for the rate and the sound of a film
        that is still open."""
        self._av = load_av()
        form = WRITTEN[path.suffix.lower()]
        options = _OFTEN if form == "matroska" else {}
        self.container = self._av.open(str(path), "w", format=form, container_options=options)
        encoder = next(name for name in ENCODERS if name in self._av.codecs_available)
        self._video = self.container.add_stream(encoder, rate=film.rate, options=ENCODERS[encoder])
        self._sounds: dict[int, tuple[Any, str]] = {}
        self.silent: list[str] = []
        for one in film.sounds:
            context = one.codec_context
            held = context.codec.canonical_name in self.container.supported_codecs
            if held and context.sample_rate:
                self._sounds[one.index] = self.container.add_stream_from_template(one), context.name
            else:
                self.silent.append(context.name)
        self._waiting: list[Sound] = []
        self._reached: dict[int, float] = {}
        self._tick = -1

    def write(
        self, picture: NDArray[np.uint8] | Image.Image, time: float, *, aspect: Fraction
    ) -> None:
        """Write a frame: (H, W, 3) uint8 RGB or a Pillow image of mode RGB, scaled to the size of
        the first one, at a time in seconds, later than the frame before. `aspect` is the width to
        height of a pixel, of which that of the first frame counts."""
        pixels = np.asarray(picture)
        height, width = pixels.shape[:2]
        if height % 2 or width % 2:  # what encodes halves the size of the colours
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        context = self._video.codec_context
        if self._tick < 0:
            context.height, context.width = pixels.shape[:2]
            context.pix_fmt, context.time_base = "yuv420p", _TICK
            context.sample_aspect_ratio = aspect
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(
            context.width, context.height, "yuv420p", dst_colorspace=_BT709,
            dst_color_range=_LIMITED,
        )  # fmt: skip
        self._tick = max(round(time / _TICK), self._tick + 1)
        frame.pts, frame.time_base = self._tick, _TICK
        self.container.mux(self._video.encode(frame))
        for sound in self._waiting:
            self.write_sound(sound)
        self._waiting.clear()

    def write_sound(self, sound: Sound) -> None:
        """Write a packet of sound, as it is; one of another kind than announced is left out."""
        if self._tick < 0:
            self._waiting.append(sound)
            return
        packet, base = sound.packet, sound.packet.time_base
        stream, kind = self._sounds.get(sound.index, (None, ""))
        if stream is None or sound.kind != kind or packet.dts is None or not base:
            return
        shift = round(sound.shift / base)
        packet.dts += shift
        packet.pts = None if packet.pts is None else packet.pts + shift
        time = float(packet.dts * base)
        if time > self._reached.get(stream.index, -float("inf")):
            self._reached[stream.index] = time
            packet.stream = stream
            self.container.mux(packet)

    def close(self) -> None:
        """Write what is still in the encoder, and the end."""
        if self._tick >= 0:
            self.container.mux(self._video.encode(None))
        self.container.close()


@contextmanager
def film_written(path: Path, film: Film) -> Iterator[FilmWriter]:
    """A `FilmWriter` whose film takes the place of `path` when the block ends without error.
    OSError: the file cannot be written. VideoError: FFmpeg does not take what it is to hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with written_whole(path) as temporary:
            writer = FilmWriter(temporary, film)
            try:
                yield writer
                writer.close()
            except BaseException:
                with suppress(Exception):
                    writer.container.close()
                raise
    except load_av().FFmpegError as error:  # those of the disk are OSErrors by now
        reason = str(error.strerror).lower()
        raise VideoError(
            f"{path}: the film cannot be written ({reason}); try another ending"
        ) from error
