"""What each of two processes that work together does; see test_distributed.py."""

import os
import signal
import sys
import weakref

import torch
import torch.distributed as dist

import ssd34.workflows.training.runs
from ssd34.cli.app import commands
from ssd34.datasets.open import open_dataset
from ssd34.errors import Ssd34Error, TrainingError
from ssd34.train.distributed import join_processes
from ssd34.train.progress import TrainListener
from tests.support import training

CPU = torch.device("cpu")


def begin(work, rank, port, folder, *arguments):
    """The variables that torchrun sets; what is printed goes to a file for each process."""
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)
    }  # fmt: skip
    torch.set_num_threads(1)
    with (folder / f"{rank}.txt").open("w") as sys.stdout:
        work(folder, *arguments)


def lose_one(_):
    """The second process is killed while the first waits for it."""
    try:
        with join_processes(CPU) as ranks:
            if ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            ranks.add(torch.ones(3))
    except TrainingError as error:
        print(repr(error))


def command(_, *arguments):
    """``ssd34``; where ``{rank}`` stands, each process has its own number."""
    try:
        own = [argument.replace("{rank}", os.environ["RANK"]) for argument in arguments]
        commands(own, standalone_mode=False)
    except Ssd34Error as error:
        print(repr(error))


def adapt(folder, *arguments):
    """``ssd34 train --qat``; only the first process can calibrate."""
    if os.environ["RANK"] != "0":
        setattr(ssd34.workflows.training.runs, "calibrate_steps", None)  # noqa: B010
    commands([*arguments, "--output", str(folder / "run")], standalone_mode=False)


def learn(folder):
    """Train and evaluate; print what was reported, and what is left of the group and its threads,
    which end with the block."""
    (folder / "run").mkdir(exist_ok=True)
    with join_processes(CPU) as ranks:
        group = weakref.ref(dist.group.WORLD)
        values = torch.ones(3)
        ranks.add(values)
        print(values.tolist(), ranks.gather(["é"] * ranks.rank))
        training.run(
            folder / "run",
            folder / "train",
            validation=open_dataset(folder / "val"),
            epochs=1,
            listener=TrainListener(problem=lambda problem: print(problem.where)),
            ranks=ranks,
        )
    print(group())
