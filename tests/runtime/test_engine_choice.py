import onnx
import pytest

from ssd34.core.contract import METADATA_QUANTIZATION
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, onnx_model
from ssd34.deploy.int8.quantize import PUBLISHED_FORMS, quantized_model
from ssd34.runtime.engine_choice import EXACT, FAST, find_int8_way, open_engine


@pytest.fixture(scope="module")
def files(tiny_checkpoint, tiny_network, tiny_statistics, tiny_model, tmp_path_factory):
    """By what they are: a float file, one that only stores int8, and int8 ones."""
    folder = tmp_path_factory.mktemp("files")
    network, statistics = tiny_network, tiny_statistics
    models = {"stored": onnx_model(tiny_checkpoint, ExportOptions(weight_format="int8"))}
    for form, options in PUBLISHED_FORMS.items():
        for bits in (7, 8):
            how = options.replace(reduce_range=bits == 7)
            models[f"{form} {bits}"] = quantized_model(network, statistics, how)
    for bits in (7, 8):
        how = PUBLISHED_FORMS["12-int8"].replace(reduce_range=bits == 7)
        models[f"bytes {bits}"] = quantized_model(network, statistics, how, image_input="uint8")
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
    monkeypatch.setattr("ssd34.runtime.libraries.int8_saturates", lambda: saturates)
    for name, path in files.items():
        engine = open_engine(path, name="onnxruntime", threads=1)
        if name in ("float", "stored"):
            expected = None
        else:
            expected = EXACT if saturates and not name.endswith("7") else FAST
        assert find_int8_way(path, engine) == expected, name
