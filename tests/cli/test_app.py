"""The command line as a whole: wrong ones get one line."""

import re
import shutil

import click
import pytest

from ssd34.cli.app import COMMANDS, commands
from ssd34.cli.deploy.quantize import FORMER
from ssd34.deploy.search.config import QuantizeConfig
from tests.conftest import EXAMPLES
from tests.support.refusals import assert_facts


@pytest.mark.parametrize(
    ("arguments", "words", "command"),
    [(("detekt",), ("detekt", "detect"), "ssd34"), (("--nothing",), ("--nothing",), "ssd34"),
     (("detect", "examples", "--formt", "json"), ("--formt", "--format"), "ssd34 detect"),
     (("detect", "examples", "--format", "xml"), ("'xml'", "json"), "ssd34 detect"),
     (("detect", "examples", "--score", "high"), ("'high'", "a number"), "ssd34 detect"),
     (("detect", "examples", "--score"), ("'--score'", "argument"), "ssd34 detect"),
     (("serve", "--port", "80a"), ("'--port'", "'80a'", "whole number"), "ssd34 serve"),
     (("export", "a"), ("missing argument 'OUT.onnx'",), "ssd34 export"),
     (("data", "convert", "a", "b"), ("--to", "coco", "voc"), "ssd34 data convert"),
     (("models", "path"), ("missing argument",), "ssd34 models path")],
)  # fmt: skip
def test_a_wrong_command_line_gets_one_line(main, arguments, words, command):
    code, out, err = main(*arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ") and line.endswith(f" (see {command} --help)")
    assert all(word in line for word in words), line


def test_help_and_version_are_no_errors(main):
    for arguments in (("--help",), ("detect", "-h"), ("--version",)):
        code, out, err = main(*arguments)
        assert not code and out and not err


def test_the_help_fits_a_screen_and_shows_examples(main, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = main("--help")
    assert len(out.splitlines()) <= 23 and len(re.findall("^  ssd34 ", out, re.MULTILINE)) == 2
    context = click.Context(commands, info_name="ssd34")
    for name in COMMANDS:
        command = commands.commands[name]
        below = command.commands.values() if isinstance(command, click.Group) else [command]
        for one in below:
            text = one.get_help(click.Context(one, context, name))
            assert re.search(rf"Example: ssd34 {name}\b", text), one.name


@pytest.mark.parametrize(
    ("words", "facts"),
    [("detect bad.onnx", ["--model"]), ("batch bad.zip --output new", ["zip"]),
     ("export bad.onnx new.onnx", ["ONNX", "export it again"]),
     ("export none.safetensors new.onnx", [".safetensors", "path"]),
     ("evaluate default --data instances.json@val", ["val", ".json@", "instances.json"]),
     ("data info empty", ["empty", ".json"]), ("data info photos", ["photos", "data label"]),
     ("evaluate --data set --detections found.json", ["found.json", "--format coco"]),
     ("data split set new --val 20", ["0.2", "20"]),
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
    [
        (
            ("quantize", "x", "--data", "x", "--output", "x", "--ranges", "mse"),
            "quantization.ranges",
        ),
        (("quantize", "x", "--data", "x", "--output", "x", "--full-range"), "reduce_range"),
        (("benchmark", "x", "--rate", "3"), "--scenario"),
        (("evaluate", "x", "--data", "x", "--preprocess", "both"), "--compare"),
    ],
)
def test_what_is_gone_names_what_stands_in_for_it(main, words, fact):
    code, _, err = main(*words)
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
