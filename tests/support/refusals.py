"""Errors are asserted by their class and the facts in them, not by their sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(kind: type[Exception], *facts: object) -> Iterator[None]:
    """What is inside raises an error of this kind: one line, with every fact in it."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert message and "\n" not in message, message
    assert_facts(message, *facts)


def assert_facts(message: str, *facts: object) -> None:
    """Each fact (a file, a value, the option to use) stands in a message."""
    for fact in facts:
        assert str(fact) in message, f"{fact!s} is not in: {message}"
