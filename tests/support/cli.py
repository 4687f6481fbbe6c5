"""Commands, run in this process."""

import sys

import pytest
from click.testing import CliRunner

from ssd34.cli import app


def invoke(*arguments):
    """Deliberate errors are raised, as main() sees them."""
    return CliRunner().invoke(
        app.commands, [*map(str, arguments)], catch_exceptions=False, standalone_mode=False
    )


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
