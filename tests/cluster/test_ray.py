"""The same job on a Ray cluster of two node processes on this machine, one of which is killed."""

import dataclasses
import os
import subprocess
import sys

import pytest

from ssd34.cluster.job import BatchOptions, plan_job
from ssd34.cluster.run import run_batch
from ssd34.cluster.sources import open_source
from ssd34.errors import MissingExtraError, ModelError, OptionError
from ssd34.runtime.cuda_engine import has_cuda_provider
from tests.conftest import ROOT
from tests.support.batches import files_of, many_pictures, rows_of, start_job, wait_for_parts
from tests.support.cli import invoke

pytest.importorskip("ray")
pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of one processor each, and a head without any; a line on its input kills one."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "support" / "ray_cluster.py"], text=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    assert process.stdin and process.stdout
    yield process, process.stdout.readline().strip()
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def command(tiny_model, tmp_path_factory):
    pictures = many_pictures(tmp_path_factory.mktemp("many") / "set", 300)
    here = map(os.path.relpath, (pictures, tiny_model))  # which is not where the nodes are
    return [next(here), "--model", next(here), "--score", 0.1, "--part-size", 10]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The job on one process of this machine."""
    output = tmp_path_factory.mktemp("whole") / "out"
    invoke("batch", *command, "--output", output, "--workers", 1, code=1)
    return output


@pytest.mark.skipif(has_cuda_provider(), reason="this ONNX Runtime is for cards")
def test_a_job_for_cards_goes_to_a_node_with_one(cluster, command, tiny_model):
    """The actor there has been asked, since it says what it lacks. Before a node is killed."""
    from ssd34.cluster.on_ray import run_on_ray

    job = plan_job(open_source(str(command[0])), BatchOptions(model=str(tiny_model)))
    options = dataclasses.replace(job.task.options, engine="cuda")
    job = dataclasses.replace(job, task=dataclasses.replace(job.task, options=options))
    notes: list[str] = []
    with pytest.raises(MissingExtraError, match="onnxruntime-gpu"):
        list(run_on_ray(job, [0], address=cluster[1], workers=None, threads=1, note=notes.append))
    assert "room for 1 worker" in notes[0], "the node without a card has none"


def test_a_killed_node_loses_and_doubles_nothing(cluster, command, whole, tmp_path):
    node, address = cluster
    output = tmp_path / "out"
    job = start_job(*command, "--output", output, "--runner", "ray", "--address", address)
    wait_for_parts(job, output, 3)
    node.stdin.write("kill\n")
    node.stdin.flush()
    assert node.stdout.readline() == "killed\n"
    assert not (output / "manifest.json").exists()
    out, err = job.communicate(timeout=200)
    assert job.returncode == 1, err
    assert "room for 2 workers" in err and "another one takes its part" in err
    assert len(out.splitlines()) == 1 and str(output) in out
    assert files_of(output) == files_of(whole)
    ids = [row["id"] for row in rows_of(output)]
    assert sorted(ids) == list(range(300))


def test_nobody_at_the_address(command, tmp_path):
    with pytest.raises(OptionError, match=r"127\.0\.0\.1:9"):
        invoke(
            "batch", *command, "--output", tmp_path / "out", "--runner", "ray",
            "--address", "127.0.0.1:9",
        )  # fmt: skip


def test_without_ray_the_extra_is_named(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    from ssd34.cluster.run import Runner

    with pytest.raises(MissingExtraError, match=r"ssd34\[ray\]"):
        run_batch(command[0], tmp_path / "out", runner=Runner("ray"))


def test_what_an_actor_refuses_is_raised(cluster, command, tiny_raw_model, tmp_path):
    from ssd34.cluster.on_ray import run_on_ray

    copy = tmp_path / "copy.onnx"
    copy.write_bytes(tiny_raw_model.read_bytes())
    job = plan_job(open_source(str(command[0])), BatchOptions(model=str(copy)))
    copy.write_bytes(copy.read_bytes() + b"\n\x00")
    with pytest.raises(ModelError, match=r"copy\.onnx"):
        list(run_on_ray(job, [0], address=cluster[1], workers=1, threads=1))
    with pytest.raises(OptionError, match="99"):
        list(run_on_ray(job, [0], address=cluster[1], workers=1, threads=99))
