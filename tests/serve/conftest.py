"""One server that the tests share; those who need other options start their own."""

from __future__ import annotations

import pytest

from tests.support.server import serving


@pytest.fixture(scope="package")
def server(tiny_raw_model, tmp_path_factory):
    """Of the tiny network that ends at raw outputs and takes any number of pictures."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, tiny_raw_model, "--instances", 2, "--max-pixels", 2_000_000) as one:
        yield one


@pytest.fixture(scope="package")
def tail_server(tiny_model, tmp_path_factory):
    """Of the tiny network with the NMS in its file."""
    with serving(tmp_path_factory.mktemp("tail"), tiny_model, "--instances", 1) as one:
        yield one
