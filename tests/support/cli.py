"""Commands, run in this process."""

import json
import re
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner

from ssd34.cli import app
from tests.conftest import ROOT


def invoke(*arguments, code=0, catch=False):
    """Run ``ssd34``; errors come out as they are raised, if not caught for what was printed before.
    `code` is the exit code that is expected; None: any."""
    result = CliRunner().invoke(
        app.commands, [*map(str, arguments)], catch_exceptions=catch, standalone_mode=False
    )
    assert code is None or result.exit_code == code, result.output
    return result


def every_command(group=app.commands, *above):
    """Every command and group, and the words that call it."""
    for name, command in group.commands.items():
        yield " ".join((*above, name)), command
        if isinstance(command, click.Group):
            yield from every_command(command, *above, name)


def list_documents():
    """The keys of each command's JSON document, as the page on them says."""
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `ssd34 ([\w -]+)` \|([^|]+)\|", text, re.MULTILINE)
    return {name: sorted(re.findall(r"`(\w+)`", keys)) for name, keys in rows}


def read_document(command, result):
    """What a command printed with ``--json``, which has the keys that its page names."""
    told = json.loads(result.stdout)
    assert sorted(told) == list_documents()[command]
    return told


def attempt(*arguments):
    """Errors are in the result, and so is the exit code."""
    return CliRunner().invoke(app.commands, [*map(str, arguments)])


def wait_for(condition, *, seconds=60.0):
    """What a condition gives once that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value


COMMANDS = """
import json, os, sys
from ssd34.cli import app
for arguments in json.loads(sys.argv[1]):
    # As a shell gives them, whatever the locale.
    sys.argv = ["ssd34", *(os.fsdecode(one.encode()) for one in arguments)]
    try:
        app.main()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    print("\\nexit", code, flush=True)
"""


def run_commands(*commands, options=(), before=(), first="", **more):
    """Several commands, one after the other, in a process of their own, which starts once.

    Returns of each the exit code and what it wrote to stdout, and stderr of all.

    Args:
        commands: their arguments.
        options: of Python.
        before: what the process is started by, if not directly.
        first: what the process runs before them.
        more: of ``subprocess.run``.
    """
    texts = json.dumps([[*map(str, arguments)] for arguments in commands])
    done = subprocess.run(
        [*before, sys.executable, *options, "-c", first + COMMANDS, texts],
        capture_output=True, timeout=120, **more,
    )  # fmt: skip
    errors = done.stderr.decode(errors="replace")
    parts = re.split(r"\nexit (\d+)\n", done.stdout.decode(errors="replace"))
    ended = [(int(code), text) for text, code in zip(parts[::2], parts[1::2], strict=False)]
    assert len(ended) == len(commands) and "Traceback" not in errors, errors
    return ended, errors


def run_main(monkeypatch, capture, *arguments):
    """As the entry point does; returns exit code, stdout and stderr, of which an error is one
    line."""
    monkeypatch.setattr(sys, "argv", ["ssd34", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        app.main()
    code = caught.value.code or 0
    out, err = capture.readouterr()
    if "error: " in err:
        assert code and err.rstrip("\n").splitlines()[-1].startswith("error: "), err
    assert "Traceback" not in err
    return code, out, err
