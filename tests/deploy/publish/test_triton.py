"""The model repository is what Triton's own definition says, and its ports are the file's."""

import onnxruntime
import pytest
from google.protobuf import text_format

from ssd34.deploy.publish.package import package
from ssd34.deploy.publish.triton import render_config
from ssd34.errors import ModelError
from ssd34.images.read import read_image
from ssd34.runtime.detector import Detector
from ssd34.runtime.session import Session
from tests.conftest import EXAMPLES
from tests.support.cli import invoke
from tests.support.refusals import refused
from tests.support.small_models import small_model

triton = pytest.importorskip("tritonclient.grpc.model_config_pb2")
PICTURE = EXAMPLES / "coffee.jpg"


def read_config(folder):
    return text_format.Parse((folder / "config.pbtxt").read_text(), triton.ModelConfig())


def ports_of(config):
    """Name to Triton's type and the whole shape, of inputs and outputs."""
    batch = (-1,) if config.max_batch_size else ()
    return [
        {one.name: (triton.DataType.Name(one.data_type), (*batch, *one.dims)) for one in ports}
        for ports in (config.input, config.output)
    ]


def ports_in(model):
    """The same as ONNX Runtime sees them."""
    types = {"float": "FP32", "uint8": "UINT8", "int64": "INT64"}
    session = onnxruntime.InferenceSession(model)
    return [
        {
            one.name: (
                f"TYPE_{types[one.type[7:-1]]}",
                tuple(size if isinstance(size, int) else -1 for size in one.shape),
            )
            for one in ports
        }
        for ports in (session.get_inputs(), session.get_outputs())
    ]


@pytest.mark.parametrize("name", ["tiny_model", "tiny_raw_model", "tiny_batch_model"])
def test_ports_are_those_of_the_file(name, request, tmp_path):
    model = request.getfixturevalue(name)
    done = package(model, output=tmp_path / "out", picture=read_image(PICTURE), triton=True)
    [folder] = (tmp_path / "out" / "triton").iterdir()
    assert folder.name == done.model.stem
    config = read_config(folder)
    assert (config.name, config.backend) == (folder.name, "onnxruntime")
    assert (folder / "1" / "model.onnx").read_bytes() == model.read_bytes()
    assert ports_of(config) == ports_in(model)
    # Triton refuses a batch size where the file's first dimensions are not free.
    free = all(shape[0] == -1 for ports in ports_in(model) for _, shape in ports.values())
    assert (config.max_batch_size > 0) == config.HasField("dynamic_batching") == free


def test_an_output_without_a_shape_is_refused(tmp_path):
    model = small_model()
    model.graph.node[0].output[0] = "found"
    model.graph.node.add(op_type="NonZero", input=["image"], output=["rows"])
    model.graph.node.add(op_type="Size", input=["rows"], output=["size"])
    model.graph.node.add(op_type="Range", input=["size"] * 3, output=["sizes"])
    model.graph.node.add(op_type="Reshape", input=["found", "sizes"], output=["bboxes"])
    model.graph.output[0].type.tensor_type.ClearField("shape")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with refused(ModelError, "bboxes", "ssd34 export"):
        render_config("m", Session(tmp_path / "m.onnx"))


def test_labels_have_the_numbers_that_the_file_gives(tiny_model, tmp_path):
    result = invoke("package", tiny_model, "--output", tmp_path, "--picture", PICTURE, "--triton")
    [folder] = (tmp_path / "triton").iterdir()
    assert str(folder / "config.pbtxt") in result.stdout
    [classes] = {one.label_filename for one in read_config(folder).output if one.label_filename}
    names = (folder / classes).read_text().splitlines()
    found = Detector.load(tiny_model).detect(PICTURE, score=0)
    assert len(set(found.labels)) > 1 and len(names) == 4
    assert tuple(names[label] for label in found.labels) == found.names
