"""Two processes train like one, on one machine or on two."""

import multiprocessing
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from ssd34.core.contract import NOTE_INT8_STEPS
from ssd34.datasets.open import open_dataset
from ssd34.deploy.graph.layers import make_network
from ssd34.errors import OptionError
from ssd34.files.checkpoint import read_checkpoint
from ssd34.train.distributed import ALONE, Ranks, SharedBatchNorm, join_processes, share_batch_norm
from ssd34.train.run import read_history
from tests.conftest import shapes_dataset
from tests.support import two_processes
from tests.support.cli import invoke
from tests.support.refusals import assert_facts
from tests.support.training import QUICK, assert_same_checkpoints, evaluations_of, loader_of, run


@pytest.fixture(scope="module")
def with_a_broken_picture(shapes, tmp_path_factory):
    """A data set of which one picture is broken: the one that the second of two processes draws
    alone for the first batch of three."""
    folder = tmp_path_factory.mktemp("broken") / "set"
    shutil.copytree(shapes, folder)
    loader = loader_of(folder, batch_size=3, seed=34, ranks=Ranks(1, 2))
    [drawn] = next(loader.draws(0))
    name = loader.sources[0].dataset.samples[drawn.picture].file_name
    (folder / "images" / name).write_text("no picture")
    return folder


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_on_two_nodes(arguments, *, data):
    """torchrun on two nodes, as far as one machine can play them: each has its own agent and its
    own place of the data. Returns what both have printed."""
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-id", "job", "--rdzv-endpoint", f"localhost:{free_port()}",
        "-m", "ssd34",
    ]  # fmt: skip
    nodes = [
        subprocess.Popen(
            [*torchrun, *(word.replace("{data}", str(folder)) for word in arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for folder in data
    ]  # fmt: skip
    try:
        printed = [node.communicate(timeout=300) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], printed
    return ["".join(parts) for parts in zip(*printed, strict=True)]


def test_two_nodes_train_to_the_weights_of_one_process(
    together, with_a_broken_picture, shapes, tiny_checkpoint, tiny_file, tmp_path
):
    """The same batches, batch norm over both processes, one of them once without a picture. Two
    processes on one node end with the same bits.

    Four steps: every further one multiplies the rounding of sums, on few pixels by batch norm most.
    Two threads instead of one move the weights as much as two processes do.
    """
    arguments = [
        "train", "--data", "{data}", "--val", str(shapes), "--init",
        str(tiny_file), "--epochs", "1", "--batch", "3", "--lr", "1e-3",
        "--workers", "0", "--threads", "1", "--device", "cpu",
        *(f"--set={x}" for x in ("optimizer=sgd", "warmup_steps=1", "ema_decay=0.9",
                                 "precision=fp32", "backbone_statistics=batch", "frozen_stages=0")),
        "--output",
    ]  # fmt: skip
    one, two, same = tmp_path / "one", tmp_path / "two", tmp_path / "same"
    alone = [word.replace("{data}", str(with_a_broken_picture)) for word in arguments]
    assert "finished after 4 steps" in invoke(*alone, one).output
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(with_a_broken_picture, elsewhere)
    out, err = run_on_two_nodes([*arguments, str(two)], data=[with_a_broken_picture, elsewhere])
    assert out.count("finished after 4 steps") == out.count("report: ") == 1
    assert "2 processes" in err
    together(two_processes.command, tmp_path, *alone, str(same))
    assert_same_checkpoints(two, same)
    expected, got = (read_checkpoint(f / "last.safetensors", training=True) for f in (one, two))
    model = {k: a for k, a in expected.training.items() if k.startswith("model.")}
    for ours, theirs in ((expected.weights, got.weights), (model, got.training)):
        assert ours.keys() <= theirs.keys()
        for key, array in ours.items():
            difference = np.abs(theirs[key] - array).max()
            assert difference <= 1e-3 * np.abs(array).max() + 1e-6, key
    moved = max(
        float(np.abs(a - tiny_checkpoint.weights[k]).max()) for k, a in expected.weights.items()
    )
    assert moved > 1e-2
    for folder in (one, two):
        events = [record["event"] for record in read_history(folder / "history.jsonl")]
        assert (events.count("problem"), events.count("evaluation")) == (1, 2)
        assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in one.iterdir())
    for (step, summary), (other_step, other), at in zip(
        evaluations_of(one), evaluations_of(two), (0, 4), strict=True
    ):
        assert step == other_step == at
        assert other == pytest.approx(summary, abs=1e-3, nan_ok=True)


@pytest.fixture(scope="module")
def two_pictures(tmp_path_factory):
    return shapes_dataset(tmp_path_factory.mktemp("two") / "set", pictures=2)


@pytest.fixture(scope="module")
def together():
    """Runs a function of two_processes.py in two processes; returns what each has printed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([two_processes.__name__])

    def start(work, folder, *arguments, ends=(0, 0)):
        port = free_port()
        processes = [
            context.Process(target=two_processes.begin, args=(work, rank, port, folder, *arguments))
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        assert tuple(process.exitcode for process in processes) == ends
        return [(folder / f"{rank}.txt").read_text().splitlines() for rank in range(2)]

    return start


def test_who_waits_for_a_dead_process_is_told(together, tmp_path):
    [told] = together(two_processes.lose_one, tmp_path, ends=(0, -signal.SIGKILL))[0]
    assert "TrainingError" in told and "2 processes" in told and "--resume" in told


@pytest.mark.parametrize("wrong", ["missing", "other"])
def test_processes_that_do_not_see_the_same_data_end_at_once(
    wrong, together, shapes, tiny_file, tmp_path
):
    """Of several machines torchrun tells the others of nothing."""
    shutil.copytree(shapes, tmp_path / "data0")
    if wrong == "other":
        shapes_dataset(tmp_path / "data1", pictures=12, seed=1)
    told = together(
        two_processes.command, tmp_path, "train", "--data", str(tmp_path / "data{rank}"), "--val",
        str(shapes), "--init", str(tiny_file), "--output", str(tmp_path / "run"), *QUICK,
    )  # fmt: skip
    [first], [second] = told
    if wrong == "missing":
        assert_facts(first, "TrainingError", "2 processes")
        assert_facts(second, "DatasetError", tmp_path / "data1")
    else:
        assert first == second
        assert_facts(first, "TrainingError", "--data", "process 1")
    assert not (tmp_path / "run").exists()


def test_pictures_that_any_process_could_not_read_are_told_once(together, shapes, tmp_path):
    """Of those to learn from and of those to measure on, in the history of the first process.
    Nothing of the group outlives it: its threads must not run on while Python ends."""
    expected = []
    for number, part in enumerate(("train", "val")):
        shutil.copytree(shapes, tmp_path / part)
        for sample in open_dataset(shapes).samples[number::3]:
            (tmp_path / part / "images" / sample.file_name).write_text("no picture")
            expected.append(sample.file_name)
    first, second = together(two_processes.learn, tmp_path)
    shared = "[2.0, 2.0, 2.0] [[], ['é']]"
    records = read_history(tmp_path / "run" / "history.jsonl")
    told = [record["where"] for record in records if record["event"] == "problem"]
    assert sorted(told) == sorted(expected)
    assert (first, second) == ([shared, *told, "None"], [shared, "None"])


def test_the_first_process_finds_the_int8_steps_for_all(
    together, with_a_broken_picture, two_pictures, tiny_file, tmp_path
):
    """The second of them has no picture in its part of the first batch."""
    together(
        two_processes.adapt, tmp_path, "train", "--qat", "--data", str(with_a_broken_picture),
        "--val", str(two_pictures), "--init", str(tiny_file), "--epochs", "1",
        "--batch", "3", "--workers", "0", "--threads", "1", "--device", "cpu",
    )  # fmt: skip
    last = read_checkpoint(tmp_path / "run" / "last.safetensors")
    assert set(make_network(last).trained) == set(last.state["notes"][NOTE_INT8_STEPS])


def test_ranks_share_every_batch_without_overlap(shapes):
    def drawn(ranks):
        loader = loader_of(shapes, batch_size=5, ranks=ranks)
        draws = loader.draws(0)
        return [next(draws) for _ in range(4)]

    whole, parts = drawn(ALONE), [drawn(Ranks(rank, 3)) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert sorted(draw for part in parts for draw in part[step]) == sorted(batch)
        assert {len(part[step]) for part in parts} == {1, 2}


def test_shared_batch_norm_is_batch_norm_in_one_process():
    """Against torch's own, forward, backward and statistics."""
    environment = {"RANK": "0", "WORLD_SIZE": "1"}
    with join_processes(torch.device("cpu"), environment) as ranks:
        assert ranks == ALONE
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        ours = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        theirs = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        theirs.load_state_dict(ours.state_dict())
        names = list(ours.state_dict())
        share_batch_norm(ours)
        assert isinstance(ours[1], SharedBatchNorm)
        assert list(ours.state_dict()) == names
        images = torch.randn(4, 3, 5, 5) * 3 + 7
        weights = torch.randn(4, 8, 5, 5)
        for network in (ours, theirs):
            (network(images) * weights).sum().backward()
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))
    finally:
        dist.destroy_process_group()


def test_what_several_processes_cannot_do(shapes, tmp_path):
    for changes, ranks, named in (
        ({"epochs": None, "minutes": 1.0}, Ranks(0, 2), "--epochs"),
        ({"batch_size": 6, "accumulate": 2}, Ranks(0, 4), "--batch 8"),
    ):
        with pytest.raises(OptionError, match=named):
            run(tmp_path, shapes, ranks=ranks, **changes)
