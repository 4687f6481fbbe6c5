"""Two processes never write one thing, and a dead one keeps nobody out."""

import errno
import os
import signal
import subprocess
import sys

import filelock
import pytest

from ssd34.errors import OptionError
from ssd34.files.lock import file_locked, folder_locked

HOLD = """
import os, sys, time
from pathlib import Path
from ssd34.files.lock import folder_locked
with folder_locked(Path(sys.argv[1])):
    # Of two processes the forked one says so: by then it has let go of the lock.
    if sys.argv[2] != "fork" or os.fork() == 0:
        print("held", flush=True)
    time.sleep(30)
    os._exit(0)
"""


def held_by(folder, what=""):
    command = [sys.executable, "-c", HOLD, str(folder), what]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def end(process):
    with process:
        os.killpg(process.pid, signal.SIGKILL)


def test_the_second_is_told_who_is_there_until_that_one_is_dead(tmp_path):
    process = held_by(tmp_path)
    try:
        with pytest.raises(OptionError) as error, folder_locked(tmp_path):
            pass
        for fact in (str(tmp_path), f"process {process.pid} ", os.uname().nodename):
            assert fact in str(error.value)
    finally:
        end(process)
    assert os.listdir(tmp_path) == [".ssd34.lock"]  # left by the dead one
    with folder_locked(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_a_forked_process_does_not_hold_the_lock_of_a_dead_one(tmp_path):
    process = held_by(tmp_path, "fork")
    try:
        process.kill()
        process.wait()
        with folder_locked(tmp_path):
            pass
    finally:
        end(process)


@pytest.mark.parametrize("name", ["last.onnx", "n" * 255, "写" * 85])
def test_a_file_of_any_name_is_locked_beside_it(tmp_path, name):
    waited: list[str] = []
    first = file_locked(tmp_path / name)

    def release(who):
        waited.append(who)
        first.__exit__(None, None, None)

    first.__enter__()
    with pytest.raises(OptionError), file_locked(tmp_path / name):
        pass
    with file_locked(tmp_path / name, waiting=release):
        assert f"process {os.getpid()} " in waited[0]
    assert os.listdir(tmp_path) == []


def test_who_is_there_need_not_be_known(tmp_path):
    with folder_locked(tmp_path):
        (tmp_path / ".ssd34.lock").write_bytes(b"")
        with pytest.raises(OptionError, match="another process"), folder_locked(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with folder_locked(tmp_path), folder_locked(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, number):
    def refuse(path, *_):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(filelock.FileLock, "_acquire", lambda lock: refuse(lock.lock_file))
    with pytest.raises(OSError) as error, folder_locked(tmp_path):
        pass
    assert (error.value.errno, error.value.filename) == (number, str(tmp_path))


def test_an_error_within_the_block_comes_out_and_gives_the_lock_back(tmp_path):
    with pytest.raises(OSError, match="of the work"), folder_locked(tmp_path):
        raise OSError("of the work")
    with folder_locked(tmp_path):
        pass
