"""The application of ``ssd34 serve`` as a Ray Serve deployment.

serve run ssd34.cluster.ray_serve:build model=mine.onnx min_replicas=2 max_replicas=8
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ssd34.core.preprocess import PREPROCESSINGS
from ssd34.errors import OptionError, require
from ssd34.runtime.engine import AUTO, ENGINES
from ssd34.serve.options import API_KEY, ServeOptions
from ssd34.zoo.names import model_path

_NOT_HERE = frozenset({"host", "port", "header_timeout", "allow_reload", "shutdown_delay"})
"""What Ray's proxies do, or what would happen to one replica of several."""

_MODULES = {
    "serve": ("msgspec", "prometheus_client", "python_multipart", "starlette", "uvicorn"),
    "ray-serve": ("ray", "grpc", "grpc_reflection", "fastapi", "ray.serve"),
}


@dataclass(frozen=True)
class RayServeOptions(ServeOptions):
    """What each replica is told, and how many there are.

    Attributes:
        min_replicas: without load.
        max_replicas: under load; None: as many as without.
        target_ongoing_requests: of one replica, in work and waiting; more of them on average bring
            another replica. None: two for each thread.
    """

    min_replicas: int = 1
    max_replicas: int | None = None
    target_ongoing_requests: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise OptionError(
                f"max_replicas {self.max_replicas}: expected at least min_replicas, "
                f"{self.min_replicas}"
            )


def build(args: Mapping[str, Any]) -> Any:
    """The Ray Serve application, for ``serve run`` and for configuration files.

    Each replica is a process with one service, its queue and its metrics. It is given as many
    processors as it has threads.

    Args:
        args: the fields of `RayServeOptions` without what Ray's proxies do. Values may be text.
            ``threads`` is 1 where it is not given, and the API key then that of the
            variable ``SSD34_API_KEY`` where this is called, as Ray logs arguments.

    Raises:
        MissingExtraError: an extra is not installed.
        OptionError: an argument is unknown, or its value is none that it may have.
        ModelError: there is no such model.
    """
    for extra, modules in _MODULES.items():
        for module in modules:
            require(module, extra=extra, why="serving on Ray")
    from ray import serve

    options = read_arguments(args)
    threads = options.threads or 1

    def make() -> Any:
        """Called in each replica."""
        from ssd34.serve.app import make_app
        from ssd34.serve.metrics import start_logging
        from ssd34.serve.model import load_fastest
        from ssd34.serve.service import Service

        start_logging("warning")  # Ray logs the requests
        # Ray's proxy puts the id on every answer.
        return make_app(Service(options, load_fastest(options)), says_id=False)

    deployment: Any = serve.deployment(
        serve.ingress(make)(),
        name="ssd34",
        ray_actor_options={"num_cpus": threads},
        autoscaling_config={
            "min_replicas": options.min_replicas,
            "max_replicas": options.max_replicas or options.min_replicas,
            "target_ongoing_requests": options.target_ongoing_requests or 2.0 * threads,
        },
        # Far above the service's own queue, so that it is the service that refuses.
        max_ongoing_requests=options.max_connections,
        max_queued_requests=options.max_connections,
        backpressure_config={"retry_after_s": 1},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=options.read_timeout + options.timeout + 5,
    )
    return deployment.bind()


def read_arguments(args: Mapping[str, Any]) -> RayServeOptions:
    """See `build`."""
    import msgspec

    known = {field.name for field in fields(RayServeOptions)} - _NOT_HERE
    if unknown := sorted(set(args) - known):
        raise OptionError(f"{', '.join(unknown)}: expected some of {', '.join(sorted(known))}")
    given: dict[str, Any] = {"threads": 1}
    if API_KEY in os.environ:
        given["api_key"] = os.environ[API_KEY]
    # A configuration file may name one without a value.
    given |= {name: value for name, value in args.items() if value is not None}
    try:
        options = msgspec.convert(given, RayServeOptions, strict=False)
    except msgspec.ValidationError as error:
        raise OptionError(f"{error}") from None
    for name in given:
        value = getattr(options, name)
        number = isinstance(value, int | float)
        if number and not (value > 0 or (name == "max_wait" and value == 0)):
            raise OptionError(f"{name} {value}: expected a number above 0")
    for name, allowed in (("engine", (*ENGINES, AUTO)), ("preprocessing", PREPROCESSINGS)):
        if (value := getattr(options, name)) not in allowed:
            raise OptionError(f"{name} {value}: expected one of {', '.join(allowed)}")
    path = model_path(options.model)
    if path == Path(options.model):  # no name; and replicas have another current folder
        options = replace(options, model=str(path.absolute()))
    return options
