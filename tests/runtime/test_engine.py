import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from ssd34 import Detector
from ssd34.core.preprocess import preprocess
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_onnx_model
from ssd34.deploy.graph.tail import cut_tail
from ssd34.deploy.int8.quantize import PUBLISHED_FORMS, quantize_network
from ssd34.errors import MissingExtraError, ModelError, OptionError
from ssd34.images.read import read_image
from ssd34.runtime import openvino_engine
from ssd34.runtime.engine import describe_failure
from ssd34.runtime.engine_choice import open_engine
from ssd34.runtime.session import Session
from ssd34.zoo.names import model_path
from tests.conftest import EXAMPLES, tiny_spec
from tests.support.engines import EACH_ENGINE, FLOAT_ENGINES, needs_openvino
from tests.support.pictures import noise
from tests.support.plain_runs import assert_all_close
from tests.support.refusals import assert_facts, refused
from tests.support.small_models import small_model, write_small_model

PICTURES = [EXAMPLES / f"{name}.jpg" for name in ("astronaut", "chelsea", "coffee")]

both = pytest.mark.parametrize("name", EACH_ENGINE)


def pictures(number=1, seed=3):
    seeds = range(seed, seed + number)
    return np.concatenate([preprocess(noise(50, 70, seed=one), 64) for one in seeds])


@both
def test_ports_and_metadata(name, tiny_model, tiny_raw_model):
    engine = open_engine(tiny_model, name=name, threads=1)
    assert engine.name == name
    (port,) = engine.inputs
    assert (port.name, port.type, port.shape) == ("image", "tensor(float)", (1, 3, 64, 64))
    outputs = {port.name: port.type.removeprefix("tensor") for port in engine.outputs}
    assert outputs == {"bboxes": "(float)", "labels": "(int64)", "scores": "(float)"}
    assert {"ssd34.spec", "ssd34.labels"} <= set(engine.metadata)
    (port,) = open_engine(tiny_raw_model, name=name, threads=1).inputs
    assert port.type == "tensor(float)" and port.sizes == (None, 3, 64, 64)


@both
def test_threads_rest_between_runs(name, tiny_raw_model):
    engine = open_engine(tiny_raw_model, name=name, threads=2)
    idle = []
    for _ in range(5):
        engine.run(["loc", "conf"], {"image": pictures()})
        started = time.process_time()
        time.sleep(0.1)
        idle.append(time.process_time() - started)
    assert min(idle) < 0.004, "ONNX Runtime's threads would spin for some 20 ms"


@both
def test_outputs_come_in_the_order_asked_for_and_stay(name, tiny_raw_model):
    engine = open_engine(tiny_raw_model, name=name, threads=1)
    image = pictures()
    conf, loc = engine.run(["conf", "loc"], {"image": image})
    assert conf.shape[1] == tiny_spec().num_channels and loc.shape[1] == 4
    before = conf.copy()
    view = engine.run(["conf"], {"image": image[..., ::-1]})
    np.testing.assert_array_equal(conf, before)
    mirrored = np.ascontiguousarray(image[..., ::-1])
    np.testing.assert_array_equal(view, engine.run(["conf"], {"image": mirrored}))


@both
def test_several_threads_at_once(name, tiny_raw_model):
    engine = open_engine(tiny_raw_model, name=name, threads=1, streams=4)
    images = [{"image": pictures(seed=seed)} for seed in range(4)]
    expected = [engine.run(["conf"], image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda image: engine.run(["conf"], image), images * 10)
        assert_all_close((one for (one,) in found), (one for (one,) in expected * 10), atol=1e-5)


@both
def test_a_run_that_fails(name, tiny_raw_model):
    engine = open_engine(tiny_raw_model, name=name, threads=1)
    with pytest.raises(ModelError) as caught:
        engine.run(["loc"], {"image": pictures()[..., 1:]})
    message = str(caught.value)
    assert_facts(message, tiny_raw_model, name)
    assert "Exception from" not in message, "the engine's own reason comes after it"
    assert len(message.splitlines()) == 1 and len(message) < 450


def test_a_failure_says_what_the_engine_said_first(failing_model):
    with refused(ModelError, failing_model, "make_loc_of_two"):
        Detector.load(failing_model, threads=1).detect(EXAMPLES / "coffee.jpg")
    error = RuntimeError("\n Exception from core.cpp:\n its\treason\nand more")
    assert_facts(
        describe_failure(Path("a.onnx"), "openvino", error), "a.onnx", "openvino", "(its reason)"
    )
    assert "(ValueError)" in describe_failure(Path("a.onnx"), "openvino", ValueError())
    assert len(describe_failure(Path("a.onnx"), "openvino", ValueError("long" * 999))) < 350


@both
def test_what_is_no_onnx_file_or_no_detector_is_judged_the_same(name, tmp_path, capfd):
    path = tmp_path / "model.onnx"
    not_utf8 = small_model().SerializeToString().replace(b"ssd34.spec", b"ssd34.sp\xffc")
    for content in (b"", b"hello\nworld\n", b"\xff" * 100, not_utf8):
        path.write_bytes(content)
        with refused(ModelError, path):
            open_engine(path, name=name, threads=1)
    assert capfd.readouterr() == ("", "")
    write_small_model(path, {"prob": np.zeros((1, 1000), np.float32)}, metadata={})
    assert open_engine(path, name=name, threads=1).metadata == {}
    with refused(ModelError, path, "prob"):
        Session(path, engine=name)


def test_engines_by_name(tiny_model):
    with refused(OptionError, "tensorrt", "onnxruntime", "openvino", "native", "auto"):
        Session(tiny_model, engine="tensorrt")
    session = Session(tiny_model)
    assert session.engine.name == "onnxruntime" and session.choice is None


def assert_same(found, expected):
    """Equal up to 1e-4 in the score and 0.05 pixels; what scores alike may change places."""
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    gaps = -np.diff(expected.scores)
    sure = (np.append(2, gaps) > 2e-4) & (np.append(gaps, 2) > 2e-4)
    assert sure.any()
    np.testing.assert_array_equal(found.labels[sure], expected.labels[sure])
    np.testing.assert_allclose(found.boxes[sure], expected.boxes[sure], atol=0.05)


@needs_openvino
def test_openvino_detects_the_same_with_the_default_model():
    ours, theirs = (Detector.load("default-float", engine=name) for name in FLOAT_ENGINES)
    for example in PICTURES:
        assert_same(theirs.detect(example, score=0.05), ours.detect(example, score=0.05))


@needs_openvino
def test_openvino_computes_the_int8_file_closer_than_int8_is_to_float(tmp_path):
    """Its int8 arithmetic rounds elsewhere, which may give the first place to another default box
    of the same object: before any is picked, every score and offset is close."""

    def detector(model, engine):
        path = tmp_path / f"{model}.onnx"
        save_model(cut_tail(onnx.load(model_path(model))), path)
        return Detector.load(path, engine=engine, threads=1)

    def raw(detector, example):
        session = detector.session
        loc, conf = session.compute([session.prepare(read_image(example))])[0]
        shares = np.exp(conf - conf.max(axis=0))
        return loc, shares[1:] / shares.sum(axis=0)

    exact, *ours = (detector(*how) for how in (("default-float", "onnxruntime"),
                    ("default", "onnxruntime"), ("default", "openvino")))  # fmt: skip
    for example in PICTURES:
        one, other = (each.detect(example, score=0.25) for each in ours)
        assert one.names[0] == other.names[0]
        assert abs(one.scores[0] - other.scores[0]) < 0.02
        in_float, int8, same = (raw(each, example) for each in (exact, *ours))
        likely = in_float[1].max(axis=0) > 0.02
        assert likely.sum() > 50
        for here, there, at_best in zip(int8, same, in_float, strict=True):
            rounding = np.sqrt(((there - here)[:, likely] ** 2).mean())
            quantizing = np.sqrt(((here - at_best)[:, likely] ** 2).mean())
            assert 0 < rounding < quantizing


@needs_openvino
@pytest.mark.parametrize("saturates", [True, False])
def test_openvino_is_not_asked_for_what_it_computes_wrongly(
    saturates, tiny_checkpoint, tiny_network, tiny_statistics, tmp_path, monkeypatch
):
    monkeypatch.setattr(openvino_engine, "int8_saturates", lambda: saturates)
    options = PUBLISHED_FORMS["13-qdq"]
    for reduced in (True, False):
        path = tmp_path / f"{reduced}.onnx"
        model = quantize_network(
            tiny_network, tiny_statistics, options.replace(reduce_range=reduced)
        )
        save_model(model, path)
        if saturates and not reduced:
            with refused(ModelError, "VNNI", "onnxruntime", "7"):
                open_engine(path, name="openvino", threads=1)
            session = Session(path, engine="auto", threads=1)
            assert session.choice
            assert session.choice.engine != "openvino" and "VNNI" in session.choice.reason
        else:
            assert open_engine(path, name="openvino", threads=1).name == "openvino"
    stored = tmp_path / "stored.onnx"
    save_model(make_onnx_model(tiny_checkpoint, ExportOptions(weight_format="int8")), stored)
    assert open_engine(stored, name="openvino", threads=1).name == "openvino"


@needs_openvino
def test_openvino_takes_several_pictures_at_once(tiny_raw_model):
    expected = Session(tiny_raw_model).compute([pictures(3)])
    found = Session(tiny_raw_model, engine="openvino").compute([pictures(3)])
    for one, other in zip(found, expected, strict=True):
        assert_all_close(one, other, rtol=1e-4, atol=1e-4)


@needs_openvino
def test_auto_measures_both_and_takes_the_faster(tiny_model):
    session = Session(tiny_model, engine="auto")
    assert session.choice is not None
    times = session.choice.milliseconds
    assert set(times) == set(FLOAT_ENGINES) and min(times.values()) > 0
    assert session.engine.name == session.choice.engine == min(times, key=times.__getitem__)
    assert all(f"{name} {times[name]:.1f} ms" in session.choice.reason for name in FLOAT_ENGINES)
    assert len(session.compute([pictures()])[0]) == 3


@needs_openvino
def test_auto_leaves_an_engine_that_fails(tiny_model, monkeypatch):
    def run(*_):
        raise ModelError("out of luck")

    monkeypatch.setattr(openvino_engine.OpenVinoEngine, "run", run)
    session = Session(tiny_model, engine="auto")
    assert session.engine.name == "onnxruntime" and session.choice is not None
    assert_facts(session.choice.reason, "onnxruntime", "out of luck")


@pytest.mark.parametrize("broken", [False, True])
def test_auto_leaves_openvino_that_is_missing_or_broken(tiny_model, monkeypatch, tmp_path, broken):
    if broken:
        (tmp_path / "openvino").mkdir()
        (tmp_path / "openvino" / "__init__.py").write_text("raise RuntimeError('no home\\nhere')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "openvino", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "openvino", None)
    fact = "RuntimeError: no home here" if broken else "pip install 'ssd34[openvino]'"
    with refused(MissingExtraError, "openvino", fact):
        Session(tiny_model, engine="openvino")
    session = Session(tiny_model, engine="auto")
    assert session.engine.name == "onnxruntime" and session.choice is not None
    assert session.choice.milliseconds == {} and fact in session.choice.reason


SIGNALS = """
import signal, sys
from pathlib import Path
from ssd34.runtime.engine_choice import open_engine
first, second = (open_engine(Path(sys.argv[1]), name="openvino", threads=1) for _ in range(2))
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("caught"))
signal.raise_signal(signal.SIGUSR1)
"""


@needs_openvino
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal")
def test_engines_that_ended_leave_signals_as_they_were(tiny_model):
    """Each core of OpenVINO brings a stack for signals, and two could leave one that is gone."""
    command = [sys.executable, "-c", SIGNALS, str(tiny_model)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "caught\n")
