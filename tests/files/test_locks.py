"""Every command that writes over minutes refuses what another process is writing."""

import os

import pytest

from ssd34.errors import OptionError
from ssd34.files.lock import file_locked, folder_locked
from tests.conftest import EXAMPLES
from tests.support.cli import invoke
from tests.support.refusals import refused


def files(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("command", "locked", "in_folder"),
    [
        ("train --data SHAPES --val SHAPES --epochs 1 --output OUT", "OUT", True),
        ("train --data SHAPES --val SHAPES --resume --output OUT", "OUT", True),
        ("quantize MODEL --data SHAPES --output OUT", "OUT", True),
        ("package MODEL --picture PICTURE --output OUT", "OUT", True),
        ("benchmark MODEL --seconds 0.1 --loadgen OUT", "OUT", True),
        ("data convert SHAPES OUT --to voc", "OUT", False),
        ("evaluate MODEL --data SHAPES --json OUT.json", "OUT.json.partial", False),
        ("evaluate MODEL --data SHAPES --detections OUT --resume", "OUT.partial", False),
        ("evaluate MODEL --data SHAPES --report OUT", "OUT/report.html.partial", False),
    ],
)
def test_what_another_process_writes_is_left_alone(
    command, locked, in_folder, tiny_model, shapes, tmp_path
):
    out = tmp_path / "out"
    places = {
        "SHAPES": shapes, "MODEL": tiny_model, "OUT": out, "OUT.json": tmp_path / "out.json",
        "PICTURE": EXAMPLES / "coffee.jpg",
    }  # fmt: skip
    target = tmp_path / locked.replace("OUT", "out")
    if "report" in command:
        out.mkdir()
    if "benchmark" in command:
        pytest.importorskip("mlperf_loadgen")
    lock = folder_locked if in_folder else file_locked
    with lock(target):
        before = files(tmp_path)
        with refused(OptionError, target, f"process {os.getpid()} "):
            invoke(*(places.get(word, word) for word in command.split()))
        assert files(tmp_path) == before
