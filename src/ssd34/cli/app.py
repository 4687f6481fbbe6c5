"""The ``ssd34`` command.

Exit codes: 0 all well; 1 some pictures failed and the others were done; 2 a wrong argument or
unusable input, in one line; 3 a file did not pass ``verify``; 4 no int8 file passed the gate of
``quantize``; 130 interrupted."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, cast

import click
from click.shell_completion import CompletionItem

from ssd34.cli import INTERRUPTED
from ssd34.errors import Ssd34Error
from ssd34.machine import signal_restored
from ssd34.version import __version__

UNUSABLE = 2


COMMANDS = {
    "batch": ("batch", "Find objects in very many pictures; resumable, on Ray, too."),
    "benchmark": ("benchmark", "Measure how fast models run on this machine."),
    "calibrate": ("deploy.calibrate", "Make a checkpoint's scores mean what they say."),
    "convert": ("deploy.export", "Turn a benchmark checkpoint into one of ours."),
    "data": ("data.group", "Look at data sets, check, convert, split, make and download them."),
    "detect": ("detect", "Find objects in pictures, films and streams."),
    "doctor": ("doctor", "Say what this installation and this processor can do."),
    "evaluate": ("evaluate", "Measure a model, or anybody's detections."),
    "export": ("deploy.export", "Write a checkpoint as an ONNX file."),
    "models": ("models", "List, fetch and find published models."),
    "package": ("deploy.publish", "Write a model with test data, manifest and model card."),
    "quantize": ("deploy.quantize", "Write an int8 file that is proven accurate and faster."),
    "serve": ("serve", "Answer requests over HTTP."),
    "train": ("train", "Train a detector on your pictures."),
    "verify": ("deploy.publish", "Check a file against its test data and manifest."),
}  # fmt: skip
"""Each command's module below `ssd34.cli`, imported when the command is used, and its line in the
help."""


class _Lazy(Mapping[str, click.Command]):
    """Every command, imported when it is asked for."""

    def __getitem__(self, name: str) -> click.Command:
        command: click.Command = getattr(import_module(f"ssd34.cli.{COMMANDS[name][0]}"), name)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Commands(click.Group):
    """Lists commands without importing them, and ends quietly where the reader has gone."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The two options stand here, so that all commands fit a screen."""
        formatter.write_usage(ctx.command_path, "[--help] [--version] COMMAND ...")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Only the commands."""
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list of the help, without importing what is in it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What a shell is told, without importing what is in the list, either."""
        found = click.Command.shell_complete(self, ctx, incomplete)
        verbs = [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items()
                 if name.startswith(incomplete)]  # fmt: skip
        return [*verbs, *found]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, which SIGTERM interrupts as Ctrl-C does, so that temporary files are
        removed; click would exit with 1 for these two."""
        ignored = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        handler = None if ignored else signal.default_int_handler
        try:
            with signal_restored(signal.SIGTERM, handler):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("interrupted", INTERRUPTED)
        except BrokenPipeError:
            # The reader of our output has gone, as `| head` does; keep the exit quiet.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)


@click.group(
    cls=_Commands, commands=cast("dict[str, click.Command]", _Lazy()),
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)  # fmt: skip
@click.version_option(__version__, prog_name="ssd34")
def commands() -> None:
    """Object detection on a plain CPU. Every COMMAND has --help.

    \b
    ssd34 detect photos --save out
    ssd34 train --data mine.zip --val val.zip --output runs/mine --recipe fine-tune
    """


def main() -> None:
    """Run the command line; errors that we raise on purpose become one line."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # whoever started us has closed it
            # The lowest free number is its own, which no other file must get.
            null = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(null, True)
            setattr(sys, name, os.fdopen(null, mode))
        if mode == "w" and isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="warning: %(message)s")
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
    """The file that an error is about; whoever writes one names it, click and
    os.getcwd() name none."""
    if error.filename:
        return f"{error.filename}: "
    if error.errno == errno.ENOENT:
        return "the current folder: "
    return "standard output: " if error.errno == errno.ENOSPC else ""


def _in_one_line(error: click.ClickException) -> str:
    """A wrong command line in the form of our own errors, with the way to the right one."""
    message = " ".join(error.format_message().split())
    message = re.sub("is not a valid float( range)?", "is not a number", message)
    message = re.sub("is not a valid integer( range)?", "is not a whole number", message)
    context = error.ctx if isinstance(error, click.UsageError) else None
    # click does not always know the command
    named = ["ssd34", *(word for word in sys.argv[1:2] if word in COMMANDS)]
    command = context.command_path if context else " ".join(named)
    return f"{message[:1].lower()}{message[1:].removesuffix('.')} (see {command} --help)"


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {' '.join(message.splitlines())}", err=True)
    sys.exit(code)
