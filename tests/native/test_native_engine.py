import dataclasses
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from typing import Any

import numpy as np
import onnx
import pytest
from llvmlite import binding
from onnx import helper, numpy_helper

from ssd34.core.postprocess import ZOO
from ssd34.core.preprocess import preprocess
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_onnx_model
from ssd34.deploy.graph.layers import make_network
from ssd34.deploy.int8.quantize import PUBLISHED_FORMS, quantize_network
from ssd34.errors import MissingExtraError, ModelError
from ssd34.images.read import read_image
from ssd34.runtime.engine_choice import open_engine
from ssd34.runtime.native import levels as levels_module
from ssd34.runtime.native import network, self_check
from ssd34.runtime.native.levels import available_levels
from ssd34.runtime.native.native_engine import NativeEngine
from ssd34.runtime.native.program import compile_program
from ssd34.runtime.session import Session
from ssd34.runtime.timing import compute_tail_share, measure_node_times
from ssd34.zoo.names import model_path
from tests.conftest import EXAMPLES
from tests.support.convolutions import levels
from tests.support.refusals import assert_facts, refused

pytestmark = pytest.mark.skipif(not available_levels(), reason="no kernels for this processor")
each_level = pytest.mark.parametrize("level", levels())


def drawn(*shape):
    return np.random.default_rng(0).integers(-100, 101, shape).astype(np.int8)


FORMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qoperator, 8 bits": ("12-int8", {"reduce_range": False}, {}),
    "qoperator, 7 bits, raw": ("12-int8", {"reduce_range": True}, {"policy": None}),
    "qoperator, bytes": ("12-int8", {}, {"image_input": "uint8"}),
    "qdq, one scale": ("12-qdq", {}, {}),
    "qdq": ("13-qdq", {}, {}),
    "qdq, raw, any batch": ("13-qdq", {}, {"policy": None, "batch": None}),
    "qdq, batch of 3": ("13-qdq", {}, {"policy": None, "batch": 3}),
    "first layer in float": ("12-int8", {"float_nodes": ("backbone.conv1",)}, {}),
    "a middle layer in float": ("12-int8", {"float_nodes": ("backbone.layer2.1.conv1",)}, {}),
}


@pytest.fixture(scope="module")
def files(tiny_network, tiny_statistics, tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    paths = {}
    for number, (name, (form, how, written)) in enumerate(FORMS.items()):
        options = PUBLISHED_FORMS[form].replace(**how)
        model = quantize_network(tiny_network, tiny_statistics, options, **written)
        paths[name] = folder / f"{number}.onnx"
        save_model(model, paths[name])
    return paths


def input_of(engine, seed, pictures=1):
    (port,) = engine.inputs
    shape = [size if isinstance(size, int) else pictures for size in port.shape]
    noise = np.random.default_rng(seed).integers(0, 256, (shape[0], 80, 90, 3)).astype(np.uint8)
    if "uint8" in port.type:
        return np.ascontiguousarray(noise[:, : shape[1], : shape[2]])
    return np.concatenate([preprocess(pixels, shape[-1]) for pixels in noise])


def assert_equal_outputs(one, other, tensor):
    names = [port.name for port in other.outputs]
    feed = {other.inputs[0].name: tensor}
    found, expected = one.run(names, feed), other.run(names, feed)
    for name, mine, theirs in zip(names, found, expected, strict=True):
        assert mine.dtype == theirs.dtype and theirs.size
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


ODD: dict[str, dict[str, Any]] = {
    "grouped": {"weight": drawn(32, 16, 3, 3), "group": 2},
    "dilated": {"weight": drawn(32, 32, 3, 3), "dilations": [2, 2]},
    "not square": {"weight": drawn(32, 32, 3, 1), "pads": [1, 0, 1, 0]},
    "padded by itself": {"weight": drawn(32, 32, 3, 3), "auto_pad": "SAME_UPPER"},
    "unsigned": {"weight": drawn(32, 32, 1, 1).view(np.uint8), "zero": np.uint8(128)},
    "not around 0": {"weight": drawn(32, 32, 1, 1), "zero": np.int8(3)},
    "computed": {"weight": drawn(32, 32, 1, 1), "scale": None},
}
"""Convolutions that there are no kernels for; a scale of None is computed in the graph."""


def write_graph(path, odd=None, *, ports=("c", "d")):
    """Two convolutions of the same, the second as one of `ODD`: c and d; e: one of these by If."""
    feed = {"s": np.float32(0.02), "z": np.uint8(99), "w": drawn(32, 32, 3, 3), "v": np.int8(0)}
    odd = {"weight": drawn(32, 32, 1, 1)} | (odd or {})
    weight, zero, scale = odd.pop("weight"), odd.pop("zero", np.int8(0)), odd.pop("scale", "t")
    feed |= {"t": np.float32(0.0002), "odd.w": weight, "odd.v": zero}
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "t", "v", "s", "z"], ["a"],
                         pads=[1] * 4),
        helper.make_node("QLinearConv", ["q", "s", "z", "odd.w", scale or "half", "odd.v", "s",
                                         "z"], ["b"], **odd),
        helper.make_node("DequantizeLinear", ["a", "s", "z"], ["c"]),
        helper.make_node("DequantizeLinear", ["b", "s", "z"], ["d"]),
    ]  # fmt: skip
    if scale is None:
        nodes[:0] = [
            helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
            helper.make_node("Mul", ["most", "t"], ["half"]),
        ]
    if "e" in ports:
        port = helper.make_tensor_value_info("e", onnx.TensorProto.FLOAT, None)
        parts = {
            f"{name}_branch": helper.make_graph(
                [helper.make_node("Mul", ["c", other], ["e"])], name, [], [port]
            )
            for name, other in (("then", "c"), ("else", "d"))
        }
        nodes += [
            helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
            helper.make_node("Greater", ["most", "s"], ["bright"]),
            helper.make_node("If", ["bright"], ["e"], **parts),
        ]
    graph = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 32, 9, 11])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ports],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in feed.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("odd", ODD)
def test_what_there_are_no_kernels_for_is_left_to_onnx_runtime(odd, tmp_path):
    """And reads what the others read."""
    path = write_graph(tmp_path / "odd.onnx", ODD[odd])
    ours, theirs = (open_engine(path, name=name, threads=1) for name in ("native", "onnxruntime"))
    tensor = np.random.default_rng(0).normal(0, 1, (1, 32, 9, 11)).astype(np.float32)
    assert_equal_outputs(ours, theirs, tensor)


@each_level
@pytest.mark.parametrize("form", FORMS)
def test_equal_to_onnx_runtime(files, form, level):
    ours = NativeEngine(files[form], threads=1, level=level.name)
    theirs = open_engine(files[form], name="onnxruntime", threads=1)
    assert ours.level == level.name
    assert (ours.inputs, ours.outputs, ours.metadata) == (
        theirs.inputs, theirs.outputs, theirs.metadata
    )  # fmt: skip
    for seed in range(3):
        assert_equal_outputs(ours, theirs, input_of(theirs, seed, pictures=seed + 1))


EMULATED = """
import sys
import numpy as np
from ssd34.runtime.native.native_engine import NativeEngine
model, inputs, outputs = sys.argv[1:]
engine = NativeEngine(model, threads=2)
names = [port.name for port in engine.outputs]
found = engine.run(names, {engine.inputs[0].name: np.load(inputs)})
np.savez(outputs, **dict(zip(names, found, strict=True)))
print(engine.level)
"""


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-x86_64 is not installed")
def test_a_processor_with_avx2_alone(files, tmp_path):
    """Emulated, so that the level is chosen, compiled and right where there is nothing better."""
    theirs = open_engine(files["qdq, raw, any batch"], name="onnxruntime", threads=1)
    tensor = input_of(theirs, 7)
    np.save(tmp_path / "in.npy", tensor)
    script = tmp_path / "script.py"
    script.write_text(EMULATED)
    done = subprocess.run(
        ["qemu-x86_64", "-cpu", "Haswell", sys.executable, str(script),
         str(files["qdq, raw, any batch"]), str(tmp_path / "in.npy"), str(tmp_path / "out.npz")],
        check=True, timeout=600, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["avx2"]
    expected = theirs.run([port.name for port in theirs.outputs], {theirs.inputs[0].name: tensor})
    with np.load(tmp_path / "out.npz") as found:
        for port, values in zip(theirs.outputs, expected, strict=True):
            np.testing.assert_array_equal(found[port.name], values, err_msg=port.name)


@each_level
@pytest.mark.parametrize(("threads", "example"), [(1, "coffee"), (2, "chelsea"), (5, "coffee")])
def test_the_embedded_file_at_300(level, threads, example):
    path = model_path("default")
    ours = NativeEngine(path, threads=threads, level=level.name)
    theirs = open_engine(path, name="onnxruntime", threads=1)
    tensor = preprocess(read_image(EXAMPLES / f"{example}.jpg"), 300)
    assert_equal_outputs(ours, theirs, tensor)


def test_a_drawn_file_at_1200(tiny_checkpoint, tiny_statistics, tmp_path):
    """Its ranges are those of the same layers at 64 pixels."""
    spec = tiny_checkpoint.spec.at_size(1200)
    large = make_network(dataclasses.replace(tiny_checkpoint, spec=spec))
    statistics = dataclasses.replace(tiny_statistics, network=large.fingerprint)
    path = tmp_path / "large.onnx"
    save_model(quantize_network(large, statistics, PUBLISHED_FORMS["12-int8"], policy=None), path)
    ours, theirs = (open_engine(path, name=name, threads=2) for name in ("native", "onnxruntime"))
    tensor = preprocess(read_image(EXAMPLES / "astronaut.jpg"), 1200)
    assert tensor.shape == (1, 3, 1200, 1200)
    assert_equal_outputs(ours, theirs, tensor)


@pytest.mark.parametrize("streams", [1, 3])
def test_several_callers_at_once(files, streams):
    path = files["qoperator, 8 bits"]
    engine = open_engine(path, name="native", threads=2, streams=streams)
    tensors = [input_of(engine, seed) for seed in range(4)]
    expected = [engine.run(["scores"], {"image": tensor})[0] for tensor in tensors]
    assert not np.array_equal(expected[0], expected[1])
    wrong = []

    def work(number):
        for _ in range(10):
            (found,) = engine.run(["scores"], {"image": tensors[number]})
            if not np.array_equal(found, expected[number]):
                wrong.append(number)

    callers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_what_was_found_stays(files):
    engine = open_engine(files["qoperator, 7 bits, raw"], name="native", threads=1)
    first, second = (input_of(engine, seed) for seed in range(2))
    (conf,) = engine.run(["conf"], {"image": first})
    before = conf.copy()
    (other,) = engine.run(["conf"], {"image": second})
    np.testing.assert_array_equal(conf, before)
    assert not np.array_equal(other, before)


def test_auto_measures_it(files):
    session = Session(files["qdq"], engine="auto", threads=1)
    assert session.choice is not None and {"native", "onnxruntime"} <= set(
        session.choice.milliseconds
    )
    assert session.engine.name == session.choice.engine
    assert_facts(session.choice.reason, "native", f"{session.choice.milliseconds['native']:.1f} ms")


def test_its_parts_are_timed(files):
    tensor = preprocess(np.zeros((64, 64, 3), np.uint8), 64)
    nodes = measure_node_times(files["qdq"], "native", tensor, threads=1)
    assert [node.name for node in nodes] == ["before", "convolutions", "after"]
    assert min(node.milliseconds for node in nodes) > 0
    share = compute_tail_share(nodes)
    assert share == pytest.approx(nodes[2].milliseconds / sum(n.milliseconds for n in nodes))


# --- what it does not run -------------------------------------------------------------------


def assert_auto_goes_on(path, *facts):
    session = Session(path, engine="auto", threads=1)
    assert session.choice is not None
    assert session.engine.name != "native" and "native" not in session.choice.milliseconds
    assert_facts(session.choice.reason, *facts)
    assert "\n" not in session.choice.reason


def test_float_files_are_refused(tiny_model, tiny_checkpoint, tmp_path):
    stored = tmp_path / "stored.onnx"
    save_model(
        make_onnx_model(tiny_checkpoint, ExportOptions(policy=ZOO, weight_format="int8")), stored
    )
    for path in (tiny_model, stored):
        with refused(ModelError, path, "onnxruntime", "ssd34 quantize"):
            Session(path, engine="native")
        assert_auto_goes_on(path, path, "int8")


def test_a_file_of_any_size_is_refused(files, tmp_path):
    model = onnx.load(files["qoperator, 7 bits, raw"])
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "side"
    path = tmp_path / "any.onnx"
    onnx.save(model, path)
    with refused(ModelError, path, "onnxruntime"):
        open_engine(path, name="native", threads=1)


@pytest.mark.parametrize("ports", [("e",), ("c", "e")])
def test_a_graph_with_branches_is_refused(ports, tmp_path):
    """What they read of the graph around them no node says."""
    path = write_graph(tmp_path / "branch.onnx", ports=ports)
    assert open_engine(path, name="onnxruntime", threads=1).inputs
    with refused(ModelError, path, "engine native", "engine onnxruntime"):
        open_engine(path, name="native", threads=1)


@pytest.mark.parametrize("library", ["llvmlite", "onnx"])
def test_a_missing_extra(files, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    fact = "pip install 'ssd34[native]'"
    with refused(MissingExtraError, library, fact):
        Session(files["qdq"], engine="native")
    assert_auto_goes_on(files["qdq"], fact)


@pytest.mark.parametrize("why", ["features", "machine", "memory"])
def test_an_unfit_processor_or_system(files, monkeypatch, why):
    facts = {"features": "avx2", "machine": "aarch64", "memory": "executable memory"}
    if why == "features":
        monkeypatch.setattr(binding, "get_host_cpu_features", dict)
    elif why == "machine":
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    else:
        monkeypatch.setattr(levels_module, "may_execute", lambda: False)
    with refused(ModelError, facts[why], "onnxruntime"):
        Session(files["qdq"], engine="native")
    assert_auto_goes_on(files["qdq"], facts[why])


def test_no_room_for_temporary_files(files, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with refused(ModelError, "nowhere", "TMPDIR"):
        Session(files["qdq"], engine="native")
    assert_auto_goes_on(files["qdq"], "TMPDIR")


def test_code_that_llvm_does_not_compile(files, monkeypatch):
    def parse_assembly(_):
        raise RuntimeError("LLVM IR parsing error\nexpected type")

    monkeypatch.setattr(binding, "parse_assembly", parse_assembly)
    monkeypatch.setattr(network, "compile_program", compile_program.__wrapped__)
    monkeypatch.setattr(self_check, "check_level", self_check.check_level.__wrapped__)
    with refused(ModelError, "expected type", "onnxruntime"):
        Session(files["qdq"], engine="native")
    assert_auto_goes_on(files["qdq"], "expected type")


def test_a_picture_of_another_size(files):
    engine = open_engine(files["qdq"], name="native", threads=1)
    with refused(ModelError, files["qdq"], "native"):
        engine.run(["scores"], {"image": input_of(engine, 0)[..., 1:]})
