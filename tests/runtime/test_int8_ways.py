"""Int8 is exact on every processor: the fast way where that is right, else the slow one."""

import json
import shutil
import subprocess
import sys

import onnx
import pytest
from onnx import numpy_helper

from ssd34.core.contract import METADATA_QUANTIZATION
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_onnx_model
from ssd34.deploy.int8.quantize import PUBLISHED_FORMS, quantize_network
from ssd34.machine import describe_cpu
from ssd34.runtime import onnxruntime_engine
from ssd34.runtime.engine_choice import EXACT, FAST, find_int8_way, open_engine
from ssd34.runtime.onnxruntime_engine import PROBE, int8_saturates, session_options
from tests.conftest import ROOT

PRECISE = "session.x64quantprecision"


def test_the_probe_is_what_it_says():
    model = onnx.load_from_string(PROBE)
    onnx.checker.check_model(model, full_check=True)
    (node,) = model.graph.node
    values = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.input
    assert node.op_type == "QLinearConv" and x == model.graph.input[0].name
    assert values[w].shape == (4, 4, 1, 1) and (values[w] == 127).all()
    assert values[x_zero] == values[w_zero] == values[y_zero] == 0
    exact = 4 * 255 * 127 * values[x_scale] * values[w_scale] / values[y_scale]
    assert exact == 255


@pytest.mark.skipif(
    not (describe_cpu().features or {}).get("vnni"),
    reason="this processor is not known to have VNNI",
)
def test_vnni_does_not_saturate():
    assert not int8_saturates()


@pytest.mark.parametrize("saturates", [True, False])
def test_the_slow_way_is_taken_only_where_the_fast_one_is_wrong(saturates, monkeypatch):
    monkeypatch.setattr(onnxruntime_engine, "int8_saturates", lambda: saturates)
    options = session_options(1)
    if saturates:
        assert options.get_session_config_entry(PRECISE) == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry(PRECISE)


@pytest.fixture(scope="module")
def files(tiny_checkpoint, tiny_network, tiny_statistics, tiny_model, tmp_path_factory):
    """By what they are: a float file, one that only stores int8, and int8 ones."""
    folder = tmp_path_factory.mktemp("files")
    network, statistics = tiny_network, tiny_statistics
    models = {"stored": make_onnx_model(tiny_checkpoint, ExportOptions(weight_format="int8"))}
    for form, options in PUBLISHED_FORMS.items():
        for bits in (7, 8):
            how = options.replace(reduce_range=bits == 7)
            models[f"{form} {bits}"] = quantize_network(network, statistics, how)
    for bits in (7, 8):
        how = PUBLISHED_FORMS["12-int8"].replace(reduce_range=bits == 7)
        models[f"bytes {bits}"] = quantize_network(network, statistics, how, image_input="uint8")
    foreign = onnx.ModelProto()
    foreign.CopyFrom(models["13-qdq 7"])
    kept = [p for p in foreign.metadata_props if p.key != METADATA_QUANTIZATION]
    del foreign.metadata_props[:]
    foreign.metadata_props.extend(kept)
    paths = {"float": tiny_model}
    for name, model in {**models, "foreign": foreign}.items():
        paths[name] = folder / f"{name}.onnx"
        save_model(model, paths[name])
    return paths


@pytest.mark.parametrize("saturates", [True, False])
def test_the_exact_way_is_for_eight_bits_where_the_fast_one_is_wrong(files, saturates, monkeypatch):
    monkeypatch.setattr("ssd34.runtime.onnxruntime_engine.int8_saturates", lambda: saturates)
    for name, path in files.items():
        engine = open_engine(path, name="onnxruntime", threads=1)
        if name in ("float", "stored"):
            expected = None
        else:
            expected = EXACT if saturates and not name.endswith("7") else FAST
        assert find_int8_way(path, engine) == expected, name


SAME = "all equal"
EIGHT = ("8 bits", "ONNX Runtime's")
OTHERS = (("8 bits", "ours"), ("7 bits", "ours"), ("7 bits", "ONNX Runtime's"))


def found_by(folder, *options):
    script, target = ROOT / "benchmarks" / "portability.py", folder / "found.json"
    command = [sys.executable, str(script), *options, "--json", str(target)]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    values = json.loads(target.read_text())
    rows = [[*row.values()] for row in values["rows"]]
    return {(weights, options): places for weights, options, *places in rows}, values["summary"]


def test_int8_is_exact_here(tmp_path):
    """With our options, whatever this processor is; with others where it does not saturate."""
    found, summary = found_by(tmp_path, "--here")
    for name in OTHERS:
        assert found[name] == [SAME]
    assert (found[EIGHT] != [SAME]) == int8_saturates() == ("not" not in summary["here"])


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-x86_64 is not installed")
def test_int8_is_exact_without_vnni(tmp_path):
    """On an emulated processor; that other options are wrong there shows that the emulation is
    one of a processor that saturates."""
    found, _ = found_by(tmp_path)
    assert float(found[EIGHT][1].partition("%")[0]) > 1
    for name in OTHERS:
        assert found[name] == [SAME, SAME]
