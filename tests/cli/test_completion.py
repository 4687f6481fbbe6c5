"""Completion in shells, by click's own protocol and in a real bash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from ssd34.cli.app import COMMANDS
from ssd34.core.postprocess import POLICIES

# As the entry point does, for one command line after the other; a process for each takes long.
COMPLETE = """
import contextlib, io, json, os, sys
from ssd34.cli.app import main
told = []
for words in json.loads(sys.argv[1]):
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = words, str(words.count(" "))
    out = io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main()
    lines = out.buffer.getvalue().decode().splitlines()
    told.append([line.split(",", 1) for line in lines if line])
heavy = sorted({"torch", "onnxruntime", "onnx", "hotcoco", "openvino"} & set(sys.modules))
print(json.dumps([heavy, told]))
"""


def complete(*lines):
    """What a shell is told for each line, whose last word is incomplete: kind and value of each."""
    command = [sys.executable, "-c", COMPLETE, json.dumps([f"ssd34 {line}" for line in lines])]
    environment = {**os.environ, "_SSD34_COMPLETE": "bash_complete"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    heavy, told = json.loads(result.stdout)
    assert not heavy and not result.stderr
    return dict(zip(lines, told, strict=True))


def test_verbs_options_and_names():
    expected = {
        "": [*COMMANDS], "d": ["data", "detect", "doctor"], "models p": ["path", "pull"],
        "detect --po": ["--policy"], "detect a.jpg --policy ": [*POLICIES],
        "train --data a --js": ["--json"], "detect a.jpg --model ssd-12-i": ["ssd-12-int8"],
        "serve default-": ["default-float"], "models pull defa": [],
        "data download ": ["coco-val2017", "coco-2017"], "train --recipe f": ["fine-tune"],
        "benchmark a --engine nat": ["native"], "evaluate --json --pre": ["--preprocess"],
    }  # fmt: skip
    told = complete(*expected)
    assert expected == {
        line: [value for kind, value in found if kind == "plain"] for line, found in told.items()
    }


def test_files_where_paths_stand():
    lines = ("detect ", "train --data ", "data info ", "evaluate a --detections ", "verify ./")
    assert all(["file", line.split(" ")[-1]] in found for line, found in complete(*lines).items())
    assert complete("models pull ssd")["models pull ssd"][0][0] == "plain"


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_in_bash(tmp_path):
    program = tmp_path / "ssd34"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ssd34 "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(_SSD34_COMPLETE=bash_source ssd34)"
        complete -p ssd34
        COMP_WORDS=(ssd34 detect --engine nat) COMP_CWORD=3; _ssd34_completion ssd34
        echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    told = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    registered, found = told.stdout.splitlines()
    assert registered.endswith(" ssd34") and found == "native"
