"""A job on this machine: its content, and that it continues however it was ended."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from ssd34.cluster.job import BatchOptions, plan_job
from ssd34.cluster.part import PartWorker
from ssd34.cluster.run import Runner, run_batch
from ssd34.cluster.sources import open_source
from ssd34.errors import ModelError, OptionError
from ssd34.files.lock import folder_locked
from ssd34.runtime.detector import Detector
from tests.support.batches import (
    die,
    files_of,
    finished_parts,
    many_pictures,
    rows_of,
    start_job,
    wait_for_parts,
)
from tests.support.cli import invoke, read_document
from tests.support.pictures import png_header_only
from tests.support.refusals import refused

pytest.importorskip("pyarrow")
COUNT, SIZE, PARTS = 120, 4, 30
"""Pictures, those of a part, and parts."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return many_pictures(tmp_path_factory.mktemp("many") / "set", COUNT, smaller=2)


@pytest.fixture(scope="module")
def command(pictures, tiny_model):
    return [pictures, "--model", tiny_model, "--score", 0.1, "--part-size", SIZE]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The job in one go by one worker."""
    output = tmp_path_factory.mktemp("whole") / "out"
    invoke("batch", *command, "--output", output, "--workers", 1, code=1)
    return output


def test_rows_are_what_the_detector_finds(whole, pictures, tiny_model):
    rows = rows_of(whole)
    assert [row["id"] for row in rows] == list(range(COUNT))  # the numbers that name them
    broken = rows.pop(COUNT // 2)
    assert broken["path"] == "0060.jpg" and broken["error"] and broken["boxes"] is None
    detector = Detector.load(tiny_model)
    found = [detector.detect(pictures / f"{k:04}.jpg", score=0.1) for k in range(3)]
    assert sum(map(len, found)) > 3
    for row in rows:
        expected = found[row["id"] % 3]
        assert row["error"] is None
        assert (row["width"], row["height"]) == (expected.width, expected.height)
        np.testing.assert_array_equal(np.reshape(row["boxes"], (-1, 4)), expected.boxes)
        np.testing.assert_array_equal(row["scores"], expected.scores)
        np.testing.assert_array_equal(row["labels"], expected.labels)
        assert tuple(row["names"]) == expected.names


def test_the_manifest_says_what_is_there(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    rows = rows_of(whole)
    assert (manifest["pictures"], manifest["errors"]) == (COUNT, 1)
    assert manifest["detections"] == sum(len(row["scores"] or ()) for row in rows)
    assert manifest["labels"]["names"] == ["square", "disc", "cross"]
    assert [part["file"] for part in manifest["parts"]] == [
        f"parts/{path.name}" for path in finished_parts(whole)
    ]
    assert [part["pictures"] for part in manifest["parts"]] == [SIZE] * PARTS


def test_two_workers_write_the_same_files(command, whole, tmp_path):
    arguments = ("--output", tmp_path / "out", "--workers", 2, "--json")
    told = read_document("batch", invoke("batch", *command, *arguments, code=1))
    assert (told["pictures"], told["errors"], told["folder"]) == (COUNT, 1, str(tmp_path / "out"))
    assert files_of(tmp_path / "out") == files_of(whole)


def test_an_ended_job_continues(command, whole, tmp_path):
    """Three times, each time ended another way."""
    output = tmp_path / "out"
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)):
        done = len(finished_parts(output))
        process = start_job(*command, "--output", output, "--workers", 2)
        wait_for_parts(process, output, done + 2)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        _, err = process.communicate(timeout=60)  # ends when the workers have closed it, too
        assert process.returncode == code, err
        assert "Traceback" not in err
        assert done == 0 or f"{SIZE * done} pictures were finished before" in err
        assert not (output / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in finished_parts(output)}
    hidden = output / "parts" / f".part-{PARTS - 1:06}.parquet.x.part"
    hidden.mkdir()  # as a killed process leaves it
    next(iter(before)).write_bytes(b"half of it")
    result = invoke("batch", *command, "--output", output, code=1)
    assert f"{SIZE * (len(before) - 1)} pictures were finished before" in result.stderr
    after = {path: path.stat().st_mtime_ns for path in before}
    assert [path for path in before if before[path] != after[path]] == [next(iter(before))]
    assert files_of(output) == files_of(whole)


def workers_of(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_a_killed_worker_is_replaced(command, whole, tmp_path):
    output = tmp_path / "out"
    process = start_job(*command, "--output", output, "--workers", 2)
    wait_for_parts(process, output, 2)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1, err
    assert files_of(output) == files_of(whole)


def test_a_part_that_kills_its_process_twice_ends_the_job(
    pictures, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("ssd34.cluster.local._work", die)
    options = BatchOptions(model=str(tiny_model), part_size=100)
    with pytest.raises(ModelError, match=r"code 7.*'0000\.jpg'.*'0099\.jpg'"):
        run_batch(pictures, tmp_path / "out", options, runner=Runner(workers=1))


def test_what_a_worker_refuses_is_raised(pictures, tiny_raw_model, tmp_path):
    """Not in every picture's row: the model is at fault."""
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(tiny_raw_model.read_bytes())
    job = plan_job(open_source(str(pictures)), BatchOptions(model=str(copy)))
    copy.write_bytes(copy.read_bytes() + b"\n\x00")
    with pytest.raises(ModelError, match=r"copy\.onnx"):
        list(Runner(workers=1).run(job, [0], None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "fact"),
    [(("--score", 0.2), "score"), (("--part-size", 20), "part_size"), (("NEW",), "pictures")],
)
def test_another_job_is_refused(more, fact, command, whole, tmp_path):
    before = files_of(whole)
    source, *rest = command
    if more == ("NEW",):
        source, more = tmp_path / "one", ()
        os.mkdir(source)
        (source / "0000.jpg").write_bytes(b"x")
    with pytest.raises(OptionError, match=fact):
        invoke("batch", source, *rest, *more, "--output", whole)
    assert files_of(whole) == before


@pytest.mark.parametrize("name", ["mine.txt", "job.json"])
def test_a_folder_of_something_else_is_left_alone(name, command, tmp_path):
    (tmp_path / name).write_text("mine")
    with refused(OptionError, name if name == "mine.txt" else "format"):
        invoke("batch", *command, "--output", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_one_job_at_a_time(command, tmp_path):
    with folder_locked(tmp_path / "out"), pytest.raises(OptionError, match=str(os.getpid())):
        invoke("batch", *command, "--output", tmp_path / "out")


def test_what_cannot_be_read_becomes_a_row(tiny_model, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "bomb.png").write_bytes(png_header_only(50_000, 50_000))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    output = tmp_path / "out"
    invoke("batch", folder, "--model", tiny_model, "--output", output, code=1)
    rows = rows_of(output)
    assert [row["path"] for row in rows] == ["bomb.png", "empty.jpg", "\\udcff.jpg"]
    assert all(row["error"] and row["scores"] is None for row in rows)
    assert "50000" in rows[0]["error"] and "--max-pixels" in rows[0]["error"]


def test_only_some_classes_by_another_policy(pictures, tiny_raw_model):
    source = open_source(f"{pictures}/000*.jpg")
    options = BatchOptions(
        model=str(tiny_raw_model), policy="best", classes=("disc",), score=0.05, max_pixels=50_000
    )
    worker = PartWorker(plan_job(source, options).task, threads=1)
    told = []
    data = worker.detect(0, source.some(0, 3), lambda *moved: told.append(moved))
    Path(output := pictures.parent / "one").mkdir()
    (output / "parts").mkdir()
    (output / "parts" / "0.parquet").write_bytes(data)
    rows = rows_of(output)
    assert [bool(row["error"]) for row in rows] == [True, False, True]  # two are larger
    assert told == [(1, 1), (2, 1), (3, 2)]
    detector = Detector.load(tiny_raw_model, policy="best")
    found = detector.detect(pictures / "0001.jpg", score=0.05)
    assert 0 < sum(found.labels == 2) == len(rows[1]["labels"]) < len(found)


def test_refused_options(pictures):
    for wrong in ({"score": 2}, {"engine": "auto"}, {"part_size": 0}):
        with pytest.raises(OptionError):
            BatchOptions(**wrong)
    for wrong in ({"name": "x"}, {"address": "auto"}, {"workers": 0}):
        with pytest.raises(OptionError):
            Runner(**wrong)
    with pytest.raises(OptionError, match="unicorn"):
        plan_job(open_source(str(pictures)), BatchOptions(classes=("unicorn",)))
