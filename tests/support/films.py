"""Films made by PyAV, and a server on this machine that streams them."""

from __future__ import annotations

import io
import socket
import struct
import threading
from fractions import Fraction
from typing import Any

import av
import numpy as np

from ssd34.video.source import find_video

TICK = Fraction(1, 1000)
RATE = 25
SAMPLES = 16_000


def source_of(name):
    found = find_video([str(name)])
    assert found is not None
    return found


def grey(level, width=64, height=48):
    return np.full((height, width, 3), level, np.uint8)


def level_of(number):
    """A grey that says which frame it is: every fourth level, from 16 on."""
    return 16 + 4 * (number % 50)


def number_of(pixels):
    return (float(np.mean(pixels)) - 16) / 4


def film(
    target, *, times=None, frames=20, sound=None, codec="libx264", picture=None, form=None, gop=12,
    aspect=1,
):  # fmt: skip
    """Write a film. Times in seconds, one for each frame; sound is the name of its encoder; aspect
    that of a pixel."""
    times = [k / RATE for k in range(frames)] if times is None else times
    pictures = [grey(level_of(k)) if picture is None else picture for k in range(len(times))]
    with av.open(target, "w", format=form) as out:
        options = {"preset": "ultrafast", "crf": "1", "bf": "0"} if codec == "libx264" else {}
        video = out.add_stream(codec, rate=RATE, options=options)
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = {"ffv1": "bgr0", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        video.codec_context.time_base = TICK
        video.codec_context.gop_size = gop
        video.codec_context.sample_aspect_ratio = Fraction(aspect)
        audio: Any = out.add_stream(sound, rate=SAMPLES, layout="mono") if sound else None
        tone = _tone(times[-1], audio) if audio else iter(())
        for pixels, seconds in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(seconds / TICK), TICK
            out.mux(video.encode(frame))
            for chunk in tone:
                out.mux(audio.encode(chunk))
                if chunk.pts > seconds * SAMPLES:
                    break
        out.mux(video.encode(None))
        if audio:
            out.mux(audio.encode(None))
    return target


def _tone(seconds, audio):
    form = audio.codec_context.format.name
    wave = np.sin(np.arange(int((seconds + 0.04) * SAMPLES)) / 20)[None]
    wave = (wave * 20_000).astype(np.int16) if form.startswith("s16") else wave.astype(np.float32)
    for start in range(0, wave.shape[1], 1024):
        chunk = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(wave[:, start : start + 1024]), format=form, layout="mono"
        )
        chunk.sample_rate, chunk.pts = SAMPLES, start
        yield chunk


def transport_stream(**options):
    """The bytes of an MPEG transport stream; every second frame can be begun with."""
    target = io.BytesIO()
    film(target, form="mpegts", gop=2, **options)
    return target.getvalue()


def turn(path, matrix):
    """Write a display matrix into the picture track's header. Source: ISO/IEC 14496-12, 8.3.2."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes
    across, down = [struct.pack(">3i", *(v * 65536 for v in row), 0) for row in matrix]
    data[place : place + 24] = across + down
    path.write_bytes(data)
    return path


def looked(path):
    """Size, and for each frame its time in seconds and its pixels, as PyAV reads it."""
    with av.open(str(path)) as opened:
        found = [(f.time, f.to_ndarray(format="rgb24")) for f in opened.decode(video=0)]
        context = opened.streams.video[0].codec_context
        return (context.width, context.height), found


def sound_of(path):
    """Time in seconds and bytes of each packet of sound."""
    with av.open(str(path)) as opened:
        packets = [p for p in opened.demux(opened.streams.audio[0]) if p.size]
        return [(float((p.pts or 0) * p.time_base), bytes(p)) for p in packets]


class Server:
    """Serves each connection what its turn in the script says, over HTTP or plain TCP.

    A turn is a list of bytes to send and seconds to wait; the last turn is repeated. Connections
    that have sent all are closed. Who only asks what is there takes no turn.
    """

    def __init__(self, script, *, scheme="http", kind="video/mp2t"):
        self.script, self.scheme, self.kind, self.served = script, scheme, kind, 0
        self.closed = threading.Event()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"{scheme}://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        threads = []
        while not self.closed.is_set():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                break
            threads.append(threading.Thread(target=self._serve, args=(connection,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _serve(self, connection):
        try:
            with connection:
                chunked = self.scheme == "http"
                if chunked:
                    request = b""
                    while b"\r\n\r\n" not in request:
                        request += connection.recv(65536)
                    head = f"HTTP/1.1 200 OK\r\nContent-Type: {self.kind}\r\n"
                    connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
                    if request.startswith(b"HEAD"):
                        return
                turn = self.script[min(self.served, len(self.script) - 1)]
                self.served += 1
                for step in turn:
                    if isinstance(step, bytes):
                        chunk = b"%x\r\n%b\r\n" % (len(step), step)
                        connection.sendall(chunk if chunked else step)
                    elif self.closed.wait(step):
                        return
                if chunked:
                    connection.sendall(b"0\r\n\r\n")
        except OSError:
            pass

    def close(self):
        self.closed.set()
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(5)


def paced(data, seconds, *, steps=40):
    """A turn that sends the bytes over so many seconds."""
    size = -(-len(data) // steps)
    turn = []
    for start in range(0, len(data), size):
        turn += [data[start : start + size], seconds / steps]
    return turn
