"""``ssd34 detect`` of films and streams, as its user sees it."""

import json
import os
import signal
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from ssd34.cli import INTERRUPTED, PARTLY
from ssd34.errors import OptionError, VideoError
from ssd34.images.read import LargeImageError
from ssd34.runtime.detector import Detector
from ssd34.video.write import FilmWriter
from tests.support.cli import invoke, run_main, wait_for
from tests.support.films import (
    Server,
    film,
    looked,
    paced,
    sound_of,
    transport_stream,
    turn,
)
from tests.support.pictures import noise

SCORE = "0.37"


@pytest.fixture
def main(tiny_model, monkeypatch, capfd):
    def run(*arguments):
        command = ("detect", "--model", tiny_model, "--score", SCORE, *arguments)
        return run_main(monkeypatch, capfd, *command)

    return run


@pytest.fixture
def detect(tiny_model):
    return lambda *arguments, **options: invoke(
        "detect", "--model", tiny_model, "--score", SCORE, *arguments, **options
    )


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


def assert_no_leftovers(folder):
    assert list(folder.rglob("*.part")) == []


def test_a_line_for_each_frame(main, tmp_path, tiny_model):
    path = film(tmp_path / "a.mkv", frames=5, codec="ffv1", picture=noise(49, 65, seed=1))
    code, out, err = main(path, "--every", "2")
    lines = lines_of(out)
    assert code == 0 and err == ""
    code, out, _ = main(path, "--class", "disc")
    assert [{**line, "detections": [one for one in line["detections"] if one["name"] == "disc"]}
            for line in lines] == lines_of(out)[::2]  # fmt: skip
    assert [(line["frame"], line["time"]) for line in lines] == [(0, 0.0), (2, 0.08), (4, 0.16)]
    expected = Detector.load(tiny_model).detect(noise(49, 65, seed=1), score=float(SCORE))
    assert len(expected) > 3
    for line in lines:
        assert {key: line[key] for key in ("width", "height", "detections")} == expected.to_dict()


def test_lines_in_a_file_with_tracks(main, tmp_path):
    path = film(tmp_path / "a.mp4", frames=3, picture=noise(48, 64, seed=1))
    code, out, _ = main(path, "--track", "--output", tmp_path / "found.jsonl")
    lines = lines_of((tmp_path / "found.jsonl").read_text())
    assert code == 0 and out == "" and len(lines) == 3
    assert [one["track"] for one in lines[0]["detections"]] == list(
        range(1, len(lines[0]["detections"]) + 1)
    )
    assert_no_leftovers(tmp_path)


@pytest.mark.parametrize(
    ("ending", "sound", "times"),
    [(".mp4", "aac", [0, 0.04, 0.3, 0.31, 1.5, 1.54]),
     (".mkv", "pcm_s16le", [0, 0.04, 0.3, 0.31, 1.5, 1.54]),
     (".mp4", "aac", [70, 70.04])],
    ids=["mp4", "mkv", "sound first"],
)  # fmt: skip
def test_the_film_has_the_same_times_and_sound(main, tmp_path, ending, sound, times):
    path = film(tmp_path / f"a{ending}", times=times, sound=sound)
    code, out, err = main(path, "--save", tmp_path / "out")
    saved = tmp_path / "out" / f"a{ending}"
    assert code == 0 and out == "" and str(saved) in err
    size, frames = looked(saved)
    assert size == (64, 48)
    assert [time for time, _ in frames] == pytest.approx(times, abs=0.002)
    before, after = sound_of(path), sound_of(saved)
    assert [data for _, data in after] == [data for _, data in before]
    assert [t for t, _ in after] == pytest.approx([t for t, _ in before], abs=0.002)
    assert_no_leftovers(tmp_path)


def test_the_film_shows_the_boxes(main, tmp_path):
    picture = np.repeat(noise(48, 64, seed=1)[:, :, :1] // 4, 3, axis=2)
    path = film(tmp_path / "a.mkv", frames=4, codec="ffv1", picture=picture)
    code, out, _ = main(path, "--save", tmp_path / "b.mp4", "--format", "jsonl", "--track")
    assert code == 0 and len(lines_of(out)) == 4
    _, frames = looked(tmp_path / "b.mp4")
    assert np.abs(frames[-1][1].astype(int) - picture).mean() > 20  # boxes
    code, _, _ = main(path, "--save", tmp_path / "c.mp4", "--score", "1")
    _, frames = looked(tmp_path / "c.mp4")
    assert np.abs(frames[-1][1].astype(int) - picture).mean() < 12  # none


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 130, 200)])
def test_the_film_has_the_same_colours(main, tmp_path, colour):
    picture = np.full((48, 64, 3), colour, np.uint8)
    path = film(tmp_path / "a.mkv", frames=2, codec="ffv1", picture=picture)
    main(path, "--save", tmp_path / "b.mp4", "--score", "1")
    _, frames = looked(tmp_path / "b.mp4")
    assert frames[0][1].reshape(-1, 3).mean(0) == pytest.approx(colour, abs=4)


def test_odd_sizes_and_portraits_are_saved_upright(main, tmp_path):
    odd = film(tmp_path / "odd.mkv", frames=2, codec="ffv1", picture=noise(49, 65, seed=1))
    assert main(odd, "--save", tmp_path / "out.mp4")[0] == 0
    assert looked(tmp_path / "out.mp4")[0] == (66, 50)
    phone = turn(film(tmp_path / "phone.mp4", frames=2, aspect=Fraction(4, 3)), ((0, 1), (-1, 0)))
    code, out, _ = main(phone, "--save", tmp_path / "up.mp4", "--format", "jsonl")
    assert code == 0 and lines_of(out)[0]["width"] == 48
    assert looked(tmp_path / "up.mp4")[0] == (48, 64)
    with av.open(str(tmp_path / "up.mp4")) as saved:
        assert saved.streams.video[0].sample_aspect_ratio == Fraction(3, 4)  # turned, too


def test_sound_that_the_form_cannot_hold_is_named(main, tmp_path):
    path = film(tmp_path / "a.mov", sound="pcm_alaw")
    code, _, err = main(path, "--save", tmp_path / "b.mp4")
    assert code == 0 and "pcm_alaw" in err and "b.mp4" in err and ".mov" in err
    assert looked(tmp_path / "b.mp4")[1]
    code, _, err = main(path, "--save", tmp_path / "b.mov")
    assert code == 0 and "pcm_alaw" not in err and sound_of(tmp_path / "b.mov")


def test_a_truncated_film_is_done_as_far_as_it_goes(main, tmp_path):
    path = film(tmp_path / "a.mkv", frames=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, out, err = main(path, "--save", tmp_path / "b.mkv", "--format", "jsonl")
    assert code == PARTLY and "a.mkv" in err
    assert len(looked(tmp_path / "b.mkv")[1]) == len(lines_of(out)) > 10


def test_an_interrupted_film_leaves_what_was_there(detect, tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4")
    saved, lines = tmp_path / "b.mp4", tmp_path / "b.jsonl"
    for old in (saved, lines):
        old.write_text("old")
    calls = []

    def interrupted(self, *_, **__):
        calls.append(self)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGTERM)
        return found(self, *_, **__)

    found = Detector.find
    monkeypatch.setattr(Detector, "find", interrupted)
    detect(path, "--save", saved, "--output", lines, code=INTERRUPTED)
    assert len(calls) == 5
    assert saved.read_text() == lines.read_text() == "old"
    assert_no_leftovers(tmp_path)


def test_what_cannot_be_written_is_named(detect, tmp_path, monkeypatch):
    def fail(*_):
        raise av.error.ArgumentError(22, "Invalid argument", "?")

    monkeypatch.setattr(FilmWriter, "close", fail)
    with pytest.raises(VideoError, match=r"b\.mp4"):
        detect(film(tmp_path / "a.mp4", frames=2), "--save", tmp_path / "b.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_stream_that_is_ended_by_hand_leaves_a_whole_film(tmp_path, tiny_model):
    server = Server([paced(transport_stream(frames=500, sound="mp2"), 20.0, steps=400)])
    saved, lines = tmp_path / "door.mkv", tmp_path / "door.jsonl"
    command = ("detect", server.address, "--model", tiny_model, "--save", saved, "--output", lines)
    process = subprocess.Popen(
        [sys.executable, "-m", "ssd34", *map(str, command)], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"no_proxy": "*"},
    )  # fmt: skip
    try:
        wait_for(lambda: any(p.stat().st_size for p in tmp_path.glob(".*.part/*.jsonl")))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        server.close()
    assert process.returncode == 0, err
    frames = lines_of(lines.read_text())
    assert 0 < len(frames) == len(looked(saved)[1]) < 500
    assert server.address in err
    assert_no_leftovers(tmp_path)


def test_a_stream_that_does_not_come_back_is_kept(main, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server([paced(transport_stream(frames=30), 0.5), []])
    code, _, err = main(f"{server.address}/door.ts", "--reconnect", "1", "--save", tmp_path)
    server.close()
    assert code == PARTLY and "1 of 1" in err and server.address in err
    [saved] = tmp_path.glob("*.mkv")
    assert looked(saved)[1]


@pytest.mark.parametrize(
    ("arguments", "kind", "fact"),
    [(("a.mp4", "--format", "csv"), OptionError, "csv"),
     (("a.mp4", "--save", "out.webm"), OptionError, r"out\.webm"),
     (("a.mp4", "--save", "out.jpg"), OptionError, r"out\.jpg"),
     (("a.mp4", "--save", "."), OptionError, r"a\.mp4"),
     (("a.mp4", "--output", "b.jpg"), OptionError, r"b\.jpg.*--save"),
     (("a.mp4", "--output", "b.mkv"), OptionError, r"b\.mkv.*--save"),
     (("a.mp4", "--save", "a.mp4"), OptionError, r"a\.mp4"),
     (("a.mp4", "a.jpg"), OptionError, r"a\.mp4"), (("none.mp4",), VideoError, r"none\.mp4"),
     (("rtsp://door/1", "rtsp://door/2"), OptionError, "door/1"),
     (("a.mp4", "--max-pixels", 64 * 48 - 1), LargeImageError, "64 x 48.*--max-pixels"),
     (("a.jpg", "--every", "2"), OptionError, "--every"), (("a.jpg", "--track"), OptionError, "-t"),
     (("a.jpg", "--format", "jsonl"), OptionError, "jsonl"),
     (("a.jpg", "--reconnect", "0"), OptionError, "--reconnect"),
     (("a.jpg", "--save", "a.mp4"), OptionError, r"a\.mp4")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(detect, tmp_path, monkeypatch, arguments, kind, fact):
    monkeypatch.chdir(tmp_path)
    path = film(tmp_path / "a.mp4", frames=2)
    before = path.read_bytes()
    with pytest.raises(kind, match=fact):
        detect(*arguments)
    assert path.read_bytes() == before
