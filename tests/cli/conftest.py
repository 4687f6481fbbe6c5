"""What tests of commands share."""

import sys

import pytest

from ssd34.cli import app


@pytest.fixture
def run_evaluate(monkeypatch, capfd):
    """Run ``ssd34 evaluate`` as its entry point does; returns exit code, stdout and stderr, of
    which an error is one line."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ssd34", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            app.main()
        code = caught.value.code or 0
        out, err = capfd.readouterr()
        if code == 2:
            assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
        return code, out, err

    return run
