"""The command line as a whole: wrong ones get one line."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from ssd34.cli import console
from ssd34.cli.app import COMMANDS, commands
from ssd34.cli.deploy.quantize import FORMER
from ssd34.deploy.search.config import QuantizeConfig
from ssd34.errors import DatasetError, ModelError
from tests.conftest import EXAMPLES
from tests.support.cli import invoke
from tests.support.refusals import assert_facts, refused


@pytest.mark.parametrize(
    ("arguments", "words", "command"),
    [(("detekt",), ("detekt", "detect"), "ssd34"), (("--nothing",), ("--nothing",), "ssd34"),
     (("detect", "examples", "--formt", "json"), ("--formt", "--format"), "ssd34 detect"),
     (("detect", "examples", "--format", "xml"), ("'xml'", "json"), "ssd34 detect"),
     (("detect", "examples", "--score", "high"), ("'high'", "a number"), "ssd34 detect"),
     (("detect", "examples", "--score"), ("'--score'", "argument"), "ssd34 detect"),
     (("detect", "", "--save", "out"), ("'SOURCE...'", "empty"), "ssd34 detect"),
     (("evaluate", "", "--data", "a"), ("'[MODEL]'", "empty"), "ssd34 evaluate"),
     (("train", "--data", "a", "--val", "b", "--output", ""), ("'--output'", "empty"),
      "ssd34 train"),
     (("detect", "a", "--score", "nan"), ("'nan'", "a number"), "ssd34 detect"),
     (("detect", "a", "--threads", "1025"), ("'--threads'", "1024"), "ssd34 detect"),
     (("serve", "--max-wait-ms", "nan"), ("'nan'", "a number"), "ssd34 serve"),
     (("serve", "--port", "80a"), ("'--port'", "'80a'", "whole number"), "ssd34 serve"),
     (("export", "a"), ("missing argument 'OUT.onnx'",), "ssd34 export"),
     (("data", "convert", "a", "b"), ("--to", "coco", "voc"), "ssd34 data convert"),
     (("train", "--data", "a", "--speed", "3"), ("--speed",), "ssd34 train"),
     (("models", "path"), ("missing argument",), "ssd34 models path")],
)  # fmt: skip
def test_a_wrong_command_line_gets_one_line(main, arguments, words, command):
    code, out, err = main(*arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ") and line.endswith(f" (see {command} --help)")
    assert all(word in line for word in words), line


def test_sigterm_interrupts_a_command_which_leaves_nothing(main, shapes, tmp_path, monkeypatch):
    def end(*_):
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(console, "count_on", lambda *_: end)
    code, out, err = main("data", "convert", shapes, tmp_path / "new", "--to", "voc")
    assert (code, out, err) == (130, "", "error: interrupted\n")
    assert list(tmp_path.iterdir()) == [] and signal.getsignal(signal.SIGTERM) == before
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a shell's trap makes it
    try:
        assert main("data", "convert", shapes, tmp_path / "new", "--to", "voc")[0] == 0
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(os.name != "posix", reason="there it cannot be removed")
def test_a_current_folder_that_is_gone_is_named_where_it_is_needed(
    main, shapes, tmp_path, monkeypatch
):
    for name in ("here", "new"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    code, _, err = main("data", "convert", shapes, "new", "--to", "voc")
    assert code == 2 and "current folder" in err
    assert main("data", "convert", shapes, tmp_path / "new", "--to", "voc")[0] == 0


def test_commands_run_in_any_thread(shapes, tmp_path):
    words = ["data", "convert", str(shapes), str(tmp_path / "new"), "--to", "voc"]
    with ThreadPoolExecutor() as threads:
        threads.submit(commands, words, standalone_mode=False).result()
    assert (tmp_path / "new").is_dir()


@pytest.mark.skipif(os.name != "posix", reason="shells of another kind")
def test_streams_that_are_closed_are_no_error(shapes, tmp_path):
    """As a service may be started."""
    command = [sys.executable, "-m", "ssd34", "data", "check", str(shapes), "--json"]
    for closed in ("2>&-", "1>&- 2>&-", "<&- 2>&-"):
        file = tmp_path / f"{len(closed)}.json"
        line = f"{shlex.join([*command, str(file)])} {closed}"
        assert subprocess.run(line, shell=True).returncode == 0
        assert file.stat().st_size


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="not Linux")
def test_no_file_gets_the_number_of_a_stream_that_is_closed(tmp_path):
    look = (
        "import os, sys; from ssd34.cli import app; "
        "app.commands = lambda **_: print(*(os.readlink(f'/proc/self/fd/{n}') for n in (0, 2)), "
        "file=open(sys.argv[1], 'w')); app.main()"
    )
    line = f"{shlex.join([sys.executable, '-c', look, str(tmp_path / 'seen')])} <&- 2>&-"
    subprocess.run(line, shell=True, check=True)
    assert (tmp_path / "seen").read_text().split() == [os.devnull] * 2


def test_help_and_version_are_no_errors(main):
    for arguments in (("--help",), ("detect", "-h"), ("--version",)):
        code, out, err = main(*arguments)
        assert not code and out and not err


def test_the_help_fits_a_screen_and_shows_examples(main, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = main("--help")
    assert len(out.splitlines()) <= 23 and len(re.findall("^  ssd34 ", out, re.MULTILINE)) == 2


@pytest.mark.parametrize(
    ("words", "facts"),
    [("detect bad.onnx", ["--model"]), ("batch bad.zip --output new", ["zip"]),
     ("export bad.onnx new.onnx", ["ONNX", "export it again"]),
     ("export none.safetensors new.onnx", [".safetensors", "path"]),
     ("evaluate default --data instances.json@val", ["val", ".json@", "instances.json"]),
     ("data info empty", ["empty", ".json"]), ("data info photos", ["photos", "data label"]),
     ("evaluate --data set --detections found.json", ["found.json", "--format coco"]),
     ("data split set new --val 20", ["0.2", "20"]),
     ("export bad.onnx new.onnx --tail none --score 0.3", ["--tail none"]),
     ("export bad.onnx new.onnx --opset ten", ["--opset ten", "newest"]),
     ("train --data set --output new", ["--val", "ssd34 data split set"]),
     ("train --data set --val set --output new --recipe bench", ["'bench'", "small-data"]),
     ("train --data set --val set --output new --init resnet50", ["resnet34-b627a593", "ssd-12"]),
     ("train --data set --val set --output new --init ssd-12", ["pull ssd-12", "--init default"]),
     ("package default --output new --picture a.jpg --measured bad.json", ["JSON", "evaluate"])],
)  # fmt: skip
def test_what_newcomers_mistake_gets_one_line_with_a_remedy(
    main, shapes, tmp_path, monkeypatch, words, facts
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSD34_HOME", str(tmp_path / "home"))
    for name in ("bad.onnx", "bad.zip", "bad.json", "instances.json"):
        (tmp_path / name).write_text("hello")
    (tmp_path / "found.json").write_text('{"model": "default", "pictures": [], "failed": []}')
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    shutil.copy(EXAMPLES / "chelsea.jpg", tmp_path / "photos")
    (tmp_path / "set").symlink_to(shapes)
    shutil.copy(EXAMPLES / "chelsea.jpg", tmp_path / "a.jpg")
    code, out, err = main(*words.split())
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert_facts(err, *facts)
    assert not [one for one in tmp_path.glob("new*") if one.is_file()]


def test_no_command_shows_them_all(main):
    code, _, err = main()
    assert code == 2 and "quantize" in err and err.startswith("Usage: ssd34")


@pytest.mark.parametrize(
    ("words", "fact"),
    [("quantize x --data x --output x --ranges mse", "quantization.ranges"),
     ("quantize x --data x --output x --full-range", "quantization.reduce_range"),
     ("train --data x --freeze 2", "--set frozen_stages=VALUE"),
     ("train --data x --no-head-norm", "--set head_norm=false"),
     ("train --data x --global-batch=8", "--set batch_size=VALUE"),
     ("train --data x --target-map 0.2", "--set target_map=VALUE"),
     ("benchmark x --rate 3", "--scenario"),
     ("evaluate x --data x --preprocess both", "--compare")],
)  # fmt: skip
def test_what_is_gone_names_what_stands_in_for_it(main, words, fact):
    code, _, err = main(*words.split())
    assert code == 2 and fact in err


def test_the_settings_that_quantize_names_are_there():
    for setting in FORMER.values():
        value = QuantizeConfig()
        for name in setting.split("."):
            value = getattr(value, name)


def test_the_list_of_the_help_is_what_the_commands_say():
    assert {name: line for name, (_, line) in COMMANDS.items()} == {
        name: command.short_help for name, command in commands.commands.items()
    }


@pytest.mark.parametrize(
    ("command", "step"),
    [
        ("detect PICTURES --model MODEL --output OUT.json", "detecting"),
        ("data check DATA", "checking"),
        ("data convert DATA OUT --to voc", "converting"),
        ("evaluate MODEL --data DATA --resamples 0", "evaluating"),
    ],
)
def test_long_work_tells_how_far_it_is_where_nobody_watches(
    command, step, tiny_model, shapes, tmp_path, monkeypatch
):
    places = {"PICTURES": shapes / "images", "MODEL": tiny_model, "DATA": shapes,
              "OUT.json": tmp_path / "out.json", "OUT": tmp_path / "out"}  # fmt: skip
    arguments = [places.get(word, word) for word in command.split()]
    monkeypatch.setattr(console, "PRINT_SECONDS", 0)
    told = [
        re.match(rf"{step}: (\d+)/(\d+)", line) for line in invoke(*arguments).stderr.splitlines()
    ]
    counts = [(int(found[1]), int(found[2])) for found in told if found]
    assert len(counts) > 1 and counts == sorted(counts) and counts[-1][0] == counts[-1][1]


def test_a_line_tells_the_time_left_once_it_is_known(monkeypatch, capsys):
    monkeypatch.setattr(console, "PRINT_SECONDS", 0)
    now = 0.0
    bar = console.progress_bar()
    bar.get_time = lambda: now
    done = console.count_on(bar, "timing", 4)
    for count in (1, 2, 3):
        now += 80
        done(count)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "timing: 1/4"
    assert [line.split(", ")[-1] for line in told[1:]] == ["0:02:40 left", "0:01:20 left"]


def test_detections_in_a_file_are_told_of(shapes, tiny_model, tmp_path):
    file = tmp_path / "out.json"
    told = invoke("detect", shapes / "images", "--model", tiny_model, "--output", file).stderr
    assert re.search(rf"^12 pictures in \d+\.\d s, .*: {file}$", told, re.MULTILINE), told


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("evaluate DATA --data MODEL", ModelError),
        ("evaluate DATA/instances.json --data DATA", ModelError),
        ("evaluate --data MODEL", DatasetError),
        ("evaluate MODEL --data default", DatasetError),
        ("calibrate DATA --data MODEL", ModelError),
        ("quantize DATA --data MODEL --output OUT", ModelError),
        ("batch MODEL --output OUT", DatasetError),
        ("batch DATA --model DATA --output OUT", ModelError),
        ("detect DATA --model DATA", ModelError),
        ("export DATA OUT.onnx", ModelError),
        ("train --data DATA --val MODEL --output OUT", DatasetError),
        ("train --data MODEL=2 --val DATA --output OUT", DatasetError),
        ("train --data DATA --val DATA --init DATA@backbone --output OUT", ModelError),
        ("train --data DATA --val MODEL --init DATA@backbone --output OUT", ModelError),
    ],
)
def test_a_model_is_no_data_set_and_a_data_set_no_model(
    command, kind, tiny_model, shapes, tmp_path
):
    names = {"DATA": shapes, "MODEL": tiny_model, "OUT": tmp_path / "out"}
    arguments = [re.sub("DATA|MODEL|OUT", lambda found: str(names[found[0]]), word)
                 for word in command.split()]  # fmt: skip
    fact = {
        ModelError: f"{shapes}",
        DatasetError: "default" if "default" in command else tiny_model,
    }
    # Where each stands in the other's place, both are named.
    both = [tiny_model] if kind is ModelError and str(tiny_model) in arguments else []
    with refused(kind, fact[kind], "a data set" if kind is ModelError else "a model", *both):
        invoke(*arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_no_model_and_names_of_models_go_first(
    shapes, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSD34_HOME", str(tmp_path / "home"))
    for name in ("photos.pt", "photos.onnx", "ssd-10"):
        (tmp_path / name).symlink_to(shapes)
        invoke("evaluate", tiny_model, "--data", name, "--limit", 1, "--resamples", 0)
    with refused(ModelError, "photos.onnx", "a data set"):
        invoke("detect", shapes / "images", "--model", "photos.onnx")
    with refused(ModelError, "ssd-10", "pull"):
        invoke("detect", shapes / "images", "--model", "ssd-10")
