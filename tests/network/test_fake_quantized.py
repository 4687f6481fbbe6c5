"""The fake-quantized network against the int8 file that ONNX Runtime computes in integers."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ssd34.core.preprocess import preprocess
from ssd34.deploy.graph.layers import make_network
from ssd34.deploy.int8.calibrate import calibrate
from ssd34.deploy.int8.plan import QuantizeOptions, plan_int8
from ssd34.deploy.int8.quantize import quantize_network
from ssd34.errors import CheckpointError
from ssd34.images.read import read_image
from ssd34.network.rounded import FakeQuantizedSSD, Steps
from ssd34.network.ssd import SSD, load_weights
from ssd34.runtime.onnxruntime_engine import session_options
from tests.conftest import EXAMPLES, TINY_LABELS, drawn_checkpoint, tiny_spec
from tests.support.refusals import refused

OPTIONS = QuantizeOptions(
    ranges="percentile", percentile=99.9, bias_correction=False, reduce_range=True
)
PICTURES = [read_image(EXAMPLES / f"{n}.jpg") for n in ("astronaut", "chelsea", "coffee")]


@pytest.fixture(scope="module", params=[True, False], ids=["norm", "no norm"])
def quantized(request):
    """A checkpoint, its int8 session, the plan, and the fake-quantized network."""
    spec = tiny_spec().replace(head_norm=request.param)
    checkpoint = drawn_checkpoint(spec, TINY_LABELS)
    network = make_network(checkpoint)
    statistics = calibrate(network, PICTURES)
    plan = plan_int8(network, statistics, OPTIONS, bytes_input=False)
    values = {n: Steps(float(v.scale), int(v.zero_point)) for n, v in plan.values.items()}
    fake = FakeQuantizedSSD(spec, values)
    load_weights(fake, checkpoint.weights, source="x")
    model = quantize_network(network, statistics, OPTIONS, policy=None)
    for node in list(model.graph.node):
        if node.op_type in ("QLinearConv", "QLinearAdd", "QuantizeLinear"):
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.UINT8, None)
            )
    content, options = model.SerializeToString(), session_options(1)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return checkpoint, session, plan, fake.eval()


def level_scales(spec, plan, kind):
    """The step of each raw output, (A,)."""
    counts = [n * side**2 for n, side in zip(spec.boxes_per_cell, spec.feature_sizes, strict=True)]
    return np.concatenate(
        [
            np.full(count, plan.values[f"heads.{kind}.{level}"].scale)
            for level, count in enumerate(counts)
        ]
    )


def pixels(blocks):
    """(1, 12, 32, 32) blocks of 2 x 2 pixels as the (1, 3, 64, 64) picture."""
    rows, columns = blocks.shape[2:]
    parts = blocks.reshape(1, 2, 2, 3, rows, columns).transpose(0, 3, 4, 1, 5, 2)
    return parts.reshape(1, 3, 2 * rows, 2 * columns)


class LayerByLayer(FakeQuantizedSSD):
    """Compares each layer with the int8 file's, and goes on with the file's values."""

    theirs: dict[str, np.ndarray]
    differences: dict[str, np.ndarray]

    def _rounded(self, name, x):
        ours, (scale, zero_point) = super()._rounded(name, x), self.values[name]
        theirs = self.theirs[f"{name}.steps" if f"{name}.steps" in self.theirs else name].astype(
            np.float32
        )
        steps = np.rint(ours.tensor.numpy() / np.float32(scale)) + zero_point
        self.differences[name] = np.abs(steps - theirs)
        return ours._replace(tensor=torch.from_numpy((theirs - zero_point) * np.float32(scale)))


def test_every_layer_rounds_as_the_int8_file_does(quantized):
    """Within one step, and that only where two sums differ in their last bit."""
    checkpoint, session, _, fake = quantized
    network = LayerByLayer(checkpoint.spec, fake.values)
    load_weights(network, checkpoint.weights, source="x")
    network.eval()
    names = [output.name for output in session.get_outputs()]
    for picture in PICTURES:
        image = preprocess(picture, 64)
        network.theirs = dict(zip(names, session.run(None, {"image": image}), strict=True))
        network.theirs["image.steps"] = pixels(network.theirs["image.steps"])
        network.differences = {}
        with torch.no_grad():
            network(torch.from_numpy(image))
        assert len(network.differences) == len(fake.values) - 1  # the max-pool rounds nothing
        differences = np.concatenate([d.ravel() for d in network.differences.values()])
        assert differences.max() <= 1
        assert (differences > 0).mean() < 1e-3


def float_network(checkpoint):
    network = SSD(checkpoint.spec).eval()
    load_weights(network, checkpoint.weights, source="x")
    return network


def test_the_outputs_are_those_of_the_int8_file(quantized):
    """A step here and there moves what follows it, but by little; the float network's differ."""
    checkpoint, session, plan, fake = quantized
    for picture in PICTURES:
        image = preprocess(picture, 64)
        with torch.no_grad():
            ours, plain = (n(torch.from_numpy(image)) for n in (fake, float_network(checkpoint)))
        for number, kind in enumerate(("loc", "conf")):
            (theirs,) = session.run([kind], {"image": image})
            scales = level_scales(checkpoint.spec, plan, kind)
            steps, far = (np.abs(x[number].numpy() - theirs) / scales for x in (ours, plain))
            assert steps.max() < 5
            assert steps.mean() < 0.8
            assert kind == "conf" or (far.max() > 2 and (far > 0.5).mean() > 0.2)


def test_gradients_reach_every_parameter_and_point_where_the_float_networks_do(quantized):
    checkpoint, _, _, fake = quantized
    images = torch.from_numpy(np.concatenate([preprocess(p, 64) for p in PICTURES]))
    gradients = []
    for network in (fake, float_network(checkpoint)):
        network.zero_grad()
        loc, conf = network(images)
        (loc.abs().mean() + conf.logsumexp(dim=1).mean()).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        network.zero_grad()
    ours, theirs = gradients
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.9


@pytest.mark.parametrize(
    ("change", "facts"),
    [({"extras.0.conv1": None}, ["extras.0.conv1"]),
     ({"image": Steps(float("nan"), 3)}, ["image", "nan and 3"]),
     ({"image": Steps(0.1, 256)}, ["image", "0.1 and 256"])],
)  # fmt: skip
def test_steps_of_another_network_are_refused(quantized, change, facts):
    fake = quantized[3]
    values = {n: v for n, v in {**fake.values, **change}.items() if v is not None}
    FakeQuantizedSSD(fake.spec, {n: fake.values[n] for n in fake.values if "maxpool" not in n})
    with refused(CheckpointError, *facts):
        FakeQuantizedSSD(fake.spec, values)
