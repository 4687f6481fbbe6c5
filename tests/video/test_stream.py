"""Live streams: pace, breaks, back-off, silence, the end."""

import io
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssd34.errors import VideoError
from ssd34.video.feed import Feed, Patience
from ssd34.video.film import Frame, Sound
from tests.support.cli import wait_for
from tests.support.films import (
    Server,
    grey,
    number_of,
    paced,
    source_of,
    transport_stream,
)
from tests.support.mirror import whole

QUICK = Patience(tries=3, wait=0.02, longest=0.05, timeout=2)


@pytest.fixture
def serve(monkeypatch):
    """Start a server; returns the source that it is."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(*script, **options):
        servers.append(Server(script, **options))
        return source_of(servers[-1].address)

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("scheme", ["http", "tcp"])
def test_a_stream_is_looked_at_frame_by_frame(serve, scheme):
    source = serve(paced(transport_stream(frames=50, sound="mp2"), 1.0), [], scheme=scheme)
    with Feed(source, patience=Patience(tries=0, timeout=2)) as feed:
        assert feed.live
        items = list(feed)
    frames = [item for item in items if isinstance(item, Frame)]
    assert len(frames) + feed.skipped == 50 and len(frames) > 3
    assert any(isinstance(item, Sound) for item in items)
    for frame in frames:
        assert round(number_of(frame.pixels())) == frame.number
        assert frame.time == pytest.approx(frame.number / 25, abs=0.002)
    assert not feed.lost


def test_a_film_behind_an_address_is_done_frame_by_frame(mirror, monkeypatch):
    """One whose form does not say how long it is, but whose server says how large."""
    monkeypatch.setenv("no_proxy", "*")
    data = transport_stream(frames=50)
    url = mirror.serve(whole(data, content_type="video/mp2t"), name="a.ts")
    with Feed(source_of(url)) as feed:
        assert not feed.live
        assert len(list(feed)) == 50
    url = mirror.serve(
        whole(jpeg_part() * 9, content_type="multipart/x-mixed-replace; boundary=box"), name="a"
    )
    assert Feed(source_of(url)).live  # a camera's, whatever its server says
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n"  # without an end
    url = mirror.serve(whole(playlist.encode()), name="a.m3u8")
    assert Feed(source_of(url)).live


def test_every_other_frame(serve):
    source = serve([transport_stream(frames=50)], [])
    with Feed(source, every=5, patience=Patience(tries=0, timeout=2)) as feed:
        frames: list[Any] = list(feed)
    assert frames and all(frame.number % 5 == 0 for frame in frames)


def jpeg_part():
    """One picture of those that web cameras send, one after the other."""
    data = io.BytesIO()
    Image.fromarray(grey(128)).save(data, "jpeg")
    head = f"--box\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data.getvalue())}\r\n\r\n"
    return head.encode() + data.getvalue() + b"\r\n"


def test_a_stream_without_timestamps_has_those_of_its_arrival(serve):
    """Here five a second."""
    turn = [jpeg_part(), 0.2] * 9
    source = serve(turn, [], kind="multipart/x-mixed-replace; boundary=box")
    with Feed(source, patience=Patience(tries=0, timeout=2)) as feed:
        frames: list[Any] = list(feed)
    assert frames[0].time == pytest.approx(0, abs=0.01)
    passed = [(b.time - a.time) / (b.number - a.number) for a, b in pairwise(frames[1:])]
    assert len(passed) > 3 and np.median(passed) == pytest.approx(0.2, abs=0.1)


def test_who_is_slow_gets_the_newest_frame(serve):
    source = serve(paced(transport_stream(frames=50), 1.0, steps=50), [])
    with Feed(source, patience=Patience(tries=0, timeout=2)) as feed:
        numbers = []
        frame: Any
        for frame in feed:
            numbers.append(frame.number)
            waiting = len(feed._items)
            assert waiting <= 1
            time.sleep(0.25)
    assert numbers[-1] == 49 and len(numbers) < 15
    assert len(numbers) + feed.skipped == 50


def test_a_broken_stream_is_connected_again(serve):
    data = transport_stream(frames=50)
    source = serve(paced(data[: len(data) // 2], 0.2), [], paced(data, 0.2), [])
    said: list[str] = []
    with Feed(source, patience=QUICK, say=said.append) as feed:
        frames: list[Any] = list(feed)
    numbers = [frame.number for frame in frames]
    times = [frame.time for frame in frames]
    assert numbers[-1] > 60 and len(numbers) + feed.skipped == numbers[-1] + 1
    assert min(np.diff(numbers)) > 0 and min(np.diff(times)) > 0
    # The second connection brings nothing; after the third, which does, the count begins again.
    tries = [line.rpartition("try ")[2] for line in said]
    assert tries == ["1 of 3", "2 of 3", "1 of 3", "2 of 3", "3 of 3"]
    assert [line.partition(" again in ")[2].split()[0] for line in said][-3:] == [
        "0.02", "0.04", "0.05",
    ]  # fmt: skip
    assert feed.lost
    assert len(feed.source.name) < len(said[0]) and feed.source.name in said[0]


def test_a_silent_stream_counts_as_broken(serve):
    source = serve([transport_stream(frames=50), 60.0], [])
    patience = Patience(tries=1, wait=0.01, timeout=1)
    began = time.monotonic()
    with Feed(source, patience=patience) as feed:
        assert len(list(feed)) > 0
    assert feed.lost
    assert time.monotonic() - began < 30


def test_a_stream_can_be_stopped_at_any_time(serve):
    source = serve([transport_stream(frames=50), 60.0])
    with Feed(source, patience=Patience(timeout=30)) as feed:
        coming = iter(feed)
        next(coming)
        feed.stop()
        assert list(coming) == []
    with Feed(source, patience=Patience(wait=60.0, timeout=1)) as feed:
        list(zip(range(1), feed, strict=False))
        wait_for(lambda: feed._tries)
    assert not feed._thread.is_alive()


def test_an_address_where_nothing_is(serve):
    source = serve([])
    with pytest.raises(VideoError, match="127"):
        Feed(source, patience=QUICK)
    with pytest.raises(VideoError, match="refused"):
        Feed(source_of("tcp://me:secret@127.0.0.1:1"), patience=QUICK)
