"""``ssd34 serve``."""

from __future__ import annotations

import os

import click

from ssd34.cli.console import (
    MODEL,
    THREADS,
    CompletedText,
    NumberRange,
    engine_option,
    preprocess_option,
)
from ssd34.errors import require
from ssd34.runtime.engine import DEFAULT_ENGINE
from ssd34.serve.options import API_KEY, MEBIBYTE, ServeOptions

LEVELS = ("debug", "info", "warning", "error")

_SECONDS = NumberRange(0.01, 86400)
_MANY = click.IntRange(1)


def _instances(_: click.Context, __: click.Parameter, value: str) -> int | None:
    """A number of 1 or more; None for auto."""
    if value == "auto":
        return None
    if not (value.isascii() and value.isdecimal() and int(value)):
        raise click.BadParameter(f"{value!r}: expected auto or a whole number of 1 or more")
    return int(value)


def _api_key(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """click takes a variable that is empty for one that is not set: then everybody were served."""
    return os.environ.get(API_KEY) if value is None else value


@click.command(short_help="Answer requests over HTTP.")
@click.argument("model", type=MODEL, default="default")
@click.option(
    "--host", type=CompletedText(files=False), default="127.0.0.1", help="Address to listen on."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, help="Port; 0: any that is free."
)
@click.option(
    "--instances", default="auto", callback=_instances, metavar="N|auto",
    help="Pictures in work at once. auto measures what is fastest.",
)  # fmt: skip
@click.option(
    "--threads", type=THREADS,
    help="Threads that all instances share. [default: what this process may use]",
)  # fmt: skip
@engine_option
@preprocess_option
@click.option(
    "--max-batch", type=_MANY, default=8,
    help="Most pictures in one run, where the file takes any number and that is faster.",
)  # fmt: skip
@click.option(
    "--max-wait-ms", type=NumberRange(0, 10_000), default=2.0,
    help="How long a batch waits for more pictures, milliseconds.",
)  # fmt: skip
@click.option("--queue", type=_MANY, default=64, help="Pictures that may wait; others get 503.")
@click.option("--timeout", type=_SECONDS, default=30.0, help="For an answer, seconds.")
@click.option(
    "--read-timeout", type=_SECONDS, default=30.0,
    help="For a body to come, and for an answer to be taken, seconds.",
)  # fmt: skip
@click.option(
    "--header-timeout", type=_SECONDS, default=10.0, help="For a request's headers, seconds."
)
@click.option("--max-body", type=_MANY, default=32, help="Most MiB in one request.")
@click.option("--max-buffer", type=_MANY, default=256, help="Most MiB of all bodies at once.")
@click.option("--max-pixels", type=_MANY, default=50_000_000, help="Refuse larger pictures.")
@click.option("--max-pictures", type=_MANY, default=16, help="Most pictures in one request.")
@click.option("--max-connections", type=_MANY, default=512, help="Most that are open at once.")
@click.option(
    "--api-key", envvar=API_KEY, metavar="KEY", callback=_api_key,
    help="Serve only who sends it. Other users see a command line: set SSD34_API_KEY instead.",
)  # fmt: skip
@click.option(
    "--cors-origin", "cors_origins", multiple=True, metavar="ORIGIN",
    help="Let pages of this origin read answers; may be repeated.",
)  # fmt: skip
@click.option(
    "--allow-reload", is_flag=True, help="Load the file again on SIGHUP or when a client asks."
)
@click.option(
    "--shutdown-delay", type=NumberRange(0, 3600), default=0.0,
    help="Seconds from SIGTERM, from when it says that it is not ready, to the end of listening.",
)  # fmt: skip
@click.option("--log-level", type=click.Choice(LEVELS), default="info", help="Of the log.")
def serve(
    *,
    model: str,
    max_wait_ms: float,
    max_body: int,
    max_buffer: int,
    engine: str | None,
    log_level: str,
    **options: object,
) -> None:
    """Answer requests over HTTP with the detections of MODEL, an ONNX file or a model's name.

    There is a page at /, POST /detect, and the Open Inference Protocol under /v2. It ends on
    SIGTERM and Ctrl-C, after it has answered what it accepted. Logs go to standard error.

    Example: ssd34 serve default --port 8080
    """
    for module in ("msgspec", "prometheus_client", "python_multipart", "starlette", "uvicorn"):
        require(module, extra="serve", why="ssd34 serve")
    from ssd34.serve.connection import serve as run
    from ssd34.serve.metrics import start_logging

    settings = ServeOptions(
        model=model,
        engine=engine or DEFAULT_ENGINE,
        max_wait=max_wait_ms / 1000,
        max_body=max_body * MEBIBYTE,
        max_buffer=max_buffer * MEBIBYTE,
        **options,  # type: ignore[arg-type]
    )
    start_logging(log_level)
    run(settings, say=lambda text: click.echo(f"ssd34 serve: {text}"))
