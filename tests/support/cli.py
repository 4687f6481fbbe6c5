"""Commands, run in this process."""

import sys

import pytest
from click.testing import CliRunner

from ssd34.cli import app


def invoke(*arguments, code=0, catch=False):
    """Run ``ssd34``; errors come out as they are raised, if not caught for what was printed before.
    `code` is the exit code that is expected; None: any."""
    result = CliRunner().invoke(
        app.commands, [*map(str, arguments)], catch_exceptions=catch, standalone_mode=False
    )
    assert code is None or result.exit_code == code, result.output
    return result


def attempt(*arguments):
    """Errors are in the result, and so is the exit code."""
    return CliRunner().invoke(app.commands, [*map(str, arguments)])


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
