from __future__ import annotations

import itertools

import pytest

from ssd34.core.postprocess import POLICIES
from ssd34.datasets.open import open_dataset
from ssd34.errors import OptionError
from ssd34.evaluate.evaluator import detect_all, stage_detector
from ssd34.evaluate.partial import locate_partial, open_partial, read_engine
from ssd34.runtime.detector import Detector
from tests.conftest import shapes_dataset

IDENTITY = {"model_sha256": "ab", "policies": ["zoo", "mlperf"], "limit": None}


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five pictures, one of them unreadable."""
    folder = shapes_dataset(tmp_path_factory.mktemp("partial") / "set", pictures=5)
    (folder / "images" / "0003.png").write_bytes(b"no picture")
    return open_dataset(folder)


@pytest.fixture(scope="module")
def run(tiny_raw_model, data):
    """Run or go on, stopping before the given picture; returns what was found."""
    detector = Detector.load(tiny_raw_model)
    stages = stage_detector(detector, [POLICIES["zoo"], POLICIES["mlperf"]])

    def go(path, *, resume=False, stop=None, identity=IDENTITY):
        with open_partial(path, identity, data, resume=resume) as partial:
            done = list(partial.found)
            for found in detect_all(stages, data, detector.labels, start=len(done)):
                if len(done) == stop:
                    raise StoppedError
                partial.keep(found)
                done.append(found)
        return done

    return go


@pytest.fixture
def stopped(run, tmp_path):
    """The partial file of a run that was stopped before the given picture."""

    def at(stop, **given):
        with pytest.raises(StoppedError):
            run(tmp_path / "p", stop=stop, **given)
        return tmp_path / "p"

    return at


def rows(done):
    return [
        (one.sample.image_id, one.problem and one.problem.reason,
         [results.as_array().tolist() for results in one.results])
        for one in done
    ]  # fmt: skip


def test_a_finished_run_leaves_nothing(run, tmp_path):
    path = locate_partial(tmp_path / "ap.json")
    assert path.name == "ap.json.partial"
    done = run(path)
    assert list(tmp_path.iterdir()) == []
    assert sum(len(results) for found in done for results in found.results) > 100
    assert [found.problem is None for found in done] == [True, True, False, True, True]


@pytest.mark.parametrize("stop", range(5))
def test_a_resumed_run_ends_with_the_very_same_numbers(run, stopped, stop):
    path = stopped(stop)
    assert len(path.read_text().splitlines()) == stop + 1
    assert rows(run(path, resume=True)) == rows(run(path))
    assert not path.exists()


def test_a_run_may_be_interrupted_again_and_again(run, stopped):
    for stop in (1, 1, 2, 4):
        path = stopped(stop, resume=True)
    assert rows(run(path, resume=True)) == rows(run(path))


def test_a_torn_last_line_is_done_again(run, stopped, tmp_path):
    path = stopped(4)
    whole = path.read_bytes()
    ends = [0, *itertools.accumulate(len(line) for line in whole.splitlines(keepends=True))]
    expected = rows(run(tmp_path / "other"))
    for cut in (0, 5, ends[1] - 1, ends[1], ends[2] + 7, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert rows(run(path, resume=True)) == expected, cut


@pytest.mark.parametrize("key", IDENTITY)
def test_another_evaluation_is_named(run, stopped, key):
    path = stopped(2)
    before = path.read_bytes()
    with pytest.raises(OptionError, match=rf"{key.replace('_', ' ')} .*something else"):
        run(path, resume=True, identity={**IDENTITY, key: "something else"})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "replaced"),
    [(1, b"{}"), (1, b"[]"), (1, b"\xff"), (2, b'{"image_id": 7}'), (2, b'{"image_id": 1}'),
     (2, b'{"image_id": 1, "found": [[[1, 2]]]}'), (2, b'{"image_id": 1, "found": 3}'),
     (2, b'{"image_id": 1, "found": [[%d, 1, 2, 3, 4, 5]]}' % 10**400),
     (3, b"no json")],
)  # fmt: skip
def test_damage_is_an_error(run, stopped, line, replaced):
    path = stopped(3)
    lines = path.read_bytes().splitlines()
    lines[line - 1] = replaced
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(OptionError) as caught:
        run(path, resume=True)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and ("damaged" in message or "not a partial" in message)


def test_a_file_of_another_kind_is_left_alone(run, tmp_path):
    path = tmp_path / "p"
    for content in (b"my notes", b"my notes\n", b'{"file": "ssd34 partial'):
        path.write_bytes(content + b" and more")
        with pytest.raises(OptionError, match=r"not a partial|damaged"):
            run(path, resume=True)
        assert path.read_bytes() == content + b" and more"


def test_more_pictures_than_the_data_set_has(run, stopped):
    path = stopped(4)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[-1], lines[-1]]))
    with pytest.raises(OptionError, match="damaged at line 6"):
        run(path, resume=True)


def test_the_engine_of_an_interrupted_run(tmp_path):
    path = tmp_path / "p"
    assert read_engine(path) is None
    for text, expected in (
        ('{"engine": "openvino"}\n{}', "openvino"), ('{"engine": "magic"}', None),
        ("[1]", None), ("{", None), ("", None),
    ):  # fmt: skip
        path.write_text(text)
        assert read_engine(path) == expected
