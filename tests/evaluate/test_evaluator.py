from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest

from ssd34.core.postprocess import POLICIES, ZOO, Picked
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import open_dataset
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_onnx_model
from ssd34.evaluate.evaluator import Stages, detect_all, stage_detector
from ssd34.evaluate.results import Results
from ssd34.runtime.detector import Detector
from ssd34.runtime.session import Session
from tests.conftest import TINY_LABELS, shapes_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven pictures, the third and the last unreadable."""
    folder = shapes_dataset(tmp_path_factory.mktemp("evaluator") / "set", pictures=7)
    for name in ("0003.png", "0007.png"):
        (folder / "images" / name).write_bytes(b"no picture")
    return open_dataset(folder)


def plain(detector, dataset):
    """A loop without threads."""
    for sample in dataset.samples:
        try:
            yield sample, detector.run(detector.session.input_for(dataset.read(sample)))
        except Exception:
            yield sample, None


def assert_found(every, expected, *, policy=0, exact=True):
    assert len(every) == len(expected)
    for found, (sample, picked) in zip(every, expected, strict=True):
        assert found.sample is sample
        assert (found.problem is not None) == (picked is None)
        if picked is not None:
            results = found.results[policy]
            assert set(results.image_ids.tolist()) <= {sample.image_id}
            if exact:
                np.testing.assert_array_equal(results.scores, picked.scores.astype(np.float64))
            np.testing.assert_allclose(results.scores, picked.scores, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10])
def test_the_same_as_one_picture_after_the_other(tiny_model, data, batch_size):
    detector = Detector.load(tiny_model)
    if batch_size > 1:  # the network itself is given one at a time
        whole = stage_detector(detector)
        one_by_one = Stages(
            whole.prepare, lambda many: [whole.infer([k])[0] for k in many], whole.pick
        )
    else:
        one_by_one = stage_detector(detector)
    every = list(detect_all(one_by_one, data, detector.labels, batch_size=batch_size))
    assert_found(every, list(plain(detector, data)))
    assert sum(len(found.results[0]) for found in every if found.results) > 200


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("batch", [3, None])
def test_files_for_several_pictures_are_given_as_many(
    tiny_checkpoint, tiny_model, data, tmp_path, raw, batch
):
    path = tmp_path / "batch.onnx"
    save_model(
        make_onnx_model(tiny_checkpoint, ExportOptions(policy=None if raw else ZOO, batch=batch)),
        path,
    )
    detector = Detector.load(path)
    given = []

    def infer(prepared):
        given.append(len(prepared))
        return stages.infer(prepared)

    stages = stage_detector(detector)
    every = list(
        detect_all(
            Stages(stages.prepare, infer, stages.pick), data, detector.labels,
            batch_size=detector.session.batch or 3,
        )
    )  # fmt: skip
    assert given == [2, 3]  # of three each, without the unreadable ones
    assert_found(every, list(plain(Detector.load(tiny_model), data)), exact=False)


def test_every_policy_from_one_pass(tiny_raw_model, data, monkeypatch):
    policies = [POLICIES["mlperf"], POLICIES["zoo"]]
    expected = [list(plain(Detector.load(tiny_raw_model, policy=p), data)) for p in policies]
    detector = Detector.load(tiny_raw_model)
    run = Session.compute
    runs = 0

    def counted(self, images):
        nonlocal runs
        runs += 1
        return run(self, images)

    monkeypatch.setattr(Session, "compute", counted)
    every = list(detect_all(stage_detector(detector, policies), data, detector.labels))
    assert runs == 5
    for k in range(2):
        assert_found(every, expected[k], policy=k)


def test_pictures_are_read_ahead_while_the_network_runs(data):
    """The network of a picture ends only when a later one has been read."""
    read = [threading.Event() for _ in data.samples]

    class Watched(Dataset):
        def read(self, sample, **_):
            read[sample.image_id - 1].set()
            return np.full((8, 8, 3), sample.image_id, np.uint8)

    watched = Watched(data.name, data.labels, data.samples, data.images)

    def infer(prepared):
        (image,) = prepared
        number = int(image[0, 0, 0])
        if number < len(read):
            assert read[number].wait(30)
        return prepared

    nothing = Picked(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
    stages = Stages(lambda image: image, infer, lambda _: (nothing,))
    every = list(detect_all(stages, watched, TINY_LABELS))
    assert len(every) == len(data.samples) and not any(len(found.results[0]) for found in every)


def test_memory_does_not_grow_with_the_pictures(data):
    """Pictures of a megabyte: as much is held at the end as for a few."""

    class Endless(Dataset):
        def read(self, *_, **__):
            return np.zeros((600, 600, 3), np.uint8)

    nothing = Picked(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
    stages = Stages(lambda image: image, lambda prepared: prepared, lambda _: (nothing,))
    many = Endless(data.name, data.labels, data.samples * 40, data.images)
    tracemalloc.start()
    try:
        assert len(Results.joined(f.results[0] for f in detect_all(stages, many, TINY_LABELS))) == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * 600 * 600 * 3
