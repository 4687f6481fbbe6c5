"""Whatever library meets a full disk, the error is one, names the file and says what it lacks."""

import errno
import gzip
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from ssd34.errors import OptionError
from ssd34.files.atomic import folder_written_whole, naming, write_text, written_whole

PIXELS = np.random.default_rng(0).integers(0, 256, (700, 700, 3)).astype(np.uint8)
"""More than the small disk holds, however it is packed."""


def write_safetensors(path):
    import safetensors.numpy

    safetensors.numpy.save_file({"a": PIXELS}, path)


def write_picture(form, **options):
    return lambda path: Image.fromarray(PIXELS).save(path, form, **options)


def write_onnx(path):
    import onnx

    tensor = onnx.numpy_helper.from_array(PIXELS, "a")
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    onnx.save(onnx.helper.make_model(graph), path)


def write_arrays(path):
    with path.open("wb") as file:
        np.savez(file, a=PIXELS)


def write_gzip(path):
    with gzip.open(path, "wb") as file:
        file.write(PIXELS.tobytes())


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", PIXELS.tobytes())


WRITERS = {
    "safetensors": write_safetensors, "png": write_picture("PNG"), "bmp": write_picture("BMP"),
    "jpeg": write_picture("JPEG", quality=100), "tiff": write_picture("TIFF"), "onnx": write_onnx,
    "npz": write_arrays, "zip": write_zip, "gzip": write_gzip,
    "copy": lambda path: shutil.copyfile(path.parents[2] / "source", path),
    "plain": lambda path: path.write_bytes(PIXELS.tobytes()),
}  # fmt: skip


def fill(folder):
    """What each library's error becomes; run on a small disk."""
    target = folder / "disk" / "result"
    target.write_text("before")
    (folder / "source").write_bytes(PIXELS.tobytes())
    for kind, write in WRITERS.items():
        with pytest.raises(OSError) as error, written_whole(target, needs=PIXELS.nbytes) as file:
            write(file)
        assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(target)), kind
        assert "1.5 MB needed" in str(error.value) and "\n" not in str(error.value), kind
        assert target.read_text() == "before" and os.listdir(target.parent) == ["result"], kind


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.call(["unshare", "-m", "true"]) != 0,
    reason="no mount namespace can be had",
)
def test_a_full_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    mount = f'mount -t tmpfs -o size=300k tmpfs {tmp_path}/disk && exec "$@"'
    code = f"from pathlib import Path; from tests.files.test_disk import fill; \
fill(Path({str(tmp_path)!r}))"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", code],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


class LibraryError(Exception):
    pass


@pytest.mark.parametrize(
    "text",
    ["I/O error: No space left on device (os error 28)", "[Errno 28] full", "x No space left on "
     "device y"],
)  # fmt: skip
def test_a_librarys_own_error_for_a_full_disk(tmp_path, text):
    with pytest.raises(OSError) as error, naming(tmp_path / "file"):
        raise LibraryError(text)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "file"))


def test_errors_of_anything_else_come_out_as_they_are(tmp_path):
    for other in (
        LibraryError("of its own"), LibraryError("[Errno 104] reset"), ValueError("of ours"),
        FileNotFoundError(errno.ENOENT, "none", str(tmp_path / "source")),
        ConnectionResetError(errno.ECONNRESET, "reset"), OptionError("[Errno 28]"),
    ):  # fmt: skip
        with pytest.raises(type(other)) as error, naming(tmp_path / "file"):
            raise other
        assert error.value is other


def test_a_file_of_a_new_folder_is_named_by_its_place(tmp_path):
    with pytest.raises(OSError) as error, folder_written_whole(tmp_path / "set") as folder:
        raise OSError(errno.EIO, "broken", str(folder / "images" / "1.jpg"))
    assert error.value.filename == str(tmp_path / "set" / "images" / "1.jpg")
    with pytest.raises(OSError) as error, folder_written_whole(tmp_path / "set"):
        raise OSError(errno.ENOSPC, "full")
    assert error.value.filename == str(tmp_path / "set")


def test_room_is_told_only_where_it_is_short(tmp_path):
    """Else it is a quota, or the number of files."""
    with pytest.raises(OSError) as error, naming(tmp_path / "file", needs=1):
        raise OSError(errno.EDQUOT, "quota")
    assert error.value.strerror == os.strerror(errno.EDQUOT)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device")
def test_an_open_file_is_named(tmp_path):
    (tmp_path / "log").symlink_to("/dev/full")
    with (
        pytest.raises(OSError) as error,
        naming(tmp_path / "log"),
        (tmp_path / "log").open("a") as file,
    ):
        file.write("line")
    assert error.value.filename == str(tmp_path / "log")
    write_text(tmp_path / "other", "fine")
