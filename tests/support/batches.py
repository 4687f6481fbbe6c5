"""Sets of pictures for jobs, and jobs in processes of their own that tests end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"  # workers import this file: nothing heavy


def many_pictures(folder, count, *, smaller=1):
    """So many links to the three examples, whose sides may be divided by a number, and one broken
    picture in the middle."""
    folder.mkdir()
    kept = []
    for original in sorted(EXAMPLES.glob("*.jpg")):
        kept.append(folder.parent / original.name)
        with Image.open(original) as picture:
            picture.reduce(smaller).save(kept[-1], quality=90)
    for number in range(count):
        os.link(kept[number % len(kept)], folder / f"{number:04}.jpg")
    (folder / f"{count // 2:04}.jpg").unlink()
    (folder / f"{count // 2:04}.jpg").write_bytes(b"no picture")
    return folder


def rows_of(output):
    """All rows of a job, in order."""
    parts = sorted((output / "parts").glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def files_of(output):
    """Every file of a finished job and what is in it."""
    files = (path for path in output.rglob("*") if path.is_file())
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def finished_parts(output):
    return sorted((output / "parts").glob("*.parquet"))


def die(*_):
    """What a worker does at once."""
    os._exit(7)


def start_job(*arguments):
    """``ssd34 batch`` in a process and a process group of its own."""
    command = [sys.executable, "-m", "ssd34", "batch", *map(str, arguments)]
    return subprocess.Popen(
        command, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for_parts(process, output, count, *, timeout=100):
    """Until so many parts are finished; the job goes on."""
    end = time.monotonic() + timeout
    while len(finished_parts(output)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
