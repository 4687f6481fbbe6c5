"""Commands on a disk that is full: one line that names the file, exit 2, nothing lost."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import shapes_dataset

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


@pytest.mark.parametrize(
    ("size", "command", "file", "needed"),
    [
        ("20m", TRAIN, "run/last.safetensors", True),
        ("8k", TRAIN, "run/history.jsonl", False),
        ("64k", "data convert SHAPES DISK/set --to coco", "set", False),
        ("4k", "evaluate MODEL --data SHAPES --json DISK/r.json", "r.json.partial", False),
        ("256k", "package MODEL --picture PICTURE --output DISK/zoo", "zoo", False),
    ],
)
def test_a_full_disk(size, command, file, needed, tiny_model, tiny_file, few, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    picture = next((few / "images").iterdir())
    for word, place in (
        ("SHAPES", few), ("MODEL", tiny_model), ("INIT", tiny_file), ("DISK", disk),
        ("PICTURE", picture),
    ):  # fmt: skip
        command = command.replace(word, str(place))
    script = (
        f'mount -t tmpfs -o size={size} tmpfs {disk} && "$@"; code=$?; ls -A {disk}; exit $code'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "ssd34",
         *command.split()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    [line] = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert line.startswith(f"error: {disk / file}") and "space" in line
    assert bool(re.search(r"\d MB needed, \d+\.\d MB free", line)) == needed, line
    assert "Traceback" not in done.stderr and not re.search(r"\.part$", done.stdout, re.M)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device")
def test_standard_output_is_named():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ssd34", "models", "list"], stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("error: standard output: ")
