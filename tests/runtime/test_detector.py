import copy
import io
import multiprocessing
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from ssd34.core.postprocess import MLPERF, ZOO, Policy
from ssd34.errors import ImageError, ModelError, OptionError
from ssd34.runtime.detector import Detector
from ssd34.zoo.names import model_path
from tests.conftest import EXAMPLES, TINY_LABELS
from tests.support import pictures
from tests.support.refusals import refused

COFFEE = EXAMPLES / "coffee.jpg"


@pytest.fixture(scope="module")
def detector(tiny_model):
    return Detector.load(tiny_model)


@pytest.fixture(scope="module")
def raw_detector(tiny_raw_model):
    return Detector.load(tiny_raw_model)


@pytest.fixture(scope="module")
def fast(tiny_model):
    return Detector.load(tiny_model, preprocessing="fast")


def noise(height=50, width=70, seed=0):
    return pictures.noise(height, width, seed=seed)


def encoded(form="PNG"):
    return pictures.encoded(noise(), form)


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert (found.width, found.height) == (expected.width, expected.height)


def test_a_pool_of_spawned_processes_detects(detector, raw_detector):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for one in (detector, raw_detector):
            assert_equal(pool.apply(one.detect, (COFFEE,)), one.detect(COFFEE))


def test_what_is_unpickled_is_loaded_again_with_the_same_options(
    tiny_raw_model, tiny_model, monkeypatch, tmp_path
):
    monkeypatch.chdir(tiny_raw_model.parent)
    policy = MLPERF.replace(name="mine", max_detections=5)
    raw = Detector.load(tiny_raw_model.name, threads=2, policy=policy, preprocessing="fast")
    pickled = pickle.dumps(raw), pickle.dumps(Detector.load(tiny_model, engine="auto"))
    assert len(b"".join(pickled)) < 2000, "not the file's content"
    monkeypatch.chdir(tmp_path)
    again, with_tail = map(pickle.loads, pickled)
    assert (again.session.threads, again.policy, again.preprocessing) == (2, policy, "fast")
    assert_equal(again.detect(noise(), score=0), raw.detect(noise(), score=0))
    assert with_tail.detect(noise(), score=0).names
    path = shutil.copy(tiny_model, tmp_path / "gone.onnx")
    gone = pickle.dumps(Detector.load(path))
    path.unlink()
    with refused(ModelError, path):
        pickle.loads(gone)


def test_copies_detect_and_deep_ones_have_a_session_of_their_own(detector):
    shallow, deep = copy.copy(detector), copy.deepcopy(detector)
    assert shallow.session is detector.session and deep.session is not detector.session
    for each in (shallow, deep):
        assert_equal(each.detect(noise(), score=0), detector.detect(noise(), score=0))


def test_threads_share_a_detector(detector):
    images = [noise(seed=seed) for seed in range(8)]
    expected = [detector.detect(image, score=0) for image in images]
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda image: detector.detect(image, score=0), images * 4)
        for one, wanted in zip(found, expected * 4, strict=True):
            assert_equal(one, wanted)


def test_detections_lie_in_the_picture_best_first(detector):
    found = detector.detect(noise(40, 90), score=0)
    assert 0 < len(found) <= ZOO.max_detections
    assert (found.width, found.height) == (90, 40)
    assert found.boxes.min() >= 0
    assert found.boxes[:, [0, 2]].max() <= 90 and found.boxes[:, [1, 3]].max() <= 40
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores.min() > ZOO.score_threshold
    assert set(found.names) <= set(TINY_LABELS.names)
    pixel = detector.detect(np.full((1, 1, 3), 200, np.uint8), score=0)
    assert (pixel.width, pixel.height) == (1, 1)
    assert pixel.boxes.min(initial=0) >= 0 and pixel.boxes.max(initial=0) <= 1


def test_tail_and_raw_model_agree_on_pictures(detector, raw_detector):
    for picture in (EXAMPLES / "chelsea.jpg", COFFEE, noise(), noise(64, 64, seed=1)):
        tail, raw = detector.detect(picture, score=0), raw_detector.detect(picture, score=0)
        assert len(tail) == len(raw) > 10
        np.testing.assert_allclose(raw.scores, tail.scores, atol=1e-5)
        # Scores that are equal up to rounding may change places: look at the others.
        apart = np.minimum(-np.diff(tail.scores, prepend=2), -np.diff(tail.scores, append=-1))
        sure = apart > 2e-5
        assert sure.mean() > 0.5
        np.testing.assert_array_equal(raw.labels[sure], tail.labels[sure])
        np.testing.assert_allclose(raw.boxes[sure], tail.boxes[sure], atol=1e-2)


def test_score_is_a_lower_limit(detector):
    everything = detector.detect(noise(), score=0)
    limit = float(everything.scores[len(everything) // 2])
    found = detector.detect(noise(), score=limit)
    np.testing.assert_array_equal(found.scores, everything.scores[everything.scores >= limit])
    assert 0 < len(found) < len(everything)
    for score in (0.5, np.float32(0.5), np.float64(0.5)):
        assert len(detector.detect(noise(), score=score)) == len(detector.detect(noise()))
    for whole in (1, True, np.int64(1)):
        assert len(detector.detect(noise(), score=whole)) == 0
    assert len(detector.detect(noise())) == (everything.scores >= 0.5).sum()


@pytest.mark.parametrize("score", [float("nan"), -1, -1e-9, 1.001, 7, "0.3", None])
def test_a_score_outside_0_to_1_is_refused_before_the_work(detector, score):
    prepared = detector.prepare(noise())
    for detect, what in (
        (detector.detect, b"no picture"),
        (detector.detect_many, [b"no picture"]),
        (detector.detect_batch, [b"no picture"]),
        (detector.find, prepared),
    ):
        with refused(OptionError, score, "0 to 1"):
            detect(what, score=score)
    assert len(detector.find(prepared, score=0)) > 0  # it was not used


def test_every_form_of_a_picture_gives_the_same(detector, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded())
    view = np.ascontiguousarray(noise()[..., ::-1])[..., ::-1]
    assert not view.flags.c_contiguous
    view.setflags(write=False)
    expected = detector.detect(noise(), score=0)
    with Image.open(path) as picture:
        for form in (path, str(path), encoded(), picture, Image.fromarray(noise()), view):
            assert_equal(detector.detect(form, score=0), expected)
    grey = Image.fromarray(noise()).convert("L")
    expected = detector.detect(np.stack([np.asarray(grey)] * 3, axis=-1), score=0)
    assert_equal(detector.detect(grey, score=0), expected)


def test_detect_many_is_lazy_and_in_order(detector):
    asked = []

    def images():
        for seed in range(3):
            asked.append(seed)
            yield noise(seed=seed)

    found = detector.detect_many(images(), score=0)
    assert asked == []
    assert_equal(next(found), detector.detect(noise(seed=0), score=0))
    assert asked == [0, 1]  # the next one is made ready meanwhile
    rest = list(found)
    assert len(rest) == 2
    assert_equal(rest[1], detector.detect(noise(seed=2), score=0))
    together = np.stack([noise(seed=0), noise(seed=1)])
    for seed, one in enumerate(detector.detect_many(together, score=0)):
        assert_equal(one, detector.detect(noise(seed=seed), score=0))


def test_detect_many_can_be_closed(detector: Detector):
    """As the type says, which is checked, too."""
    with closing(detector.detect_many(iter([noise(), b"no picture"]), score=0)) as found:
        next(found)
    assert list(found) == []


def test_detect_many_raises_at_the_turn_of_the_broken_picture(detector):
    found = detector.detect_many([noise(), b"no picture", noise()], score=0)
    assert_equal(next(found), detector.detect(noise(), score=0))
    with pytest.raises(ImageError):
        next(found)
    assert list(found) == []


@pytest.mark.parametrize(
    "one",
    [str(COFFEE), COFFEE, b"bytes", noise(), noise()[..., 0], Image.fromarray(noise())],
    ids=lambda one: type(one).__name__,
)
def test_one_picture_is_not_taken_for_several(detector, one):
    for detect in (detector.detect_many, detector.detect_batch):
        with refused(OptionError, "detect"):
            detect(one)


def test_inputs_are_written_into_again_but_never_while_in_use(detector):
    one, two = detector.prepare(noise(seed=1)), detector.prepare(noise(seed=2))
    assert not np.shares_memory(one.tensor, two.tensor)
    memory = one.tensor
    expected = detector.detect(noise(seed=1), score=0)
    assert_equal(detector.find(one, score=0), expected)
    assert np.shares_memory(detector.prepare(noise(seed=3)).tensor, memory)
    assert_equal(detector.find(two, score=0), detector.detect(noise(seed=2), score=0))
    with pytest.raises(OptionError):
        detector.find(one)


def test_fast_reads_every_kind_of_picture_and_keeps_its_size(detector, fast, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(400, 900)).save(path)
    expected = fast.detect(path, score=0)
    assert (expected.width, expected.height) == (900, 400)
    with Image.open(path) as picture:
        for form in (str(path), path.read_bytes(), picture, noise(400, 900)):
            assert_equal(fast.detect(form, score=0), expected)
    exact = detector.detect(path, score=0)
    assert not np.array_equal(exact.scores, expected.scores)
    # Noise is the hardest case: whole-step averaging shows most where pixels differ most.
    np.testing.assert_allclose(exact.scores[:20], expected.scores[:20], atol=0.05)
    # Small pictures are exact.
    assert_equal(fast.detect(noise(190, 100), score=0), detector.detect(noise(190, 100), score=0))


@pytest.mark.parametrize("policy", [ZOO, MLPERF])
@pytest.mark.parametrize("score", [0, 0.05, 0.2, 0.3, 0.9, 1])
def test_a_score_for_raw_models_changes_only_the_low_scored(tiny_raw_model, policy, score):
    detector = Detector.load(tiny_raw_model, policy=policy)
    everything = detector.run(detector.session.input_for(noise()))
    found = detector.detect(noise(), score=score)
    # Worst first is a policy's order, best first that of Detections.
    expected = everything.scores[np.argsort(-everything.scores, kind="stable")]
    np.testing.assert_array_equal(found.scores, expected[expected >= np.float32(score)])


def test_policies_count_for_raw_models_and_go_by_name_too(tiny_raw_model, raw_detector):
    strict = Detector.load(tiny_raw_model, policy=ZOO.replace(max_detections=3))
    found = strict.detect(noise(), score=0)
    np.testing.assert_array_equal(found.scores, raw_detector.detect(noise(), score=0).scores[:3])
    assert Detector.load(tiny_raw_model, policy="mlperf").policy == MLPERF
    assert raw_detector.policy == ZOO


@pytest.mark.parametrize(
    ("kind", "policy", "facts"),
    [
        *((kind, *case) for kind in ("tiny_model", "tiny_raw_model")
          for case in (("fastest", ["fastest", "zoo, best"]), (3, ["int"]), (Policy, ["type"]))),
        # A file that picks itself takes none.
        *(("tiny_model", policy, ["tiny.onnx", "--tail none"]) for policy in ("best", "zoo", ZOO)),
    ],
)  # fmt: skip
def test_what_is_no_policy(request, kind, policy, facts):
    with refused(OptionError, *facts):
        Detector.load(request.getfixturevalue(kind), policy=policy)


@pytest.mark.parametrize(
    ("wrong", "fact"),
    [*((np.zeros((9, 9, 3), kind), (9, 9, 3)) for kind in (np.float32, np.int64, bool)),
     *((np.zeros(shape, np.uint8), shape)
       for shape in ((9, 9), (9, 9, 4), (3, 9, 9), (1, 9, 9, 3), (0, 9, 3), ())),
     (b"no picture", ""), ("no/such.jpg", "no/such.jpg"), (None, "NoneType"), ([[0]], "list"),
     (bytearray(b""), "bytearray")],
)  # fmt: skip
def test_what_is_no_picture(detector, fast, wrong, fact):
    for one in (detector, fast):
        with refused(ImageError, fact):
            one.detect(wrong)


def test_pictures_that_are_too_large_or_cut_off(detector):
    with refused(ImageError, 3499):
        detector.detect(encoded(), max_pixels=3499)
    detector.detect(encoded(), max_pixels=3500)
    whole = encoded("JPEG")
    half = io.BytesIO(whole[: len(whole) // 2])
    with Image.open(half) as picture, refused(ImageError):
        detector.detect(picture)


def test_what_is_no_model(tmp_path, tiny_model):
    for name in ("ssd9000", "no/such.onnx", "a\0b", "x" * 300):
        with refused(ModelError, "default"):
            Detector.load(name)
    (tmp_path / "model.onnx").write_text("hello\nworld\n")
    for wrong in (tmp_path, tmp_path / "model.onnx"):
        with refused(ModelError, wrong):
            Detector.load(wrong)
    with refused(OptionError, "quick", "card, fast"):
        Detector.load(tiny_model, preprocessing="quick")
    assert model_path(tiny_model) == model_path(str(tiny_model)) == tiny_model


def test_a_result_draws_on_its_file_or_on_a_given_picture(detector):
    found = detector.detect(COFFEE, score=0)
    assert found.path == COFFEE
    drawn = np.asarray(found.draw())
    np.testing.assert_array_equal(drawn, np.asarray(found[:].draw(Image.open(COFFEE))))
    assert Image.open(io.BytesIO(found._repr_jpeg_())).size == (found.width, found.height)
    of_array = detector.detect(np.asarray(Image.open(COFFEE)), score=0)
    assert of_array.path is None and of_array._repr_jpeg_() is None
    np.testing.assert_array_equal(np.asarray(of_array.draw(COFFEE)), drawn)
    with refused(OptionError, "draw(image)"):
        of_array.draw()


def test_a_result_as_a_table_and_in_a_line(detector):
    found = detector.detect(COFFEE, score=0)
    table = found.to_pandas()
    assert [
        (row.name_, row.label) for row in table.rename(columns={"name": "name_"}).itertuples()
    ] == [(one.name, one.label) for one in found]
    np.testing.assert_array_equal(table[["left", "top", "right", "bottom"]], found.boxes)
    assert len(found[:0].to_pandas()) == 0
    for fact in (str(len(found)), str(found.width), found[0].name):
        assert fact in repr(found)
