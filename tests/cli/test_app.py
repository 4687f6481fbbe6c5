"""The command line as a whole: wrong ones get one line."""

import pytest

from ssd34.cli.app import COMMANDS, commands
from ssd34.cli.deploy.quantize import FORMER
from ssd34.deploy.search.config import QuantizeConfig


@pytest.mark.parametrize(
    ("arguments", "words", "command"),
    [(("detekt",), ("detekt", "detect"), "ssd34"), (("--nothing",), ("--nothing",), "ssd34"),
     (("detect", "examples", "--formt", "json"), ("--formt", "--format"), "ssd34 detect"),
     (("detect", "examples", "--format", "xml"), ("'xml'", "json"), "ssd34 detect"),
     (("detect", "examples", "--score", "high"), ("'--score'", "'high'"), "ssd34 detect"),
     (("detect", "examples", "--score"), ("'--score'", "argument"), "ssd34"),
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
