import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import pytest
from rich.console import Console

from ssd34.cli import train_screen
from ssd34.cli.train_screen import TrainScreen
from ssd34.datasets.dataset import Problem
from ssd34.evaluate.metrics import CocoMetrics
from ssd34.files.checkpoint import read_checkpoint
from ssd34.train.progress import Progress
from ssd34.train.run import read_history
from tests.conftest import COCO_NUMBERS
from tests.support.cli import COMMANDS, invoke
from tests.support.terminal import lines_of
from tests.support.training import QUICK


@pytest.fixture(autouse=True)
def every_change_is_drawn(monkeypatch):
    monkeypatch.setattr(train_screen, "REFRESH_SECONDS", 0.0)


def progress(step, *, epochs=60):
    return Progress(
        step=step, batches_per_epoch=10, share=step / (10 * epochs), elapsed=2.0 * step,
        remaining=2.0 * (10 * epochs - step), image_size=300, learning_rate=3e-4,
        loss=20 / step, box_loss=5 / step, class_loss=15 / step, gradient_norm=4.2,
        images_per_second=17.3, data_wait=0.031, best_ap=-1,
    )  # fmt: skip


def metrics(ap):
    summary = dict.fromkeys(COCO_NUMBERS, ap) | {"AP50": 2 * ap}
    return CocoMetrics(summary=summary, class_ap={}, class_ap50={}, pictures=10, area_class_ap={})


class Terminal:
    def __init__(self, width, height=40, history=()):
        self.width = width
        self.file = io.StringIO()
        console = Console(
            file=self.file, force_terminal=True, width=width, height=height, _environ={}
        )
        self.screen = TrainScreen(console)
        self.screen.watch(history)
        self.screen.ready()

    def lines(self):
        return lines_of(self.file.getvalue(), self.width)


@pytest.mark.parametrize("width", [60, 120])
def test_what_is_shown(width):
    terminal = Terminal(width)
    table = terminal.screen
    for epoch in range(1, 13):
        table.progress(progress(10 * epoch - 5))
        table.progress(progress(10 * epoch))
        table.evaluating(5, 10)
        table.evaluated(epoch, metrics(0.3 if epoch == 2 else epoch / 100))
        table.problem(Problem(f"{epoch}.jpg", "broken\x1b[2J\nor truncated"))
    table.ended()
    lines = terminal.lines()
    assert max(map(len, lines)) <= width
    text = " ".join("\n".join(lines).split())
    # Each part once: what was drawn before is gone.
    for once in (
        "step 120", "20.0%", "left 16:00", "loss 0.167", "box 0.042", "class 0.125", "lr 0.0003",
        "17.3 images/s", "waiting 3%",
    ):  # fmt: skip
        assert text.count(once) == 1, once
    assert "evaluating" not in text
    rows = [line.split() for line in lines if re.match(r" *\d+ +\d+ +0\.", line)]
    assert [row[0] for row in rows] == ["2", *map(str, range(6, 13))]  # the best one stays
    assert rows[0] == ["2", "20", "0.3000", "0.6000"]
    assert [line for line in lines if ".jpg" in line] == [
        f"warning: {epoch}.jpg: broken?[2J?or truncated" for epoch in range(1, 13)
    ]


def test_a_second_signal_does_not_wait_for_the_step():
    with TrainScreen() as screen:
        screen.ready()
        signal.raise_signal(signal.SIGTERM)
        assert screen.stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_where_nobody_watches_an_evaluation_tells_how_far_it_is(monkeypatch, capsys):
    screen = TrainScreen()
    for done, pause in enumerate((0, 3600, 0), start=1):
        monkeypatch.setattr(train_screen, "PRINT_SECONDS", pause)
        screen.evaluating(done, 9)
    assert capsys.readouterr().err.splitlines() == ["evaluating 1/9", "evaluating 3/9"]


def test_a_resumed_run_shows_its_earlier_evaluations(tmp_path):
    history = tmp_path / "history.jsonl"
    records = [
        {"event": "step", "step": 10, "batches_per_epoch": 10, "share": 0.1},
        {"event": "evaluation", "step": 10, "summary": {"AP": 0.125, "AP50": 0.25}},
        {"event": "problem", "step": 12, "where": "a.jpg", "reason": "broken"},
        {"event": "evaluation", "step": 20, "summary": {"AP": None, "AP50": None}},
    ]
    history.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"event": "st')
    assert read_history(tmp_path / "none.jsonl") == []
    for until, expected in ((19, [["1", "10", "0.1250", "0.2500"]]),
                            (20, [["1", "10", "0.1250", "0.2500"],
                                  ["2", "20", "0.0000", "0.0000"]])):  # fmt: skip
        terminal = Terminal(80, history=read_history(history, until=until))
        terminal.screen.ended()
        rows = [line.split() for line in terminal.lines() if re.match(r" *\d+ +\d+ ", line)]
        assert rows == expected


def in_a_terminal(*commands, width, interrupted_by):
    """Run commands in one process in a pseudo-terminal, with Ctrl-C once a text was written.
    Returns of each the exit code and the lines that it leaves."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    texts = json.dumps([[*map(str, arguments)] for arguments in commands])
    process = subprocess.Popen(
        [sys.executable, "-c", COMMANDS, texts],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=environment | {"TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        written += part
        if interrupted_by and interrupted_by in written:
            interrupted_by = None
            os.killpg(process.pid, signal.SIGINT)
    os.close(ours)
    process.wait(60)
    ended: list[tuple[int, list[str]]] = []
    lines: list[str] = []
    for line in lines_of(written.decode(), width):
        if line.startswith("exit "):
            ended.append((int(line.split()[1]), lines))
            lines = []
        lines.append(line)
    return ended


def test_in_a_terminal_the_last_state_stays(shapes, tiny_file, tmp_path):
    """After Ctrl-C, from which the run goes on, and above an error."""
    data = ("train", "--data", shapes, "--val", shapes)
    long = ("--init", tiny_file, "--epochs", "500", *QUICK)
    wild = ("--lr", "1e30", "--set", "optimizer=sgd", "--set", "gradient_clip=1e30")
    (code, lines), (other, below_it) = in_a_terminal(
        (*data, *long, "--output", tmp_path / "run"),
        (*data, *long, "--output", tmp_path / "wild", *wild),
        width=60, interrupted_by=b"images/s",
    )  # fmt: skip
    assert (code, other) == (130, 2)
    at = [number for number, line in enumerate(lines) if line.startswith("step ")]
    assert len(at) == 1
    below = "\n".join(lines[at[0] :])
    assert "stopped after" in below and "--resume" in below
    assert below.count("AP50") == below.count("images/s") == 1
    assert not any("Traceback" in line for line in (*lines, *below_it))
    steps = read_checkpoint(tmp_path / "run" / "last.safetensors").state["step"]
    assert steps >= 3
    resumed = invoke(
        *data, "--output", tmp_path / "run", "--resume", "--epochs", steps // 3 + 1,
        "--workers", "0", "--threads", "1",
    )  # fmt: skip
    assert "finished" in resumed.output

    [last] = [number for number, line in enumerate(below_it) if line.startswith("step ")]
    errors = [number for number, line in enumerate(below_it) if line.startswith("error: ")]
    assert errors and errors[0] > last
    assert "no checkpoint yet" in " ".join(below_it[errors[0] :])
