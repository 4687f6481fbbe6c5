"""The option ``--engine``, the same for every command that runs a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ssd34.cli.console import errors
from ssd34.runtime.engine import AUTO, DEFAULT_ENGINE, ENGINES
from ssd34.runtime.session import Session

engine_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--engine",
    type=click.Choice([*ENGINES, AUTO]),
    help=f"What computes; auto measures and takes the faster. [default: {DEFAULT_ENGINE}]",
)


def say_choice(session: Session) -> None:
    """What ``--engine auto`` took and why, on stderr."""
    if session.choice:
        errors.print(session.choice.reason, markup=False, soft_wrap=True)
