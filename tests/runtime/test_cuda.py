"""The engine cuda where there is no card: what it says, and what it computes through its tensors.

The package for cards is played by `put_card`. Nothing here has run on a card.
"""

import subprocess
import sys

import numpy as np
import pytest

from ssd34.cli.doctor import advise_on_cards
from ssd34.core.postprocess import ZOO
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_onnx_model
from ssd34.deploy.int8.quantize import PUBLISHED_FORMS, quantize_network
from ssd34.errors import MissingExtraError, ModelError
from ssd34.runtime.cuda_engine import has_cuda_provider
from ssd34.runtime.engine_choice import open_engine
from ssd34.runtime.session import Session
from ssd34.runtime.timing import measure_node_times
from tests.support.cards import NO_CARD, NO_DRIVER, NO_LIBRARY, OLD_DRIVER, put_card
from tests.support.cli import run_main
from tests.support.refusals import assert_facts, refused

without_cards = pytest.mark.skipif(has_cuda_provider(), reason="this ONNX Runtime is for cards")


def pictures(number):
    shape = (number, 3, 64, 64)
    return np.random.default_rng(number).standard_normal(shape).astype(np.float32)


@without_cards
@pytest.mark.parametrize("command", ["detect", "benchmark", "batch"])
def test_the_package_for_processors_is_named_with_the_remedy(
    command, tiny_model, tmp_path, monkeypatch, capfd
):
    arguments = {
        "detect": ("examples", "--model", tiny_model),
        "benchmark": (tiny_model,),
        "batch": ("examples", "--model", tiny_model, "--output", tmp_path / "out"),
    }
    ended = run_main(monkeypatch, capfd, command, *arguments[command], "--engine", "cuda")
    code, out, err = ended
    assert (code, out) == (2, "")
    assert_facts(err, "cuda", "pip uninstall -y onnxruntime onnxruntime-gpu", "onnxruntime-gpu[")


@pytest.mark.parametrize(
    ("how", "facts"),
    [
        ({"library": NO_LIBRARY}, ("libcublasLt.so.13", "onnxruntime-gpu[cuda,cudnn]")),
        ({"library": NO_DRIVER}, ("libcuda.so.1", "driver")),
        ({"failure": OLD_DRIVER}, ("driver version is insufficient",)),
        ({"failure": NO_CARD}, ("no CUDA-capable device",)),
        ({"left_out": True}, ("left it out",)),
    ],
)
def test_what_is_missing_is_said_in_one_line(how, facts, tiny_model, tmp_path, monkeypatch, capfd):
    put_card(monkeypatch, tmp_path / "onnxruntime", **how)
    with pytest.raises(MissingExtraError) as caught:
        Session(tiny_model, engine="cuda", threads=1)
    assert_facts(str(caught.value), "cuda", *facts)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value), "the machine's name is nobody's business"
    assert capfd.readouterr() == ("", "")


def test_convolutions_that_would_run_on_the_processor_are_refused(
    tiny_model, tmp_path, monkeypatch
):
    put_card(monkeypatch, tmp_path / "a", on_card=lambda node: node.op_type != "Conv")
    with refused(ModelError, tiny_model, "Conv", "onnxruntime"):
        Session(tiny_model, engine="cuda", threads=1)
    put_card(monkeypatch, tmp_path / "b", on_card=lambda node: node.op_type != "Shape")
    assert Session(tiny_model, engine="cuda", threads=1).engine.name == "cuda"


@pytest.mark.parametrize("form", ["12-int8", "13-qdq"])
def test_int8_is_refused(form, tiny_network, tiny_statistics, tmp_path, monkeypatch):
    path = tmp_path / "int8.onnx"
    save_model(quantize_network(tiny_network, tiny_statistics, PUBLISHED_FORMS[form]), path)
    put_card(monkeypatch, tmp_path / "onnxruntime")
    with refused(ModelError, path, "int8", "default-float", "onnxruntime"):
        Session(path, engine="cuda", threads=1)


@pytest.mark.parametrize("policy", [ZOO, None])
def test_what_goes_through_its_tensors_is_what_comes_without(
    policy, tiny_checkpoint, tmp_path, monkeypatch
):
    path = tmp_path / "stored.onnx"
    how = ExportOptions(policy=policy, batch=1 if policy else None, weight_format="int8")
    save_model(make_onnx_model(tiny_checkpoint, how), path)
    put_card(monkeypatch, tmp_path / "onnxruntime")
    ours, theirs = (open_engine(path, name=name, threads=1) for name in ("cuda", "onnxruntime"))
    assert (ours.name, ours.inputs, ours.metadata) == ("cuda", theirs.inputs, theirs.metadata)
    names = [port.name for port in reversed(theirs.outputs)]
    kept = []
    for number in (1, 1) if policy else (1, 3, 2):
        feed = {"image": pictures(number)[:, :, ::-1]}
        kept.append((ours.run(names, feed), theirs.run(names, feed)))
    for found, expected in kept:
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    with refused(ModelError, path, "cuda"):
        ours.run(names, {"image": pictures(1)[..., 1:]})
    assert measure_node_times(path, "cuda", pictures(1), threads=1) == []


@pytest.mark.parametrize("how", [None, {}, {"library": NO_DRIVER}])
def test_auto_measures_it_or_says_why_not(how, tiny_model, tmp_path, monkeypatch):
    """Who has the package for processors is not told of cards."""
    if how is not None:
        put_card(monkeypatch, tmp_path / "onnxruntime", **how)
    elif has_cuda_provider():
        pytest.skip("this ONNX Runtime is for cards")
    choice = Session(tiny_model, engine="auto", threads=1).choice
    assert choice is not None
    assert ("cuda" in choice.milliseconds) == (how == {})
    assert ("libcuda.so.1" in choice.reason) == bool(how)
    assert ("cuda" in choice.reason) == (how is not None)


BROKEN = "import sys; sys.path.insert(0, sys.argv.pop()); from ssd34.cli.app import main; main()"


def test_a_package_of_which_one_half_was_uninstalled(tmp_path):
    """Its files are gone, and folders are left."""
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    command = [sys.executable, "-c", BROKEN, "detect", "examples/coffee.jpg", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert_facts(result.stderr, "--force-reinstall onnxruntime", "onnxruntime-gpu")


@pytest.mark.parametrize(
    ("libraries", "driver", "how", "fact"),
    [
        (["onnxruntime"], False, None, None),
        (["onnxruntime", "onnxruntime-gpu"], False, {}, "pip uninstall"),
        (["onnxruntime-gpu"], True, {}, "--engine cuda"),
        (["onnxruntime-gpu"], False, {"library": NO_DRIVER}, "libcuda.so.1"),
        pytest.param(["onnxruntime"], True, None, "onnxruntime-gpu", marks=without_cards),
    ],
)
def test_the_doctor(libraries, driver, how, fact, tmp_path, monkeypatch):
    if how is not None:
        put_card(monkeypatch, tmp_path / "onnxruntime", **how)
    if driver:
        (tmp_path / "version").touch()
    advice = advise_on_cards(libraries, tmp_path / "version")
    assert len(advice) == (fact is not None)
    assert all(fact in line for line in advice)
