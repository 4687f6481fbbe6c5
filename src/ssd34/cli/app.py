"""The ``ssd34`` command.

Exit codes: 0 all well; 1 some pictures failed and the others were done; 2 a wrong argument or
unusable input, in one line; 3 a file did not pass ``verify``; 4 no int8
file passed the gate of ``quantize``; 130 interrupted.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

import click

from ssd34.cli.batch import batch
from ssd34.cli.benchmark import benchmark
from ssd34.cli.console import INTERRUPTED
from ssd34.cli.data.group import data
from ssd34.cli.deploy.convert import convert
from ssd34.cli.deploy.export import export
from ssd34.cli.deploy.package import package
from ssd34.cli.deploy.quantize import quantize
from ssd34.cli.deploy.verify import verify
from ssd34.cli.detect import detect
from ssd34.cli.doctor import doctor
from ssd34.cli.evaluate.calibrate import calibrate
from ssd34.cli.evaluate.command import evaluate
from ssd34.cli.models import models
from ssd34.cli.serve import serve
from ssd34.cli.train.command import train
from ssd34.errors import Ssd34Error
from ssd34.version import __version__

UNUSABLE = 2


class _Commands(click.Group):
    """Takes these two before click does, which would exit with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("interrupted", INTERRUPTED)
        except BrokenPipeError:
            # The reader of our output has gone, as `| head` does; keep the exit quiet.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(__version__, prog_name="ssd34")
def commands() -> None:
    """Single Stage Detector: train, evaluate, export and run an SSD on a plain CPU.

    Example: ssd34 detect photos --save out
    """


for command in (
    package, detect, batch, train, evaluate, calibrate, export, quantize, convert, data, models,
    verify, benchmark, doctor, serve,
):  # fmt: skip
    commands.add_command(command)


def main() -> None:
    """Run the command line; errors that we raise on purpose become one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(commands(prog_name="ssd34", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(UNUSABLE)
    except click.ClickException as error:
        _fail(_in_one_line(error), UNUSABLE)
    except click.Abort:
        _fail("interrupted", INTERRUPTED)
    except Ssd34Error as error:
        _fail(str(error), UNUSABLE)
    except UnicodeEncodeError as error:
        name = str(error.object).encode(errors="backslashreplace").decode()
        _fail(f"{name:.200}: a name that this locale cannot write; set PYTHONUTF8=1", UNUSABLE)
    except OSError as error:
        message = f"{_subject(error)}{error.strerror or error}"
        _fail(f"{message}; check the path, its rights and free space", UNUSABLE)


def _subject(error: OSError) -> str:
    """The file that an error is about; whoever writes one names it, and click names none."""
    if error.filename:
        return f"{error.filename}: "
    return "standard output: " if error.errno == errno.ENOSPC else ""


def _in_one_line(error: click.ClickException) -> str:
    """A wrong command line in the form of our own errors, with the way to the right one."""
    message = " ".join(error.format_message().split())
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else "ssd34"  # click does not always know it
    return f"{message[:1].lower()}{message[1:].removesuffix('.')} (see {command} --help)"


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
