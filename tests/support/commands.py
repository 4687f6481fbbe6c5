"""Commands run in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from ssd34.cli.app import commands


def invoke(*arguments: object, code: int | None = 0, catch: bool = False) -> Result:
    """Run ``ssd34`` with these arguments; errors come out as they are raised.

    Args:
        arguments: as a user types them.
        code: the exit code that is expected; None: any.
        catch: errors do not come out, for the sake of what was printed before.
    """
    result = CliRunner().invoke(commands, [*map(str, arguments)], catch_exceptions=catch)
    assert code is None or result.exit_code == code, result.output
    return result
