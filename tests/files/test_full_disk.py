"""Commands on a disk that is full: one line that names the file, exit 2, nothing lost."""

import errno
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import EXAMPLES, shapes_dataset
from tests.support.cli import run_commands
from tests.support.refusals import assert_facts

pytestmark = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.call(["unshare", "-m", "true"]) != 0,
    reason="no mount namespace can be had",
)

TRAIN = (
    "train --data SHAPES --val SHAPES --init INIT --batch 4 --workers 0 --threads 1 "
    "--set warmup_steps=1 --output DISK/run --epochs 1"
)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return shapes_dataset(tmp_path_factory.mktemp("few") / "set", pictures=4)


CASES = [
    ("20m", TRAIN, "run/last.safetensors", True),
    ("8k", TRAIN.replace("INIT", "INIT@backbone"), "run/history.jsonl", False),
    ("64k", "data convert SHAPES DISK/set --to coco", "set", False),
    ("4k", "evaluate MODEL --data SHAPES --json DISK/r.json", "r.json.partial", False),
    ("256k", "package MODEL --picture PICTURE --output DISK/zoo", "zoo", False),
]
"""The disk's size, a command, the file that has no room, and whether it says how much it needs."""


def test_a_full_disk(tiny_model, tiny_file, few, tmp_path):
    """Each command has a disk of its own, whose files are listed at the end."""
    disks = [tmp_path / f"disk{number}" for number in range(len(CASES))]
    commands, mounts = [], []
    for disk, (size, command, _, _) in zip(disks, CASES, strict=True):
        disk.mkdir()
        mounts.append(f"mount -t tmpfs -o size={size} tmpfs {disk}")
        for word, place in (
            ("SHAPES", few), ("MODEL", tiny_model), ("INIT", tiny_file), ("DISK", disk),
            ("PICTURE", next((few / "images").iterdir())),
        ):  # fmt: skip
            command = command.replace(word, str(place))
        commands.append(command.split())
    left = tmp_path / "left"
    script = f'{" && ".join(mounts)} && "$@"; find {tmp_path} -name "*.part" > {left}'
    ended, errors = run_commands(*commands, before=("unshare", "-m", "sh", "-c", script, "sh"))
    assert [code for code, _ in ended] == [2] * len(CASES), errors
    lines = [text for text in errors.splitlines() if text.startswith("error: ")]
    for line, disk, (_, _, file, needed) in zip(lines, disks, CASES, strict=True):
        assert line.startswith(f"error: {disk / file}") and "space" in line
        assert bool(re.search(r"\d MB needed, \d+\.\d MB free", line)) == needed, line
    assert left.read_text() == ""


def test_a_disk_that_cannot_be_written_is_told_before_the_work(tmp_path):
    disk, picture = tmp_path / "disk", EXAMPLES / "coffee.jpg"
    disk.mkdir()
    script = f'mount -t tmpfs -o ro tmpfs {disk} && "$@"'
    commands = [("detect", picture, "--model", "nowhere", option, disk / "new")
                for option in ("--output", "--save")]  # fmt: skip
    ended, errors = run_commands(*commands, before=("unshare", "-m", "sh", "-c", script, "sh"))
    assert [code for code, _ in ended] == [2, 2]
    for line in errors.splitlines():
        assert_facts(line, "error: ", disk / "new", os.strerror(errno.EROFS))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device")
def test_standard_output_is_named():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ssd34", "models", "list"], stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("error: standard output: ")
