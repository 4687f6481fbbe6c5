from __future__ import annotations

from contextlib import closing

import pytest

from tests.support.mirror import Mirror


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def mirror():
    with closing(Mirror()) as mirror:
        yield mirror


@pytest.fixture
def second():
    with closing(Mirror()) as mirror:
        yield mirror
