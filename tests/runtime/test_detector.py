import copy
import io
import multiprocessing
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ssd34.core.postprocess import MLPERF, ZOO, Policy
from ssd34.errors import ImageError, ModelError, OptionError, Ssd34Error
from ssd34.runtime.detector import DEFAULT_SCORE, Detector
from ssd34.zoo.names import model_path
from tests.conftest import EXAMPLES, TINY_LABELS, tiny_spec


@pytest.fixture(scope="module")
def detector(tiny_model):
    return Detector.load(tiny_model)


@pytest.fixture(scope="module")
def raw_detector(tiny_raw_model):
    return Detector.load(tiny_raw_model)


def noise(height=50, width=70, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert (found.width, found.height) == (expected.width, expected.height)


def message_of(error):
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


# --- in other processes ---------------------------------------------------------------------


def test_a_pool_of_spawned_processes_detects(detector, raw_detector):
    paths = [EXAMPLES / "coffee.jpg", EXAMPLES / "chelsea.jpg"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for one in (detector, raw_detector):
            for found, path in zip(pool.map(one.detect, paths), paths, strict=True):
                assert_equal(found, one.detect(path))


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


def test_unpickled_where_the_file_is_missing(tiny_model, tmp_path):
    path = shutil.copy(tiny_model, tmp_path / "gone.onnx")
    pickled = pickle.dumps(Detector.load(path))
    path.unlink()
    with pytest.raises(ModelError, match=r"gone\.onnx: no such"):
        pickle.loads(pickled)


def test_copies_detect_and_deep_ones_have_a_session_of_their_own(detector):
    shallow, deep = copy.copy(detector), copy.deepcopy(detector)
    assert shallow.session is detector.session and deep.session is not detector.session
    for each in (shallow, deep):
        assert_equal(each.detect(noise(), score=0), detector.detect(noise(), score=0))


# --- detecting ------------------------------------------------------------------------------


def test_properties(detector):
    assert detector.spec == tiny_spec() and detector.labels == TINY_LABELS


def test_detections_lie_in_the_picture_best_first(detector):
    found = detector.detect(noise(40, 90), score=0)
    assert 0 < len(found) <= ZOO.max_detections
    assert (found.width, found.height) == (90, 40)
    assert found.boxes.min() >= 0
    assert found.boxes[:, [0, 2]].max() <= 90 and found.boxes[:, [1, 3]].max() <= 40
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores.min() > ZOO.score_threshold
    assert set(found.names) <= set(TINY_LABELS.names)


def test_tail_and_raw_model_agree_on_pictures(detector, raw_detector):
    pictures = [EXAMPLES / "chelsea.jpg", EXAMPLES / "coffee.jpg", noise(), noise(64, 64, seed=1)]
    for picture in pictures:
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
    assert len(detector.detect(noise(), score=1)) == 0


def test_score_has_a_default(detector):
    found, everything = detector.detect(noise()), detector.detect(noise(), score=0)
    assert DEFAULT_SCORE == 0.3
    assert len(found) == (everything.scores >= 0.3).sum()


@pytest.mark.parametrize("score", [float("nan"), -1, -1e-9, 1.001, 7, "0.3", None])
def test_a_score_outside_0_to_1_is_refused_before_the_work(detector, score):
    prepared = detector.prepare(noise())
    for detect, what in (
        (detector.detect, b"no picture"),
        (detector.detect_many, [b"no picture"]),
        (detector.detect_batch, [b"no picture"]),
        (detector.find, prepared),
    ):
        with pytest.raises(OptionError, match="expected a number from 0 to 1"):
            detect(what, score=score)
    assert len(detector.find(prepared, score=0)) > 0  # it was not used


@pytest.mark.parametrize("score", [0, 1, True, np.float32(0.3), np.float64(0.3), np.int64(1)])
def test_numbers_of_every_kind_are_scores(detector, score):
    expected = detector.detect(noise(), score=float(score))
    assert len(detector.detect(noise(), score=score)) == len(expected)


def test_path_text_bytes_array_and_pillow_image_are_equal(detector, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise()).save(path)
    expected = detector.detect(noise(), score=0)
    with Image.open(path) as picture:
        forms = [path, str(path), path.read_bytes(), picture, Image.fromarray(noise())]
        for form in forms:
            assert_equal(detector.detect(form, score=0), expected)


def test_array_may_be_a_view(detector):
    bgr = np.ascontiguousarray(noise()[..., ::-1])
    view = bgr[..., ::-1]
    assert not view.flags.c_contiguous
    assert_equal(detector.detect(view, score=0), detector.detect(noise(), score=0))


def test_array_is_left_alone(detector):
    image = noise()
    image.setflags(write=False)
    detector.detect(image)
    np.testing.assert_array_equal(image, noise())


def test_pillow_image_of_another_mode_is_converted(detector):
    grey = Image.fromarray(noise()).convert("L")
    expected = detector.detect(np.stack([np.asarray(grey)] * 3, axis=-1), score=0)
    assert_equal(detector.detect(grey, score=0), expected)


def test_one_pixel(detector):
    found = detector.detect(np.full((1, 1, 3), 200, np.uint8), score=0)
    assert (found.width, found.height) == (1, 1)
    assert found.boxes.min(initial=0) >= 0 and found.boxes.max(initial=0) <= 1


def test_detect_many_is_lazy_and_in_order(detector):
    asked = []

    def pictures():
        for seed in range(3):
            asked.append(seed)
            yield noise(seed=seed)

    found = detector.detect_many(pictures(), score=0)
    assert asked == []
    assert_equal(next(found), detector.detect(noise(seed=0), score=0))
    assert asked == [0, 1]  # the next one is made ready meanwhile
    rest = list(found)
    assert len(rest) == 2
    assert_equal(rest[1], detector.detect(noise(seed=2), score=0))


def test_detect_many_raises_at_the_turn_of_the_broken_picture(detector):
    found = detector.detect_many([noise(), b"no picture", noise()], score=0)
    assert_equal(next(found), detector.detect(noise(), score=0))
    with pytest.raises(ImageError):
        next(found)
    assert list(found) == []


@pytest.mark.parametrize(
    "one",
    [str(EXAMPLES / "coffee.jpg"), EXAMPLES / "coffee.jpg", b"bytes", noise(), noise()[..., 0],
     Image.fromarray(noise())],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_one_picture_is_not_taken_for_several(detector, one):
    for detect in (detector.detect_many, detector.detect_batch):
        with pytest.raises(OptionError, match=r"expected several pictures.*use detect for one"):
            detect(one)


def test_an_array_of_pictures_is_several(detector):
    pictures = np.stack([noise(seed=0), noise(seed=1)])
    for seed, found in enumerate(detector.detect_many(pictures, score=0)):
        assert_equal(found, detector.detect(noise(seed=seed), score=0))


def test_inputs_are_written_into_again_but_never_while_in_use(detector):
    one, two = detector.prepare(noise(seed=1)), detector.prepare(noise(seed=2))
    assert not np.shares_memory(one.tensor, two.tensor)
    memory = one.tensor
    expected = detector.detect(noise(seed=1), score=0)
    assert_equal(detector.find(one, score=0), expected)
    assert np.shares_memory(detector.prepare(noise(seed=3)).tensor, memory)
    assert_equal(detector.find(two, score=0), detector.detect(noise(seed=2), score=0))
    with pytest.raises(OptionError, match="used already"):
        detector.find(one)


@pytest.fixture(scope="module")
def fast(tiny_model):
    return Detector.load(tiny_model, preprocessing="fast")


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


def test_fast_is_exact_for_small_pictures(detector, fast):
    assert_equal(fast.detect(noise(190, 100), score=0), detector.detect(noise(190, 100), score=0))
    exact, ours = (each.run(each.prepare(noise()).tensor) for each in (detector, fast))
    np.testing.assert_array_equal(exact.scores, ours.scores)


@pytest.mark.parametrize("wrong", [np.zeros((9, 9), np.uint8), b"no picture", "no/such.jpg", 3])
def test_fast_refuses_what_cannot_be_read(fast, wrong):
    with pytest.raises(ImageError):
        fast.detect(wrong)


def test_unknown_preprocessing(tiny_model):
    with pytest.raises(OptionError, match="expected one of card, fast"):
        Detector.load(tiny_model, preprocessing="quick")


def test_threads_share_a_detector(detector):
    pictures = [noise(seed=seed) for seed in range(8)]
    expected = [detector.detect(picture, score=0) for picture in pictures]
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda picture: detector.detect(picture, score=0), pictures * 4)
        for one, wanted in zip(found, expected * 4, strict=True):
            assert_equal(one, wanted)


@pytest.mark.parametrize("policy", [ZOO, MLPERF])
@pytest.mark.parametrize("score", [0, 0.05, 0.2, 0.3, 0.9, 1])
def test_a_score_for_raw_models_changes_only_the_low_scored(tiny_raw_model, policy, score):
    detector = Detector.load(tiny_raw_model, policy=policy)
    everything = detector.run(detector.session.input_for(noise()))
    found = detector.detect(noise(), score=score)
    order = np.argsort(-everything.scores, kind="stable")
    expected = everything.scores[order]
    np.testing.assert_array_equal(found.scores, expected[expected >= np.float32(score)])


def test_policy_counts_for_raw_models(tiny_raw_model, raw_detector):
    strict = Detector.load(tiny_raw_model, policy=ZOO.replace(max_detections=3))
    found = strict.detect(noise(), score=0)
    np.testing.assert_array_equal(found.scores, raw_detector.detect(noise(), score=0).scores[:3])
    other = Detector.load(tiny_raw_model, policy=MLPERF).detect(noise(), score=0)
    # Worst first is the policy's order, best first that of Detections.
    assert (np.diff(other.scores) <= 0).all()


def test_policies_go_by_name_too(tiny_raw_model):
    by_name = Detector.load(tiny_raw_model, policy="mlperf")
    assert by_name.policy == MLPERF
    expected = Detector.load(tiny_raw_model, policy=MLPERF).detect(noise(), score=0)
    assert_equal(by_name.detect(noise(), score=0), expected)
    assert Detector.load(tiny_raw_model).policy == ZOO


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("fastest", "'fastest'; expected one of zoo, best"),
        (3, r"expected a Policy or the name of one \(zoo, best, .*\), got int"),
        (Policy, "got type"),
    ],
)
@pytest.mark.parametrize("kind", ["tiny_model", "tiny_raw_model"])
def test_what_is_no_policy(request, kind, policy, message):
    with pytest.raises(OptionError, match=message):
        Detector.load(request.getfixturevalue(kind), policy=policy)


@pytest.mark.parametrize("policy", ["best", "zoo", ZOO])
def test_a_policy_for_a_file_that_picks_itself(tiny_model, policy):
    with pytest.raises(OptionError, match="policy") as caught:
        Detector.load(tiny_model, policy=policy)
    assert str(tiny_model) in message_of(caught) and "--tail none" in message_of(caught)


# --- pictures that cannot be used -----------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((9, 9, 3), np.float32),
        np.zeros((9, 9, 3), np.int64),
        np.zeros((9, 9, 3), bool),
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((9, 9, 1), np.uint8),
        np.zeros((3, 9, 9), np.uint8),
        np.zeros((1, 9, 9, 3), np.uint8),
        np.zeros((0, 9, 3), np.uint8),
        np.zeros((9, 0, 3), np.uint8),
        np.zeros((), np.uint8),
    ],
    ids=lambda array: f"{array.shape}-{array.dtype}",
)
def test_wrong_arrays(detector, array):
    with pytest.raises(ImageError) as caught:
        detector.detect(array)
    assert str(array.shape) in message_of(caught)


def test_missing_picture(detector, tmp_path):
    with pytest.raises(ImageError, match="missing"):
        detector.detect(str(tmp_path / "no.jpg"))


def test_broken_bytes(detector):
    with pytest.raises(ImageError):
        detector.detect(b"no picture")


def test_pixel_limit(detector):
    stream = io.BytesIO()
    Image.fromarray(noise()).save(stream, "PNG")
    with pytest.raises(ImageError, match="limit of 3499"):
        detector.detect(stream.getvalue(), max_pixels=3499)
    detector.detect(stream.getvalue(), max_pixels=3500)


def test_truncated_pillow_image(detector):
    stream = io.BytesIO()
    Image.fromarray(noise()).save(stream, "JPEG")
    half = io.BytesIO(stream.getvalue()[: len(stream.getvalue()) // 2])
    with Image.open(half) as picture, pytest.raises(ImageError) as caught:
        detector.detect(picture)
    message_of(caught)


# --- models that cannot be used -------------------------------------------------------------


@pytest.mark.parametrize("name", ["ssd9000", "no/such.onnx", "a\0b", "x" * 300])
def test_unknown_name(name):
    with pytest.raises(ModelError) as caught:
        Detector.load(name)
    message = message_of(caught)
    assert "no such model" in message and "default" in message


def test_folder(tmp_path):
    with pytest.raises(ModelError, match="is a folder"):
        Detector.load(tmp_path)


@pytest.mark.parametrize("content", ["", "hello\nworld\n"])
def test_file_that_is_no_model(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_text(content)
    with pytest.raises(ModelError) as caught:
        Detector.load(path)
    message = message_of(caught)
    assert str(path) in message and "not an ONNX file" in message
    assert isinstance(caught.value, Ssd34Error)


def test_model_path_of_a_file_and_of_a_name(tiny_model):
    assert model_path(tiny_model) == model_path(str(tiny_model)) == tiny_model
    assert model_path("default").suffix == ".onnx"
    assert model_path("default").parent.name == "weights"


@pytest.mark.parametrize("wrong", [None, 3, [[0, 0, 0]], bytearray(b"x")])
def test_other_things_are_no_pictures(tiny_model, wrong):
    with pytest.raises(ImageError, match=r"expected a path, encoded bytes.* got \w+$"):
        Detector.load(tiny_model).detect(wrong)
