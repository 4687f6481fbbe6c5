"""Commands run in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from ssd34.cli.app import commands


def invoke(*arguments: object, code: int = 0) -> Result:
    """Run ``ssd34`` with these arguments; errors come out as they are raised."""
    result = CliRunner().invoke(commands, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result
