"""``--json``: every command that prints a result has it, and then prints nothing else."""

from __future__ import annotations

import json

import click
import pytest

from ssd34.errors import OptionError
from tests.conftest import EXAMPLES
from tests.support.cli import attempt, every_command, invoke, list_documents, read_document
from tests.support.refusals import refused

NO_RESULT = {"serve"}
CAT = EXAMPLES / "chelsea.jpg"
CHEAP = {
    "benchmark": ("{model}", "--images", CAT, "--rounds", 1, "--warm-up", 1, "--threads", 1),
    "calibrate": ("{file}", "--data", "{found}", "--output", "{new}.safetensors"),
    "data check": ("{data}",),
    "data convert": ("{data}", "{new}", "--to", "voc"),
    "data info": ("{data}",),
    "data label": (CAT, "--output", "{new}", "--score", 0.3, "--model", "{model}"),
    "data split": ("{data}", "{new}", "--no-near"),
    "detect": (CAT, "--model", "{model}"),
    "doctor": (),
    "evaluate": ("{model}", "--data", "{data}", "--resamples", 0),
    "export": ("{file}", "{new}.onnx"),
    "models": (),
    "models list": (),
    "models path": ("default",),
    "package": ("{model}", "--output", "{new}", "--picture", CAT),
    "verify": ("{model}",),
}
"""Arguments with which a command takes no long time."""


VERBS = {
    name: command for name, command in every_command()
    if not isinstance(command, click.Group) or command.invoke_without_command
}  # fmt: skip
"""Every command that does something."""


def test_every_command_with_a_result_has_it():
    lacking = {name for name, command in VERBS.items()
               if not any("--json" in one.opts for one in command.params)}  # fmt: skip
    assert lacking == NO_RESULT
    assert CHEAP.keys() < VERBS.keys()


@pytest.mark.parametrize("name", CHEAP)
def test_it_prints_one_document_and_nothing_else(
    name, tiny_model, tiny_file, shapes, found_shapes, tmp_path
):
    names = {"model": tiny_model, "file": tiny_file, "data": shapes, "found": found_shapes}
    arguments = [str(one).format(**names, new=tmp_path / "new") for one in CHEAP[name]]
    read_document(name, invoke(*name.split(), *arguments, "--json"))


def test_every_document_is_described():
    assert sorted(list_documents()) == sorted(VERBS.keys() - NO_RESULT)


def test_a_file_gets_the_same_and_the_table_is_printed(tiny_model, shapes, tmp_path):
    arguments = ("evaluate", tiny_model, "--data", shapes, "--resamples", 0)
    printed = json.loads(invoke(*arguments, "--json", "-").stdout)
    result = invoke(*arguments, "--json", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == printed and "AP50" in result.stdout


def test_an_argument_is_not_taken_for_the_file(shapes, tiny_model):
    """`--json data.zip` would overwrite the data."""
    for words in (("data", "check", "--json", shapes, shapes), ("verify", "--json", tiny_model)):
        with refused(OptionError, "--json", words[-1]):
            invoke(*words)
    with refused(OptionError, "--format csv"):
        invoke("detect", CAT, "--json", "--format", "csv")
    assert attempt("data", "info", "--json", shapes).exit_code == 0
