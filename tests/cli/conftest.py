"""What tests of commands share."""

from functools import partial

import pytest

from tests.support.cli import run_main


@pytest.fixture
def main(monkeypatch, capfd):
    """Run the whole command as its entry point does; returns exit code, stdout and stderr."""
    return partial(run_main, monkeypatch, capfd)


@pytest.fixture
def run_evaluate(main):
    return partial(main, "evaluate")
