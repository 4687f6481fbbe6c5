"""Films to frames: times, turns, sizes, and what is broken."""

import gc
import wave

import av
import numpy as np
import pytest

from ssd34.errors import VideoError
from ssd34.video.feed import FRAMES_AHEAD, Feed
from ssd34.video.film import Clock, Film, Frame
from ssd34.video.source import find_video
from tests.support.cli import wait_for
from tests.support.films import RATE, film, number_of, source_of, transport_stream, turn


def opened(path, **options):
    return Film(source_of(path), **options)


def frames_of(path):
    return [item for item in opened(path).read() if isinstance(item, Frame)]


def test_frames_come_in_order_with_their_times(tmp_path):
    frames = frames_of(film(tmp_path / "a.mp4"))
    assert [frame.number for frame in frames] == list(range(20))
    assert [frame.time for frame in frames] == pytest.approx([k / RATE for k in range(20)])
    assert [round(number_of(frame.pixels())) for frame in frames] == list(range(20))


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_a_variable_frame_rate_keeps_each_frames_time(tmp_path, ending):
    times = [0, 0.04, 0.3, 0.31, 2.0, 2.04, 7.5]
    frames = frames_of(film(tmp_path / f"a{ending}", times=times))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=0.002)


def test_a_stream_without_timestamps_counts_frames(tmp_path):
    path = film(tmp_path / "a.mp4")
    raw = tmp_path / "a.h264"
    with av.open(str(path)) as source, av.open(str(raw), "w", format="h264") as out:
        copy = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    times = [frame.time for frame in frames_of(raw)]
    assert times == pytest.approx([k / RATE for k in range(20)])


def test_timestamps_that_begin_again_go_on(tmp_path):
    path = tmp_path / "twice.ts"
    once = transport_stream(frames=60)
    path.write_bytes(once + once)
    times = [frame.time for frame in frames_of(path)]
    assert len(times) == 120
    assert np.diff(times) == pytest.approx([1 / RATE] * 119, abs=0.002)


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [([5, 5.1, 5.2], [0, 0.1, 0.2]), ([None, None], [0, 0.1]), ([5, None, 5.3], [0, 0.1, 0.3]),
     ([5, 5, 5.05], [0, 0.001, 0.05]), ([5, 9, 1, 1.1], [0, 4, 4.1, 4.2])],
)  # fmt: skip
def test_times_only_grow(stamps, expected):
    clock = Clock(0.1, start=None)
    assert [clock.tick(stamp) for stamp in stamps] == pytest.approx(expected)


def test_the_times_of_a_fast_camera():
    """Frames of half a millisecond."""
    clock = Clock(0.0005, start=None)
    assert [clock.tick(k / 2000) for k in range(9)] == pytest.approx([k / 2000 for k in range(9)])


TURNS = {
    "portrait of a phone": (((0, 1), (-1, 0)), lambda p: np.rot90(p, -1)),
    "portrait, the other way": (((0, -1), (1, 0)), lambda p: np.rot90(p)),
    "upside down": (((-1, 0), (0, -1)), lambda p: np.rot90(p, 2)),
    "mirrored": (((-1, 0), (0, 1)), np.fliplr),
    "mirrored portrait": (((0, 1), (1, 0)), lambda p: np.swapaxes(p, 0, 1)),
    "as it is": (((1, 0), (0, 1)), lambda p: p),
}


@pytest.mark.parametrize("name", TURNS)
def test_films_are_shown_upright(tmp_path, name):
    matrix, by_hand = TURNS[name]
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = 255, 0, 0
    picture[:24, 32:] = 0, 255, 0
    picture[24:, :32] = 0, 0, 255
    path = turn(film(tmp_path / "a.mp4", frames=2, picture=picture), matrix)
    pixels = frames_of(path)[0].pixels()
    expected = by_hand(picture)
    assert pixels.shape == expected.shape
    assert np.abs(pixels[8::12, 8::12].astype(int) - expected[8::12, 8::12]).max() < 12


def test_odd_sizes_keep_every_pixel(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (49, 65, 3)).astype(np.uint8)
    frame = frames_of(film(tmp_path / "a.mkv", frames=2, codec="ffv1", picture=picture))[1]
    assert np.array_equal(frame.pixels(), picture)


def sound_only(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16_000))


@pytest.mark.parametrize(
    ("write", "fact"),
    [(sound_only, "audio"), (lambda p: p.write_text("no film"), "film.mp4"),
     (lambda p: p.write_text("ffconcat version 1.0\nfile http://127.0.0.1:9/a.ts\n"), "film.mp4")],
)  # fmt: skip
def test_what_is_no_film_is_refused(tmp_path, write, fact):
    path = tmp_path / "film.mp4"
    write(path)
    with pytest.raises(VideoError, match=fact):
        opened(path)


def test_a_film_without_its_end_gives_what_is_there(tmp_path):
    whole = film(tmp_path / "whole.mkv", frames=100)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    broken = opened(cut)
    frames = [item for item in broken.read() if isinstance(item, Frame)]
    assert 20 < len(frames) < 80
    assert "4.0" in broken.cut
    entire = opened(whole)
    assert len(list(entire.read())) == 100 and not entire.cut


def test_what_is_no_film_any_more_ends_it(tmp_path):
    raw = tmp_path / "a.y4m"
    frames = (b"FRAME\n" + bytes(64 * 48 * 3 // 2)) * 5
    raw.write_bytes(b"YUV4MPEG2 W64 H48 F25:1 C420jpeg\n" + frames + b"something else\n" * 9)
    broken = opened(raw)
    assert len(list(broken.read())) == 5
    assert "0.2" in broken.cut


def test_a_film_whose_table_was_at_the_end_cannot_be_read(tmp_path):
    path = film(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(VideoError, match=r"a\.mp4"):
        opened(path)


@pytest.mark.parametrize(("codec", "kept"), [("ffv1", 90), ("libx264", 100)])
def test_damaged_frames_are_counted(tmp_path, codec, kept):
    """One decoder leaves them out, the other one shows what it can."""
    path = film(tmp_path / "a.mkv", frames=100, codec=codec, gop=5)
    with av.open(str(path)) as file:
        places = [(p.pos or 0, p.size) for p in file.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for place, size in places[40:50]:
        data[place + 12 : place + min(76, size)] = bytes(min(64, size - 12))
    path.write_bytes(data)
    damaged = opened(path)
    frames = list(damaged.read())
    assert damaged.broken == 10 and len(frames) == kept
    assert frames[-1].time == pytest.approx(99 / RATE, abs=0.002)


def test_few_frames_of_a_long_film_wait(tmp_path):
    path = film(tmp_path / "a.mp4", frames=300)
    with Feed(source_of(path)) as feed:
        coming = iter(feed)
        next(coming)
        wait_for(lambda: feed._is_full())
        ahead = feed.film._number
        assert ahead <= FRAMES_AHEAD + 3
        assert len(list(coming)) == 299


def test_frames_leave_at_once(tmp_path):
    """Not with the next garbage collection: a large one has 50 MB."""
    film_of_many = opened(film(tmp_path / "a.mp4", frames=100))
    gc.collect()
    gc.disable()
    try:
        for frame in film_of_many.read():
            assert isinstance(frame, Frame) and frame.pixels().any()
        assert sum(type(one) is av.VideoFrame for one in gc.get_objects()) < 5
    finally:
        gc.enable()


def test_what_a_source_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_video(["a.jpg", "photos", "-", "https://example.org/a.jpg"]) is None
    for named in ("0", "/dev/video0"):
        camera = source_of(named)
        assert camera.form in ("v4l2", "avfoundation") and not camera.path
    (tmp_path / "0").mkdir()
    (tmp_path / "shots.mp4").mkdir()
    assert find_video(["0"]) is None and find_video(["shots.mp4"]) is None
    door = find_video(["rtsp://me:secret@door:554/main?x=1"])
    assert door is not None and "secret" in door.address
    assert "secret" not in door.name and door.stem == "rtsp-door-554-main"
    (tmp_path / "http:").mkdir()
    odd = film(tmp_path / "http:" / "a.mp4", frames=2)
    assert len(frames_of(odd.relative_to(tmp_path))) == 2
